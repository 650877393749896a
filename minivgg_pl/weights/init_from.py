"""Training from trained weights: which of them a network takes, and the normalisation that belongs to them."""

from collections.abc import Sequence

import torch

from minivgg_pl.data.class_names import plain_name
from minivgg_pl.data.image_files import some
from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.weights.load import NO_NORMALIZATION, TrainedNetwork


def load_initial_weights(net: MiniVGG, trained: TrainedNetwork, class_names: Sequence[str] | None = None) -> list[str]:
    """Load trained weights into `net` to train on from.

    Args:
        net: The network to change. Its `mean` and `std` stay.
        trained: The network that has the weights.
        class_names: The names of the classes of `net`. A class that `trained` knows, in upper case or lower, gets its
            row of the classifier; the other rows become 0. Without names on either side, the rows are taken as they
            are if their number is the same.

    Returns:
        Lines that say what was understood of the weights and of the classes, for the user.

    Raises:
        InputError: If the weights are those of another network.
    """
    source = trained.source
    if not isinstance(net, MiniVGG):
        raise InputError(f"init_from is {source}: this network is a {type(net).__name__}, and no MiniVGG: leave it out")
    if (theirs := trained.net.options["variant"]) != (ours := net.options["variant"]):
        raise InputError(f"{source}: weights of {theirs}, and this network is {ours}: give --variant {theirs}")
    tensors = {name: tensor for name, tensor in trained.net.state_dict().items() if name not in NORMALIZATION}
    lines = [trained.assumptions] if trained.assumed else []
    # Numbers stand for names that the weights lack.
    if class_names and not trained.has_class_names:
        lines.append(f"{source}: its classes have no names; they are taken in the order of the data's")
        class_names = None
    rows = {plain_name(name): row for row, name in enumerate(trained.class_names)}
    known = {i: rows[plain_name(name)] for i, name in enumerate(class_names or ()) if plain_name(name) in rows}
    own = net.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("classifier.") and (class_names or tensor.shape != own[name].shape):
            own[name] = torch.zeros_like(own[name])
            own[name][list(known)] = tensor[list(known.values())]
        elif tensor.shape == own[name].shape:
            own[name] = tensor
        else:
            shapes = f"{tuple(tensor.shape)} where this network has {tuple(own[name].shape)}"
            give = "give weights of the same image_size, in_channels and dense_units"
            raise InputError(f"{source}: {name} has shape {shapes}; {give}")
    normalization = normalization_of(trained)
    if any(values != net.options[name] for name, values in normalization.items()):
        # With another normalisation the weights mean nothing.
        wanted = ", ".join(f"{name} {values}" for name, values in normalization.items())
        raise InputError(f"{source}: its network was trained with {wanted}: give the same mean and std")
    net.load_state_dict(own)
    if class_names and len(known) < len(class_names):
        old, new = ([n for i, n in enumerate(class_names) if (i in known) is is_known] for is_known in (True, False))
        lines.append(f"{source} knows {some(old) or 'none'}; new classes: {some(new)}")
    return lines


def normalization_of(trained: TrainedNetwork) -> dict[str, list[float] | None]:
    """Return the `mean` and `std` that the network was trained with.

    Empty for a Keras file that does not say it: the caller's own normalisation is taken to be right.
    """
    if NO_NORMALIZATION in trained.assumed:
        return {}
    return {name: trained.net.options[name] for name in NORMALIZATION}
