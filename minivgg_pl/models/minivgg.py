"""MiniVGG, the network alone: a plain `torch.nn.Module` that needs no Lightning."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.models.dropout import ByteDropout
from minivgg_pl.models.initialization import glorot, pass_on, whiten

# Keras' BatchNormalization defaults. Its momentum is the share of the old statistic, PyTorch's that of the new one:
# 0.99 there is 0.01 here. One difference stays: Keras 3 updates the moving variance with the biased batch variance,
# PyTorch with the unbiased one (1.6 % apart for the dense layer at batch 64, nothing for the convolutions).
BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01

IMAGE_SIZE = 32
IMAGE_CHANNELS = 3
NORMALIZATION = ("mean", "std")

# Of the dense layers: 4 GB in float32, four times that in training. `classic` at 512 pixels has half of it.
MAX_DENSE_WEIGHTS = 2**30


class MiniVGG(nn.Module):
    """A mini VGG: two blocks of two 3x3 convolutions, a hidden dense layer, a linear classifier.

    Every convolution and the hidden dense layer are followed by ReLU and then batch norm, in that order, as in the
    article. Kernels start Glorot-uniform and biases at zero, as in Keras. Dense weights follow PyTorch's
    channel-height-width flattening.

    Args:
        variant: `"classic"` or `"wide"`, a row of `minivgg_pl.architectures.ARCHITECTURES`.
        num_classes: Number of classes, at least 2.
        dense_units: Width of the hidden dense layer; `None` takes the variant's own (512 for `classic`, 256 for
            `wide`). 300 gives the network of the article's listing, which contradicts its text.
        mean: Per-channel mean in [0, 1] subtracted from the input; `None`, the article's choice, subtracts nothing.
        std: Per-channel standard deviation that the input is then divided by; `None` divides by nothing.
        batch_norm_momentum: Share of a batch's statistic in the running one, in (0, 1]: PyTorch's meaning, one minus
            Keras'.
        init: `"glorot"`, as in Keras, or `"whitened"`: as `"glorot"`, but the first convolution starts with filters
            that whiten natural images, for colour inputs normalised by `mean` and `std`, and each further one starts
            by passing its inputs on.
        image_size: Height and width of the images in pixels, a multiple of 4. The article's is 32.
        in_channels: Channels of the images: 3 for colour, 1 for grey.

    Attributes:
        options: The arguments above by name, with plain values: what a network of the same shape is built from.
        class_names: The name of each logit's class where `from_pretrained` read them, else None.

    Input shape:
        `(N, in_channels, image_size, image_size)` float in [0, 1]: a image's bytes divided by 255, never normalised
        by the caller.

    Output shape:
        `(N, num_classes)` float logits. Softmax makes them probabilities.

    Raises:
        ValueError: On an unknown variant, fewer than 2 classes, no dense units, `mean`/`std` of another length than
            `in_channels` or with a `std` that is not positive, a `batch_norm_momentum` out of range, another `init`
            or one that the images do not suit, or an `image_size` or `in_channels` out of range.

    Example:
        >>> MiniVGG("wide")(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        variant: str = "classic",
        num_classes: int = 10,
        dense_units: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        init: str = "glorot",
        image_size: int = IMAGE_SIZE,
        in_channels: int = IMAGE_CHANNELS,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "variant": variant,
            "num_classes": num_classes,
            "dense_units": dense_units,
            "mean": None if mean is None else list(mean),
            "std": None if std is None else list(std),
            "batch_norm_momentum": batch_norm_momentum,
            "init": init,
            "image_size": image_size,
            "in_channels": in_channels,
        }
        _check_arguments(**self.options)
        self.init = init
        self.class_names: list[str] | None = None
        self.image_shape = (in_channels, image_size, image_size)
        architecture = ARCHITECTURES[variant]
        dense_units = dense_units or architecture.dense_units
        # Saved with the weights, so that weights and preprocessing cannot part.
        self.register_buffer("mean", _channel_buffer(mean))
        self.register_buffer("std", _channel_buffer(std))

        size = image_size
        self.num_blocks = len(architecture.blocks)
        for number, widths in enumerate(architecture.blocks, start=1):
            block = _block(in_channels, widths, architecture.block_dropout, batch_norm_momentum)
            self.add_module(f"block{number}", block)
            in_channels, size = widths[-1], size // 2
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(in_channels * size * size, dense_units)
        self.dense_relu = nn.ReLU(inplace=True)
        self.dense_bn = nn.BatchNorm1d(dense_units, eps=BATCH_NORM_EPS, momentum=batch_norm_momentum)
        self.dense_dropout = ByteDropout(architecture.dense_dropout)
        self.classifier = nn.Linear(dense_units, num_classes)
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Return a trained network in evaluation mode, on the CPU, in float32; no code in the file is ever run.

        Args:
            source: `"classic"` or `"wide"` for the weights that come with this package, or what this project wrote:
                a run folder (its last epoch), a `.ckpt` or a `.safetensors` file.

        Raises:
            InputError: A ValueError; if there is nothing of that kind at `source`, or it is damaged.
        """
        # Late: what reads files needs this module.
        from minivgg_pl.weights.load import load_trained

        trained = load_trained(source)
        trained.net.class_names = trained.class_names
        return trained.net

    def reset_parameters(self) -> None:
        """Set every weight and bias anew, as `init` says."""
        glorot(self)
        if self.init == "whitened":
            first, *others = (module for module in self.modules() if isinstance(module, nn.Conv2d))
            whiten(first)
            for conv in others:
                pass_on(conv)

    def forward(self, images: Tensor, dropout_samples: int = 1) -> Tensor:
        """Return logits `(N, num_classes)` for images `(N, in_channels, image_size, image_size)` in [0, 1].

        Args:
            images: As above.
            dropout_samples: How often the features of the convolutions pass through what follows, from the last
                block's dropout on, each time under another dropout mask. For training: the average over masks is a
                steadier gradient, and the convolutions, most of the work, run once (multi-sample dropout,
                arXiv:1905.09788). The logits are then `(dropout_samples * N, num_classes)`, all images in each pass.

        Raises:
            ValueError: On images of another shape, or of an integer type.
        """
        _check_images(images, self.image_shape)
        # A network in half or double precision takes float32 images all the same.
        x = images.to(self.classifier.weight.dtype)
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / self.std
        *blocks, last_block = (self.get_submodule(f"block{number}") for number in range(1, self.num_blocks + 1))
        for block in blocks:
            x = block(x)
        for layer in last_block[:-1]:
            x = layer(x)
        x = last_block.dropout(torch.cat([x] * dropout_samples) if dropout_samples > 1 else x)
        x = self.dense_relu(self.dense(self.flatten(x)))
        return self.classifier(self.dense_dropout(self.dense_bn(x)))


def _block(in_channels: int, widths: Sequence[int], dropout: float, batch_norm_momentum: float) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, out_channels in enumerate(widths, start=1):
        layers[f"conv{number}"] = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding="same")
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        layers[f"bn{number}"] = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=batch_norm_momentum)
        in_channels = out_channels
    layers["pool"] = nn.MaxPool2d(2)
    layers["dropout"] = ByteDropout(dropout)
    return nn.Sequential(layers)


def _channel_buffer(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _check_images(images: Tensor, expected: tuple[int, int, int]) -> None:
    if images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(f"images have shape {tuple(images.shape)}: give (N, {', '.join(map(str, expected))})")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: give floats in [0, 1], such as bytes divided by 255")


def _check_arguments(
    variant: str,
    num_classes: int,
    dense_units: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    batch_norm_momentum: float,
    init: str,
    image_size: int,
    in_channels: int,
) -> None:
    if variant not in ARCHITECTURES:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(ARCHITECTURES)}")
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}: a classifier needs at least 2")
    if dense_units is not None and dense_units < 1:
        raise ValueError(f"dense_units is {dense_units}: give at least 1, or nothing for the variant's own")
    if in_channels < 1:
        raise ValueError(f"in_channels is {in_channels}: give 3 for colour, 1 for grey")
    # Each of the two blocks halves the image.
    if image_size < 4 or image_size % 4:
        raise ValueError(f"image_size is {image_size}: give a multiple of 4, 4 or more")
    _check_size(variant, num_classes, dense_units, image_size)
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"{name} is {values}: give numbers")
        if values is not None and len(values) != in_channels:
            raise ValueError(f"{name} has {len(values)} values: give {in_channels}, one for each channel")
    if std is not None and not all(0 < value < math.inf for value in std):
        raise ValueError(f"std is {list(std)}: every value must be above 0")
    if not 0 < batch_norm_momentum <= 1:
        raise ValueError(f"batch_norm_momentum is {batch_norm_momentum}: give above 0 to 1")
    if init not in ("glorot", "whitened"):
        raise ValueError(f"init is {init!r}: choose glorot or whitened")
    if init == "whitened" and in_channels != IMAGE_CHANNELS:
        raise ValueError(f"init is 'whitened' for {in_channels} channels: it needs {IMAGE_CHANNELS}; give init glorot")


def _check_size(variant: str, num_classes: int, dense_units: int | None, image_size: int) -> None:
    architecture = ARCHITECTURES[variant]
    units = dense_units or architecture.dense_units
    inputs = architecture.blocks[-1][-1] * (image_size // 2 ** len(architecture.blocks)) ** 2
    weights = units * (inputs + num_classes)
    if weights > MAX_DENSE_WEIGHTS:
        raise ValueError(
            f"dense_units {units} with image_size {image_size} and num_classes {num_classes}: the dense layers have "
            f"{weights:,} weights, more than {MAX_DENSE_WEIGHTS:,}: give smaller ones"
        )
