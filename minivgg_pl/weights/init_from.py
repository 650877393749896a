"""Training from trained weights: which of them a network takes, and the normalisation that belongs to them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.weights.load import NO_NORMALIZATION, TrainedNetwork, load_trained


def load_initial_weights(net: MiniVGG, source: str | Path, class_names: Sequence[str] | None = None) -> list[str]:
    """Load trained weights into `net` to train on from.

    Args:
        net: The network to change. Its `mean` and `std` stay.
        source: What `load_trained` reads.
        class_names: The names of the classes of `net`. A class that `source` knows, in upper case or lower, gets its
            row of the classifier; the other rows become 0. Without names on either side, the rows are taken as they
            are if their number is the same.

    Returns:
        Those of `class_names` that `source` knows.

    Raises:
        InputError: If the weights cannot be read, or are those of another network.
    """
    trained = load_trained(source)
    if (theirs := trained.net.options["variant"]) != (ours := net.options["variant"]):
        raise InputError(f"{source}: weights of {theirs}, and this network is {ours}: give --variant {theirs}")
    tensors = {name: tensor for name, tensor in trained.net.state_dict().items() if name not in NORMALIZATION}
    # Numbers stand for names that the weights lack.
    if trained.class_names == [str(number) for number in range(len(trained.class_names))]:
        class_names = None
    rows = {_plain(name): row for row, name in enumerate(trained.class_names)}
    known = {number: rows[_plain(name)] for number, name in enumerate(class_names or ()) if _plain(name) in rows}
    own = net.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("classifier.") and (class_names or tensor.shape != own[name].shape):
            own[name] = torch.zeros_like(own[name])
            own[name][list(known)] = tensor[list(known.values())]
        elif tensor.shape == own[name].shape:
            own[name] = tensor
        else:
            shapes = f"{tuple(tensor.shape)} where this network has {tuple(own[name].shape)}"
            raise InputError(f"{source}: {name} has shape {shapes}: give weights of the same variant and sizes")
    normalization = _normalization(trained)
    if any(values != net.options[name] for name, values in normalization.items()):
        # With another normalisation the weights mean nothing.
        wanted = ", ".join(f"{name} {values}" for name, values in normalization.items())
        raise InputError(f"{source}: its network was trained with {wanted}: give the same --model.mean and --model.std")
    net.load_state_dict(own)
    return [class_names[number] for number in known]


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")


def normalization_of(source: str | Path) -> dict[str, list[float] | None]:
    """Return the `mean` and `std` that the network in `source` was trained with.

    Empty for a Keras file that does not say it: the caller's own normalisation is taken to be right.

    Raises:
        InputError: If the weights cannot be read.
    """
    return _normalization(load_trained(source))


def _normalization(trained: TrainedNetwork) -> dict[str, list[float] | None]:
    if NO_NORMALIZATION in trained.assumed:
        return {}
    return {name: trained.net.options[name] for name in NORMALIZATION}
