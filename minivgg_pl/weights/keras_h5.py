"""The article's model in Keras 3: its `.weights.h5` files, written from a network and read into one, with h5py alone.

Reading touches arrays only, and only those that lie in the file itself: HDF5 has links to other files, data that lie in
other files, and small files that unpack to gigabytes. Unlike a whole saved Keras model, nothing here can be code.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG

# In the order in which Keras numbers a layer's variables.
VARIABLES = {
    nn.Conv2d: ("conv2d", ("weight", "bias")),
    nn.BatchNorm2d: ("batch_normalization", ("weight", "bias", "running_mean", "running_var")),
    nn.BatchNorm1d: ("batch_normalization", ("weight", "bias", "running_mean", "running_var")),
    nn.Linear: ("dense", ("weight", "bias")),
}
# Keras keeps no normalisation with the article's model, and leaves attributes of the file that it does not know alone.
ATTRIBUTE = "minivgg_pl."
MAX_CHANNELS = 2**16
MISSING_H5PY = "Keras files need the package h5py: pip install h5py"

Content = TypeVar("Content")


def is_keras_file(source: str | Path) -> bool:
    """Tell by its name whether `source` is a Keras weights file."""
    return str(source).endswith(".weights.h5")


def keras_bytes(net: MiniVGG) -> bytes:
    """Return the content of a `.weights.h5` file that `keras.Model.load_weights` reads into the article's model.

    The network's normalisation, if any, is kept in attributes of the file, for `read_keras_normalization`.

    Raises:
        InputError: If h5py is not installed.
    """
    h5py = _import_h5py()
    tensors = net.state_dict()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("vars")
        for name in NORMALIZATION:
            if net.options[name] is not None:
                file.attrs[ATTRIBUTE + name] = net.options[name]
        for path, name, module in _layers(net):
            group = file.create_group(f"{path}/vars")
            group.attrs["name"] = path.rpartition("/")[2]
            for number, variable in enumerate(VARIABLES[type(module)][1]):
                array = _to_keras(net, name, tensors[f"{name}.{variable}"])
                group.create_dataset(str(number), data=array.numpy())
    return buffer.getvalue()


def normalization(net: MiniVGG) -> str:
    """Return the Keras layer, as code, that does what `net` does to its input first; the article's model has none."""
    mean, std = net.options["mean"] or [0.0] * net.image_shape[0], net.options["std"] or [1.0] * net.image_shape[0]
    return f"keras.layers.Normalization(mean={mean}, variance={[round(value**2, 6) for value in std]})"


def read_keras_weights(path: Path, net: MiniVGG) -> dict[str, Tensor]:
    """Read the weights of the article's model in Keras, under the names and in the layout of `net`.

    Args:
        path: A file that Keras 3's `model.save_weights("NAME.weights.h5")` wrote.
        net: The network that they are for; it stays as it is.

    Returns:
        A state dict of `net` without `mean` and `std`, which Keras keeps outside. The classifier has as many rows as
        the file has classes.

    Raises:
        InputError: If the file is damaged, no such file, or of another architecture (the message names the layer).
    """
    return _read_file(path, lambda file: dict(_read_layers(path, file, net)))


def read_keras_normalization(path: Path) -> dict[str, list[float] | None]:
    """Read `mean` and `std`, a number for each channel, that `keras_bytes` kept in the file; None without.

    Raises:
        InputError: If the file is damaged or no such file.
    """
    return _read_file(path, lambda file: {name: _read_attribute(file, ATTRIBUTE + name) for name in NORMALIZATION})


def _read_file(path: Path, read: Callable[[Any], Content]) -> Content:
    h5py = _import_h5py()
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: not a readable .weights.h5 file, but a folder, a pipe or a device")
        with h5py.File(path, "r") as file:
            if "layers" not in file.keys():  # noqa: SIM118 (without keys, links are followed)
                raise InputError(
                    f"{path}: not weights that Keras 3 saved; load them in Keras 3 and give "
                    'model.save_weights("NAME.weights.h5")'
                )
            return read(file)
    except InputError:
        raise
    except Exception as error:  # what h5py raises for a damaged file is not one type
        raise InputError(f"{path}: not a readable .weights.h5 file, or a damaged one ({error})") from error


def _read_attribute(file: Any, name: str) -> list[float] | None:
    if name not in file.attrs:
        return None
    stored = file.attrs.get_id(name)
    # Asked before it is read: an attribute may be as large as memory.
    if stored.dtype.kind != "f" or len(stored.shape) != 1 or stored.shape[0] > MAX_CHANNELS:
        raise ValueError(f"{name} is no number for each channel")
    return [float(value) for value in file.attrs[name]]


def _read_layers(path: Path, file: Mapping[str, Any], net: MiniVGG) -> Iterator[tuple[str, Tensor]]:
    expected = net.state_dict()
    layers = {place: (name, VARIABLES[type(module)][1]) for place, name, module in _layers(net)}
    for group in (f"layers/{name}" for name in _child(file, "layers")):
        if group not in layers and len(_variables(file, group)):
            raise InputError(f"{path}: it has a layer {group}, which {net.options['variant']} has not")
    for place, (name, variables) in layers.items():
        stored = _variables(file, place)
        if len(stored) != len(variables):
            raise InputError(
                f"{path}: {place} has {len(stored)} variables where {name} of {net.options['variant']} has "
                f"{len(variables)}"
            )
        for number, variable in enumerate(variables):
            wanted = _to_keras(net, name, expected[f"{name}.{variable}"]).shape
            dataset = _child(stored, str(number))
            _check_dataset(dataset)
            # A classifier for other classes is the caller's to leave out.
            shape = dataset.shape
            if shape != tuple(wanted) and not (name == "classifier" and shape and shape[:-1] == wanted[:-1]):
                raise InputError(
                    f"{path}: {place} has shape {shape} where {name}.{variable} of {net.options['variant']} has "
                    f"{tuple(wanted)} in Keras' order"
                )
            # Read only now: a small file can describe gigabytes.
            array = np.asarray(dataset)
            yield f"{name}.{variable}", _from_keras(net, name, torch.from_numpy(array.astype(np.float32)))


def _child(group: Mapping[str, Any], name: str) -> Any:
    """Return what lies in `group` under `name`; links to other places and other files are not followed."""
    h5py = _import_h5py()
    if not isinstance(group, h5py.Group) or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link, or lies in no group")
    return group[name]


def _variables(file: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return the group of a layer's variables, empty where it has none."""
    group = file
    for name in (*place.split("/"), "vars"):
        if name not in group.keys():  # noqa: SIM118 (without keys, links are followed)
            return {}
        group = _child(group, name)
    return group


def _check_dataset(dataset: Any) -> None:
    h5py = _import_h5py()
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.dtype.subdtype:
        raise ValueError(f"{getattr(dataset, 'name', dataset)} is no array of floating-point numbers")
    # Keras writes none of these. A chunk may be larger than the array, and unpack to gigabytes.
    if dataset.is_virtual or dataset.external or dataset.chunks:
        raise ValueError(f"{dataset.name} is packed, or lies in another file")


def _layers(net: MiniVGG) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield each layer that has weights: its place in a Keras file, its name here, itself."""
    counts: dict[str, int] = {}
    for name, module in net.named_modules():
        if type(module) in VARIABLES:
            kind = VARIABLES[type(module)][0]
            number = counts.get(kind, 0)
            counts[kind] = number + 1
            yield f"layers/{kind}_{number}" if number else f"layers/{kind}", name, module


def _to_keras(net: MiniVGG, name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:  # out, in, height, width -> height, width, in, out
        tensor = tensor.permute(2, 3, 1, 0)
    elif tensor.ndim == 2 and name == "dense":  # columns by channel, height, width -> rows by height, width, channel
        tensor = tensor.unflatten(1, (-1, *_last_map(net))).permute(2, 3, 1, 0).flatten(0, 2)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.contiguous()


def _from_keras(net: MiniVGG, name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1)
    elif tensor.ndim == 2 and name == "dense":
        tensor = tensor.unflatten(0, (*_last_map(net), -1)).permute(3, 2, 0, 1).flatten(1)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.contiguous()


def _last_map(net: MiniVGG) -> tuple[int, int]:
    """Return height and width of what is flattened."""
    return net.image_shape[1] // 2**net.num_blocks, net.image_shape[2] // 2**net.num_blocks


def _import_h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputError(MISSING_H5PY) from error
    return h5py
