"""The MiniVGG network: a plain `torch.nn.Module` that needs no Lightning."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.models.dropout import ByteDropout
from minivgg_pl.models.initialization import initialize

# Keras' BatchNormalization defaults. Its momentum is the share of the old statistic, PyTorch's that of the new one:
# 0.99 there is 0.01 here. One difference stays: Keras 3 updates the moving variance with the biased batch variance,
# PyTorch with the unbiased one (1.6 % apart for the dense layer at batch 64, nothing for the convolutions).
BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01

IMAGE_SIZE = 32
IMAGE_CHANNELS = 3
NORMALIZATION = ("mean", "std")


class MiniVGG(nn.Module):
    """A mini VGG: two blocks of two 3x3 convolutions, a hidden dense layer, a linear classifier.

    Every convolution and the hidden dense layer are followed by ReLU and then batch norm, in that order, as in the
    article. Kernels start Glorot-uniform and biases at zero, as in Keras. Dense weights follow PyTorch's
    channel-height-width flattening.

    Args:
        variant: `"classic"` or `"wide"`, a row of `minivgg_pl.models.architectures.ARCHITECTURES`.
        num_classes: Number of classes, at least 2.
        dense_units: Width of the hidden dense layer; `None` takes the variant's own (512 for `classic`, 256 for
            `wide`). 300 gives the network of the article's listing, which contradicts its text.
        mean: Per-channel mean in [0, 1] subtracted from the input; `None`, the article's choice, subtracts nothing.
        std: Per-channel standard deviation that the input is then divided by; `None` divides by nothing.
        batch_norm_momentum: Share of a batch's statistic in the running one, in (0, 1]: PyTorch's meaning, one minus
            Keras'.
        init: `"glorot"`, as in Keras, or `"whitened"`: as `"glorot"`, but the first convolution starts with filters
            that whiten natural images (for colour images normalised by `mean` and `std`), and each further one starts
            by passing its inputs on.
        image_size: Height and width of the images in pixels, a multiple of 4. The article's is 32.
        in_channels: Channels of the images: 3 for colour, 1 for grey.

    Attributes:
        options: The arguments above by name, as plain values. `MiniVGG(**options)` builds the same network.
        class_names: The name of each logit's class if `from_pretrained` read the weights, else None.
        image_shape: `(in_channels, image_size, image_size)`.
        dropout_samples: How many dropout masks each image passes through in training mode, from the last block's
            dropout on; 1 by default. The average over masks is a steadier gradient, and the convolutions, most of the
            work, run once (multi-sample dropout, arXiv:1905.09788).

    Input shape:
        `(N, in_channels, image_size, image_size)` float in [0, 1]: an image's bytes divided by 255. The network
        itself normalises.

    Output shape:
        `(N, num_classes)` float logits. Softmax makes them probabilities. In training mode
        `(dropout_samples * N, num_classes)`: all images under the first mask, then all under the second, and so on.

    Raises:
        ValueError: On an argument that is unknown or out of range; the message names it and says what to give.

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
        _check_options(self.options)
        self.class_names: list[str] | None = None
        self.image_shape = (in_channels, image_size, image_size)
        self.dropout_samples = 1
        architecture = ARCHITECTURES[variant]
        dense_units = dense_units or architecture.dense_units
        # Buffers are saved with the weights, so that both always belong together.
        for name in NORMALIZATION:
            values = self.options[name]
            buffer = None if values is None else torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, buffer)

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
        self.frozen: tuple[str, ...] = ()
        initialize(self, init)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Return a trained network in evaluation mode, on the CPU, in float32. No code in the file is run.

        Args:
            source: `"classic"` or `"wide"` for the weights that come with this package, what this project wrote: a run
                folder (its last epoch), a `.ckpt` or a `.safetensors` file, or what Keras saved as `.h5` or `.keras`.

        Raises:
            InputError: A ValueError; if there is nothing of that kind at `source`, or it is damaged.
        """
        # Late, since weights/ builds networks with this module.
        from minivgg_pl.weights.load import load_trained

        trained = load_trained(source)
        trained.net.class_names = trained.class_names
        return trained.net

    @property
    def backbone(self) -> nn.Sequential:
        """All layers before the classifier, without the normalization."""
        return nn.Sequential(OrderedDict((name, part) for name, part in self.named_children() if name != "classifier"))

    @property
    def head(self) -> nn.Linear:
        """The classifier."""
        return self.classifier

    def freeze(self, *parts: str) -> None:
        """Keep `parts` as they are in training, and train all others.

        A frozen part has no gradients, its dropout is off, and its batch norm keeps its statistics and normalises by
        them.

        Args:
            parts: Names of submodules, such as `block1`, `block2`, `dense` and `dense_bn`; none: freeze nothing.

        Raises:
            ValueError: If there is no part of that name.
        """
        names = [name for name, _ in self.named_modules() if name]
        self.requires_grad_(True)
        for part in parts:
            if part not in names:
                several = f"[{part}] for several parts, or " if "," in part else ""
                raise ValueError(f"freeze is {part!r}: give {several}one of {', '.join(names)}")
            self.get_submodule(part).requires_grad_(False)
        self.frozen = parts
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode (False: evaluation mode) for all but the frozen parts."""
        super().train(mode)
        for part in self.frozen:
            self.get_submodule(part).eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, num_classes)` for images `(N, in_channels, image_size, image_size)` in [0, 1].

        Raises:
            InputError: A ValueError; on images of another shape, or of an integer type.
        """
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise InputError(f"images have shape {tuple(images.shape)}: give (N, {expected})")
        if not images.is_floating_point():
            raise InputError(f"images are {images.dtype}: give floats in [0, 1], such as bytes divided by 255")
        # A network in half or double precision takes float32 images, too.
        x = images.to(self.classifier.weight.dtype)
        if x.device.type == "mps":
            # As data/loader.py, for images of other loaders.
            x = x.clone(memory_format=torch.contiguous_format)
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / self.std
        blocks = (self.get_submodule(f"block{number}") for number in range(1, self.num_blocks + 1))
        *layers, last_dropout = (layer for block in blocks for layer in block)
        for layer in layers:
            x = layer(x)
        samples = self.dropout_samples if self.training else 1
        # Not copied: the backward pass then sums over the masks at once.
        x = last_dropout(x.expand(samples, *x.shape)).flatten(0, 1) if samples > 1 else last_dropout(x)
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


def _check_options(options: dict[str, Any]) -> None:
    """Check the arguments of MiniVGG, given by name."""
    variant, channels, init = options["variant"], options["in_channels"], options["init"]
    momentum, image_size = options["batch_norm_momentum"], options["image_size"]
    if variant not in ARCHITECTURES:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(ARCHITECTURES)}")
    for name, least in (("num_classes", 2), ("dense_units", 1), ("in_channels", 1)):
        if options[name] is not None and options[name] < least:
            raise ValueError(f"{name} is {options[name]}: give at least {least}")
    # Each of the two blocks halves the image.
    if image_size < 4 or image_size % 4:
        raise ValueError(f"image_size is {image_size}: give a multiple of 4, 4 or more")
    for name in NORMALIZATION:
        values = options[name]
        if values is not None and not (len(values) == channels and all(isinstance(v, int | float) for v in values)):
            raise ValueError(f"{name} is {values}: give {channels} numbers, one for each channel")
    if not all(0 < value < math.inf for value in options["std"] or ()):
        raise ValueError(f"std is {options['std']}: every value must be above 0")
    if not 0 < momentum <= 1:
        raise ValueError(f"batch_norm_momentum is {momentum}: give above 0 to 1")
    if init not in ("glorot", "whitened"):
        raise ValueError(f"init is {init!r}: choose glorot or whitened")
    if init == "whitened" and channels != IMAGE_CHANNELS:
        raise ValueError(f"init is 'whitened' for {channels} channels: it needs {IMAGE_CHANNELS}; give init glorot")
