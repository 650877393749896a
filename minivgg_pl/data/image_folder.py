"""ImageFolderDataModule: the user's own images, one folder a class, decoded once into a cache."""

import hashlib
import json
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minivgg_pl.data.base import IMAGE_CHANNELS, IMAGE_SIZE, ImageDataModule, Split
from minivgg_pl.data.images import MODES, image_files, read_image
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError
from minivgg_pl.files import atomic_file

SPLITS: tuple[Split, ...] = ("train", "val", "test")
HELD_OUT_SHARE = 0.2
CACHE = ".minivgg_cache"
# Larger sets are read from the cache batch by batch, and are not copied to a GPU.
MAX_BYTES_IN_MEMORY = 4 * 2**30

# A file and its label.
Sample = tuple[str, int]


class ImageFolderDataModule(ImageDataModule):
    """Images in `root/<class>/`, or in `root/train/<class>/`, `root/val/<class>/` and `root/test/<class>/`.

    torchvision's ImageFolder convention. Each image is decoded once, cut to its largest centred square and averaged
    down to `image_size` (see `images.read_image`), and kept in `root/.minivgg_cache`, which notices files that were
    added, removed or changed.

    Args:
        root: The folder.
        val_size: Training images held out for validation, of each class its share; below 1, the share itself. Default:
            0.2, or nothing where there is a `val` folder. Without a `test` folder they are also tested on.
        image_size: Height and width that the images are brought to, in pixels, a multiple of 4.
        in_channels: 3 for colour, 1 for grey.
        cache_dir: Where the decoded images are kept; default: `root/.minivgg_cache`.
        **options: `batch_size`, `split_seed`, `flip`, `shift` and `split_batches`, see ImageDataModule.

    Raises:
        InputError: If the folder is missing, has fewer than two classes, a class without images, or other classes in
            another split; on a value out of range; from `prepare_data`, on an image that cannot be read.
    """

    def __init__(
        self,
        root: str = "data",
        val_size: float | None = None,
        image_size: int = IMAGE_SIZE,
        in_channels: int = IMAGE_CHANNELS,
        cache_dir: str | None = None,
        **options: Any,
    ) -> None:
        if image_size < 4 or image_size % 4:
            raise InputError(f"image_size is {image_size}: give a multiple of 4")
        if in_channels not in MODES:
            raise InputError(f"in_channels is {in_channels}: give 3 for colour or 1 for grey")
        root, cache_dir = str(root), cache_dir and str(cache_dir)  # checkpoints hold plain types alone
        folder = Path(root).expanduser()
        class_names, self.samples = find_samples(folder)
        name, train_size = folder.resolve().name, len(self.samples["train"])
        super().__init__(
            class_names=class_names,
            image_shape=(in_channels, image_size, image_size),
            dataset=name,
            title=f"the images in {name}",
            train_size=train_size,
            splits=tuple(self.samples),
            val_size=_num_held_out(val_size, train_size, self.samples),
            **options,
        )
        self.save_hyperparameters()
        # Once: an image that goes away while the network trains must not lose the result.
        digests = {split: _digests(folder, samples) for split, samples in self.samples.items()}
        # By the training images' names, classes and sizes in bytes, which copying the folder keeps.
        self.fingerprint = digests["train"][0]
        self.integrity = f"no sums are published for them; fingerprint {self.fingerprint}"
        self._cache = Path(cache_dir).expanduser() if cache_dir else folder / CACHE
        # Several folders may share a cache.
        owner = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        layout = f"{image_size}x{image_size}x{in_channels}"
        self._cached = {
            split: self._cache / f"{owner}-{split}-{layout}-{digest}.npy" for split, (_, digest) in digests.items()
        }

    def prepare_files(self) -> None:
        """Decode the images that are not in the cache yet."""
        for split in self.splits:
            self._decoded(split)

    def load(self, split: Split) -> ImageDataset:
        """Return the images of one of `splits`."""
        array = self._decoded(split)
        labels = torch.tensor([label for _, label in self.samples[split]])
        is_small = array.nbytes <= MAX_BYTES_IN_MEMORY
        images, rows = (np.array(array), None) if is_small else (array, torch.arange(len(labels)))
        folder = Path(self.hparams.root).expanduser()
        names = [os.path.relpath(path, folder) for path, _ in self.samples[split]]
        return ImageDataset(torch.from_numpy(images), labels, len(self.class_names), rows, names)

    def _decoded(self, split: Split) -> np.ndarray:
        """Return the decoded images as a memory-mapped `(N, H, W, C)` uint8, from the cache if it has them whole."""
        path, samples = self._cached[split], self.samples[split]
        channels, size, _ = self.image_shape
        shape = (len(samples), size, size, channels)
        # Copy-on-write: nothing writes to it, and torch warns of arrays that cannot be written.
        with suppress(OSError, ValueError, EOFError):
            array = np.load(path, mmap_mode="c")
            if array.shape == shape and array.dtype == np.uint8:
                return array
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            # Written, not mapped: on a full disk, a write into a mapping kills the process.
            with atomic_file(path) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for image, _ in tqdm(samples, f"decoding {split}", unit=" images", disable=None):
                    file.write(read_image(image, size, channels, lambda line: tqdm.write(line, sys.stderr)).tobytes())
        except OSError as error:
            raise InputError(
                f"{self._cache} cannot be written: {error.strerror or error}; name another place with --data.cache_dir"
            ) from error
        for stale in self._cache.glob(f"{path.stem.rpartition('-')[0]}-*.npy"):
            if stale != path:
                stale.unlink(missing_ok=True)
        return np.load(path, mmap_mode="c")


def _num_held_out(val_size: float | None, train_size: int, splits: Collection[str]) -> int:
    """Return the number of images that `val_size`, a number or a share, holds out."""
    if "val" in splits:
        if val_size:
            raise InputError(f"val_size is {val_size} beside a val folder, which it would leave unused: leave it out")
        return 0
    size = HELD_OUT_SHARE if val_size is None else val_size
    if 0 < size < 1:
        return round(size * train_size)
    if not float(size).is_integer():
        raise InputError(f"val_size is {val_size}: give a whole number of images, or a share below 1")
    return int(size)


def find_samples(folder: Path) -> tuple[list[str], dict[Split, list[Sample]]]:
    """Return the names of the classes, and each split's files with their labels.

    Raises:
        InputError: If the folder is missing, or its classes or splits are not complete.
    """
    if not folder.is_dir():
        raise InputError(f"--data.root {folder}: there is no such folder; give one that has a folder for each class")
    # A folder `train`, `val` or `test` without subfolders is a class of that name, not a split.
    splits = [split for split in SPLITS if _subfolders(folder / split)]
    if splits and "train" not in splits:
        raise InputError(f"{folder}: it has {' and '.join(splits)} but no train folder to train on: make one")
    places: dict[Split, Path] = {split: folder / split for split in splits} or {"train": folder}
    names = _subfolders(places["train"])
    if len(names) < 2:
        raise InputError(
            f"--data.root {places['train']}: {len(names)} class folders; give a folder with one folder of images for "
            "each of two or more classes"
        )
    for split, place in places.items():
        if odd := set(_subfolders(place)) ^ set(names):
            raise InputError(f"{folder}: train and {split} differ in their classes: {', '.join(sorted(odd)[:5])}")
    return names, {split: _samples(place, names) for split, place in places.items()}


def _subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones; none if it is missing."""
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())


def _samples(folder: Path, names: Sequence[str]) -> list[Sample]:
    # torchvision's make_dataset would follow links, in circles too, and take hidden files for images.
    samples = []
    for label, name in enumerate(names):
        files = image_files(folder / name)
        if not files:
            raise InputError(f"{folder / name}: no images in it; put some there, or remove the folder")
        samples += [(str(path), label) for path in files]
    return samples


def _digests(folder: Path, samples: Sequence[Sample]) -> tuple[str, str]:
    """Return the digest of a split's names, classes and sizes, and the digest of these and the times of writing."""
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
    return names.hexdigest()[:16], files.hexdigest()[:16]
