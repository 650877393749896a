"""TorchvisionDataModule: small data sets that torchvision reads, as images of 32 x 32 pixels."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional
from torchvision import datasets

from minivgg_pl.data.base import IMAGE_SIZE, NO_HYPERPARAMETERS, ImageDataModule, Split
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError

Name = Literal["CIFAR100", "FashionMNIST", "MNIST", "SVHN"]
DIGITS = tuple("0123456789")
# In the order of the labels, as the official files name them.
CIFAR100_CLASSES = tuple((Path(__file__).parent / "cifar100_classes.txt").read_text().split())
CLASSES = {
    "CIFAR100": CIFAR100_CLASSES,
    "FashionMNIST": tuple(datasets.FashionMNIST.classes),
    "MNIST": DIGITS,
    "SVHN": DIGITS,
}


class TorchvisionDataModule(ImageDataModule):
    """CIFAR-100, FashionMNIST, MNIST or SVHN, found in `root` or downloaded there by torchvision.

    Images of 28 x 28 pixels get a black border of 2. SVHN's files need scipy to be read: `pip install scipy`.

    Args:
        root: Folder that holds the data, or gets them.
        dataset: Which: `CIFAR100`, `FashionMNIST`, `MNIST` or `SVHN`.
        **options: `batch_size`, `val_size`, `flip`, `one_hot`, `train_transform` and others, see ImageDataModule.

    Raises:
        InputError: On a value out of range; from `prepare_data`, on data that are missing, damaged or unreachable.
    """

    def __init__(self, root: str = "data", dataset: Name = "CIFAR100", **options: Any) -> None:
        if dataset not in CLASSES:
            raise InputError(f"dataset is {dataset!r}: choose {', '.join(CLASSES)}")
        if dataset == "SVHN" and not importlib.util.find_spec("scipy"):
            raise InputError("dataset SVHN needs a package to read its files: pip install scipy")
        root = str(root)  # checkpoints hold plain types alone
        super().__init__(
            class_names=CLASSES[dataset],
            image_shape=(1 if "MNIST" in dataset else 3, IMAGE_SIZE, IMAGE_SIZE),
            dataset=dataset,
            title=dataset,
            train_size=None,
            splits=("train", "test"),
            **options,
        )
        self.save_hyperparameters(ignore=NO_HYPERPARAMETERS)
        self.integrity = "as torchvision checks them"

    def prepare_files(self) -> None:
        """Let torchvision find or download the files."""
        for split in self.splits:
            try:
                self._open(split, download=True)
            except (OSError, RuntimeError, ValueError, AssertionError) as error:
                raise InputError(
                    f"{self.dataset} is not in {self.hparams.root} and could not be downloaded, or is damaged "
                    f"({error}); put torchvision's files there"
                ) from error

    def load(self, split: Split) -> ImageDataset:
        """Return the images of `train` or `test`."""
        source = self._open(split)
        images = torch.as_tensor(source.data)
        if images.ndim == 3:  # grey, (N, 28, 28)
            border = (IMAGE_SIZE - images.shape[1]) // 2
            images = functional.pad(images, (border,) * 4)[..., None]
        elif images.shape[1] == 3:  # SVHN's, (N, 3, 32, 32)
            images = images.permute(0, 2, 3, 1)
        # SVHN alone calls them labels.
        labels = torch.as_tensor(source.labels if self.dataset == "SVHN" else source.targets).long()
        return ImageDataset(images.contiguous(), labels, len(self.class_names))

    def _open(self, split: Split, download: bool = False) -> Any:
        options = {"split": split} if self.dataset == "SVHN" else {"train": split == "train"}
        return getattr(datasets, self.dataset)(self.hparams.root, download=download, **options)
