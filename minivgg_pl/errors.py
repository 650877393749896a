"""Exceptions that the commands report in one line."""

# Libraries quote what they refuse, however long it is.
MAX_MESSAGE = 2000


class InputError(ValueError):
    """Bad input from the user; the message is one line: what was given, what was expected and how to fix it."""


def as_line(message: str) -> str:
    """Return `message`, which may hold file names, as one line without control characters."""
    line = " ".join(message.split())[:MAX_MESSAGE]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""
