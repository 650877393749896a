"""The one exception that the command line turns into a one-line message, and a check that commands share."""


class InputError(ValueError):
    """Bad input from the user; the message is one line saying what was given, what was expected and how to fix it."""


def check_seed(option: str, seed: int) -> int:
    """Return `seed` as it is.

    Raises:
        InputError: If NumPy's generators, and so Lightning, would not take it: below 0, or 2**32 or above.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"{option} {seed}: give a whole number from 0 to {2**32 - 1}")
    return seed
