"""Training from trained weights: which of them a network takes, and the normalisation that belongs to them."""

from pathlib import Path

from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.weights.keras_h5 import is_keras_file, read_keras_normalization, read_keras_weights
from minivgg_pl.weights.load import check_finite, load_trained


def load_initial_weights(net: MiniVGG, source: str | Path) -> None:
    """Load trained weights into `net` to train on from; all but the classifier if the numbers of classes differ.

    Args:
        net: The network to change. Its `mean` and `std` stay.
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
            raise InputError(f"{source}: weights of {theirs}, and this network is {ours}: give --variant {theirs}")
        tensors = {name: tensor for name, tensor in trained.state_dict().items() if name not in NORMALIZATION}
        normalization = {name: trained.options[name] for name in NORMALIZATION}
    own = net.state_dict()
    for name, tensor in tensors.items():
        if tensor.shape == own[name].shape:
            own[name] = tensor
        elif not name.startswith("classifier."):
            shapes = f"{tuple(tensor.shape)} where this network has {tuple(own[name].shape)}"
            raise InputError(f"{source}: {name} has shape {shapes}: give weights of the same variant and sizes")
    if any(values != net.options[name] for name, values in normalization.items()):
        # With another normalisation the weights mean nothing.
        wanted = ", ".join(f"{name} {values}" for name, values in normalization.items())
        raise InputError(f"{source}: its network was trained with {wanted}: give the same --model.mean and --model.std")
    net.load_state_dict(own)


def normalization_of(source: str | Path) -> dict[str, list[float] | None]:
    """Return the `mean` and `std` that the network in `source` was trained with.

    Empty for a file that Keras itself saved: the caller's own normalisation is taken to be right.

    Raises:
        InputError: If the weights cannot be read.
    """
    if is_keras_file(source):
        return read_keras_normalization(Path(source))
    options = load_trained(source).net.options
    return {name: options[name] for name in NORMALIZATION}
