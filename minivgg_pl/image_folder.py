"""ImageFolderDataModule: a folder of the user's own pictures, one folder a class."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torchvision.datasets.folder import find_classes, make_dataset
from tqdm import tqdm

from minivgg_pl.augment import Flip
from minivgg_pl.dataset import ImageDataset
from minivgg_pl.errors import InputError
from minivgg_pl.image_data import ImageDataModule, Split
from minivgg_pl.network import IMAGE_CHANNELS, IMAGE_SIZE
from minivgg_pl.pictures import MODES, picture_endings, read_picture

SPLITS: tuple[Split, ...] = ("train", "val", "test")
HELD_OUT_SHARE = 0.2
CACHE = ".minivgg_cache"
# Larger sets are read from the cache batch by batch, and are not copied to a GPU.
MAX_BYTES_IN_MEMORY = 4 * 2**30

Sample = tuple[str, int]


class ImageFolderDataModule(ImageDataModule):
    """Pictures in `root/<class>/`, or in `root/train/<class>/`, `root/val/<class>/` and `root/test/<class>/`.

    torchvision's ImageFolder convention. Each picture is decoded once, cut to its largest centred square and averaged
    down to `image_size` (see `pictures.read_picture`), and kept in `root/.minivgg_cache`, which notices files that were
    added, removed or changed.

    Args:
        root: The folder.
        batch_size: Images a batch, on each device.
        val_size: Training images held out for validation, of each class its share; below 1, the share itself. Default:
            0.2, or nothing where there is a `val` folder. Without a `test` folder they are also tested on.
        image_size: Height and width that the pictures are brought to, in pixels, a multiple of 4.
        in_channels: 3 for colour, 1 for grey.
        cache_dir: Where the decoded pictures are kept; default: `root/.minivgg_cache`.
        split_seed: Seed of the choice of held-out images; nothing else depends on it.
        flip: Mirroring of training images: `none`, `random`, or `alternating` (see `augment.Augmentation`).
        shift: Largest shift of training images in pixels, each image its own; the border is mirrored.

    Raises:
        InputError: If the folder is missing, has fewer than two classes, a class without pictures, or other classes in
            another split; on a value out of range; from `prepare_data`, on a picture that cannot be read.
    """

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 64,
        val_size: float | None = None,
        image_size: int = IMAGE_SIZE,
        in_channels: int = IMAGE_CHANNELS,
        cache_dir: str | None = None,
        split_seed: int = 0,
        flip: Flip = "none",
        shift: int = 0,
    ) -> None:
        if image_size < 4 or image_size % 4:
            raise InputError(f"image_size is {image_size}: give a multiple of 4, 4 or more")
        if in_channels not in MODES:
            raise InputError(f"in_channels is {in_channels}: give 3 for colour or 1 for grey")
        # Checkpoints hold plain types alone: a path in one could not be read back.
        root, cache_dir = str(root), None if cache_dir is None else str(cache_dir)
        folder = Path(root).expanduser()
        class_names, self.samples = _find_samples(folder)
        name = folder.resolve().name
        super().__init__(
            class_names=class_names,
            image_shape=(in_channels, image_size, image_size),
            dataset=name,
            title=f"the pictures in {name}",
            train_size=len(self.samples["train"]),
            splits=tuple(self.samples),
            batch_size=batch_size,
            val_size=_held_out(val_size, len(self.samples["train"]), self.samples.keys()),
            split_seed=split_seed,
            flip=flip,
            shift=shift,
        )
        self.save_hyperparameters()
        self.cache = Path(cache_dir).expanduser() if cache_dir else folder / CACHE
        # Once: a picture that goes away while the network trains must not lose the result.
        self._digests = {split: _digests(folder, samples) for split, samples in self.samples.items()}
        self._owner = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]

    @property
    def fingerprint(self) -> str:
        """A digest of the training pictures' names, classes and sizes in bytes; copying the folder keeps it."""
        return self._digests["train"].names

    @property
    def integrity(self) -> str:
        """How the files were checked, for summary.json."""
        return f"no sums are published for them; fingerprint {self.fingerprint}"

    def prepare_data(self) -> None:
        """Decode what is not in the cache; Lightning calls it in one process only."""
        for split in self.splits:
            if not self._cached(split).exists():
                self._decode(split)

    def _cached(self, split: Split) -> Path:
        return self.cache / f"{self._cache_prefix(split)}-{self._digests[split].files}.npy"

    def _cache_prefix(self, split: Split) -> str:
        # Several folders may share a cache.
        channels, size, _ = self.image_shape
        return f"{self._owner}-{split}-{size}x{size}x{channels}"

    def _decode(self, split: Split) -> None:
        channels, size, _ = self.image_shape
        target, samples = self._cached(split), self.samples[split]
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            shape = (len(samples), size, size, channels)
            images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
            for number, (path, _) in enumerate(tqdm(samples, f"decoding {split}", unit=" pictures", disable=None)):
                images[number] = read_picture(path, size, channels)
            images.flush()
            os.replace(part, target)
        except OSError as error:
            raise InputError(
                f"{self.cache} cannot be written: {error.strerror or error}; name another place with --data.cache_dir"
            ) from error
        finally:
            part.unlink(missing_ok=True)
            with suppress(OSError):  # unless there is something in it
                self.cache.rmdir()
        for stale in self.cache.glob(f"{self._cache_prefix(split)}-*.npy"):
            if stale != target:
                stale.unlink(missing_ok=True)

    def _load(self, split: Split) -> ImageDataset:
        path = self._cached(split)
        if not path.exists():  # another run, of a changed folder, tidied it away
            self._decode(split)
        in_memory = path.stat().st_size <= MAX_BYTES_IN_MEMORY
        # Copy-on-write: nothing writes to it, and torch warns of arrays that cannot be written.
        images = torch.from_numpy(np.load(path, mmap_mode=None if in_memory else "c"))
        labels = torch.tensor([label for _, label in self.samples[split]])
        num_classes = len(self.class_names)
        if in_memory:
            return ImageDataset(images, labels, num_classes)
        return ImageDataset(images, labels, num_classes, rows=torch.arange(len(labels)), resident=False)


class _Digests(NamedTuple):
    """Of a split's files: by names, classes and sizes, which a copy keeps; and by when they were written, too."""

    names: str
    files: str


def _digests(folder: Path, samples: Sequence[Sample]) -> _Digests:
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
    return _Digests(names.hexdigest()[:16], files.hexdigest()[:16])


def _find_samples(folder: Path) -> tuple[list[str], dict[Split, list[Sample]]]:
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
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir())


def _class_names(folder: Path) -> list[str]:
    try:
        names = [name for name in find_classes(folder)[0] if not name.startswith(".")]
    except OSError:
        names = []
    if len(names) < 2:
        raise InputError(
            f"{folder}: {len(names)} class folders; give a folder with one folder of pictures for each of two or more "
            "classes"
        )
    return names


def _samples(folder: Path, names: Sequence[str]) -> list[Sample]:
    labels = {name: number for number, name in enumerate(names)}
    try:
        return make_dataset(str(folder), labels, extensions=picture_endings())
    except OSError as error:
        raise InputError(f"{folder}: {error}") from error


def _held_out(val_size: float | None, train_size: int, splits: Sequence[Split]) -> int:
    if "val" in splits:
        if val_size:
            raise InputError(f"val_size is {val_size} beside a val folder, which it would leave unused: leave it out")
        return 0
    size = HELD_OUT_SHARE if val_size is None else val_size
    if not math.isfinite(size):
        raise InputError(f"val_size is {val_size}: give a number of images, or a share below 1")
    number = round(size * train_size) if 0 < size < 1 else int(size)
    if number != size and size >= 1:
        raise InputError(f"val_size is {val_size}: give a whole number of images, or a share below 1")
    if number < 1 and "test" not in splits:
        raise InputError(f"val_size is {val_size}: without a val or test folder, give at least one image")
    return number
