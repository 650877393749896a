"""The parser of Lightning's dotted options: `--model.*`, `--data.*`, `--trainer.*` and config files."""

import difflib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
from lightning.pytorch.cli import LightningArgumentParser, instantiate_class

from minivgg_pl.cli.command import EXIT_BAD_INPUT, fail
from minivgg_pl.cli.config import read_config
from minivgg_pl.cli.short_names import HELP
from minivgg_pl.data.base import ImageDataModule
from minivgg_pl.data.cifar10 import CIFAR10DataModule
from minivgg_pl.data.image_folder import ImageFolderDataModule
from minivgg_pl.data.torchvision_datasets import TorchvisionDataModule
from minivgg_pl.runs.folder import newest_config

# The class first, then its options. Set as a default instead, its values would stay where another class is given.
DEFAULT_DATA = "--data=minivgg_pl.CIFAR10DataModule"
# Imported, so that `--data` finds them by their names alone.
DATA_MODULES = (CIFAR10DataModule, ImageFolderDataModule, TorchvisionDataModule)

# Lightning turns it on: a text in place of a class or a section would be fetched, from s3:// and http:// too.
jsonargparse.set_parsing_settings(config_read_mode_fsspec_enabled=False)


class OneLineParser(LightningArgumentParser):
    """Reports bad input in one line, without the usage text above it."""

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> jsonargparse.Namespace:
        """Parse a config file; an error in it is reported with the file's name."""
        read_config(Path(cfg_path))
        return super().parse_path(cfg_path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line and exit with code 2."""
        if not self.exit_on_error:
            # A parser of one class's options: the parser around it reports the message.
            super().error(message, ex)
        known = [*re.findall(r"--\w[\w.]*", HELP), *(f"--{name}" for name, _ in self.get_defaults().items())]
        sys.exit(fail(f"{_shortened(message)} ({_meant(message, known)}see --help)", EXIT_BAD_INPUT))


def _meant(message: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown option: one of that name in a group, or one that is spelled alike."""
    if subcommand := re.match(r"unrecognized arguments: (fit|validate|test|predict)\b", message, re.IGNORECASE):
        return f"there are no subcommands, it always trains and then tests: leave {subcommand[1]} out; "
    typed = re.match(r"(?:unrecognized arguments|ambiguous option): --([\w.-]+)", message, re.IGNORECASE)
    if not typed:
        return ""
    name = typed[1].replace("-", "_")
    in_groups = [option for option in known if option.endswith(f".{name}")]
    alike = difflib.get_close_matches(f"--{name}", known, n=1, cutoff=0.8)
    return f"did you mean {(in_groups or alike)[0]}? " if in_groups or alike else ""


def _shortened(message: str) -> str:
    """Return the reason alone, where jsonargparse lists an error for each type that an option may have."""
    # A class's reason is indented by eight, the types that follow by four.
    pattern = r"Parser key \"([^\"]+)\".*?given class_path '([^']+)':\n(.+?)(\n {,4}\S|\Z)"
    if found := re.search(pattern, message, re.DOTALL):
        reason = found[3].strip().replace('Parser key "', f'Parser key "{found[1]}.')
        message = f"--{found[1]} {found[2]}: " + reason.replace("Option '", f"Option '{found[1]}.")
    key = re.search(r"Parser key \"([^\"]+)\"", message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    if not key or not value:
        return message
    if "import path" in message.lower() and not found:
        names = ", ".join(module.__name__ for module in DATA_MODULES)
        return f"--{key[1]} {value[1]}: no such class; give {names if key[1] == 'data' else 'the import path of one'}"
    types = re.findall(r"(?:Expected an? <class '|Not of type |typing\.Literal\[)(.+?)(?:'>|:|\])", message)
    expected = " or ".join(dict.fromkeys(name for name in types if name != "NoneType"))
    return f"--{key[1]} {value[1]}: expected {expected}" if expected else message


def parse_data(options: list[str], run: Path | None = None) -> ImageDataModule:
    """Return the data module that `--data` and `--data.*` options describe.

    Args:
        options: As typed.
        run: Folder of the run whose data are meant where `--data` is not given, or None.

    Raises:
        InputError: On a value out of range; what the parser refuses ends the process with its one line.
    """
    parser = OneLineParser()
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    is_named = any(word.partition("=")[0] == "--data" for word in options)
    default = DEFAULT_DATA if is_named or not run else _data_of_run(run)
    return build_data(parser.parse_args([default, *options]).data)


def build_data(config: jsonargparse.Namespace) -> ImageDataModule:
    """Return the data module that a parsed `--data` describes.

    Raises:
        InputError: On a value out of range.
    """
    return instantiate_class((), config.as_dict())


def _data_of_run(folder: Path) -> str:
    """Return the `--data` of a run's newest config."""
    config = newest_config(folder)
    data = read_config(config).get("data") if config else None
    # Only of this package: otherwise, whoever wrote the config would choose what to import.
    is_ours = isinstance(data, dict) and str(data.get("class_path")).startswith("minivgg_pl.")
    return f"--data={json.dumps(data)}" if is_ours else DEFAULT_DATA
