"""ImageDataModule: what every data module here does once its images are in memory."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from minivgg_pl.data.augmentation import Augmentation, Flip
from minivgg_pl.data.dataset import ImageDataset, check_val_size, stratified_split
from minivgg_pl.data.loader import LEAST_TO_TRAIN, ImageLoader, least_evaluated, make_loader
from minivgg_pl.errors import InputError

Split = Literal["train", "val", "test"]
# CIFAR-10's, and what the networks are made for.
IMAGE_SIZE = 32
IMAGE_CHANNELS = 3
# Above that, one batch's activations take more memory than machines have.
MAX_BATCH_SIZE = 2**16


class ImageDataModule(LightningDataModule):
    """Labelled images, all of one size, with one-hot targets.

    Every loader yields `(images, targets)`: images `(B, C, H, W)` float32 in [0, 1], targets `(B, num_classes)`
    float32 one-hot. The last batch may be smaller: no image is ever dropped. A subclass brings the files
    (`prepare_files`) and says what is in them (`_load`).

    Args:
        class_names: Names of the classes, in the order of the labels.
        image_shape: `(C, H, W)`.
        dataset: Short name, for folders and summary.json.
        title: What headings call the data, such as `CIFAR-10`.
        train_size: Number of training images, before any are held out; None if only `_load` tells.
        splits: Which splits `_load` has. Without `val`, `val_size` training images are held out, or with 0 the test
            set validates; without `test`, the validation images are tested on.
        batch_size: Images a batch, on each device. A GPU validates and tests in batches of 1,000 images of 32x32
            pixels, or as many pixels in larger ones, if that is more.
        split_batches: Whether a batch is split over the devices instead: an update sees `batch_size` images in all.
        val_size: Training images held out for validation, the same number of each class.
        split_seed: Seed of the choice of held-out images; nothing else depends on it.
        flip: Mirroring of training images: `none`, `random`, or `alternating` (see `augment.Augmentation`).
        shift: Largest shift of training images in pixels, each image its own; the border is mirrored.

    Raises:
        InputError: On a value out of range.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        image_shape: tuple[int, int, int],
        dataset: str,
        title: str,
        train_size: int | None,
        splits: Sequence[Split],
        batch_size: int,
        split_batches: bool,
        val_size: int,
        split_seed: int,
        flip: Flip,
        shift: int,
    ) -> None:
        super().__init__()
        if not LEAST_TO_TRAIN <= batch_size <= MAX_BATCH_SIZE:
            raise InputError(f"batch_size is {batch_size}: give {LEAST_TO_TRAIN} to {MAX_BATCH_SIZE:,}")
        if train_size is not None:
            check_val_size(train_size, len(class_names), val_size)
        if not 0 <= split_seed < 2**63:
            raise InputError(f"split_seed is {split_seed}: give 0 to 2**63 - 1")
        if flip not in get_args(Flip):
            raise InputError(f"flip is {flip!r}: choose {', '.join(get_args(Flip))}")
        if not 0 <= shift < min(image_shape[1:]):
            raise InputError(f"shift is {shift}: give 0 to {min(image_shape[1:]) - 1} pixels")
        self.class_names = list(class_names)
        self.image_shape = image_shape
        self.dataset = dataset
        self.title = title
        self.splits = tuple(splits)
        self.split_seed = split_seed
        self.augmentation = Augmentation(flip, shift)
        self.batch_size = batch_size
        self.split_batches = split_batches
        self.val_size = val_size
        # Drawn from the seed that `seed_everything` set, kept in checkpoints.
        self.shuffle_seed = torch.initial_seed()
        self.train_set: ImageDataset | None = None
        self.val_set: ImageDataset | None = None
        self.test_set: ImageDataset | None = None
        self._train_loader: DataLoader | None = None
        self._position: dict[str, int] | None = None
        self._told = False

    def prepare_data(self) -> None:
        """Make sure that the files are on disk and whole; Lightning calls it in one process only, before each stage."""
        # Once all images are in memory the files may go away: the test after a long training does without them.
        if self.train_set is None or self.test_set is None:
            self.prepare_files()

    @abstractmethod
    def prepare_files(self) -> None:
        """Find, download or decode the files."""

    @abstractmethod
    def _load(self, split: Split) -> ImageDataset:
        """Return the images of a split that there is."""

    @property
    def fingerprint(self) -> str:
        """What tells these images from others: the split is one of them. By default the name alone."""
        return self.title

    @property
    def run_suffix(self) -> str:
        """What the folder of its runs is called after the variant's name."""
        return f"-{self.dataset}"

    @property
    def integrity(self) -> str:
        """How the files were checked, for summary.json."""
        return "not checked"

    def all_images(self) -> ImageDataset:
        """Return every image of data without splits, for a network that never saw them."""
        return self._load("train")

    @property
    def validation(self) -> str:
        """What the validation images are, in words."""
        if "val" in self.splits:
            return "validation set"
        return f"{self.val_size} training images held out" if self.val_size else "test set"

    @property
    def tested_on(self) -> str:
        """What the images of the test are, in words."""
        return "test set" if "test" in self.splits else self.validation

    @property
    def val_label(self) -> str:
        """What charts call the validation images."""
        labels = {"validation set": "validation", "test set": "validation (test set)"}
        return labels.get(self.validation, "validation (held out)")

    def setup(self, stage: str) -> None:
        """Load what `stage` (fit, validate, test or predict) needs and is not loaded yet."""
        fitting = stage in ("fit", "validate")
        holds_out = "val" not in self.splits and self.val_size > 0
        if self.train_set is None and (stage == "fit" or (holds_out and (fitting or "test" not in self.splits))):
            self._setup_train(holds_out)
        if self.val_set is None and "val" in self.splits and (fitting or "test" not in self.splits):
            self.val_set = self._load("val")
        if self.test_set is None and (not fitting or not (holds_out or "val" in self.splits)):
            self.test_set = self._load("test") if "test" in self.splits else self.val_set
        if fitting and self.val_set is None:
            self.val_set = self.test_set
        self._tell(stage)

    def _setup_train(self, holds_out: bool) -> None:
        whole = self._load("train")
        check_val_size(len(whole), len(self.class_names), self.val_size)
        held_out = stratified_split(whole.labels, self.val_size if holds_out else 0, seed=self.split_seed)
        self.train_set = whole.subset((~held_out).nonzero().flatten()) if holds_out else whole
        if holds_out:
            self.val_set = whole.subset(held_out.nonzero().flatten())
        self.train_set.augmentation = self.augmentation

    def _tell(self, stage: str) -> None:
        if self._told:
            return
        if stage in ("fit", "validate") and self.validation == "test set":
            rank_zero_info(
                "Validation runs on the test set, as in the article. To hold out training images instead: "
                "--data.val_size 5000"
            )
            self._told = True
        elif stage == "test" and "test" not in self.splits:
            rank_zero_info("There is no test set: the test runs on the validation images.")
            self._told = True

    def global_batch_size(self, num_devices: int) -> int:
        """Return the images a batch, `num_devices` devices together."""
        return self.batch_size if self.split_batches else self.batch_size * num_devices

    def train_dataloader(self) -> DataLoader:
        """Return the training batches, shuffled anew each epoch."""
        if self.trainer and self.trainer.world_size > 1:
            # Without `seed_everything` every process has drawn its own.
            self.shuffle_seed = self.trainer.strategy.broadcast(self.shuffle_seed)
            size = self.global_batch_size(self.trainer.world_size)
            rank_zero_info(
                f"{self.trainer.world_size} devices: {size} images a batch, {size / self.trainer.world_size:g} on each"
            )
        self._train_loader = self._loader(self.train_set, self.shuffle_seed)
        if isinstance(self._position, dict) and isinstance(self._train_loader, ImageLoader):
            self._train_loader.load_state_dict(self._position)
        self._position = None
        return self._train_loader

    def val_dataloader(self) -> DataLoader:
        """Return the validation images: a set of their own, held-out training images, or the test set."""
        return self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        """Return the test set, or the validation images where there is none."""
        return self._evaluation_loader(self.test_set)

    def predict_dataloader(self) -> DataLoader:
        """Return the test set, or the validation images where there is none."""
        return self._loader(self.test_set)

    def _loader(self, dataset: ImageDataset, seed: int | None = None) -> DataLoader:
        return make_loader(dataset, self._current_batch_size(), self.trainer, seed)

    def _current_batch_size(self) -> int:
        return self.global_batch_size(self.trainer.world_size if self.trainer else 1)

    def _evaluation_loader(self, dataset: ImageDataset) -> DataLoader:
        least = least_evaluated(self.image_shape, self.trainer)
        return make_loader(dataset, max(self._current_batch_size(), least), self.trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed of the orders, the classes' names, what module this is."""
        return {
            "shuffle_seed": self.shuffle_seed,
            "class_names": self.class_names,
            "class_path": class_path_of(type(self)),
            # Lightning keeps it too, and loses it where it asks for the loader before it restores one's state.
            "position": self._train_loader.state_dict() if isinstance(self._train_loader, ImageLoader) else None,
            "split": {"fingerprint": self.fingerprint, "val_size": self.val_size, "split_seed": self.split_seed},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            InputError: If these are other images.
        """
        self.check_state(state_dict)
        self.shuffle_seed = state_dict["shuffle_seed"]
        self._position = state_dict.get("position")

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Check that what `state_dict` returned is of these images, which a resumed run must have.

        Raises:
            InputError: If the classes are others, or images were added, removed or renamed: held-out images would
                become training images.
        """
        before = state_dict.get("class_names", self.class_names)
        if before != self.class_names:
            raise InputError(f"the run was trained on the classes {before}, and the data have {self.class_names}")
        split = state_dict.get("split", {})
        if split.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise InputError(f"{self.title} are not those that the run was trained on: some were added, or are gone")


def class_path_of(data_class: type) -> str:
    """Return the path that a data module is imported by."""
    return public_path(f"{data_class.__module__}.{data_class.__qualname__}")


def public_path(class_path: str) -> str:
    """Return the public name of a class of this package; checkpoints of earlier versions name the file, too."""
    package, _, inside = class_path.partition(".")
    return f"{package}.{inside.rpartition('.')[2]}" if package == "minivgg_pl" else class_path
