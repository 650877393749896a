"""ImageFolderDataModule: a folder of the user's own images, one folder a class."""

import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minivgg_pl.data.augmentation import Flip
from minivgg_pl.data.base import IMAGE_CHANNELS, IMAGE_SIZE, ImageDataModule, Split
from minivgg_pl.data.class_folders import digests, find_samples
from minivgg_pl.data.images import MODES, read_image
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError
from minivgg_pl.files import typed_path

HELD_OUT_SHARE = 0.2
# The dense layer grows with the square of the size: at 512 it has 500 million weights in classic.
MAX_IMAGE_SIZE = 512
CACHE = ".minivgg_cache"
# Larger sets are read from the cache batch by batch, and are not copied to a GPU.
MAX_BYTES_IN_MEMORY = 4 * 2**30


class ImageFolderDataModule(ImageDataModule):
    """Images in `root/<class>/`, or in `root/train/<class>/`, `root/val/<class>/` and `root/test/<class>/`.

    torchvision's ImageFolder convention. Each image is decoded once, cut to its largest centred square and averaged
    down to `image_size` (see `images.read_image`), and kept in `root/.minivgg_cache`, which notices files that were
    added, removed or changed.

    Args:
        root: The folder.
        batch_size: Images a batch, on each device.
        val_size: Training images held out for validation, of each class its share; below 1, the share itself. Default:
            0.2, or nothing where there is a `val` folder. Without a `test` folder they are also tested on.
        image_size: Height and width that the images are brought to, in pixels, a multiple of 4.
        in_channels: 3 for colour, 1 for grey.
        cache_dir: Where the decoded images are kept; default: `root/.minivgg_cache`.
        split_seed: Seed of the choice of held-out images; nothing else depends on it.
        flip: Mirroring of training images: `none`, `random`, or `alternating` (see `augment.Augmentation`).
        shift: Largest shift of training images in pixels, each image its own; the border is mirrored.
        split_batches: Whether a batch is split over the devices instead: an update sees `batch_size` images in all.

    Raises:
        InputError: If the folder is missing, has fewer than two classes, a class without images, or other classes in
            another split; on a value out of range; from `prepare_data`, on a image that cannot be read.
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
        split_batches: bool = False,
    ) -> None:
        if not 4 <= image_size <= MAX_IMAGE_SIZE or image_size % 4:
            raise InputError(f"image_size is {image_size}: give a multiple of 4, 4 to {MAX_IMAGE_SIZE}")
        if in_channels not in MODES:
            raise InputError(f"in_channels is {in_channels}: give 3 for colour or 1 for grey")
        # Checkpoints hold plain types alone: a path in one could not be read back.
        root, cache_dir = str(root), None if cache_dir is None else str(cache_dir)
        folder = typed_path(root, "--data.root")
        class_names, self.samples = find_samples(folder)
        name = folder.resolve().name
        super().__init__(
            class_names=class_names,
            image_shape=(in_channels, image_size, image_size),
            dataset=name,
            title=f"the images in {name}",
            train_size=len(self.samples["train"]),
            splits=tuple(self.samples),
            batch_size=batch_size,
            split_batches=split_batches,
            val_size=_held_out(val_size, len(self.samples["train"]), self.samples.keys()),
            split_seed=split_seed,
            flip=flip,
            shift=shift,
        )
        self.save_hyperparameters()
        self.cache = typed_path(cache_dir, "--data.cache_dir") if cache_dir else folder / CACHE
        # Once: a image that goes away while the network trains must not lose the result.
        self._digests = {split: digests(folder, samples) for split, samples in self.samples.items()}
        # The training images' names, classes and sizes in bytes; copying the folder keeps it.
        self.fingerprint = self._digests["train"].names
        self.integrity = f"no sums are published for them; fingerprint {self.fingerprint}"
        self._owner = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]

    def prepare_files(self) -> None:
        """Decode the images that are not in the cache yet."""
        for split in self.splits:
            if self._read_cache(split) is None:
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
            # Written, not mapped: on a full disk, a write into a mapping kills the process.
            with part.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for path, _ in tqdm(samples, f"decoding {split}", unit=" images", disable=None):
                    file.write(read_image(path, size, channels).tobytes())
            os.replace(part, target)
        except OSError as error:
            raise InputError(
                f"{self.cache} cannot be written: {error.strerror or error}; name another place with --data.cache_dir"
            ) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
                self.cache.rmdir()  # unless there is something in it
        for stale in self.cache.glob(f"{self._cache_prefix(split)}-*.npy"):
            if stale != target:
                stale.unlink(missing_ok=True)

    def load(self, split: Split) -> ImageDataset:
        """Return the images of `split`."""
        array = self._read_cache(split)
        if array is None:  # another run, of a changed folder, tidied it away
            self._decode(split)
            array = self._read_cache(split)
        in_memory = array.nbytes <= MAX_BYTES_IN_MEMORY
        images = torch.from_numpy(np.array(array) if in_memory else array)
        labels = torch.tensor([label for _, label in self.samples[split]])
        num_classes = len(self.class_names)
        if in_memory:
            return ImageDataset(images, labels, num_classes)
        return ImageDataset(images, labels, num_classes, rows=torch.arange(len(labels)))

    def _read_cache(self, split: Split) -> np.ndarray | None:
        """Return the decoded images, mapped; None if they are not there, or the file is damaged."""
        channels, size, _ = self.image_shape
        try:
            # Copy-on-write: nothing writes to it, and torch warns of arrays that cannot be written.
            array = np.load(self._cached(split), mmap_mode="c")
        except (OSError, ValueError, EOFError):
            return None
        expected = (len(self.samples[split]), size, size, channels)
        is_whole = isinstance(array, np.ndarray) and array.shape == expected and array.dtype == np.uint8
        return array if is_whole else None


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
        raise InputError(
            f"val_size {size} of {train_size} images is none, and without a val or test folder some must be held "
            "out: give at least one"
        )
    return number
