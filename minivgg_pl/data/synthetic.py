"""Ten classes of drawn 32x32 images in CIFAR-10's own file format, so that everything runs without a download."""

import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from minivgg_pl.errors import InputError
from minivgg_pl.files import typed_path
from minivgg_pl.runs.pickles import check_globals

IMAGE_SIZE = 32
MAX_TRAIN_SIZE = 50_000
BASE_FOLDER = "synthetic-cifar-10-batches-py"
MANIFEST = "manifest.json"
BATCH_NAMES = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
FILE_NAMES = [*BATCH_NAMES, CIFAR10.meta["filename"]]

REMEDY = "delete that folder and run again"
# What numpy's arrays are pickled with.
PICKLED = {
    "_codecs encode",
    "numpy dtype",
    "numpy ndarray",
    *(f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")),
}

# How hard they are is measured, with `classic` on the default 3,000 images for 10 epochs: about 99 % of the test set.
# Each shape is a mask over its own coordinates: x to the right, y down, the shape's square is [-1, 1] x [-1, 1].
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: x**2 + y**2 < 1,
    "ring": lambda x, y: np.abs(x**2 + y**2 - 0.7) < 0.3,
    "square": lambda x, y: _inside(x, y, 0.9),
    "triangle": lambda x, y: (y < 0.8) & (np.abs(x) < (y + 1) / 1.8),
    "cross": lambda x, y: _inside(x, y) & (np.minimum(np.abs(x), np.abs(y)) < 0.3),
    "horizontal_stripes": lambda x, y: _inside(x, y) & (np.sin(3 * np.pi * y) > 0),
    "vertical_stripes": lambda x, y: _inside(x, y) & (np.sin(3 * np.pi * x) > 0),
    "diagonal_stripes": lambda x, y: _inside(x, y) & (np.sin(2 * np.pi * (x + y)) > 0),
    "checkerboard": lambda x, y: _inside(x, y) & (np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y) > 0),
    "dots": lambda x, y: _inside(x, y) & (np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y) > 0.4),
}
CLASS_NAMES = tuple(SHAPES)


class SyntheticCIFAR10(CIFAR10):
    """The drawn images as a torchvision dataset; read, indexed and transformed as CIFAR-10 is.

    The manifest beside the batches holds their MD5, checked before unpickling. It finds damage, not malice: whoever
    can write the batches can write the manifest. So a pickle that asks for more than an array is refused, too.

    Args:
        root: Folder that `prepare_synthetic` was given.
        train: The `train_size` training images, or the `train_size // 5` test images.
        transform: Applied to each PIL image.
        target_transform: Applied to each label, an int in [0, 10).
        download: Draw the images first if they are not there.
        train_size: Number of training images of the set to read.
        seed: Seed of the set to read.

    Raises:
        InputError: If the set is not there or damaged.
    """

    base_folder = BASE_FOLDER

    def __init__(
        self,
        root: str | Path,
        train: bool = True,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
        train_size: int = 3000,
        seed: int = 0,
    ) -> None:
        if download:
            prepare_synthetic(root, train_size, seed)
        home = _home(root, train_size, seed)
        md5 = _check_files(home / BASE_FOLDER)
        if md5 is None:
            raise InputError(f"there are no drawn images in {home}: make them with prepare_synthetic")
        self.train_list = [[name, md5[name]] for name, _ in CIFAR10.train_list]
        self.test_list = [[name, md5[name]] for name, _ in CIFAR10.test_list]
        self.meta = CIFAR10.meta | {"md5": md5[CIFAR10.meta["filename"]]}
        try:
            super().__init__(home, train, transform, target_transform)
            size = train_size if train else train_size // 5
            if self.data.shape != (size, IMAGE_SIZE, IMAGE_SIZE, 3) or self.data.dtype != np.uint8:
                raise ValueError(f"images {self.data.shape}")
            if len(self.targets) != size or not set(self.targets) <= set(range(len(CLASS_NAMES))):
                raise ValueError("labels of other classes, or not one for each image")
        except Exception as error:  # what a pickle of other things raises is not one type
            raise InputError(f"the drawn images in {home} are damaged ({error}): {REMEDY}") from error


def prepare_synthetic(root: str | Path, train_size: int = 3000, seed: int = 0) -> None:
    """Draw the set of this size and seed into a folder of its own under `root`, unless it is there already.

    Args:
        root: Folder of the data; created if needed.
        train_size: Number of training images, a multiple of 50 in [50, 50000]; the test set has a fifth of it, as
            CIFAR-10's has. Both are balanced.
        seed: Seed of the drawing, at least 0. The test images come from a stream of their own.

    Raises:
        InputError: On another size or seed, a damaged set, or a `root` that cannot be written.
    """
    check_train_size(train_size)
    if seed < 0:
        raise InputError(f"the seed of the drawn images is {seed}: give 0 or more")
    home = _home(root, train_size, seed)
    try:
        if _check_files(home / BASE_FOLDER) is None:
            _write_set(home, train_size, seed)
    except OSError as error:
        raise InputError(
            f"cannot read or write the drawn images in {home}: {error.strerror or error}; make room or give "
            "permission there, or name another data folder with --data.root"
        ) from error


def check_train_size(train_size: int) -> None:
    """Check that five batch files of ten classes come out even.

    Raises:
        InputError: On anything but a multiple of 50 up to 50,000.
    """
    if not 0 < train_size <= MAX_TRAIN_SIZE or train_size % 50:
        raise InputError(
            f"--data.synthetic_size is {train_size}: give a multiple of 50 from 50 to {MAX_TRAIN_SIZE}, so that five "
            "batches of ten classes come out even"
        )


def draw_images(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one image for each label.

    Position, size, tilt, the two colours, a shade across the background and the noise are random.

    Args:
        labels: `(N,)` int in [0, 10), indices into `CLASS_NAMES`.
        rng: Source of every random number.

    Returns:
        `(N, 3, 32, 32)` uint8.
    """
    # The ranges here and in `_draw_masks` are set by trial: `classic` comes to about 99 % of the default test set after
    # its 10 epochs, from chance after the first.
    mask = _draw_masks(labels, rng)[:, None]
    shape = (len(labels), 3, 1, 1)
    background = rng.uniform(20, 140, shape).astype(np.float32)
    # The shape is lighter than the background in every channel, by an amount of its own.
    colour = background + rng.uniform(20, 90, shape).astype(np.float32)
    ramp = np.linspace(-1, 1, IMAGE_SIZE, dtype=np.float32)
    slope = rng.uniform(-20, 20, (2, *shape)).astype(np.float32)
    images = np.where(mask, colour, background) + slope[0] * ramp + slope[1] * ramp[:, None]
    images += rng.uniform(4, 26, shape).astype(np.float32) * rng.standard_normal(images.shape, dtype=np.float32)
    return np.clip(images, 0, 255).astype(np.uint8)


def _draw_masks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `(N, 32, 32)` bool: where each label's shape is."""
    centre_x, centre_y, radius, tilt = (
        rng.uniform(low, high, (len(labels), 1, 1)).astype(np.float32)
        for low, high in [(10.5, 21.5), (10.5, 21.5), (6.5, 11.5), (-0.25, 0.25)]
    )
    pixels = np.arange(IMAGE_SIZE, dtype=np.float32)
    dx, dy = pixels + 0.5 - centre_x, pixels[:, None] + 0.5 - centre_y
    x = (dx * np.cos(tilt) + dy * np.sin(tilt)) / radius
    y = (dy * np.cos(tilt) - dx * np.sin(tilt)) / radius
    masks = np.empty(x.shape, dtype=bool)
    for label, shape in enumerate(SHAPES.values()):
        chosen = labels == label
        masks[chosen] = shape(x[chosen], y[chosen])
    return masks


def _inside(x: np.ndarray, y: np.ndarray, half: float = 1.0) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) < half


def _home(root: str | Path, train_size: int, seed: int) -> Path:
    return typed_path(root, "--data.root").absolute() / f"synthetic-{train_size}-seed{seed}"


def _check_files(folder: Path) -> dict[str, str] | None:
    """Return the MD5 by file name, or `None` if the set is not complete; a damaged file is an error."""
    if not all((folder / name).is_file() for name in [*FILE_NAMES, MANIFEST]):
        return None
    try:
        md5 = {name: str(json.loads((folder / MANIFEST).read_text())[name]) for name in FILE_NAMES}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{MANIFEST} in {folder} is damaged: {REMEDY}") from error
    for name in FILE_NAMES:
        found = calculate_md5(folder / name)
        if found != md5[name]:
            raise InputError(f"{name} in {folder} is damaged (MD5 {found}, expected {md5[name]}): {REMEDY}")
        try:
            check_globals((folder / name).read_bytes(), PICKLED.__contains__)
        except Exception as error:  # what pickletools raises is not one type
            raise InputError(f"{name} in {folder} is damaged ({error}): {REMEDY}") from error
    return md5


def _write_set(home: Path, train_size: int, seed: int) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="part-", dir=home) as temporary:
        md5 = {}
        for name, content in _draw_set(train_size, seed):
            path = Path(temporary, name)
            path.write_bytes(pickle.dumps(content, protocol=2))
            md5[name] = calculate_md5(path)
        Path(temporary, MANIFEST).write_text(json.dumps(md5, indent=2) + "\n")
        (home / BASE_FOLDER).mkdir(exist_ok=True)
        # The manifest comes last and makes the set complete.
        for name in [*FILE_NAMES, MANIFEST]:
            os.replace(Path(temporary, name), home / BASE_FOLDER / name)


def _draw_set(train_size: int, seed: int) -> Any:
    """Yield each file's name and its content, with the keys of the official files."""
    size = train_size // 5
    for number, name in enumerate(BATCH_NAMES):
        rng = np.random.default_rng([seed, number])
        labels = rng.permutation(np.arange(size) % len(CLASS_NAMES))
        testing = name == CIFAR10.test_list[0][0]
        yield (
            name,
            {
                "batch_label": "testing batch 1 of 1" if testing else f"training batch {number + 1} of 5",
                "labels": labels.tolist(),
                "data": draw_images(labels, rng).reshape(size, -1),
                "filenames": [f"{CLASS_NAMES[label]}_{i:06}.png" for i, label in enumerate(labels)],
            },
        )
    meta = {"num_cases_per_batch": size, "label_names": list(CLASS_NAMES), "num_vis": 3 * IMAGE_SIZE**2}
    yield CIFAR10.meta["filename"], meta
