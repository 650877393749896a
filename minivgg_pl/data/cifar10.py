"""CIFAR10DataModule: from verified files on disk to batches of float images and one-hot targets."""

from typing import Literal

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from minivgg_pl.data import synthetic
from minivgg_pl.data.augmentation import Flip
from minivgg_pl.data.base import IMAGE_CHANNELS, IMAGE_SIZE, ImageDataModule, Split
from minivgg_pl.data.download import prepare_cifar10
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.data.synthetic import SyntheticCIFAR10, check_train_size, prepare_synthetic
from minivgg_pl.errors import InputError

CIFAR10_TRAIN_SIZE = 50_000
# In the order of the labels, as `batches.meta` of the official files names them.
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10 with one-hot targets.

    Every loader yields `(images, targets)`: images `(B, 3, 32, 32)` float32 in [0, 1], targets `(B, 10)` float32
    one-hot. The last batch may be smaller: no image is ever dropped.

    Args:
        root: Folder that holds the data, or gets it: the official `cifar-10-batches-py`, or the archive
            `cifar-10-python.tar.gz`, or else what is downloaded.
        batch_size: Images a batch, on each device.
        val_size: Training images held out for validation, the same number of each class. 0 validates on the test
            set, as the article does.
        dataset: `cifar10`, or `synthetic`: ten drawn shapes in CIFAR-10's format, for a machine without network.
        url: Where to download the archive from; any mirror is safe, since its MD5 is checked. Default: the official
            server.
        synthetic_size: Training images of the synthetic set, a multiple of 50; its test set has a fifth as many.
        split_seed: Seed of the choice of held-out images; nothing else depends on it.
        flip: Mirroring of training images: `none`, `random`, or `alternating` (see `augment.Augmentation`).
        shift: Largest shift of training images in pixels, 0 to 31, each image its own; the border is mirrored.
        split_batches: Whether a batch is split over the devices instead: an update sees `batch_size` images in all.

    Raises:
        InputError: On a value out of range; from `prepare_data`, on data that is missing, damaged or unreachable.
    """

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 64,
        val_size: int = 0,
        dataset: Literal["cifar10", "synthetic"] = "cifar10",
        url: str | None = None,
        synthetic_size: int = 3000,
        split_seed: int = 0,
        flip: Flip = "none",
        shift: int = 0,
        split_batches: bool = False,
    ) -> None:
        if dataset not in ("cifar10", "synthetic"):
            raise InputError(f"dataset is {dataset!r}: choose cifar10 or synthetic")
        is_real = dataset == "cifar10"
        train_size = CIFAR10_TRAIN_SIZE if is_real else synthetic_size
        root = str(root)  # checkpoints hold plain types alone
        if not is_real:
            check_train_size(synthetic_size)
        super().__init__(
            class_names=CIFAR10_CLASSES if is_real else synthetic.CLASS_NAMES,
            image_shape=(IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE),
            dataset=dataset,
            title="CIFAR-10" if is_real else "synthetic data, not CIFAR-10",
            train_size=train_size,
            splits=("train", "test"),
            batch_size=batch_size,
            split_batches=split_batches,
            val_size=val_size,
            split_seed=split_seed,
            flip=flip,
            shift=shift,
        )
        self.save_hyperparameters()
        self.run_suffix = "" if is_real else self.run_suffix
        # The drawn images have a manifest with their sums.
        self.integrity = "official, verified" if is_real else "own manifest's, verified"

    def prepare_files(self) -> None:
        """Find, unpack or download the official files, or draw the synthetic ones."""
        if self.dataset == "synthetic":
            prepare_synthetic(self.hparams.root, train_size=self.hparams.synthetic_size)
        else:
            prepare_cifar10(self.hparams.root, url=self.hparams.url)

    def load(self, split: Split) -> ImageDataset:
        """Return the images of `split`."""
        train = split == "train"
        if self.dataset == "synthetic":
            source = SyntheticCIFAR10(self.hparams.root, train=train, train_size=self.hparams.synthetic_size)
        else:
            source = CIFAR10(self.hparams.root, train=train)
        images = torch.from_numpy(np.ascontiguousarray(source.data))
        return ImageDataset(images, torch.tensor(source.targets))
