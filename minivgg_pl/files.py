"""Files that a command was asked to write: checked before any work, and whole or not there."""

import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from minivgg_pl.errors import InputError

# Of files that are being written; what a kill leaves of them is hidden.
PART_SUFFIX = ".part"


def check_output(option: str, path: Path | None, suffixes: Sequence[str], overwrite: bool) -> None:
    """Check, writing nothing, that `path` can be written.

    Args:
        option: The option as typed, for the message.
        path: File to be written, or None for none.
        suffixes: The endings allowed, such as `[".csv"]`.
        overwrite: Whether a file may be in the way.

    Raises:
        InputError: If the ending is another, the file exists, or its folder does not or cannot be written.
    """
    if path is None:
        return
    if not path.name.endswith(tuple(suffixes)):
        raise InputError(f"{option} {path}: give a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{option} {path}: that is a folder; give a file name")
    if path.exists() and not overwrite:
        raise InputError(f"{option} {path}: the file exists; give another name, or --overwrite")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{option} {path}: the folder {folder} cannot be written")


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file so that a kill, or the power's end, leaves the old one or the new one, never half of it.

    Raises:
        InputError: If it cannot be written, such as on a full disk.
    """
    # The name is unique, because two threads may write the same file.
    part = path.with_name(f".{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("wb") as file:
            # File names need not be UTF-8, and a text that holds them must not fail for it.
            file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
            file.flush()
            # Else the name could reach the disk before the bytes.
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where it could not even be made
            part.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        InputError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror or error}") from error


def typed_path(path: str | Path, option: str) -> Path:
    """Return `path` with its `~` written out.

    Args:
        path: As typed.
        option: What names it, for the message.

    Raises:
        InputError: If no path can be like that.
    """
    # Not left to whatever opens it: Pathlib takes a path with a NUL for one that does not exist yet.
    if "\0" in str(path):
        raise InputError(f"{option} {str(path)!r}: a path cannot hold a NUL character: leave it out")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{option} {path}: this machine has no such user: write the path out, or ./{path} for a folder so called"
        ) from error
