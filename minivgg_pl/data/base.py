"""Base class of the data modules."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from minivgg_pl.data.augmentation import Augmentation, Flip
from minivgg_pl.data.loader import LEAST_TO_TRAIN, ImageDataset, ImageLoader
from minivgg_pl.data.split import check_val_size, stratified_split
from minivgg_pl.errors import InputError

Split = Literal["train", "val", "test"]
# Of CIFAR-10, which the networks are made for.
IMAGE_SIZE, IMAGE_CHANNELS = 32, 3
# A GPU evaluates at least 1,000 images of 32x32 at once. Smaller batches leave most of it idle.
LEAST_EVALUATED_PIXELS = 1000 * IMAGE_SIZE**2


def public_path(class_path: str) -> str:
    """Return the public name of a class of this package; checkpoints of earlier versions name its file, too."""
    package, _, inside = class_path.partition(".")
    return f"{package}.{inside.rpartition('.')[2]}" if package == "minivgg_pl" else class_path


class ImageDataModule(LightningDataModule):
    """Labelled images, all of one size, with one-hot targets.

    Every loader yields `(images, targets)`: images `(B, C, H, W)` float32 in [0, 1], targets `(B, num_classes)`
    float32 one-hot. The last batch may be smaller: no image is dropped. A subclass has `prepare_files` and `load`.

    Args:
        class_names: Names of the classes, in the order of the labels.
        image_shape: `(C, H, W)`.
        dataset: Short name, for folders and summary.json.
        title: What headings call the data, such as `CIFAR-10`.
        train_size: Number of training images, before any are held out; None if only `load` tells.
        splits: The splits that `load` has. Without `val`, `val_size` training images are held out. Without `test`, the
            validation images are tested on.
        batch_size: Images a batch, on each device. A GPU evaluates in batches of at least 1,000 images of 32x32 pixels,
            or of as many pixels.
        val_size: Training images held out for validation, of each class its share; 0: validation on the test set, as in
            the article.
        split_seed: Seed of the choice of held-out images; nothing else depends on it.
        flip: Mirroring of training images: `none`, `random`, or `alternating` (see `augmentation.Augmentation`).
        shift: Largest shift of training images in pixels, each image its own; the border is mirrored.
        split_batches: Whether a batch is split over the devices instead: an update sees `batch_size` images in all.

    Attributes:
        fingerprint: Identifies the training images, since a split holds for these alone; default: `title`.
        integrity: How the files are checked, for summary.json.
        run_suffix: Follows the variant in the name of the folder of its runs.

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
        batch_size: int = 64,
        val_size: int = 0,
        split_seed: int = 0,
        flip: Flip = "none",
        shift: int = 0,
        split_batches: bool = False,
    ) -> None:
        super().__init__()
        # By name, since a subclass has them in `**options`.
        self.save_hyperparameters("batch_size", "val_size", "split_seed", "flip", "shift", "split_batches")
        if batch_size < LEAST_TO_TRAIN:
            raise InputError(f"batch_size is {batch_size}: give {LEAST_TO_TRAIN} or more")
        self.train_size = train_size
        if train_size is not None:
            check_val_size(train_size, len(class_names), val_size)
        if not (val_size or {"val", "test"} & set(splits)):
            raise InputError(f"val_size is {val_size}: without a val or test set, give 1 or more images to hold out")
        self.class_names = list(class_names)
        self.image_shape = image_shape
        self.dataset = dataset
        self.title = self.fingerprint = title
        self.splits = tuple(splits)
        self.integrity = "not checked"
        self.run_suffix = f"-{dataset}"
        self.batch_size = batch_size
        self.val_size = 0 if "val" in splits else val_size
        self.split_seed = split_seed
        self.augmentation = Augmentation(flip, shift)
        self.augmentation.check(image_shape)
        self.split_batches = split_batches
        # The seed that `seed_everything` set, kept in checkpoints.
        self.shuffle_seed = torch.initial_seed()
        self._train_loader: ImageLoader | None = None
        self._position: dict[str, int] | None = None

    @abstractmethod
    def prepare_files(self) -> None:
        """Find, download or decode the files, and check them."""

    @abstractmethod
    def load(self, split: Split) -> ImageDataset:
        """Return the images of one of `splits`."""

    @property
    def class_path(self) -> str:
        """The path that the class is imported by."""
        return public_path(f"{type(self).__module__}.{type(self).__qualname__}")

    @property
    def validation(self) -> str:
        """What the validation images are, in words."""
        if "val" in self.splits:
            return "validation set"
        return f"{self.val_size} training images held out" if self.val_size else "test set"

    @property
    def val_label(self) -> str:
        """What charts call the validation images."""
        return "validation" if "val" in self.splits else f"validation ({'held out' if self.val_size else 'test set'})"

    @property
    def tested_on(self) -> str:
        """What the images of the test are, in words."""
        return "test set" if "test" in self.splits else self.validation

    def adopt_split(self, split: dict[str, Any]) -> None:
        """Hold out the same images as the run whose `state_dict` has this `split`; call it before `setup`."""
        self.val_size, self.split_seed = split["val_size"], split["split_seed"]

    def prepare_data(self) -> None:
        """Make sure that the files are on disk and whole; Lightning calls it in one process only, before each stage."""
        # Once all images are in memory the files may go away: the test after a long training does without them.
        if not {"train_set", "test_set"} <= vars(self).keys():
            self.prepare_files()

    def setup(self, stage: str) -> None:
        """Load what `stage` (fit, validate, test or predict) needs and is not loaded yet."""
        for needed in {"fit": ("train_set", "val_set"), "validate": ("val_set",)}.get(stage, ("test_set",)):
            getattr(self, needed)

    @cached_property
    def train_set(self) -> ImageDataset:
        """The images to train on."""
        return self._split_train_set[0]

    @cached_property
    def val_set(self) -> ImageDataset:
        """The images to validate on: a set of their own, held-out training images, or the test set."""
        if "val" in self.splits:
            return self.load("val")
        if self.val_size:
            return self._split_train_set[1]
        rank_zero_info("Validation runs on the test set, as in the article; hold some out: --data.val_size 5000")
        return self.test_set

    @cached_property
    def test_set(self) -> ImageDataset:
        """The test set, or the validation images where there is none."""
        if "test" in self.splits:
            return self.load("test")
        rank_zero_info("There is no test set: the test runs on the validation images.")
        return self.val_set

    @cached_property
    def _split_train_set(self) -> tuple[ImageDataset, ...]:
        whole = self.load("train")
        if not self.val_size:
            return (whole,)
        held_out = stratified_split(whole.labels, self.val_size, self.split_seed)
        return whole.subset(~held_out), whole.subset(held_out)

    def global_batch_size(self, num_devices: int) -> int:
        """Return the number of images a batch, on `num_devices` devices together."""
        return self.batch_size if self.split_batches else self.batch_size * num_devices

    def train_dataloader(self) -> ImageLoader:
        """Return the training batches: shuffled, or with overfit_batches in the order of the images."""
        trainer = self.trainer
        if trainer and (number := trainer.world_size) > 1:
            # Without `seed_everything` each process has its own.
            self.shuffle_seed = trainer.strategy.broadcast(self.shuffle_seed)
            size = self.global_batch_size(number)
            rank_zero_info(f"{number} devices: {size} images a batch, {size / number:g} on each")
        self._train_loader = self._loader(self.train_set, training=True)
        if self._position:
            self._train_loader.load_state_dict(self._position)
            self._position = None
        return self._train_loader

    def val_dataloader(self) -> ImageLoader:
        """Return the batches of `val_set`."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> ImageLoader:
        """Return the batches of `test_set`."""
        return self._loader(self.test_set)

    predict_dataloader = test_dataloader

    def _loader(self, dataset: ImageDataset, training: bool = False) -> ImageLoader:
        """Return a loader of this device's batches, with the images moved there, so that no step copies any."""
        trainer = self.trainer
        num_devices, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        dataset.to(device)
        size = self.global_batch_size(num_devices)
        if not training and device.type == "cuda":
            size = max(size, LEAST_EVALUATED_PIXELS // self.image_shape[1] ** 2 * num_devices)
        seed = self.shuffle_seed if training and not (trainer and trainer.overfit_batches) else None
        return ImageLoader(dataset, size, num_devices, rank, seed, self.augmentation, trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "shuffle_seed": self.shuffle_seed,
            "class_names": self.class_names,
            "class_path": self.class_path,
            # Lightning saves it too, but drops it when it asks for the loader before it restores the state.
            "position": self._train_loader.state_dict() if self._train_loader is not None else None,
            "split": {"fingerprint": self.fingerprint, "val_size": self.val_size, "split_seed": self.split_seed},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            InputError: If it comes from a run on other images.
        """
        self.check_state(state_dict)
        self.shuffle_seed = state_dict["shuffle_seed"]
        self._position = state_dict.get("position")

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Check that `state_dict` is of these images: with others, held-out images would become training images.

        Raises:
            InputError: If it is of others.
        """
        if state_dict.get("split", {}).get("fingerprint", self.fingerprint) != self.fingerprint:
            raise InputError(f"{self.title}: they differ from those of the run: some were added or removed")
