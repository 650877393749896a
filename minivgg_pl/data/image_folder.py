"""ImageFolderDataModule: the user's own images, one folder a class, decoded once into a cache."""

import hashlib
import json
import math
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from minivgg_pl.data.base import IMAGE_CHANNELS, IMAGE_SIZE, NO_HYPERPARAMETERS, ImageDataModule, Split
from minivgg_pl.data.class_folders import Sample, find_class_folders
from minivgg_pl.data.image_cache import decode_images
from minivgg_pl.data.images import MODES
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError, as_line

HELD_OUT_SHARE = 0.2
CACHE = ".minivgg_cache"
# Larger sets are read from the cache batch by batch, and are not copied to a GPU.
MAX_BYTES_IN_MEMORY = 4 * 2**30
# A message names no more images.
MOST_LISTED = 10


class ImageFolderDataModule(ImageDataModule):
    """Images in `root/<class>/`, or in `root/train/<class>/`, `root/val/<class>/` and `root/test/<class>/`.

    torchvision's ImageFolder convention; splits may have other usual names (see `class_folders.SPLIT_NAMES`). Each
    image is decoded once, cut to its largest centred square and averaged down to `image_size` (see
    `images.read_image`), and kept in a hidden file `root/.minivgg_cache-...`, which notices files that were added,
    removed or changed.

    Args:
        root: The folder.
        val_size: Training images held out for validation, of each class its share; below 1, the share itself. Default:
            0.2, or nothing where there is a `val` folder. Without a `test` folder they are also tested on.
        image_size: Height and width that the images are brought to, in pixels, a multiple of 4.
        in_channels: 3 for colour, 1 for grey.
        cache_dir: Where the decoded images are kept; default: that file.
        skip_broken: Whether images that cannot be read are left out; a run lists them in `skipped_images.txt`.
        **options: `batch_size`, `flip`, `one_hot`, `train_transform` and others, see ImageDataModule.

    Attributes:
        samples: Files of each split with their labels; once it is read, without the skipped ones.
        skipped: Images that are left out, each with the reason; known once the files are prepared.

    Raises:
        InputError: If the folder is missing, has fewer than two classes, a class without images, other classes in
            another split, or a layout that is not clear; on a value out of range; from `prepare_data`, on images that
            cannot be read.
    """

    def __init__(
        self,
        root: str = "data",
        val_size: float | None = None,
        image_size: int = IMAGE_SIZE,
        in_channels: int = IMAGE_CHANNELS,
        cache_dir: str | None = None,
        skip_broken: bool = False,
        **options: Any,
    ) -> None:
        if image_size < 4 or image_size % 4:
            raise InputError(f"image_size is {image_size}: give a multiple of 4")
        if in_channels not in MODES:
            raise InputError(f"in_channels is {in_channels}: give 3 for colour or 1 for grey")
        root, cache_dir = str(root), cache_dir and str(cache_dir)  # checkpoints hold plain types alone
        folder = self._root = Path(root).expanduser()
        self._found = find_class_folders(folder)
        self.samples = self._found.samples
        name, train_size = folder.resolve().name, len(self.samples["train"])
        num_held_out = _num_held_out(val_size, train_size, self.samples)
        self._found.check_sizes(num_held_out)
        super().__init__(
            class_names=self._found.class_names,
            image_shape=(in_channels, image_size, image_size),
            dataset=name,
            title=f"the images in {name}",
            train_size=train_size,
            splits=tuple(self.samples),
            val_size=num_held_out,
            **options,
        )
        self.save_hyperparameters(ignore=NO_HYPERPARAMETERS)
        self._files = dict(self.samples)
        self.skipped: list[str] = []
        self._broken: dict[int, str] = {}
        # Once: an image that goes away while the network trains must not lose the result.
        digests = {split: _digests(self._found.folder, files) for split, files in self._files.items()}
        # By the training images' names, classes and sizes in bytes, which copying the folder keeps.
        self.fingerprint = digests["train"][0]
        self.integrity = f"no sums are published for them; fingerprint {self.fingerprint}"
        self._keys = {split: keys for split, (_, keys) in digests.items()}
        # Hidden, and a file: torchvision takes every folder for a class.
        file = f"{name}-{image_size}x{image_size}x{in_channels}.rows"
        self._cache = Path(cache_dir).expanduser() / file if cache_dir else folder / f"{CACHE}-{file}"

    def prepare_files(self) -> None:
        """Decode the images that are not in the cache yet."""
        for split in self.splits:
            self._read(split)
        self._refuse_broken()
        broken = list(self._broken.values())
        if broken and not self.skipped:
            rank_zero_info(self._listed("left out as unreadable", broken))
        self.skipped = broken
        self._found.check_sizes(self.val_size)

    def setup(self, stage: str | None = None) -> None:
        """Load what `stage` needs; before a training, say in a line what it is."""
        super().setup(stage)
        if stage in ("fit", None):
            rank_zero_info(as_line(self._found.describe(self.val_size)))

    def load(self, split: Split) -> ImageDataset:
        """Return the images of one of `splits`."""
        pixels, rows = self._read(split)
        self._refuse_broken()
        labels = torch.tensor([label for _, label in self.samples[split]])
        names = [os.path.relpath(path, self._root) for path, _ in self.samples[split]]
        is_small = len(rows) * math.prod(self.image_shape) <= MAX_BYTES_IN_MEMORY
        images, kept = (pixels[rows], None) if is_small else (np.asarray(pixels), torch.from_numpy(rows))
        return ImageDataset(torch.from_numpy(images), labels, len(self.class_names), kept, names)

    def _read(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Return the cached images, and which of them this split's are; those that cannot be read join `_broken`."""
        files, (channels, size, _) = self._files[split], self.image_shape
        paths = [path for path, _ in files]
        pixels, rows, warned = decode_images(self._cache, paths, self._keys[split], size, channels, self._broken)
        self.samples[split] = [sample for sample, row in zip(files, rows.tolist(), strict=True) if row >= 0]
        if warned:
            rank_zero_info(self._listed("read with a warning", warned))
        return pixels, rows[rows >= 0]

    def _refuse_broken(self) -> None:
        if self._broken and not self.hparams.skip_broken:
            broken = list(self._broken.values())
            # They may be repaired, and are then read again.
            self._broken.clear()
            how = "repair or delete them, or leave them out with skip_broken true"
            raise InputError(self._listed(f"cannot be read ({how})", broken))

    def _listed(self, what: str, images: Sequence[str]) -> str:
        folder = self._found.folder
        # Paths below the folder: it is named once.
        first = [text.removeprefix(f"{folder}{os.sep}") for text in images[:MOST_LISTED]]
        return as_line(f"{folder}: {len(images):,} of the images {what}: {'; '.join(first)}")


def _num_held_out(val_size: float | None, train_size: int, splits: Collection[str]) -> int:
    """Return the number of images that `val_size`, a number or a share, holds out."""
    if "val" in splits:
        if val_size:
            raise InputError(f"val_size is {val_size} beside a val folder, which it would leave unused: leave it out")
        return 0
    size = HELD_OUT_SHARE if val_size is None else val_size
    if 0 < size < 1:
        return max(1, round(size * train_size))
    if not float(size).is_integer():
        raise InputError(f"val_size is {val_size}: give a whole number of images, or a share below 1")
    return int(size)


def _digests(folder: Path, samples: Sequence[Sample]) -> tuple[str, list[int]]:
    """Return the digest of a split's names, classes and sizes, and a key for each file: its path, size and times."""
    place, names, keys = str(folder.resolve()), hashlib.sha256(), []
    for path, label in samples:
        name, size, times = path.removeprefix(f"{folder}{os.sep}"), 0, ()
        # A link that leads nowhere is reported with the images that cannot be read.
        with suppress(OSError):
            status = os.stat(path)
            # The second changes where two files exchange their names.
            size, times = status.st_size, (status.st_mtime_ns, status.st_ctime_ns)
        names.update(json.dumps([name, label, size]).encode())
        key = hashlib.sha256(json.dumps([place, name, size, *times]).encode()).digest()
        keys.append(int.from_bytes(key[:8]))
    return names.hexdigest()[:16], keys
