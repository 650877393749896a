"""Random flips and shifts of a whole batch, drawn for each image on its own."""

from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from minivgg_pl.errors import InputError

Flip = Literal["none", "random", "alternating"]


def derived_seed(*numbers: int) -> int:
    """Return a seed in [0, 2**63) that mixes all `numbers`, each 0 or more."""
    return np.random.SeedSequence(numbers).generate_state(1, dtype=np.uint64).item() % 2**63


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a generator that depends on the seed and the epoch alone, so that a resumed run repeats it."""
    return torch.Generator().manual_seed(derived_seed(seed, epoch))


class Augmentation(NamedTuple):
    """How training images are flipped and shifted.

    Attributes:
        flip: `none`; `random`: each image mirrored with probability 1/2; `alternating`: half of the images mirrored in
            the first epoch, and from then on each image in every other epoch, so that two epochs in a row never show
            the same image (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498).
        shift: Largest shift in pixels, along each axis; all shifts down to its negative are equally likely.
    """

    flip: Flip = "none"
    shift: int = 0

    def __bool__(self) -> bool:
        return self.flip != "none" or self.shift > 0

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Check the values for images `(C, H, W)`.

        Raises:
            InputError: If `flip` is unknown, or `shift` is negative or as large as an image.
        """
        if self.flip not in get_args(Flip):
            raise InputError(f"flip is {self.flip!r}: choose {', '.join(get_args(Flip))}")
        if not 0 <= self.shift < min(image_shape[1:]):
            raise InputError(f"shift is {self.shift}: give 0 to {min(image_shape[1:]) - 1} pixels")

    def draw(self, size: int, seed: int, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the flips and shifts of `size` images, as `flip_and_shift` takes them, in `epoch`, from 0, of a run."""
        if self.flip == "alternating":
            first = torch.rand(size, generator=epoch_generator(seed, 0)) < 0.5
            flips = first ^ bool(epoch % 2)
        else:
            flips = torch.rand(size, generator=generator) < (0.5 if self.flip == "random" else 0)
        return flips, torch.randint(-self.shift, self.shift + 1, (size, 2), generator=generator)


def flip_and_shift(images: Tensor, index: Tensor, flips: Tensor, shifts: Tensor) -> Tensor:
    """Take the images at `index`, each with its own flip and shift, in one indexing operation.

    torchvision's transforms draw one parameter for a whole batch (pytorch/vision#8484).

    Args:
        images: `(N, H, W, C)`, any dtype.
        index: `(B,)` int64 in [0, N).
        flips: `(B,)` bool; true mirrors left and right.
        shifts: `(B, 2)` int64, pixels down and right, smaller in size than H and W. The gap is filled with the mirror
            image of what lies beside the border; the border pixel itself is not repeated.

    Returns:
        `(B, H, W, C)`, of the dtype of `images`.
    """
    height, width = images.shape[1:3]
    # Looked up: on a GPU, each step of the arithmetic would be a kernel of its own.
    rows = _sources(height, images.device)[shifts[:, 0]]  # (B, H)
    columns = _sources(width, images.device)[torch.add(shifts[:, 1], flips, alpha=2 * width - 1)]  # (B, W)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


@cache
def _sources(size: int, device: torch.device) -> Tensor:
    """Return where the pixels of a row or column come from, `(4 * size - 2, size)` int64, for each shift below `size`.

    Shift s is row s, a negative one counted from the end; mirrored, it is row s + 2 * size - 1.
    """
    shifts = torch.tensor([*range(size), *range(1 - size, size), *range(1 - size, 0)])
    position = torch.arange(size) - shifts[:, None]
    position = size - 1 - (size - 1 - position.abs()).abs()
    position[size : 3 * size - 1] = size - 1 - position[size : 3 * size - 1]
    return position.to(device, non_blocking=device.type == "cuda")
