"""Trained weights to train on from: what of them goes into a network, and the normalisation that must come along."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.weights.keras_h5 import is_keras_file, read_keras_normalization, read_keras_weights
from minivgg_pl.weights.load import check_finite, load_trained


def load_initial_weights(net: MiniVGG, source: str | Path) -> None:
    """Load trained weights into `net` to train on from; where the classes differ in number, all but the classifier.

    Args:
        net: The network to change. `mean` and `std` stay its own.
        source: What `load_trained` reads, or a Keras `.weights.h5` of the article's model.

    Raises:
        InputError: If the weights cannot be read, or are those of another network.
    """
    if is_keras_file(source):
        tensors = read_keras_weights(Path(source), net)
        check_finite(Path(source), tensors)
        normalization = normalization_of(source)
    else:
        trained = load_trained(source).net
        if (theirs := trained.options["variant"]) != (ours := net.options["variant"]):
            raise InputError(
                f"{source}: weights of a {theirs} network, and this one is {ours}: give --variant {theirs}"
            )
        tensors, normalization = trained.state_dict(), trained.options
    own = net.state_dict()
    for name, tensor in tensors.items():
        if name in NORMALIZATION:
            continue
        if tensor.shape == own[name].shape:
            own[name] = tensor
        elif not name.startswith("classifier."):
            raise InputError(
                f"{source}: {name} has shape {tuple(tensor.shape)} where this network has {tuple(own[name].shape)}: "
                "give weights of the same variant and sizes"
            )
    if normalization:
        _check_normalization(source, net.options, normalization)
    net.load_state_dict(own)


def normalization_of(source: str | Path) -> dict[str, list[float] | None] | None:
    """Return the `mean` and `std` of the network that `source`, as `load_initial_weights` reads it, was trained with.

    Returns:
        None for what Keras itself saved: it keeps a normalisation outside, and the caller's own is taken to be theirs.

    Raises:
        InputError: If the weights cannot be read.
    """
    if is_keras_file(source):
        kept = read_keras_normalization(Path(source))
        return kept if any(kept.values()) else None
    options = load_trained(source).net.options
    return {name: options[name] for name in NORMALIZATION}


def _check_normalization(source: str | Path, own: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Weights mean nothing with another normalisation than they were trained with."""
    if all(theirs[name] == own[name] for name in NORMALIZATION):
        return
    wanted = ", ".join(f"{name} {theirs[name] and [float(f'{v:.6g}') for v in theirs[name]]}" for name in NORMALIZATION)
    raise InputError(f"{source}: its network was trained with {wanted}: give --model.mean and --model.std so")
