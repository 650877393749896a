"""Random flips and shifts of a whole batch, drawn for each image on its own."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Flip = Literal["none", "random", "alternating"]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a generator that depends on nothing but the seed and the epoch, so that a resumed run repeats it."""
    return torch.Generator().manual_seed(derived_seed(seed, epoch))


def derived_seed(*numbers: int) -> int:
    """Return a seed in [0, 2**63) that depends on all `numbers`, each 0 or more, and looks like none of them."""
    return np.random.SeedSequence(numbers).generate_state(1, dtype=np.uint64).item() % 2**63


class Augmentation:
    """The flip and the shift of each training image, drawn for a whole epoch at once.

    Args:
        flip: `none`; `random`: each image mirrored with probability 1/2; `alternating`: half of the images mirrored in
            the first epoch, and from then on each image in every other epoch, so that two epochs in a row never show
            the same image (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498).
        shift: Largest shift in pixels, along each axis; all shifts down to its negative are equally likely.
    """

    def __init__(self, flip: Flip = "none", shift: int = 0) -> None:
        self.flip = flip
        self.shift = shift
        self.flips = self.shifts = torch.empty(0)

    def __bool__(self) -> bool:
        return self.flip != "none" or self.shift > 0

    def draw(self, size: int, seed: int, epoch: int, generator: torch.Generator, device: torch.device) -> None:
        """Draw the flips and shifts of an epoch.

        Args:
            size: Number of images.
            seed: Seed of the run.
            epoch: Number of the epoch, from 0.
            generator: The epoch's own generator.
            device: Where the images are.
        """
        if self.flip == "alternating":
            first = torch.rand(size, generator=epoch_generator(seed, 0)) < 0.5
            flips = first ^ bool(epoch % 2)
        else:
            flips = torch.rand(size, generator=generator) < (0.5 if self.flip == "random" else 0)
        shifts = torch.randint(-self.shift, self.shift + 1, (size, 2), generator=generator)
        self.flips, self.shifts = flips.to(device), shifts.to(device)

    def apply(self, images: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """Return the images `(B, H, W, C)` at `rows` `(B,)` of `images` `(N, H, W, C)`, flipped and shifted.

        `index` `(B,)` numbers them within the epoch. Where nothing was drawn, outside an epoch or with another
        sampler, they stay as they are.
        """
        if not len(self.flips):
            return images[rows]
        return flip_and_shift(images, rows, self.flips[index], self.shifts[index])


def flip_and_shift(images: Tensor, index: Tensor, flips: Tensor, shifts: Tensor) -> Tensor:
    """Take the images at `index`, each flipped and shifted as its own entry says, in one indexing operation.

    torchvision's transforms draw one parameter for a whole batch (pytorch/vision#8484): hence this.

    Args:
        images: `(N, H, W, C)`, any dtype.
        index: `(B,)` int64 in [0, N).
        flips: `(B,)` bool; true mirrors left and right.
        shifts: `(B, 2)` int64: pixels down and right. What enters is the mirror image of what is beside the border, the
            border pixel itself not repeated; smaller in size than H and W.

    Returns:
        `(B, H, W, C)`, of the dtype of `images`.
    """
    height, width = images.shape[1:3]
    rows = _reflect(torch.arange(height, device=images.device) - shifts[:, :1], height)  # (B, H)
    columns = _reflect(torch.arange(width, device=images.device) - shifts[:, 1:], width)  # (B, W)
    columns = torch.where(flips[:, None], width - 1 - columns, columns)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(position: Tensor, size: int) -> Tensor:
    return size - 1 - (size - 1 - position.abs()).abs()
