"""CIFAR10DataModule: CIFAR-10 or synthetic images in its place."""

from typing import Any, Literal

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from minivgg_pl.data import synthetic
from minivgg_pl.data.base import IMAGE_CHANNELS, IMAGE_SIZE, NO_HYPERPARAMETERS, ImageDataModule, Split
from minivgg_pl.data.download import prepare_cifar10
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError

CIFAR10_TRAIN_SIZE = 50_000
# In the order of the labels, as `batches.meta` of the official files names them.
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10; batches are as ImageDataModule says, images `(B, 3, 32, 32)`.

    Args:
        root: Folder that holds the data, or gets it: the official `cifar-10-batches-py`, or the archive
            `cifar-10-python.tar.gz`, or else what is downloaded.
        dataset: `cifar10`, or `synthetic`: ten drawn shapes, for a machine without network.
        url: Where to download the archive from; any mirror is safe, since its MD5 is checked. Default: the official
            server.
        synthetic_size: Training images of the synthetic set, a multiple of 50; it has a fifth as many test images.
        **options: `batch_size`, `val_size`, `flip`, `one_hot`, `train_transform` and others, see ImageDataModule.

    Raises:
        InputError: On a value out of range; from `prepare_data`, on data that is missing, damaged or unreachable.
    """

    def __init__(
        self,
        root: str = "data",
        dataset: Literal["cifar10", "synthetic"] = "cifar10",
        url: str | None = None,
        synthetic_size: int = 3000,
        **options: Any,
    ) -> None:
        if dataset not in ("cifar10", "synthetic"):
            raise InputError(f"dataset is {dataset!r}: choose cifar10 or synthetic")
        is_real = dataset == "cifar10"
        if not is_real and (synthetic_size < 50 or synthetic_size % 50):
            raise InputError(f"synthetic_size is {synthetic_size}: give a multiple of 50")
        root = str(root)  # checkpoints hold plain types alone
        super().__init__(
            class_names=CIFAR10_CLASSES if is_real else synthetic.CLASS_NAMES,
            image_shape=(IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE),
            dataset=dataset,
            title="CIFAR-10" if is_real else "synthetic data, not CIFAR-10",
            train_size=CIFAR10_TRAIN_SIZE if is_real else synthetic_size,
            splits=("train", "test"),
            **options,
        )
        self.save_hyperparameters(ignore=NO_HYPERPARAMETERS)
        self.integrity = "official, verified" if is_real else "drawn here"
        if is_real:
            self.run_suffix = ""

    def prepare_files(self) -> None:
        """Find, unpack or download the official files."""
        if self.dataset == "synthetic":
            return
        root = self.hparams.root
        try:
            prepare_cifar10(root, self.hparams.url)
        except OSError as error:
            raise InputError(
                f"cannot read or write {error.filename or root}: {error.strerror or error}; make room or give "
                "permission there, or name another data folder (root)"
            ) from error

    def load(self, split: Split) -> ImageDataset:
        """Return the images of `train` or `test`."""
        if self.dataset == "synthetic":
            images, labels = synthetic.draw_split(self.hparams.synthetic_size, split == "train")
        else:
            source = CIFAR10(self.hparams.root, train=split == "train")
            images, labels = np.ascontiguousarray(source.data), source.targets
        return ImageDataset(torch.from_numpy(images), torch.as_tensor(labels))
