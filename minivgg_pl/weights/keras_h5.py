"""Keras 3 weights of the article's model: `.weights.h5` files, read and written with h5py, without Keras.

HDF5 has links to other files, data in other files, and small files that unpack to gigabytes. Only plain arrays that lie
in the file itself are read here. Unlike a whole saved Keras model, a weights file holds no code.
"""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG

# Keras' name of each layer type, and its variables in the order in which Keras numbers them.
BATCH_NORM = ("batch_normalization", ("weight", "bias", "running_mean", "running_var"))
LAYERS = {
    nn.Conv2d: ("conv2d", ("weight", "bias")),
    nn.BatchNorm2d: BATCH_NORM,
    nn.BatchNorm1d: BATCH_NORM,
    nn.Linear: ("dense", ("weight", "bias")),
}
# By the number of dimensions. Torch: out, in, height, width, or out, in. Keras: height, width, in, out, or in, out.
KERAS_ORDER = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
TORCH_ORDER = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
# The article's model has no place for a normalisation. Keras ignores attributes of the file that it does not know.
ATTRIBUTE = "minivgg_pl."


def is_keras_file(source: str | Path) -> bool:
    """Tell by its name whether `source` is a Keras weights file."""
    return str(source).endswith(".weights.h5")


def keras_bytes(net: MiniVGG) -> bytes:
    """Return the content of a `.weights.h5` file that `keras.Model.load_weights` reads into the article's model.

    The network's normalisation, if any, is kept in attributes of the file, for `read_keras_normalization`.
    """
    import h5py

    tensors, buffer = net.state_dict(), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("vars")
        for name in NORMALIZATION:
            if net.options[name] is not None:
                file.attrs[ATTRIBUTE + name] = net.options[name]
        for name, place in _places(net).items():
            file[place] = _to_keras(net, name, tensors[name]).numpy()
            file[place].parent.attrs["name"] = place.split("/")[1]
    return buffer.getvalue()


def normalization_layer(net: MiniVGG) -> str:
    """Return, as code, the Keras layer that normalises as `net` does; the article's model has none."""
    mean, std = net.options["mean"] or [0.0] * net.image_shape[0], net.options["std"] or [1.0] * net.image_shape[0]
    return f"keras.layers.Normalization(mean={mean}, variance={[round(value**2, 6) for value in std]})"


def read_keras_weights(path: Path, net: MiniVGG) -> dict[str, Tensor]:
    """Read the weights of the article's model in Keras, under the names and in the layout of `net`.

    Args:
        path: A file that Keras 3's `model.save_weights("NAME.weights.h5")` wrote.
        net: The network that the weights are for. It is not changed.

    Returns:
        A state dict of `net` without `mean` and `std`. The classifier has as many rows as the file has classes.

    Raises:
        InputError: If the file is damaged, no Keras weights file, or of another architecture (the message says where).
    """
    variant, expected, places = net.options["variant"], net.state_dict(), _places(net)
    tensors = {}
    with _opened(path) as file:
        found: list[str] = []
        # Links to other places and to other files are not visited.
        file.visit(found.append)
        stored = {place for place in found if place.startswith("layers/") and "/vars/" in place}
        for place in sorted(stored ^ set(places.values())):
            raise InputError(f"{path}: it {'has' if place in stored else 'lacks'} {place}, unlike a {variant} network")
        for name, place in places.items():
            dataset = file[place]
            # Keras writes none of these. A chunk may be larger than its array, and unpack to gigabytes.
            if dataset.is_virtual or dataset.external or dataset.chunks or dataset.dtype.kind != "f":
                raise ValueError(f"{place} is not a plain array of floating-point numbers")
            shape, wanted = dataset.shape, _to_keras(net, name, expected[name]).shape
            # The caller decides about a classifier with another number of classes.
            if shape != wanted and not (name.startswith("classifier.") and shape and shape[:-1] == wanted[:-1]):
                shapes = f"{shape} where {name} of {variant} has {tuple(wanted)} in Keras' order"
                raise InputError(f"{path}: {place} has shape {shapes}")
            # Read after the check of its shape, since a small file can describe gigabytes.
            tensors[name] = _from_keras(net, name, torch.from_numpy(np.asarray(dataset, dtype=np.float32)))
    return tensors


def read_keras_normalization(path: Path) -> dict[str, list[float] | None]:
    """Read the `mean` and `std`, one number a channel or None, that `keras_bytes` kept in the file.

    Returns an empty dict for a file that Keras itself saved, which says nothing of a normalisation.

    Raises:
        InputError: If the file is damaged, or is not a Keras weights file.
    """
    with _opened(path) as file:
        stored = {name: file.attrs.get(ATTRIBUTE + name) for name in NORMALIZATION}
        kept = {name: None if values is None else [float(v) for v in values] for name, values in stored.items()}
        return kept if any(kept.values()) else {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a Keras weights file to read; whatever goes wrong inside is an InputError."""
    # Late: not everybody has it.
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "layers" not in list(file):
                raise InputError(f"{path}: not weights of Keras 3; save them with Keras 3's model.save_weights")
            yield file
    except InputError:
        raise
    except Exception as error:  # h5py raises errors of many types for a damaged file
        raise InputError(f"{path}: not a readable .weights.h5 file, or a damaged one ({error})") from error


def _places(net: MiniVGG) -> dict[str, str]:
    """Return the place of each weight of `net` in a Keras file, by its name in the state dict."""
    places: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name, module in net.named_modules():
        if type(module) in LAYERS:
            kind, variables = LAYERS[type(module)]
            layer = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
            places |= {f"{name}.{variable}": f"layers/{layer}/vars/{i}" for i, variable in enumerate(variables)}
    return places


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
