"""Image files in folders, without what systems put there."""

import os
from functools import cache
from pathlib import Path

from PIL import Image

from minivgg_pl.data.images import image_formats
from minivgg_pl.errors import InputError

# Of macOS' archives, Python, Synology (thumbnails with the names of images), Linux and Windows; in lower case.
SYSTEM_FOLDERS = ("__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "system volume information")


@cache
def image_endings() -> tuple[str, ...]:
    """Return the endings of image files' names, in lower case."""
    formats = image_formats()
    # Pillow reads .mpo, the JPEGs of stereo cameras and some phones, but registers no ending for it.
    return (".mpo", *(ending for ending, name in Image.registered_extensions().items() if name in formats))


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and below, sorted, without hidden ones and linked folders.

    Raises:
        InputError: If a folder cannot be read.
    """
    return list_files(folder)[0]


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return `image_files`, and the other files and the linked folders beside them, sorted.

    Raises:
        InputError: If a folder cannot be read.
    """
    images, others = [], []
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        # Followed, a link could lead in circles.
        others += [Path(place, name) for name in folders if Path(place, name).is_symlink()]
        for name in names:
            if not name.startswith("."):
                (images if name.lower().endswith(image_endings()) else others).append(Path(place, name))
    return sorted(images), sorted(others)


def is_passed_over(name: str) -> bool:
    """Return whether a folder of this name is hidden, or one that systems put beside images."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def listing(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders in a folder, and of the files and the folders passed over; none is hidden.

    Raises:
        InputError: If the folder cannot be read.
    """
    _, folders, files = next(os.walk(folder, onerror=_raise))
    taken = sorted(name for name in folders if not is_passed_over(name))
    return taken, sorted(name for name in {*folders, *files} - {*taken} if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
