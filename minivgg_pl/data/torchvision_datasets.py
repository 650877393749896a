"""TorchvisionDataModule: other small data sets that torchvision knows, brought to the network's 32 x 32 pixels."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision import datasets

from minivgg_pl.data.augmentation import Flip
from minivgg_pl.data.base import IMAGE_SIZE, ImageDataModule, Split
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError
from minivgg_pl.files import typed_path

Name = Literal["CIFAR100", "FashionMNIST", "MNIST", "SVHN"]
DIGITS = tuple("0123456789")
# In the order of the labels, as the official files name them.
CIFAR100_CLASSES = tuple((Path(__file__).parent / "cifar100_classes.txt").read_text().split())


class Source(NamedTuple):
    """How torchvision holds a data set: `open(root, train, download)`, its classes, channels, where its labels are."""

    open: Callable[[str, bool, bool], Any]
    class_names: tuple[str, ...]
    channels: int
    labels: str


def _open(kind: type) -> Callable[[str, bool, bool], Any]:
    return lambda root, train, download: kind(root, train=train, download=download)


SOURCES = {
    "CIFAR100": Source(_open(datasets.CIFAR100), CIFAR100_CLASSES, 3, "targets"),
    "FashionMNIST": Source(_open(datasets.FashionMNIST), tuple(datasets.FashionMNIST.classes), 1, "targets"),
    "MNIST": Source(_open(datasets.MNIST), DIGITS, 1, "targets"),
    "SVHN": Source(
        lambda root, train, download: datasets.SVHN(root, split="train" if train else "test", download=download),
        DIGITS,
        3,
        "labels",
    ),
}


class TorchvisionDataModule(ImageDataModule):
    """CIFAR-100, FashionMNIST, MNIST or SVHN, found in `root` or downloaded there by torchvision.

    Images of 28 x 28 pixels get a black border of 2. SVHN's files need scipy to be read: `pip install scipy`.

    Args:
        root: Folder that holds the data, or gets them.
        dataset: Which: `CIFAR100`, `FashionMNIST`, `MNIST` or `SVHN`.
        batch_size: Images a batch, on each device.
        val_size: Training images held out for validation, of each class its share; 0 validates on the test set.
        split_seed: Seed of the choice of held-out images; nothing else depends on it.
        flip: Mirroring of training images: `none`, `random`, or `alternating` (see `augment.Augmentation`).
        shift: Largest shift of training images in pixels, each image its own; the border is mirrored.
        split_batches: Whether a batch is split over the devices instead: an update sees `batch_size` images in all.

    Raises:
        InputError: On a value out of range; from `prepare_data`, on data that are missing, damaged or unreachable.
    """

    def __init__(
        self,
        root: str = "data",
        dataset: Name = "CIFAR100",
        batch_size: int = 64,
        val_size: int = 0,
        split_seed: int = 0,
        flip: Flip = "none",
        shift: int = 0,
        split_batches: bool = False,
    ) -> None:
        if dataset not in get_args(Name):
            raise InputError(f"dataset is {dataset!r}: choose {', '.join(get_args(Name))}")
        if dataset == "SVHN" and not importlib.util.find_spec("scipy"):
            raise InputError("dataset SVHN needs a package to read its files: pip install scipy")
        self.source = SOURCES[dataset]
        root = str(root)  # checkpoints hold plain types alone
        typed_path(root, "--data.root")
        super().__init__(
            class_names=self.source.class_names,
            image_shape=(self.source.channels, IMAGE_SIZE, IMAGE_SIZE),
            dataset=dataset,
            title=dataset,
            train_size=None,
            splits=("train", "test"),
            batch_size=batch_size,
            split_batches=split_batches,
            val_size=val_size,
            split_seed=split_seed,
            flip=flip,
            shift=shift,
        )
        self.save_hyperparameters()
        self.integrity = "as torchvision checks them"

    def prepare_files(self) -> None:
        """Let torchvision find or download the files, and check them."""
        for train in (True, False):
            try:
                self._check(self.source.open(self.hparams.root, train, True))
            except (OSError, RuntimeError, ValueError, AssertionError) as error:
                raise InputError(
                    f"{self.dataset} is not in {self.hparams.root} and could not be downloaded, or is damaged "
                    f"({error}); put torchvision's files there"
                ) from error

    def _check(self, source: Any) -> None:
        """Check that the files hold what they should: torchvision looks at the sums of downloads alone."""
        labels = torch.as_tensor(getattr(source, self.source.labels))
        sizes = set(source.data.shape[1:]) - {self.source.channels}
        if len(labels) != len(source.data) or not sizes <= {28, 32} or len(sizes) != 1:
            raise ValueError(f"images {tuple(source.data.shape)} with {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ValueError(f"labels up to {labels.max()} for {len(self.class_names)} classes")

    def load(self, split: Split) -> ImageDataset:
        """Return the images of `split`."""
        source = self.source.open(self.hparams.root, split == "train", False)
        labels = torch.as_tensor(getattr(source, self.source.labels)).long()
        return ImageDataset(_to_channels_last(source.data), labels, len(self.class_names))


def _to_channels_last(images: np.ndarray | Tensor) -> Tensor:
    """Return `(N, 32, 32, C)` uint8 from `(N, 28, 28)`, `(N, 3, 32, 32)` or `(N, 32, 32, 3)`."""
    images = torch.as_tensor(images)
    if images.ndim == 3:
        border = (IMAGE_SIZE - images.shape[1]) // 2
        return functional.pad(images, (border,) * 4)[..., None]
    return images.permute(0, 2, 3, 1).contiguous() if images.shape[1] == 3 else images.contiguous()
