"""CIFAR10DataModule: from verified files on disk to batches of float images and one-hot targets."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import CIFAR10

from minivgg_pl import synthetic
from minivgg_pl.download import prepare_cifar10
from minivgg_pl.errors import InputError
from minivgg_pl.synthetic import SyntheticCIFAR10, check_train_size, prepare_synthetic

CIFAR10_TRAIN_SIZE = 50_000
NUM_CLASSES = 10
# In the order of the labels, as `batches.meta` of the official files names them.
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class ImageDataset(Dataset):
    """Labelled images held in memory as uint8 and handed out a whole batch at a time.

    Args:
        images: `(N, H, W, C)` uint8.
        labels: `(N,)` int64 in [0, num_classes).
        num_classes: Width of the one-hot targets.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int = NUM_CLASSES) -> None:
        self.images = images
        self.labels = labels
        self.one_hot = torch.eye(num_classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image `(C, H, W)` float32 in [0, 1] and its one-hot target `(num_classes,)` float32."""
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images `(B, C, H, W)` float32 in [0, 1] and one-hot targets `(B, num_classes)` float32.

        `DataLoader` calls this once a batch: indexing replaces per-image Python.
        """
        index = torch.as_tensor(indices)
        # A view: the bytes stay height-width-channel, which is PyTorch's channels_last and faster to convolve.
        images = self.images[index].permute(0, 3, 1, 2)
        return images.to(torch.float32).div_(255), self.one_hot[self.labels[index]]

    def subset(self, indices: Tensor) -> "ImageDataset":
        """Return a data set of the images at `indices` `(M,)` int64."""
        return ImageDataset(self.images[indices], self.labels[indices], num_classes=len(self.one_hot))


class EpochShuffler(Sampler[int]):
    """A new order each epoch that depends on nothing but the seed and the epoch, so that a resumed run repeats it.

    Lightning calls `set_epoch` before each epoch.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch `epoch`, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        seed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, dtype=np.uint64).item()
        generator = torch.Generator().manual_seed(seed % 2**63)
        yield from torch.randperm(self.size, generator=generator).tolist()


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
        return self._loader(self.train_set, EpochShuffler(len(self.train_set), self.shuffle_seed))

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
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=_whole_batch,
            # Each new iterator draws a number. From here, not from the global generator that dropout uses: a resumed
            # run creates its iterators at other moments, and would drop other units.
            generator=torch.Generator(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed of the epochs' orders."""
        return {"shuffle_seed": self.shuffle_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.shuffle_seed = state_dict["shuffle_seed"]


def balanced_split(labels: Tensor, size: int, seed: int) -> Tensor:
    """Choose `size` images with the same number of each class (the first classes get one more where it is uneven).

    Args:
        labels: `(N,)` int64 class of each image.
        size: How many to choose.
        seed: Seed of the choice; the global generators are left alone.

    Returns:
        `(N,)` bool, true for the chosen images.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    classes = labels.unique().tolist()
    for position, label in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        share = size // len(classes) + (position < size % len(classes))
        chosen[members[torch.randperm(len(members), generator=generator)[:share]]] = True
    return chosen


def _whole_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


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
