"""TorchvisionDataModule: small data sets that torchvision reads, as images of 32 x 32 pixels."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torchvision import datasets

from minivgg_pl.data.base import IMAGE_SIZE, ImageDataModule, Split
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError

Name = Literal["CIFAR100", "FashionMNIST", "MNIST", "SVHN"]
DIGITS = tuple("0123456789")
# In the order of the labels, as the official files name them.
CIFAR100_CLASSES = tuple((Path(__file__).parent / "cifar100_classes.txt").read_text().split())


class Source(NamedTuple):
    """A torchvision data set: its class, or another function of the same arguments, its classes' names and channels."""

    open: Callable[..., Any]
    class_names: tuple[str, ...]
    channels: int


def _svhn(root: str, train: bool, download: bool) -> datasets.SVHN:
    return datasets.SVHN(root, split="train" if train else "test", download=download)


SOURCES = {
    "CIFAR100": Source(datasets.CIFAR100, CIFAR100_CLASSES, 3),
    "FashionMNIST": Source(datasets.FashionMNIST, tuple(datasets.FashionMNIST.classes), 1),
    "MNIST": Source(datasets.MNIST, DIGITS, 1),
    "SVHN": Source(_svhn, DIGITS, 3),
}


class TorchvisionDataModule(ImageDataModule):
    """CIFAR-100, FashionMNIST, MNIST or SVHN, found in `root` or downloaded there by torchvision.

    Images of 28 x 28 pixels get a black border of 2. SVHN's files need scipy to be read: `pip install scipy`.

    Args:
        root: Folder that holds the data, or gets them.
        dataset: Which: `CIFAR100`, `FashionMNIST`, `MNIST` or `SVHN`.
        **options: `batch_size`, `val_size`, `split_seed`, `flip`, `shift` and `split_batches`, see ImageDataModule.

    Raises:
        InputError: On a value out of range; from `prepare_data`, on data that are missing, damaged or unreachable.
    """

    def __init__(self, root: str = "data", dataset: Name = "CIFAR100", **options: Any) -> None:
        if dataset not in get_args(Name):
            raise InputError(f"dataset is {dataset!r}: choose {', '.join(get_args(Name))}")
        if dataset == "SVHN" and not importlib.util.find_spec("scipy"):
            raise InputError("dataset SVHN needs a package to read its files: pip install scipy")
        self.source = SOURCES[dataset]
        root = str(root)  # checkpoints hold plain types alone
        super().__init__(
            class_names=self.source.class_names,
            image_shape=(self.source.channels, IMAGE_SIZE, IMAGE_SIZE),
            dataset=dataset,
            title=dataset,
            train_size=None,
            splits=("train", "test"),
            **options,
        )
        self.save_hyperparameters()
        self.integrity = "as torchvision checks them"

    def prepare_files(self) -> None:
        """Let torchvision find or download the files, and check what they hold."""
        for train in (True, False):
            try:
                self._check(self.source.open(self.hparams.root, train=train, download=True))
            except (OSError, RuntimeError, ValueError, AssertionError) as error:
                raise InputError(
                    f"{self.dataset} is not in {self.hparams.root} and could not be downloaded, or is damaged "
                    f"({error}); put torchvision's files there"
                ) from error

    def _check(self, source: Any) -> None:
        """Check the unpacked files, whose checksums torchvision does not look at."""
        labels, sizes = _labels(source), set(source.data.shape[1:]) - {self.source.channels}
        if len(labels) != len(source.data) or sizes not in ({28}, {32}):
            raise ValueError(f"images {tuple(source.data.shape)} with {len(labels)} labels")
        if not set(labels.tolist()) <= set(range(len(self.class_names))):
            raise ValueError(f"labels up to {labels.max()} for {len(self.class_names)} classes")

    def load(self, split: Split) -> ImageDataset:
        """Return the images of `train` or `test`."""
        source = self.source.open(self.hparams.root, train=split == "train", download=False)
        images = torch.as_tensor(source.data)
        if images.ndim == 3:  # grey, (N, 28, 28)
            border = (IMAGE_SIZE - images.shape[1]) // 2
            images = functional.pad(images, (border,) * 4)[..., None]
        elif images.shape[1] == 3:  # SVHN's, (N, 3, 32, 32)
            images = images.permute(0, 2, 3, 1)
        return ImageDataset(images.contiguous(), _labels(source), len(self.class_names))


def _labels(source: Any) -> Tensor:
    # SVHN alone calls them labels.
    return torch.as_tensor(source.labels if hasattr(source, "labels") else source.targets).long()
