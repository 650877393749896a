"""Image files in folders, without what systems put there. A folder that cannot be read is an InputError."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from minivgg_pl.data.images import image_formats
from minivgg_pl.errors import InputError

# Of macOS' archives, Python, Synology (thumbnails with the names of images), Linux and Windows; in lower case.
SYSTEM_FOLDERS = ("__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "system volume information")
# Endings of photos that Pillow does not read without a plugin, in lower case.
HEIC = (".heic", ".heif")
# Messages name no more.
MOST_NAMES = 3


@cache
def image_endings() -> tuple[str, ...]:
    """Return the endings of image files' names, in lower case."""
    formats = image_formats()
    # Pillow reads .mpo, the JPEGs of stereo cameras and some phones, but registers no ending for it.
    return (".mpo", *(ending for ending, name in Image.registered_extensions().items() if name in formats))


def image_files(folder: Path, more_endings: Sequence[str] = ()) -> list[Path]:
    """Return those of `all_files` that are images by their names, or have one of `more_endings`, sorted."""
    endings = (*image_endings(), *more_endings)
    return sorted(path for path in all_files(folder) if path.name.lower().endswith(endings))


def other_files(folder: Path) -> str:
    """Return in words which files in a folder and below are no images by their names, or nothing."""
    names = sorted(path.name for path in all_files(folder) if not path.name.lower().endswith(image_endings()))
    kinds = f", but {len(names):,} of formats that are not read ({some(names)}): convert images among them to JPEG"
    return kinds if names else ""


def all_files(folder: Path) -> list[Path]:
    """Return the files in a folder and below, and the linked folders, without hidden ones."""
    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = filter(_is_taken, folders)
        # Followed, a link could lead in circles.
        links = [name for name in folders if Path(place, name).is_symlink()]
        files += [Path(place, name) for name in [*names, *links] if not name.startswith(".")]
    return files


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones and SYSTEM_FOLDERS."""
    return sorted(filter(_is_taken, next(os.walk(folder, onerror=_raise))[1]))


def some(names: Sequence[str]) -> str:
    """Return the first names, and dots for the rest."""
    return ", ".join([*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])])


def _is_taken(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


def _raise(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
