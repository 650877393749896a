"""Atomic file writing, locks and checks of output files."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from minivgg_pl.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no flock.
    fcntl = None

# Ends the names of files that are being written. They are hidden, and a kill can leave them behind.
PART_SUFFIX = ".part"


def check_output(option: str, path: Path | None, suffixes: Sequence[str], overwrite: bool) -> None:
    """Check, writing nothing, that the file `path`, if any, which `option` names, can be written.

    Raises:
        InputError: If the ending is another, the file exists, or its folder does not.
    """
    if path is None:
        return
    if not path.name.endswith(tuple(suffixes)):
        raise InputError(f"{option} {path}: give a name that ends in {' or '.join(suffixes)}")
    if path.exists() and not overwrite:
        raise InputError(f"{option} {path}: the file exists; give another name, or --overwrite")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}; make it first")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that replaces `path` at the end of the block, unless that raises.

    A kill or a power cut leaves the old file or the new one, never half of it. It raises OSError if the system refuses.
    """
    # Unique, because two threads may write the same file.
    part = path.with_name(f".{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            # Else the name could reach the disk before the bytes.
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):  # where it could not even be made
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a whole file with `atomic_file`.

    Raises:
        InputError: If it cannot be written, such as on a full disk.
    """
    try:
        with atomic_file(path) as file:
            # A text may hold file names, which need not be UTF-8.
            file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        InputError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror or error}") from error


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes until it is closed; return False if one has locked it.

    Without locks on the system or the file system, it returns True.
    """
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
