"""Trained weights: read from the files that this project and Keras write, and written as `.safetensors`."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from minivgg_pl import __version__
from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.runs import checkpoint
from minivgg_pl.runs.folder import LAST_WEIGHTS, read_summary
from minivgg_pl.weights.keras_h5 import is_keras_file, read_keras

# The weights that come with the package, VARIANT.safetensors. A maintainer replaces them with
# `export.py RUN --to safetensors --half --overwrite --output minivgg_pl/weights/pretrained/VARIANT.safetensors`.
PRETRAINED = Path(__file__).parent / "pretrained"
SHIPPED = ("classic", "wide")
KINDS = f"{', '.join(SHIPPED)}, a run folder, a .ckpt, a .safetensors or a Keras file (.h5, .keras)"
NO_NORMALIZATION = "no normalization"

FORMAT = "minivgg_pl"
# What a weights file says of the run that it comes from, as far as the run said it, and the type of each value.
METADATA = dict.fromkeys(("dataset", "recipe", "init_from", "unfinished", "tested_on", "val_transform"), str)
METADATA |= dict.fromkeys(("seed", "epochs", "test_images"), int)
METADATA |= {"test_accuracy": float | int, "temperature": float | int, "split": dict}


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network and what is known of it.

    Attributes:
        net: In evaluation mode, on the CPU, in float32. With a class of the user's own, a module with the attributes
            `options` and `image_shape`, as MiniVGG.
        class_names: The name of each logit's class, in order.
        metadata: The known values among METADATA: data set, recipe, seed, epochs, and accuracy in [0, 1] on the test
            set.
        source: What it was read from, as typed.
        assumed: What a Keras file does not say and is taken to be so, in words: the images, NO_NORMALIZATION perhaps,
            and last the names of the classes.
    """

    net: MiniVGG
    class_names: list[str]
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def has_class_names(self) -> bool:
        """Whether `class_names` are more than the classes' numbers."""
        return self.class_names != [str(number) for number in range(len(self.class_names))]

    @property
    def assumptions(self) -> str:
        """`assumed` as a line for the user."""
        return f"{self.source}: assumed, since Keras does not say it: {', '.join(self.assumed)}"


def load_trained(source: str | Path, module_class: type | None = None) -> TrainedNetwork:
    """Read a trained network. No code in the file is run.

    Args:
        source: `"classic"` or `"wide"` for the weights that come with this package (`./wide` is a folder), a run folder
            (its last epoch), a `.ckpt` of this project, a `.safetensors` file that this project wrote, or the article's
            model as Keras 2 or 3 saved it, weights or all, to HDF5 or `.keras`.
        module_class: The subclass of LitMiniVGG that the run folder or `.ckpt` is of, or None for LitMiniVGG itself.

    Raises:
        InputError: If there is nothing of that kind at `source`, or it is damaged.
    """
    path, source = Path(source), str(source)
    if source in SHIPPED:
        path = PRETRAINED / f"{source}.safetensors"
    elif (path / "saved_model.pb").exists() or Path(f"{path}.index").exists():
        raise InputError(f"{path}: a format of TensorFlow, not read here; save the Keras model to a .h5 or .keras file")
    elif path.is_dir():
        path = checkpoint.last_checkpoint(path)
    elif not path.is_file():
        raise InputError(f"{source}: there is no such file or folder; give {KINDS}")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix == ".ckpt":
        content = _read_checkpoint(path, module_class)
    elif is_keras_file(path):
        content = _read_keras(path)
    else:
        raise InputError(f"{path}: not a file that this reads; give {KINDS}")
    options, tensors, class_names, metadata, assumed = content
    if module_class is None:
        net = _build(path, options, tensors)
    elif path.suffix == ".ckpt":
        net = _load_module(path, options, module_class)
    else:
        raise InputError(f"--model {module_class.__name__}: {source} is no run of it, and no .ckpt: leave it out")
    numbers = [str(number) for number in range(net.options["num_classes"])]
    class_names = numbers if class_names is None else class_names
    if not isinstance(class_names, list) or [type(name) for name in class_names] != [str] * len(numbers):
        raise InputError(f"{path}: it does not name its {len(numbers)} classes, but says {str(class_names)[:60]}")
    # The file may come from anyone: a value of another type is as good as none.
    known = {name: metadata[name] for name, kind in METADATA.items() if isinstance(metadata.get(name), kind)}
    return TrainedNetwork(net, class_names, known, source, assumed)


def calibrated(trained: TrainedNetwork, temperature: float) -> TrainedNetwork:
    """Return a network whose logits are those of `trained` divided by `temperature`, and whose metadata say so.

    Its classifier does the division. So all that reads or exports the weights gives the calibrated probabilities.
    """
    net = copy.deepcopy(trained.net)
    with torch.no_grad():
        for parameter in net.classifier.parameters():
            parameter /= temperature
    before = trained.metadata.get("temperature", 1.0)
    return replace(trained, net=net, metadata={**trained.metadata, "temperature": round(before * temperature, 4)})


def weights_bytes(trained: TrainedNetwork, half: bool = False) -> bytes:
    """Return the content of a `.safetensors` file that `load_trained` reads.

    With `half`, kernels but the classifier's are float16, which halves the file.
    """
    tensors = {}
    for name, tensor in trained.net.state_dict().items():
        is_kernel = tensor.ndim >= 2 and tensor.shape[0] > 1 and not name.startswith("classifier.")
        # Safetensors stores row-major order only.
        tensors[name] = tensor.to(torch.float16 if half and is_kernel else tensor.dtype).contiguous()
    options = trained.net.options
    header = {
        "format": FORMAT,
        "package_version": __version__,
        "network": json.dumps(options),
        "variant": options["variant"],
        "class_names": json.dumps(trained.class_names),
        "normalization": json.dumps({name: options[name] for name in NORMALIZATION}),
        **{name: json.dumps(value) for name, value in trained.metadata.items() if value is not None},
    }
    return save(tensors, header)


# Options of MiniVGG, weights by name, class names (None for numbers), metadata, what is assumed.
Content = tuple[dict[str, Any], dict[str, Tensor], list[str] | None, dict[str, Any], tuple[str, ...]]


def _read_safetensors(path: Path) -> Content:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable .safetensors file, or a damaged one ({error})") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: it lacks the metadata that this project writes, so its network is not known")
    try:
        metadata = {name: json.loads(header[name]) for name in METADATA if name in header}
        return json.loads(header["network"]), tensors, json.loads(header["class_names"]), metadata, ()
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its metadata are damaged ({error})") from error


def _read_checkpoint(path: Path, module_class: type | None) -> Content:
    content = checkpoint.read_checkpoint(path)
    given = module_class.__name__ if module_class else "LitMiniVGG"
    recorded = content.get(checkpoint.MODEL_CLASS, given)
    if recorded.rpartition(".")[2] != given:
        # Not imported, since the file may come from anyone.
        reads = f"evaluate.py, predict.py and export.py read it with --model {recorded}"
        raise InputError(f"{path}: it was trained as {recorded}, and not as {given}: {reads}")
    hyperparameters, state = content["hyper_parameters"], checkpoint.data_state(content)
    options = {name: hyperparameters[name] for name in signature(MiniVGG).parameters if name in hyperparameters}
    tensors = {}
    for name, value in content["state_dict"].items():
        # Sparse, quantized and meta tensors are no weights, though torch's `weights_only` admits them.
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise InputError(f"{path}: its state_dict holds more than plain tensors")
        if str(name).startswith("net."):
            tensors[name.removeprefix("net.")] = value
    metadata = {"init_from": hyperparameters.get("init_from"), "split": state.get(checkpoint.SPLIT)}
    metadata["val_transform"] = state.get(checkpoint.VAL_TRANSFORM)
    metadata["dataset"] = content.get("datamodule_hyper_parameters", {}).get("dataset")
    if not metadata["dataset"] and not str(state.get(checkpoint.CLASS_PATH)).startswith("minivgg_pl."):
        metadata["dataset"] = state.get(checkpoint.CLASS_PATH)
    epoch = content.get("epoch", 0) + 1
    if batches := checkpoint.batches_in_epoch(content):
        metadata["unfinished"] = f"saved inside epoch {epoch}, after {batches} of its batches"
    folder = checkpoint.run_folder_of(path)
    if folder and (summary := read_summary(folder)):
        metadata |= {name: summary.get(name) for name in ("dataset", "recipe", "seed")}
        if summary.get("epochs") == epoch and summary.get("tested_weights", LAST_WEIGHTS) == LAST_WEIGHTS:
            # The test was of this epoch.
            metadata |= {name: summary.get(name) for name in ("epochs", "test_images", "tested_on")}
            metadata["test_accuracy"] = summary.get("test_acc")
    # A data module of the user's own need not name its classes.
    return options, tensors, state.get(checkpoint.CLASS_NAMES), metadata, ()


def _read_keras(path: Path) -> Content:
    options, tensors = read_keras(path)
    class_names, named = None, "classes by number"
    if [options[name] for name in ("in_channels", "image_size", "num_classes")] == [3, 32, 10]:
        class_names, named = _read_safetensors(PRETRAINED / "wide.safetensors")[2], "CIFAR-10's classes"
    images = f"images of {options['image_size']} pixels a side in [0, 1]"
    normalization = () if "mean" in options else (NO_NORMALIZATION,)
    return options, tensors, class_names, {}, (images, *normalization, named)


def _load_module(path: Path, options: dict[str, Any], module_class: type) -> nn.Module:
    """Return the user's own module as a network, with the attributes of MiniVGG that the commands read."""
    try:
        module = module_class.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights do not suit {module_class.__name__} ({error})") from error
    net = nn.Sequential(module).eval()
    net.options = {**options, "variant": module_class.__name__.lower()}
    net.image_shape = (options["in_channels"], options["image_size"], options["image_size"])
    return net


def _build(path: Path, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MiniVGG:
    """Build the network that a file describes, with the weights in the file."""
    try:
        # Without memory: the network that the file describes may be larger than any machine.
        with torch.device("meta"):
            net = MiniVGG(**options)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: it describes a network that cannot be built ({reason})") from error
    try:
        # Assigned: drawing weights first, to overwrite them, would take time.
        net.load_state_dict({name: t.float() if t.ndim else t for name, t in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights do not suit its description ({error})") from error
    for name, tensor in net.state_dict().items():
        if not tensor.isfinite().all() or (name.endswith("running_var") and (tensor < 0).any()):
            raise InputError(f"{path}: {name} holds values that no training ends with (NaN, infinite or negative)")
    return net.eval()
