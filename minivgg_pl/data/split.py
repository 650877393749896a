"""Held-out validation images."""

import torch
from torch import Tensor

from minivgg_pl.errors import InputError


def check_val_size(train_size: int, num_classes: int, val_size: int) -> None:
    """Check that `val_size` images can be held out of `train_size`.

    Raises:
        InputError: If it is negative, or leaves a class without an image.
    """
    largest = train_size - num_classes
    if val_size < 0:
        raise InputError(f"val_size is {val_size}: give 0 (validate on the test set) to {largest}")
    if val_size > largest:
        raise InputError(f"val_size is {val_size}: give at most {largest}, since each class keeps an image to train on")


def stratified_split(labels: Tensor, size: int, seed: int) -> Tensor:
    """Choose `size` images, from each class in proportion to its size.

    Shares are rounded down; the largest remainders get one more. Each class keeps one image that is not chosen.

    Args:
        labels: `(N,)` int64 class of each image.
        size: How many to choose.
        seed: Seed of the choice; the global generators are left alone.

    Returns:
        `(N,)` bool, true for the chosen images.

    Raises:
        InputError: If `size` leaves a class without an image.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    classes, counts = labels.unique(return_counts=True)
    check_val_size(len(labels), len(classes), size)
    # Integers alone: each share is rounded down, and the largest remainders get what is left.
    shares, remainders = size * counts // len(labels), size * counts % len(labels)
    order = remainders.argsort(descending=True, stable=True).tolist()
    while shares.sum() < size:
        for position in order:
            shares[position] += (shares[position] < counts[position] - 1) & (shares.sum() < size)
    for label, share in zip(classes, shares, strict=True):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:share]]] = True
    return chosen
