"""Images in memory, and the split: what every data module builds its loaders from."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from minivgg_pl.data.augmentation import Augmentation
from minivgg_pl.errors import InputError


class ImageDataset(Dataset):
    """Labelled images held in memory as uint8 and handed out a whole batch at a time.

    Args:
        images: `(N, H, W, C)` uint8.
        labels: `(N,)` int64 in [0, num_classes), or with `rows` `(M,)`.
        num_classes: Width of the one-hot targets.
        augmentation: What is done to the images on their way into a batch; default: nothing.
        rows: `(M,)` int64: the data set is these of `images`; default: all.
        resident: Whether `images` may be copied, to a GPU for instance; false for a file mapped into memory that is
            larger than that.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int = 10,
        augmentation: Augmentation | None = None,
        rows: Tensor | None = None,
        resident: bool = True,
    ) -> None:
        self.images = images
        self.rows = rows
        self.labels = labels
        self.resident = resident
        self.one_hot = torch.eye(num_classes)
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return one image `(C, H, W)` and its target `(num_classes,)`, or at indices `(B,)` a batch of them."""
        if isinstance(index, Tensor) and index.ndim:
            return self.__getitems__(index)
        images, targets = self.__getitems__([int(index)])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return images `(B, C, H, W)` float32 in [0, 1] and one-hot targets `(B, num_classes)` float32.

        Called once a batch: indexing replaces per-image Python.
        """
        # Not straight to the device: that would wait for all its earlier work.
        index = torch.as_tensor(indices).to(self.images.device, non_blocking=True)
        rows = index if self.rows is None else self.rows[index]
        images = self.augmentation.apply(self.images, rows, index) if self.augmentation else self.images[rows]
        # A view: the bytes stay height-width-channel, which is PyTorch's channels_last and faster to convolve.
        images = images.permute(0, 3, 1, 2)
        return images.to(torch.float32).div_(255), self.one_hot[self.labels[index]]

    def bytes_at(self, index: Tensor | int) -> Tensor:
        """Return the images at `index` as they are kept: `(B, H, W, C)` uint8, or `(H, W, C)` for a number."""
        return self.images[index if self.rows is None else self.rows[index]]

    def to(self, device: torch.device) -> "ImageDataset":
        """Move the images to `device`, where batches are then made, if they may be; return the data set itself."""
        if not self.resident:
            return self
        self.images, self.labels, self.one_hot = (
            tensor.to(device) for tensor in (self.images, self.labels, self.one_hot)
        )
        return self

    def subset(self, indices: Tensor) -> "ImageDataset":
        """Return a data set of the images at `indices` `(M,)` int64."""
        num_classes = len(self.one_hot)
        if self.resident:
            return ImageDataset(self.images[indices], self.labels[indices], num_classes, self.augmentation)
        rows = indices if self.rows is None else self.rows[indices]
        return ImageDataset(self.images, self.labels[indices], num_classes, self.augmentation, rows, resident=False)


def check_val_size(train_size: int, num_classes: int, val_size: int) -> None:
    """Check that `val_size` images can be held out of `train_size`.

    Raises:
        InputError: If it is negative, or leaves a class without an image.
    """
    largest = train_size - num_classes
    if not 0 <= val_size <= largest:
        raise InputError(f"val_size is {val_size}: give 0 (validate on the test set) to {largest}")


def stratified_split(labels: Tensor, size: int, seed: int) -> Tensor:
    """Choose `size` images, of each class its share (the first classes get one more where it is uneven).

    A class always keeps one image that is not chosen.

    Args:
        labels: `(N,)` int64 class of each image.
        size: How many to choose, at most N less the number of classes.
        seed: Seed of the choice; the global generators are left alone.

    Returns:
        `(N,)` bool, true for the chosen images.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    classes, counts = labels.unique(return_counts=True)
    # In whole numbers: a share is its floor, and the largest remainders get what is left.
    shares, remainders = size * counts // len(labels), size * counts % len(labels)
    order = remainders.argsort(descending=True, stable=True).tolist()
    while shares.sum() < size:
        for position in order:
            shares[position] += (shares[position] < counts[position] - 1) & (shares.sum() < size)
    for label, share in zip(classes, shares, strict=True):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:share]]] = True
    return chosen


def whole_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what `ImageDataset.__getitems__` made: a `collate_fn` with nothing left to do."""
    return batch
