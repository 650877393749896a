"""Paths as users type them."""

from pathlib import Path

from minivgg_pl.errors import InputError


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
