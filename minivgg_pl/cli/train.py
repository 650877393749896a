"""Main of `scripts/train.py`. It imports torch only once it is needed."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from minivgg_pl.cli.command import EXIT_TERMINATED, NOTHING_TRAINED, VERSION, as_called, fail, guarded
from minivgg_pl.cli.short_names import expand_short_names, help_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scripts/train.py` with `argv` (default: the process's own) and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        print(as_called(help_text()), end="")
        return 0
    if "--version" in argv:
        print(VERSION)
        return 0
    return guarded(lambda: _train(argv))


def _train(argv: Sequence[str]) -> int:
    argv, resume = expand_short_names(argv)
    previous = signal.signal(signal.SIGTERM, _end_now)
    try:
        # Late: torch and Lightning take seconds to import, and the help text and most errors need neither.
        from minivgg_pl.cli.fit import train

        return train(argv, resume)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end_now(number: int, frame: Any) -> None:
    # No exception: a module that is being imported might catch it.
    os._exit(fail(NOTHING_TRAINED, EXIT_TERMINATED))
