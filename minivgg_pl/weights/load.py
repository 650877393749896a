"""Trained weights: what this project wrote, read back without running anything in it; and weights files written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minivgg_pl import __version__
from minivgg_pl.errors import InputError
from minivgg_pl.files import write_atomically
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.checkpoint import data_state, last_checkpoint, read_checkpoint, run_folder_of
from minivgg_pl.weights import pretrained
from minivgg_pl.weights.keras_h5 import is_keras_file
from minivgg_pl.weights.pretrained import FOLDER, SHA256

FORMAT = "minivgg_pl"
# What a weights file says of the run it comes from, where the run said it.
METADATA = (
    *("dataset", "recipe", "init_from", "seed", "epochs", "unfinished"),
    *("test_accuracy", "test_images", "tested_on", "split"),
)
MAX_HEADER_BYTES = 2**20  # ours have about 3 kB, and the names of their classes


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network and what is known of it.

    Attributes:
        net: In evaluation mode, on the CPU, in float32.
        class_names: The name of each logit's class, in order.
        metadata: Of METADATA what is known: data set, recipe, seed, epochs, and accuracy in [0, 1] on the test set.
        source: What it was read from, as typed.
    """

    net: MiniVGG
    class_names: list[str]
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str = ""


def load_trained(source: str | Path) -> TrainedNetwork:
    """Read a trained network. Nothing is unpickled but plain tensors and numbers (torch's `weights_only`).

    Args:
        source: `"classic"` or `"wide"` for the weights that come with this package (`./wide` is a folder), a run folder
            (its last epoch), a `.ckpt` of this project or a `.safetensors` file that this project wrote.

    Raises:
        InputError: If there is nothing of that kind at `source`, or it is damaged.
    """
    if str(source) in SHA256:
        return _read_pretrained(str(source))
    path = Path(source)
    if path.is_dir():
        return _read_checkpoint(last_checkpoint(path), source=str(source))
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file or folder; give {', '.join(SHA256)}, a run folder, a .ckpt or a "
            ".safetensors file"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path, source=str(source))
    if path.suffix == ".ckpt":
        return _read_checkpoint(path, source=str(source))
    hint = "; train.py --model.init_from takes Keras files" if is_keras_file(path) else ""
    raise InputError(f"{path}: not a file that this reads; give a run folder, a .ckpt or a .safetensors file{hint}")


def weights_bytes(trained: TrainedNetwork, half: bool = False) -> bytes:
    """Return the content of a `.safetensors` file that `load_trained` reads.

    Args:
        trained: The network and what is known of it.
        half: Whether to keep kernels as float16, which halves the file.
    """
    tensors = {name: _stored(tensor, half) for name, tensor in trained.net.state_dict().items()}
    header = {
        "format": FORMAT,
        "package_version": __version__,
        "network": json.dumps(trained.net.options),
        "variant": trained.net.options["variant"],
        "class_names": json.dumps(trained.class_names),
        "normalization": json.dumps({name: trained.net.options[name] for name in NORMALIZATION}),
        **{name: json.dumps(value) for name, value in trained.metadata.items() if value is not None},
    }
    return save(tensors, header)


def ship(trained: TrainedNetwork) -> Path:
    """Make `trained` the weights that come with the package, in half precision, and note their checksum.

    Returns:
        The file, named after the network's variant.

    Raises:
        InputError: If the network is not the variant's own, for CIFAR-10.
    """
    variant = trained.net.options["variant"]
    is_own = trained.net.options["dense_units"] in (None, ARCHITECTURES[variant].dense_units)
    if trained.metadata.get("dataset") != "cifar10" or not is_own:
        raise InputError(f"{trained.source}: only a {variant} trained on CIFAR-10 can come with the package")
    path, content = FOLDER / f"{variant}.safetensors", weights_bytes(trained, half=True)
    write_atomically(path, content)
    checksums = SHA256 | {variant: hashlib.sha256(content).hexdigest()}
    lines = "".join(f'    "{name}": "{checksums[name]}",\n' for name in sorted(checksums))
    source = Path(pretrained.__file__)
    head, _, _ = source.read_text().partition("SHA256 = {")
    write_atomically(source, f"{head}SHA256 = {{\n{lines}}}\n")
    return path


def _stored(tensor: Tensor, half: bool) -> Tensor:
    is_kernel = tensor.ndim >= 2 and tensor.shape[0] > 1
    # Safetensors knows no memory order but the plain one.
    return tensor.detach().to(torch.float16 if half and is_kernel else tensor.dtype).contiguous()


def _read_pretrained(name: str) -> TrainedNetwork:
    path = FOLDER / f"{name}.safetensors"
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[name]:
        raise InputError(f"{path} is damaged (its SHA-256 is not the one in the code): install the package again")
    return _read_safetensors(path, source=name)


def _read_safetensors(path: Path, source: str) -> TrainedNetwork:
    try:
        with path.open("rb") as raw:
            # The library would read up to 100 MB of JSON.
            if int.from_bytes(raw.read(8), "little") > MAX_HEADER_BYTES:
                raise InputError(f"{path}: not a readable .safetensors file, or a damaged one (its header is too long)")
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable .safetensors file, or a damaged one ({error})") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: it lacks the metadata that this project writes, so its network is not known")
    try:
        options, class_names = json.loads(header["network"]), json.loads(header["class_names"])
        metadata = {name: json.loads(header[name]) for name in METADATA if name in header}
        metadata = checked_metadata(metadata)
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata are damaged ({error})") from error
    net = _build(path, options, tensors)
    return TrainedNetwork(net, _check_names(path, class_names, net), metadata, source)


def _read_checkpoint(path: Path, source: str) -> TrainedNetwork:
    content = read_checkpoint(path)
    hyperparameters, state_dict = content["hyper_parameters"], content["state_dict"]
    options = {name: hyperparameters[name] for name in MiniVGG().options if name in hyperparameters}
    if not all(isinstance(name, str) and _is_plain(value) for name, value in state_dict.items()):
        raise InputError(f"{path}: its state_dict holds more than plain tensors")
    tensors = {name.removeprefix("net."): value for name, value in state_dict.items() if name.startswith("net.")}
    net = _build(path, options, tensors)
    # A data module of the user's own need not name its classes.
    numbers = [str(number) for number in range(net.options["num_classes"])]
    class_names = data_state(content).get("class_names", numbers)
    metadata = run_metadata(path, content)
    return TrainedNetwork(net, _check_names(path, class_names, net), metadata, source)


def _build(path: Path, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MiniVGG:
    try:
        # Without memory: what the file describes may be larger than any machine.
        with torch.device("meta"):
            net = MiniVGG(**options)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: it describes a network that cannot be ({reason})") from error
    expected = net.state_dict()
    for name in expected.keys() | tensors.keys():
        if name not in tensors or name not in expected:
            raise InputError(f"{path}: its weights and its description part: {name} stands in only one of them")
        if tensors[name].shape != expected[name].shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, where the network that it describes has "
                f"{tuple(expected[name].shape)}"
            )
    check_finite(path, tensors)
    # Assigned: the network takes these tensors for its own, and drawing others first would take time.
    net.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}, assign=True)
    return net.eval()


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that the weights read from `path` are some that a training can end with.

    Raises:
        InputError: On a value that is not finite, or a variance below 0.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all() or (name.endswith("running_var") and (tensor < 0).any()):
            raise InputError(f"{path}: {name} holds values that no training ends with (NaN, infinite or negative)")


def _check_names(path: Path, class_names: Any, net: MiniVGG) -> list[str]:
    num_classes = net.options["num_classes"]
    is_list = isinstance(class_names, list) and {type(name) for name in class_names} <= {str}
    if not is_list or len(class_names) != num_classes:
        raise InputError(f"{path}: it does not name its {num_classes} classes, but says {str(class_names)[:60]}")
    return class_names


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_quantized)


def run_metadata(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the checkpoint's run says of it: the test's result only if it is the tested epoch's."""
    folder = run_folder_of(path)
    summary = runs.read_summary(folder) if folder else None
    data_options = content.get("datamodule_hyper_parameters")
    metadata = {
        "dataset": data_options.get("dataset") if isinstance(data_options, dict) else None,
        "init_from": content["hyper_parameters"].get("init_from"),
        "split": data_state(content).get("split"),
        "unfinished": _place_inside_epoch(content),
    }
    if summary:
        metadata |= {name: summary.get(name) for name in ("dataset", "recipe", "seed")}
        epoch = content.get("epoch", -1)
        if isinstance(epoch, int) and summary.get("epochs") == epoch + 1:
            metadata |= {"epochs": summary["epochs"], "test_accuracy": summary.get("test_acc")}
            metadata |= {name: summary.get(name) for name in ("test_images", "tested_on")}
    return checked_metadata(metadata)


def _place_inside_epoch(content: Mapping[str, Any]) -> str | None:
    """Tell where in an epoch the checkpoint was saved; None at an epoch's end."""
    batches = (data_state(content).get("position") or {}).get("position", 0)
    if type(batches) is not int or batches < 1:
        return None
    return f"saved inside epoch {content.get('epoch', 0) + 1}, after {batches} of its batches"


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `metadata` is of the right kind: they come from files that anybody may have written."""
    kinds = {"seed": int, "epochs": int, "test_images": int, "test_accuracy": float, "split": dict}
    # JSON has no difference between 1 and 1.0.
    metadata = {name: float(v) if name == "test_accuracy" and type(v) is int else v for name, v in metadata.items()}
    metadata = {name: value for name, value in metadata.items() if isinstance(value, kinds.get(name, str))}
    if "split" in metadata and not _is_split(metadata["split"]):
        del metadata["split"]
    return metadata


def _is_split(split: Mapping[str, Any]) -> bool:
    """Tell what a data module keeps of its split from anything else."""
    numbers = (split.get("val_size"), split.get("split_seed"))
    return isinstance(split.get("fingerprint"), str) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
