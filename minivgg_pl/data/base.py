"""Base class of the data modules."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from minivgg_pl.data.augmentation import Augmentation, Flip
from minivgg_pl.data.loader import LEAST_TO_TRAIN, ImageDataset, ImageLoader
from minivgg_pl.data.sets import ImageSets, Split
from minivgg_pl.data.split import check_val_size
from minivgg_pl.errors import InputError

# Of CIFAR-10, which the networks are made for.
IMAGE_SIZE, IMAGE_CHANNELS = 32, 3
# Functions cannot be read back from checkpoints, which hold plain types alone.
NO_HYPERPARAMETERS = ("train_transform", "val_transform")
# A GPU evaluates at least 1,000 images of 32x32 at once. Smaller batches leave most of it idle.
LEAST_EVALUATED_PIXELS = 1000 * IMAGE_SIZE**2


def public_path(class_path: str) -> str:
    """Return the public name of a class of this package; checkpoints of earlier versions name its file, too."""
    package, _, inside = class_path.partition(".")
    return f"{package}.{inside.rpartition('.')[2]}" if package == "minivgg_pl" else class_path


class ImageDataModule(ImageSets):
    """Labelled images, all of one size; a subclass has `load`, and `prepare_files` where there are files.

    Every loader yields `(images, targets)`: images `(B, C, H, W)` float32 in [0, 1], targets `(B, num_classes)`
    float32 one-hot. The last batch may be smaller: no image is dropped.

    Args:
        class_names: Names of the classes, in the order of the labels.
        image_shape: `(C, H, W)`.
        dataset: Short name, for folders and summary.json.
        title: What headings call the data, such as `CIFAR-10`; default: `dataset`.
        train_size: Number of training images, before any are held out; default: `load` tells.
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
        one_hot: Whether targets are one-hot; otherwise they are labels `(B,)` int64.
        train_transform: What each training image goes through after flip and shift, such as one of torchvision's v2
            transforms. It gets one image `(C, H, W)` uint8 at a time, and what is still uint8 afterwards is divided by
            255. Its random numbers come from torch's global generator. From the command: the path of a class.
        val_transform: The same for the images of validation and test; not random.

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
        title: str | None = None,
        train_size: int | None = None,
        splits: Sequence[Split] = ("train", "test"),
        batch_size: int = 64,
        val_size: int = 0,
        split_seed: int = 0,
        flip: Flip = "none",
        shift: int = 0,
        split_batches: bool = False,
        one_hot: bool = True,
        train_transform: Callable | None = None,
        val_transform: Callable | None = None,
    ) -> None:
        super().__init__()
        # By name, since a subclass has them in `**options`.
        self.save_hyperparameters("batch_size", "val_size", "split_seed", "flip", "shift", "split_batches", "one_hot")
        if batch_size < LEAST_TO_TRAIN:
            raise InputError(f"batch_size is {batch_size}: give {LEAST_TO_TRAIN} or more")
        self.train_size = train_size
        if val_size < 1 and not {"val", "test"} & set(splits):
            raise InputError(f"val_size is {val_size}: without a val or test set, give 1 or more images to hold out")
        if train_size is not None:
            check_val_size(train_size, len(class_names), val_size)
        self.class_names = list(class_names)
        self.image_shape = image_shape
        self.dataset = dataset
        self.title = self.fingerprint = title or dataset
        self.splits = tuple(splits)
        self.integrity = "not checked"
        self.run_suffix = f"-{dataset}"
        self.batch_size = batch_size
        self.val_size = 0 if "val" in splits else val_size
        self.split_seed = split_seed
        self.augmentation = Augmentation(flip, shift)
        self.augmentation.check(image_shape)
        self.split_batches = split_batches
        self.one_hot = one_hot
        self.train_transform = train_transform
        self.val_transform = val_transform
        # The seed that `seed_everything` set, kept in checkpoints.
        self.shuffle_seed = torch.initial_seed()
        self._train_loader: ImageLoader | None = None
        self._position: dict[str, int] | None = None

    @property
    def class_path(self) -> str:
        """The path that the class is imported by."""
        return public_path(f"{type(self).__module__}.{type(self).__qualname__}")

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
        before, self._train_loader = self._train_loader, self._loader(self.train_set, training=True)
        if before:
            # In a loop without a Trainer.
            self._train_loader.next_epoch = before.next_epoch
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
        if not training and device.type != "cpu":
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
            # For the line that says it of the trained weights.
            "val_transform": _name_of(self.val_transform),
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


def _name_of(transform: Callable | None) -> str | None:
    """Return the import path of a function, or of the class of another transform."""
    return transform and f"{transform.__module__}.{getattr(transform, '__qualname__', type(transform).__qualname__)}"
