"""The console command `minivgg`, which runs the commands of `scripts/`. Standard library only."""

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from minivgg_pl.cli.command import EXIT_BAD_INPUT, VERSION, fail

COMMANDS = ("train", "predict", "evaluate", "export", "reproduce")
HELP = f"""\
usage: minivgg {{{",".join(COMMANDS)}}} ...

  train      train a network on CIFAR-10 or on your own images, and leave a run folder
  predict    classify images
  evaluate   measure a trained network on a test set
  export     write a trained network as a file for other programs
  reproduce  repeat a result of the README and judge it

  --version  print the version
  --help     after a command: its options"""
# A development tool: it reads the measured results that the repository holds.
REPRODUCE = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "reproduce.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `minivgg` with `argv` (default: the process's own) and return its exit code."""
    name, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "--version"):
        print(VERSION if name == "--version" else HELP)
        return 0
    if name not in COMMANDS:
        return fail(f"minivgg {name}: there is no such command; give one of {', '.join(COMMANDS)}", EXIT_BAD_INPUT)
    if name != "reproduce":
        return import_module(f"minivgg_pl.cli.{name}").main(words)
    if not REPRODUCE.exists():
        return fail("minivgg reproduce needs the repository: clone it, and pip install -e . there", EXIT_BAD_INPUT)
    sys.path.insert(0, str(REPRODUCE.parent))
    return runpy.run_path(str(REPRODUCE))["main"](words)
