"""Folders of images, one for each class: their layout, their files, and a line that describes them."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minivgg_pl.data.base import Split
from minivgg_pl.data.image_files import image_endings, list_files, listing
from minivgg_pl.errors import InputError

# Usual names of the folders of splits, without the marks in them: `Train`, `training-set`.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trainingset"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "testset"),
}
MARKS = str.maketrans("", "", "-_ ")
# More are shortened in messages.
MOST_CLASSES, MOST_NAMES = 10, 3

# A file and its label.
Sample = tuple[str, int]


@dataclass
class ClassFolders:
    """What `find_class_folders` found.

    Attributes:
        folder: The folder of the class folders or splits.
        class_names: Their names, sorted: in the order of the labels.
        places: Folder of each split; of class folders alone, `train` is `folder`.
        samples: Files of each split with their labels.
        others: What lies in class folders and is no image, by its path below the root.
        beside: What lies beside the class folders or splits and is not used, by its path below the root.
    """

    folder: Path
    class_names: list[str]
    places: dict[Split, Path]
    samples: dict[Split, list[Sample]]
    others: list[str]
    beside: list[str]

    def check_sizes(self, num_held_out: int) -> None:
        """Check that each class has an image in each split, and two where `num_held_out` of `train` are held out.

        Raises:
            InputError: If one has fewer.
        """
        for split, samples in self.samples.items():
            counts = Counter(label for _, label in samples)
            least = 2 if split == "train" and num_held_out else 1
            names = enumerate(self.class_names)
            few = [f"class {name} has {counted(counts[label])}" for label, name in names if counts[label] < least]
            if few:
                why = ", since one is held out for validation; or make a val folder" * (least - 1)
                raise InputError(f"{self.places[split]}: {some(few)}: give it {least} or more that can be read{why}")

    def describe(self, num_held_out: int) -> str:
        """Return a line: which images, of which classes, how they are split, and what was left out."""
        sizes = {split: f"{len(samples):,}" for split, samples in self.samples.items()}
        counts = Counter(label for _, label in self.samples["train"])
        classes = [f"{name} {counts[label]:,}" for label, name in enumerate(self.class_names)]
        if len(classes) > MOST_CLASSES:
            least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            classes = [some(classes), f"fewest: {classes[least]}", f"most: {classes[most]}"]
        parts = [f"{sizes['train']} images of {len(self.class_names)} classes ({', '.join(classes)})"]
        if "val" in sizes:
            parts.append(f"{sizes['val']} in {self.places['val'].name} for validation")
        elif num_held_out:
            parts.append(f"{num_held_out:,} held out for validation")
        if "test" in sizes:
            parts.append(f"{sizes['test']} in {self.places['test'].name} for the test")
        else:
            parts[-1] += ", and tested on"
        unused = {"of no image format": self.others, "beside the class folders": self.beside}
        left_out = [f"{len(names):,} {what} ({some(names)})" for what, names in unused.items() if names]
        return "; ".join([*parts, *([f"left out: {', '.join(left_out)}"] if left_out else [])])


def find_class_folders(root: Path) -> ClassFolders:
    """Find the classes, the splits and the images below `root`; one folder that wraps them all is looked through.

    Raises:
        InputError: If the folder is missing, its classes or splits are not complete, or their layout is not clear.
    """
    if not root.is_dir():
        what = "it is a file" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {what}; give a folder that has a folder of images for each class")
    folder, (folders, beside) = root, listing(root)
    if len(folders) == 1 and not _split_of(folders[0]) and listing(root / folders[0])[0]:
        folder = root / folders[0]
        folders, more = listing(folder)
        beside += [f"{folder.name}/{name}" for name in more]
    places = _split_folders(folder, folders) or {"train": folder}
    train = places["train"]
    names = listing(train)[0]
    if len(names) < 2:
        raise InputError(
            f"{train}: {len(names)} class folders; give a folder with one folder of images for each of two or more "
            "classes (for the folder of CIFAR-10's files: --data.root)"
        )
    unused = [name for name in folders if folder / name not in places.values()] if train != folder else []
    _check_layout(folder, unused, train, names)
    found = ClassFolders(folder, names, places, {}, [], beside)
    for split, place in places.items():
        in_split, more = listing(place)
        if odd := set(in_split) ^ set(names):
            raise InputError(f"{folder}: {train.name} and {place.name} differ in their classes: {some(sorted(odd))}")
        if place != folder:
            found.beside += [os.path.relpath(place / name, root) for name in more]
        found.samples[split] = []
        for label, name in enumerate(names):
            images, others = list_files(place / name)
            if not images:
                raise InputError(f"{place / name}: no images in it; put some there, or remove the folder")
            found.samples[split] += [(str(path), label) for path in images]
            found.others += [os.path.relpath(path, root) for path in others]
    found.beside += [os.path.relpath(folder / name, root) for name in unused]
    return found


def names_of_class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, or in its training split, that have images directly in them."""
    names = listing(folder)[0]
    train = [name for name in names if _split_of(name) == "train" and listing(folder / name)[0]]
    place = folder / train[0] if train else folder
    files = {name: listing(place / name)[1] for name in listing(place)[0]}
    return [name for name, of_class in files.items() if any(f.lower().endswith(image_endings()) for f in of_class)]


def counted(number: int) -> str:
    """Return a number of images in words."""
    return f"{number:,} image{'s' * (number != 1)}"


def some(names: Sequence[str], most: int = MOST_NAMES, mark: str = ", ") -> str:
    """Return the first names, and dots for the rest."""
    return mark.join([*names[:most], *(["..."] if len(names) > most else [])])


def _split_of(name: str) -> Split | None:
    plain = name.lower().translate(MARKS)
    return next((split for split, names in SPLIT_NAMES.items() if plain in names), None)


def _split_folders(folder: Path, folders: Sequence[str]) -> dict[Split, Path]:
    """Return the folder of each split; one without folders in it is a class of that name, such as `train`."""
    splits: dict[Split, Path] = {}
    for name in folders:
        split = _split_of(name)
        if split and listing(folder / name)[0]:
            if split in splits:
                raise InputError(f"{folder}: {splits[split].name} and {name} are both for {split}: keep one of them")
            splits[split] = folder / name
    # In this order, whatever their names.
    splits = {split: splits[split] for split in SPLIT_NAMES if split in splits}
    if splits and "train" not in splits:
        names = " and ".join(place.name for place in splits.values())
        raise InputError(f"{folder}: it has {names} but no train folder to train on: make one")
    return splits


def _check_layout(folder: Path, unused: Sequence[str], train: Path, names: Sequence[str]) -> None:
    """Refuse what looks like splits, and would be taken for classes or be left out."""
    if all(map(_split_of, names)):
        raise InputError(f"{train}: {some(names)} have no class folders: sort the images into a folder for each class")
    inner = {train / name: set(listing(train / name)[0]) for name in names}
    siblings = {folder / name: set(listing(folder / name)[0]) for name in unused}
    for place, inside in {**siblings, **inner}.items():
        if 2 * len(inside & set(names)) > len(names):
            raise InputError(
                f"{place}: it holds the folders {some(sorted(inside & set(names)))}, as {train} does, and would be no "
                "split: rename it to val or test, or move it elsewhere"
            )
    nested = [inside for inside in inner.values() if inside]
    shared = set.intersection(*nested) if len(nested) > 1 else set()
    if len(shared) > 1:
        raise InputError(
            f"{train}: its folders {some(names)} hold folders {some(sorted(shared))}: if these are the classes, "
            f"rename the outer ones to train, val and test, or give one of them, {train / names[0]}; if the outer ones "
            "are the classes, put each one's images directly into it"
        )
