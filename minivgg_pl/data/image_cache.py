"""The cache of decoded images: one file of rows, found again by name, size and time of writing."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minivgg_pl.data.images import read_image
from minivgg_pl.errors import InputError
from minivgg_pl.files import atomic_file


def decode_images(
    path: Path, files: Sequence[str], keys: np.ndarray, size: int, channels: int, title: str
) -> tuple[np.ndarray, dict[int, str], list[str]]:
    """Decode image files into a cache file, but for those that it has.

    Args:
        path: The cache file; a damaged one, or one of other images, is made anew.
        files: The images.
        keys: `(N,)` uint64 above 0, one an image: a row with its key is not decoded again.
        size: Height and width that the images are brought to, in pixels.
        channels: 3 for colour, 1 for grey.
        title: What the progress bar calls the images.

    Returns:
        The images, a memory-mapped `(N, H, W, C)` uint8, black where one cannot be read; why those cannot be read, by
        their number; and what was said of others while they were decoded. Both begin with the path.

    Raises:
        InputError: If the cache cannot be written.
    """
    dtype = np.dtype([("key", np.uint64), ("pixels", np.uint8, (size, size, channels))])
    broken: dict[int, str] = {}
    warned: list[str] = []

    def decode(number: int) -> bytes:
        file, row = files[number], np.zeros((), dtype)
        try:
            row["pixels"], row["key"] = read_image(file, size, channels, warned.append), keys[number]
        except InputError as error:
            broken[number] = str(error)
        return row.tobytes()

    old = _load(path, dtype)
    unread = np.flatnonzero(old["key"] != keys) if len(old) == len(keys) else None
    # A row without a key could not be read before. Its permission may have changed, which no key tells.
    if unread is not None and not old["key"][unread].any() and all(decode(n) and n in broken for n in unread.tolist()):
        return old["pixels"], broken, warned
    row_of = {key: row for row, key in enumerate(old["key"].tolist()) if key}
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": keys.shape}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written, not mapped: on a full disk, a write into a mapping kills the process.
        with atomic_file(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for number, key in enumerate(tqdm(keys.tolist(), title, unit=" images", disable=None)):
                file.write(old[row_of[key]].tobytes() if key in row_of else decode(number))
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be written: {error.strerror or error}; name another place with --data.cache_dir"
        ) from error
    return _load(path, dtype)["pixels"], broken, warned


def _load(path: Path, dtype: np.dtype) -> np.ndarray:
    # Copy-on-write: nothing writes to it, and torch warns of arrays that cannot be written.
    with suppress(OSError, ValueError, EOFError):
        array = np.load(path, mmap_mode="c")
        if array.dtype == dtype and array.ndim == 1:
            return array
    return np.zeros(0, dtype)
