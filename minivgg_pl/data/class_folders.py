"""A folder with a folder of images for each class: which files are in it, and have they changed."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import find_classes

from minivgg_pl.data.base import Split
from minivgg_pl.data.images import image_files
from minivgg_pl.errors import InputError

SPLITS: tuple[Split, ...] = ("train", "val", "test")

# A file and its label.
Sample = tuple[str, int]


class Digests(NamedTuple):
    """Of a split's files: by names, classes and sizes, which a copy keeps; and by when they were written, too."""

    names: str
    files: str


def digests(folder: Path, samples: Sequence[Sample]) -> Digests:
    """Return the digests of a split's files.

    Raises:
        InputError: If a file is gone or cannot be looked at.
    """
    names, files = hashlib.sha256(), hashlib.sha256()
    for path, label in samples:
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}): delete it, or repair what it links to"
            ) from error
        entry = json.dumps([os.path.relpath(path, folder), label, status.st_size]).encode()
        names.update(entry)
        files.update(entry + str(status.st_mtime_ns).encode())
    return Digests(names.hexdigest()[:16], files.hexdigest()[:16])


def find_samples(folder: Path) -> tuple[list[str], dict[Split, list[Sample]]]:
    """Return the names of the classes, and each split's files with their labels."""
    if not folder.is_dir():
        raise InputError(f"--data.root {folder}: there is no such folder; give one that has a folder for each class")
    splits = [split for split in SPLITS if _holds_folders(folder / split)]
    if not splits:
        names = _class_names(folder)
        return names, {"train": _samples(folder, names)}
    if "train" not in splits:
        raise InputError(f"{folder}: it has {' and '.join(splits)} but no train folder to train on: make one")
    names = _class_names(folder / "train")
    samples = {}
    for split in splits:
        if (found := _class_names(folder / split)) != names:
            odd = sorted(set(found) ^ set(names))
            raise InputError(f"{folder}: train and {split} differ in their classes: {', '.join(odd[:5])}")
        samples[split] = _samples(folder / split, names)
    return names, samples


def _holds_folders(folder: Path) -> bool:
    """Tell a split from a class that has its name."""
    return folder.is_dir() and any(entry.is_dir() and entry.name[0] != "." for entry in folder.iterdir())


def _class_names(folder: Path) -> list[str]:
    try:
        names = [name for name in find_classes(folder)[0] if not name.startswith(".")]
    except OSError:
        names = []
    if len(names) < 2:
        raise InputError(
            f"--data.root {folder}: {len(names)} class folders; give a folder with one folder of images for each of "
            "two or more classes"
        )
    return names


def _samples(folder: Path, names: Sequence[str]) -> list[Sample]:
    # Not torchvision's make_dataset: it follows links, in circles too, and takes hidden files for images.
    samples = []
    for label, name in enumerate(names):
        files = image_files(folder / name)
        if not files:
            raise InputError(f"{folder / name}: no images in it; put some there, or remove the folder")
        samples += [(str(path), label) for path in files]
    return samples
