"""The cache of decoded images: one file that grows, in which an image is found by its path, size and times."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minivgg_pl.data.images import read_image
from minivgg_pl.errors import InputError


def decode_images(
    path: Path, files: Sequence[str], keys: Sequence[int], size: int, channels: int, broken: dict[int, str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decode the image files that are not in a cache file yet, append them to it, and find all of them in it.

    Args:
        path: The cache file.
        files: The images.
        keys: 64 bits for each image, which change with it; an image whose key is in the file is not decoded.
        size: Height and width that the images are brought to, in pixels.
        channels: 3 for colour, 1 for grey.
        broken: Why images cannot be read, by their keys. They are not tried again, and others are added.

    Returns:
        All images in the cache file, a memory-mapped `(M, H, W, C)` uint8; the place of each of `files` among them,
        `(N,)` int64, -1 for one that cannot be read; and warnings about others.

    Raises:
        InputError: If the cache cannot be read or written.
    """
    row = np.zeros((), [("key", np.uint64), ("pixels", np.uint8, (size, size, channels))])
    warned: list[str] = []
    try:
        places = _places(_load(path, row.dtype))
        if missing := [number for number, key in enumerate(keys) if key not in places and key not in broken]:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a row is written as a whole, since other processes may append theirs.
            with path.open("ab", buffering=0) as file:
                # An earlier write may have been cut short: rows begin at multiples of their size.
                file.write(bytes(-file.tell() % row.nbytes))
                for number in tqdm(missing, "decoding", unit=" images", disable=None):
                    try:
                        row["pixels"] = read_image(files[number], size, channels, warned.append)
                    except InputError as error:
                        broken[keys[number]] = str(error)
                    else:
                        row["key"] = keys[number]
                        file.write(row.tobytes())
    except OSError as error:
        raise InputError(f"{path} cannot be used: {error.strerror or error}; name another place (cache_dir)") from error
    cache = _load(path, row.dtype)
    places = _places(cache)
    return cache["pixels"], np.array([places.get(key, -1) for key in keys], dtype=np.int64), warned


def _load(path: Path, dtype: np.dtype) -> np.ndarray:
    length = path.stat().st_size // dtype.itemsize if path.exists() else 0
    # Copy-on-write: nothing writes to it, and torch warns of arrays that cannot be written.
    return np.memmap(path, dtype, mode="c", shape=length) if length else np.zeros(0, dtype)


def _places(cache: np.ndarray) -> dict[int, int]:
    return {key: place for place, key in enumerate(cache["key"].tolist())}
