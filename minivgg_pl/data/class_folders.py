"""Folders of images, one for each class: their layout, their files, and a line that describes them."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minivgg_pl.data.base import Split
from minivgg_pl.data.image_files import MOST_NAMES, all_files, image_files, other_files, some, subfolders
from minivgg_pl.data.split import stratified_split
from minivgg_pl.errors import InputError

# Usual names of the folders of splits, which may end in "set": `Train`, `training-set`.
SPLIT_NAMES: dict[Split, str] = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
# More are shortened in messages.
MOST_CLASSES = 10

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
        left_out: Paths below the root of what is no image in a class folder.
    """

    folder: Path
    class_names: list[str]
    places: dict[Split, Path]
    samples: dict[Split, list[Sample]]
    left_out: list[str]

    def check_sizes(self, num_held_out: int) -> None:
        """Check that each class has an image in each split, and two where `num_held_out` of `train` are held out.

        Raises:
            InputError: If one has fewer.
        """
        for split, samples in self.samples.items():
            counts = Counter(label for _, label in samples)
            least = 2 if split == "train" and num_held_out else 1
            few = [
                f"{name} {counts[label]}{other_files(class_folder(self.places[split], name))}"
                for label, name in enumerate(self.class_names)
                if counts[label] < least
            ]
            if few:
                why = ", since one is held out for validation (or make a val folder)" if least == 2 else ""
                raise InputError(
                    f"{self.places[split]}: too few images that can be read: {some(few)}; give each class {least} or "
                    f"more{why}, or remove its folder"
                )

    def describe(self, num_held_out: int) -> str:
        """Return a line: which images, of which classes, the largest first, how they are split, what was left out."""
        counts = Counter(self.class_names[label] for _, label in self.samples["train"])
        classes = [f"{name if name == name.strip() else repr(name)} {count:,}" for name, count in counts.most_common()]
        if len(classes) > MOST_CLASSES:
            classes[MOST_NAMES:-1] = ["..."]
        parts = [f"{self.folder}: {counts.total():,} images of {len(counts)} classes ({', '.join(classes)})"]
        if num_held_out:
            labels = torch.tensor([label for _, label in self.samples["train"]])
            # No seed changes how many of each class are chosen.
            held_out = set(labels[stratified_split(labels, num_held_out, seed=0)].tolist())
            without = [name for label, name in enumerate(self.class_names) if label not in held_out]
            lack = f", without {len(without)} of the classes ({some(without)}): a larger val_size has more"
            parts.append(f"{num_held_out:,} held out for validation{lack if without else ''}")
        for split in [split for split in self.samples if split != "train"]:
            parts.append(f"{split}: {len(self.samples[split]):,} in {self.places[split].name}")
        if self.left_out:
            parts.append(f"left out, not images in a class folder: {len(self.left_out):,} ({some(self.left_out)})")
        return "; ".join(parts)


def find_class_folders(root: Path) -> ClassFolders:
    """Find the classes, the splits and the images below `root`; one folder that wraps them all is looked through.

    Raises:
        InputError: If the folder is missing, its classes or splits are not complete, or their layout is not clear.
    """
    if not root.is_dir():
        what = "it is a file" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {what}; give a folder that has a folder of images for each class")
    folder, folders = root, subfolders(root)
    if len(folders) == 1 and not _split_of(folders[0]) and subfolders(root / folders[0]):
        folder = root / folders[0]
        folders = subfolders(folder)
    places = _split_folders(folder, folders) or {"train": folder}
    train = places["train"]
    names = subfolders(train)
    if len(names) < 2:
        below = some(subfolders(train / names[0])) if names else ""
        found = f"one class folder ({names[0]}{below and f', which holds {below}'})" if names else "no class folders"
        raise InputError(
            f"{train}: it has {found}; give a folder with one folder of images for each of two or more "
            "classes (the folder of CIFAR-10's files is CIFAR10DataModule's root)"
        )
    unused = {folder / name for name in folders} - {*places.values(), *(train / name for name in names)}
    _check_layout(train, names, sorted(unused))
    samples: dict[Split, list[Sample]] = {}
    for split, place in places.items():
        sides = ((train, subfolders(place)), (place, names))
        lacking = {at.name: [name for name in known if not class_folder(at, name).is_dir()] for at, known in sides}
        if odd := [f"{at} lacks {some(classes)}" for at, classes in lacking.items() if classes]:
            raise InputError(f"{folder}: {', '.join(odd)}: give {train.name} and {place.name} the same class folders")
        samples[split] = [
            (str(path), label) for label, name in enumerate(names) for path in image_files(class_folder(place, name))
        ]
    used = {Path(path) for of_split in samples.values() for path, _ in of_split}
    # These may be links.
    used |= {folder, *places.values(), *(class_folder(place, name) for place in places.values() for name in names)}
    left_out = sorted(str(path.relative_to(root)) for path in all_files(root) if path not in used)
    return ClassFolders(folder, names, places, samples, left_out)


def class_folder(place: Path, name: str) -> Path:
    """Return the folder of a class in a split; systems write an accented letter as one character or as two."""
    forms = [place / name, *(place / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    return next((path for path in forms if path.is_dir()), forms[0])


def _split_of(name: str) -> Split | None:
    matches = (split for split in SPLIT_NAMES if re.fullmatch(f"({SPLIT_NAMES[split]})([-_ ]?set)?", name.lower()))
    return next(matches, None)


def _split_folders(folder: Path, folders: Sequence[str]) -> dict[Split, Path]:
    """Return the folder of each split; one without folders in it is a class of that name, such as `train`."""
    found = [folder / name for name in folders if _split_of(name) and subfolders(folder / name)]
    splits = {split: place for split in SPLIT_NAMES for place in found if _split_of(place.name) == split}
    names = " and ".join(place.name for place in found)
    if len(splits) < len(found):
        raise InputError(f"{folder}: of {names}, two are for the same split: keep one of them")
    if found and "train" not in splits:
        raise InputError(f"{folder}: it has {names} but no train folder to train on: make one")
    return splits


def _check_layout(train: Path, names: Sequence[str], unused: Sequence[Path]) -> None:
    """Refuse class folders, and `unused` ones beside the splits, that may be splits themselves."""
    # As in `train` and `test1`; numbered ones alone, such as dev1 and dev2, are classes.
    if any(map(_split_of, names)) and all(_split_of(name.rstrip(string.digits)) for name in names):
        raise InputError(f"{train}: {some(names)} have no class folders: sort the images into a folder for each class")
    places = [*(train / name for name in names), *unused]
    inside = {train: set(names)} | {place: set(subfolders(place)) for place in places}
    alike = [place for place, own in inside.items() if 2 * len(own & set(names)) > len(names)]
    if len(alike) == 1:
        alike = [train / name for name in names if inside[train / name]]
    shared = set.intersection(*map(inside.get, alike)) if len(alike) > 1 else set()
    if len(shared) > 1:
        raise InputError(
            f"{some(list(map(str, alike)))} hold the same folders ({some(sorted(shared))}): if these are the "
            "classes, name the outer ones train, val and test, and move others elsewhere; if the outer ones are the "
            "classes, put each one's images directly into it"
        )
    for place in unused:
        # Directly: run folders hold charts further below.
        holding = sorted({path.parent.name for path in image_files(place) if path.parent.parent == place})
        if len(holding) > 1:
            raise InputError(
                f"{place}: its class folders ({some(holding)}) would not be used, only those of {train.name} "
                f"({some(names)}): if {place.name} and {train.name} are classes, put each one's images directly into "
                f"it; otherwise name {place.name} val or test, or move it elsewhere"
            )
