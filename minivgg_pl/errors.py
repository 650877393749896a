"""The exceptions that the command line turns into a one-line message, and a check that commands share."""


class InputError(ValueError):
    """Bad input from the user; the message is one line saying what was given, what was expected and how to fix it."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite.

    Args:
        stage: `training` or `validation`.
        epoch: Number of the epoch, from 1.
        step: Number of the update, from 1.
    """

    def __init__(self, stage: str, epoch: int, step: int) -> None:
        super().__init__(stage, epoch, step)

    def __str__(self) -> str:
        """Say where it was, and what may help."""
        stage, epoch, step = self.args
        where = f"epoch {epoch}, step {step}"
        return f"the {stage} loss is not finite in {where}: training stopped. Try a lower learning rate"


def check_seed(option: str, seed: int) -> int:
    """Return `seed` as it is.

    Raises:
        InputError: If NumPy's generators, and so Lightning, would not take it: below 0, or 2**32 or above.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"{option} {seed}: give a whole number from 0 to {2**32 - 1}")
    return seed
