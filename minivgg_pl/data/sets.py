"""The images that a data module trains, validates and tests on."""

from abc import abstractmethod
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.data.split import stratified_split

Split = Literal["train", "val", "test"]
# `print` names no more.
MOST_CLASSES = 10


class ImageSets(LightningDataModule):
    """The sets of an ImageDataModule, which has their options."""

    _is_prepared = False

    def __str__(self) -> str:
        sets = {"train": "train_set", self.val_label: "val_set", "test": "test_set"}
        sizes = [f"{name} {len(getattr(self, key)):,}" for name, key in sets.items() if key in vars(self)]
        names, number = self.class_names, len(self.class_names)
        lines = [
            self.title,
            f"images: {', '.join(sizes) or 'not loaded yet, setup() loads them'}",
            f"{number} classes: {', '.join(names[:MOST_CLASSES])}{', ...' * (number > MOST_CLASSES)}",
            f"each image {self.image_shape}, target {f'one-hot ({number},)' if self.one_hot else 'its label'}; "
            f"{self.batch_size} a batch",
        ]
        return "\n".join(lines)

    def prepare_files(self) -> None:
        """Find, download or decode the files, and check them; here: nothing."""

    @abstractmethod
    def load(self, split: Split) -> ImageDataset:
        """Return the images of one of `splits`."""

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
        self._is_prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Load what `stage` (fit, validate, test or predict; None: all of them) needs and is not loaded yet."""
        needed = {None: ("train_set", "val_set", "test_set"), "fit": ("train_set", "val_set"), "validate": ("val_set",)}
        for name in needed.get(stage, ("test_set",)):
            getattr(self, name)

    @cached_property
    def train_set(self) -> ImageDataset:
        """The images to train on."""
        return self._split_train_set[0]

    @cached_property
    def val_set(self) -> ImageDataset:
        """The images to validate on: a set of their own, held-out training images, or the test set."""
        if "val" in self.splits:
            return self._load("val")
        if self.val_size:
            return self._split_train_set[1]
        rank_zero_info("Validation runs on the test set, as in the article; val_size holds training images out instead")
        return self.test_set

    @cached_property
    def test_set(self) -> ImageDataset:
        """The test set, or the validation images where there is none."""
        if "test" in self.splits:
            return self._load("test")
        rank_zero_info("There is no test set: the test runs on the validation images.")
        return self.val_set

    @cached_property
    def _split_train_set(self) -> tuple[ImageDataset, ...]:
        whole = self._load("train")
        if not self.val_size:
            return (whole,)
        held_out = stratified_split(whole.labels, self.val_size, self.split_seed)
        train_set, val_set = whole.subset(~held_out), whole.subset(held_out)
        val_set.transform = self.val_transform
        return train_set, val_set

    def _load(self, split: Split) -> ImageDataset:
        # A Trainer has prepared them, in one process only.
        if not (self.trainer or self._is_prepared):
            self.prepare_data()
        dataset = self.load(split)
        dataset.transform = self.train_transform if split == "train" else self.val_transform
        if not self.one_hot:
            dataset.class_targets = torch.arange(len(self.class_names))
        return dataset
