"""Keras files of the article's model: read in every layout of Keras 2 and 3, and written for Keras 3, without Keras.

HDF5 has links to other files, data in other files, and small files that unpack to gigabytes. Only plain arrays that lie
in the file itself are read here. A saved model's config can name code: it is read as JSON, and nothing in it is built.
"""

import io
import json
import math
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.runs.checkpoint import check_archive
from minivgg_pl.weights.keras_config import read_config

# How HDF5 files start, and zip archives, which `.keras` files are.
FILE_STARTS = (b"\x89HDF\r\n\x1a\n", b"PK\3\4")
# Keras' name of each layer type, and its variables in the order in which Keras numbers and lists them.
BATCH_NORM = ("batch_normalization", ("weight", "bias", "running_mean", "running_var"))
LAYERS = {
    nn.Conv2d: ("conv2d", ("weight", "bias")),
    nn.BatchNorm2d: BATCH_NORM,
    nn.BatchNorm1d: BATCH_NORM,
    nn.Linear: ("dense", ("weight", "bias")),
}
# The same types, by the number of variables and the dimensions of the first.
KINDS = {(2, 4): "conv2d", (4, 1): "batch_normalization", (2, 2): "dense"}
# A variable in `.weights.h5`: layers are numbered by type, and some releases leave numbers out.
NUMBERED = re.compile(r"(?:.+/)?(?:layers|_layer_checkpoint_dependencies)/([^/]+?(?:_(\d+))?)/vars/(\d+)")
# The group of a layer that normalises images. Often, no weights file holds its numbers.
NORMALIZING = re.compile(r"(^|/)normalization(_\d+)?$")
# By the number of dimensions. Torch: out, in, height, width, or out, in. Keras: height, width, in, out, or in, out.
KERAS_ORDER = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
TORCH_ORDER = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
# The article's model has no place for a normalisation. Keras ignores attributes of the file that it does not know.
ATTRIBUTE = "minivgg_pl."

# The name and the arrays of each layer with weights, by kind, in the model's order.
Layers = dict[str, list[tuple[str, list[Any]]]]


def is_keras_file(path: Path) -> bool:
    """Tell by its first bytes whether a file is HDF5 or a zip archive, as Keras' files are."""
    with path.open("rb") as file:
        return file.read(8).startswith(FILE_STARTS)


def keras_bytes(net: MiniVGG) -> bytes:
    """Return the content of a `.weights.h5` file that `keras.Model.load_weights` reads into the article's model.

    The network's normalisation, if any, is kept in attributes of the file, for `read_keras`.
    """
    import h5py

    tensors, buffer = net.state_dict(), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("vars")
        for name in NORMALIZATION:
            if net.options[name] is not None:
                file.attrs[ATTRIBUTE + name] = net.options[name]
        counts: Counter[str] = Counter()
        for kind, names in _weights(net):
            layer = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
            for number, name in enumerate(names):
                file[f"layers/{layer}/vars/{number}"] = _to_keras(net, name, tensors[name]).numpy()
            file[f"layers/{layer}/vars"].attrs["name"] = layer
    return buffer.getvalue()


def normalization_layer(net: MiniVGG) -> str:
    """Return, as code, the Keras layer that normalises as `net` does; the article's model has none."""
    mean, std = net.options["mean"] or [0.0] * net.image_shape[0], net.options["std"] or [1.0] * net.image_shape[0]
    return f"keras.layers.Normalization(mean={mean}, variance={[round(value**2, 6) for value in std]})"


def read_keras(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the article's model from what Keras 2 or 3 saved: weights or a whole model, as HDF5 or `.keras`.

    Returns:
        Arguments for MiniVGG, told from the shapes, and its state dict. `mean` and `std` are among the arguments only
        if the file says how images are normalised.

    Raises:
        InputError: If the file is damaged, not Keras', or of another architecture (the message names the layer).
    """
    with _opened(path) as (file, config):
        normalization = (config and read_config(config)) or _kept_normalization(file)
        layers = _layers(file, bool(normalization), path.stat().st_size)
        options = _options(layers) | normalization
        with torch.device("meta"):
            net = MiniVGG(**options)
        expected, tensors = net.state_dict(), {}
        for kind, names in _weights(net):
            layer, arrays = layers[kind].pop(0)
            for name, array in zip(names, arrays, strict=True):
                wanted = tuple(_to_keras(net, name, expected[name]).shape)
                if array.shape != wanted:
                    shapes = f"shape {array.shape} where {name} of {options['variant']} has {wanted}"
                    raise InputError(f"its layer {layer} has {shapes} in Keras' order")
                tensors[name] = _from_keras(net, name, torch.from_numpy(np.asarray(array, dtype=np.float32)))
    # What no Keras file holds.
    own = {name: torch.tensor(values).view(1, -1, 1, 1) for name, values in normalization.items() if values}
    own |= {name: torch.tensor(0) for name in expected if name.endswith("num_batches_tracked")}
    return options, tensors | own


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a Keras file: its HDF5 file, and its config or None. Whatever goes wrong inside is an InputError."""
    # Late: not everybody has it.
    import h5py

    try:
        source, config = path, None
        if not h5py.is_hdf5(path):
            check_archive(path)
            with zipfile.ZipFile(path) as archive:
                if "model.weights.h5" not in archive.namelist():
                    others = "PyTorch's .pt, .pth and .pt2 are others: give a .safetensors, or a run's .ckpt so named"
                    raise InputError(f"a zip archive, but no .keras file ({others})")
                source, config = io.BytesIO(archive.read("model.weights.h5")), archive.read("config.json")
        with h5py.File(source, "r") as file:
            config = file.attrs.get("model_config", config)
            yield file, config and json.loads(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # h5py raises errors of many types for a damaged file
        raise InputError(f"{path}: not a readable Keras file, or a damaged one ({error})") from error


def _kept_normalization(file: Any) -> dict[str, list[float] | None]:
    """Return the `mean` and `std` that `keras_bytes` kept in the file, if any."""
    stored = {name: file.attrs.get(ATTRIBUTE + name) for name in NORMALIZATION}
    kept = {name: None if values is None else [float(v) for v in values] for name, values in stored.items()}
    return kept if any(kept.values()) else {}


def _layers(file: Any, is_normalization_known: bool, file_size: int) -> Layers:
    places: list[str] = []
    # Links to other places and to other files are not visited.
    file.visit(places.append)
    # Keras 2 on Windows joined names with the other slash.
    objects = {place.replace("\\", "/"): file[place] for place in places}
    if not is_normalization_known and any(map(NORMALIZING.search, objects)):
        raise InputError("its Normalization layer is known from a whole model alone: save that, as .keras or .h5")
    # Integers are seeds and counters.
    arrays = {place: found for place, found in objects.items() if getattr(found, "dtype", np.dtype(int)).kind == "f"}
    named: dict[str, list[Any]] = defaultdict(list)
    root = "model_weights/" if "model_weights" in objects else ""
    if names := _names(objects["model_weights"] if root else file, "layer_names"):
        for place in (f"{root}{name}/{own}" for name in names for own in _names(objects[root + name], "weight_names")):
            if place in arrays:
                named[place.rpartition("/")[0]].append(arrays[place])
    else:
        matches = filter(None, map(NUMBERED.fullmatch, arrays))
        for match in sorted(matches, key=lambda match: (int(match[2] or 0), int(match[3]))):
            named[match[1]].append(arrays[match[0]])
    layers: Layers = {kind: [] for kind in KINDS.values()}
    for place, own in named.items():
        name = place.rpartition("/")[2]
        # Keras writes none of these. A chunk may be larger than its array, and unpack to gigabytes.
        if any(array.is_virtual or array.external or array.chunks or array.nbytes > file_size for array in own):
            raise InputError(f"its layer {name} is not made of plain arrays in the file")
        kind = KINDS.get((len(own), own[0].ndim))
        if kind is None:
            shapes = " and ".join(str(array.shape) for array in own[:5])
            raise InputError(f"its layer {name} has weights of shapes {shapes}, unlike any of the article's model")
        layers[kind].append((name, own))
    return layers


def _names(group: Any, attribute: str) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else name for name in group.attrs.get(attribute, [])]


def _options(layers: Layers) -> dict[str, Any]:
    """Return the arguments of the MiniVGG that has these layers' shapes."""
    shapes = {kind: [arrays[0].shape for _, arrays in of_kind] for kind, of_kind in layers.items()}
    widths = tuple(shape[-1] for shape in shapes["conv2d"])
    variants = {sum(architecture.blocks, ()): variant for variant, architecture in ARCHITECTURES.items()}
    counts = {"conv2d": len(widths), "batch_normalization": len(widths) + 1, "dense": 2}
    if widths not in variants or counts != {kind: len(of_kind) for kind, of_kind in shapes.items()}:
        found = ", ".join(f"{name} {arrays[0].shape[-1]}" for of_kind in layers.values() for name, arrays in of_kind)
        wanted = f"convolutions of {' or '.join(map(str, variants))} filters, 5 batch norms and 2 dense layers"
        raise InputError(f"its layers and their widths are {found or 'none'}; the article's model has {wanted}")
    first, last = shapes["dense"]
    # The features of a square image, by the last convolution's channels.
    side = math.isqrt(first[0] // widths[-1])
    return {
        "variant": variants[widths],
        "num_classes": last[1],
        "dense_units": first[1],
        "image_size": side * 2 ** len(ARCHITECTURES[variants[widths]].blocks),
        "in_channels": shapes["conv2d"][0][2],
    }


def _weights(net: MiniVGG) -> Iterator[tuple[str, list[str]]]:
    """Yield Keras' name of each layer with weights, without its number, and their names in the state dict."""
    for name, module in net.named_modules():
        if type(module) in LAYERS:
            kind, variables = LAYERS[type(module)]
            yield kind, [f"{name}.{variable}" for variable in variables]


def _to_keras(net: MiniVGG, name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.permute(KERAS_ORDER[tensor.ndim])
    return tensor[_flattened_order(net)] if name == "dense.weight" else tensor


def _from_keras(net: MiniVGG, name: str, tensor: Tensor) -> Tensor:
    if name == "dense.weight":
        tensor = tensor[_flattened_order(net).argsort()]
    return tensor.permute(TORCH_ORDER[tensor.ndim]).contiguous()


def _flattened_order(net: MiniVGG) -> Tensor:
    """Return where each of Keras' flattened features, by height, width, channel, stands in ours, by channel first."""
    size = net.image_shape[1] // 2**net.num_blocks
    return torch.arange(net.dense.in_features).view(-1, size, size).permute(1, 2, 0).flatten()
