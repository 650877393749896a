"""The parser of every command that takes Lightning's dotted options."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from minivgg_pl.cli.command import EXIT_BAD_INPUT, fail
from minivgg_pl.cli.config import PARSER_MODE, install, read_config, typed_config
from minivgg_pl.cli.options import HELP
from minivgg_pl.data.base import ImageDataModule
from minivgg_pl.errors import InputError
from minivgg_pl.runs import folder as runs

install()

DEFAULT_DATA = "minivgg_pl.CIFAR10DataModule"
DATA_MODULES = ", ".join(
    f"minivgg_pl.{name}" for name in ("CIFAR10DataModule", "ImageFolderDataModule", "TorchvisionDataModule")
)


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


def named_data_class(args: Sequence[str]) -> str:
    """Return the data module's class path that `args` or their config files name, or the default's.

    Looked for before parsing: set as the default only afterwards, another class would take over CIFAR10DataModule's
    default values for options that both have.

    Raises:
        InputError: If there is no such class, or a config file cannot be read.
    """
    named = DEFAULT_DATA
    for word, following in zip_longest(args, args[1:], fillvalue=""):
        option, has_value, value = word.partition("=")
        value = value if has_value else following
        if option == "--data" and re.fullmatch(r"[\w.]+", value) and not Path(value).exists():
            named = value if "." in value else f"minivgg_pl.{value}"
        elif option == "--config":
            options = typed_config(value)
            if isinstance(options, dict) and "config" in options:
                raise InputError(f"--config {value}: it names another config: give --config once for each instead")
            named = _data_in(options).get("class_path") or named
    import_data_class(named)
    return named


def _data_in(options: Any) -> dict[str, Any]:
    """Return the `data` section of a config's options, empty if there is none; the parser says what is wrong."""
    data = options.get("data") if isinstance(options, dict) else None
    return data if isinstance(data, dict) else {}


def build_data(config: Any) -> ImageDataModule:
    """Return the data module that a parsed `--data` describes.

    Raises:
        InputError: If it describes none, or on a value out of range.
    """
    if config is None:
        raise InputError(f"--data null: give {DATA_MODULES}, or leave it out")
    data_class, options = import_data_class(config.class_path), config.init_args.as_dict()
    is_ours = data_class.__module__.startswith("minivgg_pl.")
    for name, parameter in inspect.signature(data_class).parameters.items():
        # The parser lets a null through, whatever the option's type.
        if is_ours and parameter.default is not None and options.get(name, parameter.default) is None:
            raise InputError(f"--data.{name} null: give a value, or leave it out for {parameter.default}")
    return data_class(**options)


def data_of_run(folder: Path) -> dict[str, Any] | None:
    """Return the data module's `class_path` and `init_args` from a run's config, if it is one of this package.

    Others are not: whoever wrote the config would choose what to import.
    """
    config = runs.newest_config(folder)
    try:
        data = _data_in(read_config(config)) if config else {}
    except InputError:
        return None
    path = data.get("class_path")
    if not (isinstance(path, str) and path.startswith("minivgg_pl.")):
        return None
    init_args = data.get("init_args")
    return {"class_path": path, "init_args": init_args if isinstance(init_args, dict) else {}}


def import_data_class(path: str) -> type[ImageDataModule]:
    """Return the data module class at import path `path`.

    Raises:
        InputError: If there is none.
    """
    try:
        module, _, name = path.rpartition(".")
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"--data {path}: no such class ({error}); give {DATA_MODULES}") from error
    if not (isinstance(found, type) and issubclass(found, ImageDataModule)):
        raise InputError(f"--data {path}: not a data module of images; give {DATA_MODULES}, or a subclass of one")
    return found
