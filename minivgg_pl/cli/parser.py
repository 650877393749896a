"""The parser of every command that takes Lightning's dotted options."""

import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from minivgg_pl.cli.command import EXIT_BAD_INPUT, HELP, fail
from minivgg_pl.cli.config import PARSER_MODE, install
from minivgg_pl.cli.data_options import build_data, data_of_run, named_data_class
from minivgg_pl.data.base import ImageDataModule

install()


class OneLineParser(LightningArgumentParser):
    """Reports bad input in one line, without the usage text above it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the one line and exit with code 2."""
        if not self.exit_on_error:
            # A parser of one class's options, whose message the parser around it takes up.
            super().error(message, ex)
        known = [*re.findall(r"--\w[\w.]*", HELP), *self._option_string_actions]
        sys.exit(fail(f"{_shortened(message)} ({_meant(message, known)}see --help)", EXIT_BAD_INPUT))


def _meant(message: str, known: Iterable[str]) -> str:
    """Return a question after the option that an unknown one may stand for: of its name in a group, or spelt alike."""
    if subcommand := re.match(r"unrecognized arguments: (fit|validate|test|predict)\b", message, re.IGNORECASE):
        return f"there are no subcommands, it always trains and then tests: leave {subcommand[1]} out; "
    typed = re.match(r"(?:unrecognized arguments|ambiguous option): --([\w.-]+)", message)
    if not typed:
        return ""
    name = typed[1].replace("-", "_")
    in_groups = [option for option in known if option.endswith(f".{name}")]
    alike = difflib.get_close_matches(f"--{name}", known, n=1, cutoff=0.8)
    return f"did you mean {(in_groups or alike)[0]}? " if in_groups or alike else ""


def _shortened(message: str) -> str:
    """Return the reason alone, where jsonargparse lists every type that an option's class is not."""
    # The reasons are indented by eight, the types that follow by four.
    pattern = r"Parser key \"([^\"]+)\":.*?given class_path '([^']+)':\n(.+?)(\n {,4}\S|\Z)"
    about = re.search(pattern, message, re.DOTALL)
    if not about:
        return message
    key, class_path, reason = about[1], about[2], about[3].strip()
    reason = reason.replace('Parser key "', f'Parser key "{key}.').replace("Option '", f"Option '{key}.")
    return f"--{key} {class_path}: {reason}"


def parse_data(options: list[str], run: Path | None = None) -> ImageDataModule:
    """Return the data module that `--data` and `--data.*` options describe.

    Args:
        options: As typed.
        run: Folder of the run whose data are meant where `--data` is not given, or None.

    Raises:
        InputError: On a value out of range; what the parser refuses ends the process with its one line.
    """
    parser = OneLineParser(parser_mode=PARSER_MODE)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    is_named = any(word.partition("=")[0] == "--data" for word in options)
    data = data_of_run(run) if run and not is_named else None
    parser.set_defaults({"data": data or {"class_path": named_data_class(options)}})
    return build_data(parser.parse_args(options).data)
