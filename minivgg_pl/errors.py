"""The one exception that the command line turns into a one-line message."""


class InputError(ValueError):
    """Bad input from the user; the message is one line saying what was given, what was expected and how to fix it."""
