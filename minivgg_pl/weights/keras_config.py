"""The config of a whole Keras model, compared with the article's layers. It is JSON; nothing that it names is built."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from minivgg_pl.errors import InputError

# The article's layers, an activation being a layer of its own.
_CONVOLUTION = ["Conv2D", "relu", "BatchNormalization"]
_BLOCK = [*_CONVOLUTION, *_CONVOLUTION, "MaxPooling2D"]
STEPS = [*_BLOCK, *_BLOCK, "Flatten", "Dense", "relu", "BatchNormalization", "Dense", "the end"]
# They leave a trained network's logits as they are, but for the activation that some have.
IGNORED = ("InputLayer", "Dropout", "Rescaling", "Activation", "Softmax", "linear", "softmax")
# What the shapes of the weights do not tell.
OPTIONS = {
    "Conv2D": {"padding": "same", "strides": [1, 1], "dilation_rate": [1, 1], "data_format": "channels_last"},
    "MaxPooling2D": {"pool_size": [2, 2], "strides": [2, 2]},
    "BatchNormalization": {"epsilon": 0.001},
    # `MiniVGG` takes what this layer returns.
    "Rescaling": {"scale": 1 / 255, "offset": 0},
}


def read_config(config: dict[str, Any]) -> dict[str, list[float] | None]:
    """Check that the config describes the article's layers, and return `mean` and `std` of a Normalization before them.

    Raises:
        InputError: If a layer differs; the message names it.
    """
    steps, normalization, name = [], {}, None
    for kind, options in _layers(config):
        name = options["name"]
        for option, wanted in OPTIONS.get(kind, {}).items():
            if options.get(option, wanted) != wanted:
                raise InputError(f"its layer {name} has {option} {options[option]}, and the article's model {wanted}")
        if kind == "Normalization" and not steps and options["mean"] is not None:
            std = np.sqrt(np.ravel(options["variance"]))
            normalization = {"mean": np.ravel(options["mean"]).tolist(), "std": std.tolist()}
            continue
        own = ("relu" if kind == "ReLU" else kind, options.get("activation", "linear"))
        steps += [(step, name) for step in own if step not in IGNORED and not str(step).startswith("Random")]
    for (found, layer), wanted in zip([*steps, ("the end", name)], STEPS, strict=False):
        if found != wanted:
            raise InputError(f"the article's model has {wanted} where this one has {found} (layer {layer})")
    return normalization


def _layers(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the class name and the options of each layer, also of models inside the model."""
    for layer in config["config"]["layers"]:
        if "layers" in layer["config"]:
            yield from _layers(layer)
        else:
            yield layer["class_name"], layer["config"]
