"""Exit codes, one-line error messages and the argument parser that the commands share. Standard library only."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from minivgg_pl.errors import InputError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
# As a shell reports a process that a signal ended: 128 and the signal's number.
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

NOTHING_TRAINED = "terminated. Nothing was trained yet"
# Libraries quote what they refuse, however long it is.
MAX_MESSAGE = 2000


class OneLineArgumentParser(argparse.ArgumentParser):
    """Reports bad input in one line, without the usage text above it."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with code 2."""
        sys.exit(fail(f"{message} (see --help)", EXIT_BAD_INPUT))


def guarded(command: Callable[[], int]) -> int:
    """Return the exit code of `command()`; bad input and Ctrl-C become one line each."""
    try:
        return command()
    except InputError as error:
        return fail(str(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader, such as `head`, has all that it wanted.
        _drop_output()
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        # One of the packages that are needed for some files only, such as h5py and onnx.
        return fail(f"{error}: pip install {error.name}", EXIT_BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return fail("there is not enough memory for that: give a smaller batch, network or image", EXIT_BAD_INPUT)
    except OSError as error:
        # A path that is too long or closed to this user, or a full disk behind stdout.
        if not error.filename:
            _drop_output()
        return fail(f"{error.filename or 'the output'}: {error.strerror or error}", EXIT_BAD_INPUT)


def fail(message: str, code: int) -> int:
    """Print `message` as one line on stderr, and return `code`."""
    print(f"error: {as_line(message)}", file=sys.stderr)
    return code


def as_line(message: str) -> str:
    """Return `message` as one line without control characters."""
    line = " ".join(message.split())[:MAX_MESSAGE]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _is_out_of_memory(error: Exception) -> bool:
    # By the words of the message: torch has an exception for a GPU's memory alone.
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _drop_output() -> None:
    # Python would report the same error again when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
