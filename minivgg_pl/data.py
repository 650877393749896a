"""CIFAR10DataModule: from verified files on disk to batches of float images and one-hot targets."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Sampler
from torchvision.datasets import CIFAR10

from minivgg_pl import synthetic
from minivgg_pl.augment import Augmentation, Flip
from minivgg_pl.dataset import EpochShuffler, ImageDataset, balanced_split, whole_batch
from minivgg_pl.download import prepare_cifar10
from minivgg_pl.errors import InputError
from minivgg_pl.network import IMAGE_SIZE
from minivgg_pl.synthetic import SyntheticCIFAR10, check_train_size, prepare_synthetic

CIFAR10_TRAIN_SIZE = 50_000
NUM_CLASSES = 10
# In the order of the labels, as `batches.meta` of the official files names them.
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10DataModule(LightningDataModule):
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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if dataset not in ("cifar10", "synthetic"):
            raise InputError(f"dataset is {dataset!r}: choose cifar10 or synthetic")
        if dataset == "synthetic":
            check_train_size(synthetic_size)
        _check_sizes(CIFAR10_TRAIN_SIZE if dataset == "cifar10" else synthetic_size, batch_size, val_size)
        if not 0 <= split_seed < 2**63:
            raise InputError(f"split_seed is {split_seed}: give 0 to 2**63 - 1")
        if flip not in get_args(Flip):
            raise InputError(f"flip is {flip!r}: choose {', '.join(get_args(Flip))}")
        if not 0 <= shift < IMAGE_SIZE:
            raise InputError(f"shift is {shift}: give 0 to {IMAGE_SIZE - 1} pixels")
        self.batch_size = batch_size
        self.val_size = val_size
        self.dataset = dataset
        # Drawn from the seed that `seed_everything` set, kept in checkpoints.
        self.shuffle_seed = torch.initial_seed()
        self.class_names = list(CIFAR10_CLASSES if dataset == "cifar10" else synthetic.CLASS_NAMES)
        self.train_set: ImageDataset | None = None
        self.val_set: ImageDataset | None = None
        self.test_set: ImageDataset | None = None
        self._told_about_validation = False

    def prepare_data(self) -> None:
        """Make sure that verified files are on disk; Lightning calls it in one process only."""
        if self.dataset == "synthetic":
            prepare_synthetic(self.hparams.root, train_size=self.hparams.synthetic_size)
        else:
            prepare_cifar10(self.hparams.root, url=self.hparams.url)

    def setup(self, stage: str) -> None:
        """Load what `stage` (fit, validate, test or predict) needs and is not loaded yet."""
        if self.test_set is None and (stage in ("test", "predict") or self.val_size == 0):
            self.test_set = self._load(train=False)
        if self.train_set is None and (stage == "fit" or (stage == "validate" and self.val_size > 0)):
            self._setup_train_and_val(self._load(train=True))
        if self.val_size == 0 and stage in ("fit", "validate"):
            self.val_set = self.test_set
            self._tell_about_validation()

    def _setup_train_and_val(self, whole: ImageDataset) -> None:
        held_out = balanced_split(whole.labels, self.val_size, seed=self.hparams.split_seed)
        self.train_set = whole.subset((~held_out).nonzero().flatten()) if self.val_size else whole
        self.val_set = whole.subset(held_out.nonzero().flatten())
        self.train_set.augmentation = Augmentation(self.hparams.flip, self.hparams.shift)

    def _tell_about_validation(self) -> None:
        if not self._told_about_validation:
            rank_zero_info(
                "Validation runs on the test set, as in the article. To hold out training images instead: "
                "--data.val_size 5000"
            )
        self._told_about_validation = True

    def _load(self, train: bool) -> ImageDataset:
        if self.dataset == "synthetic":
            source = SyntheticCIFAR10(self.hparams.root, train=train, train_size=self.hparams.synthetic_size)
        else:
            source = CIFAR10(self.hparams.root, train=train)
        images = torch.from_numpy(np.ascontiguousarray(source.data))
        return ImageDataset(images, torch.tensor(source.targets))

    def train_dataloader(self) -> DataLoader:
        """Return the training batches, shuffled anew each epoch."""
        return self._loader(self.train_set, EpochShuffler(self.train_set, self.shuffle_seed))

    def val_dataloader(self) -> DataLoader:
        """Return the held-out training images, or the test set when `val_size` is 0."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        """Return the test set."""
        return self._loader(self.test_set)

    def predict_dataloader(self) -> DataLoader:
        """Return the test set."""
        return self._loader(self.test_set)

    def _loader(self, dataset: ImageDataset, sampler: Sampler[int] | None = None) -> DataLoader:
        return DataLoader(
            dataset.to(self._device()),
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=whole_batch,
            # Each new iterator draws a number. From here, not from the global generator that dropout uses: a resumed
            # run creates its iterators at other moments, and would drop other units.
            generator=torch.Generator(),
        )

    def _device(self) -> torch.device:
        """Return where the images live: on the GPU that trains, if it is one, so that no batch is copied there."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed of the epochs' orders, and the classes' names."""
        return {"shuffle_seed": self.shuffle_seed, "class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.shuffle_seed = state_dict["shuffle_seed"]


def _check_sizes(train_size: int, batch_size: int, val_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 2")
    # The smallest class keeps at least one image.
    largest = train_size - NUM_CLASSES
    if not 0 <= val_size <= largest:
        raise InputError(f"val_size is {val_size}: give 0 (validate on the test set) to {largest}")
    if (train_size - val_size) % batch_size == 1 or batch_size == 1:
        raise InputError(
            f"batch_size {batch_size} leaves a batch of one image out of {train_size - val_size}, and batch norm "
            "needs two to train: choose another batch_size or val_size"
        )
