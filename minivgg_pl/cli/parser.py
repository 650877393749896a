"""The parser of Lightning's dotted options: `--model.*`, `--data.*`, `--trainer.*` and config files."""

import difflib
import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import torch
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser, instantiate_class

from minivgg_pl.cli.command import EXIT_BAD_INPUT, fail, hint_for
from minivgg_pl.cli.config import dotted_options, read_config
from minivgg_pl.cli.loggers import fill_in_save_dir
from minivgg_pl.cli.model_class import search_here
from minivgg_pl.cli.short_names import HELP, OTHER_SHORT_NAMES
from minivgg_pl.data.base import NO_HYPERPARAMETERS, ImageDataModule
from minivgg_pl.data.cifar10 import CIFAR10DataModule
from minivgg_pl.data.image_folder import ImageFolderDataModule
from minivgg_pl.data.torchvision_datasets import CLASSES, TorchvisionDataModule
from minivgg_pl.errors import InputError
from minivgg_pl.runs.folder import newest_config

# The class first, then its options. Set as a default instead, its values would stay where another class is given.
DEFAULT_DATA = "--data=minivgg_pl.CIFAR10DataModule"
# Imported, so that `--data` finds them by their names alone.
DATA_MODULES = (CIFAR10DataModule, ImageFolderDataModule, TorchvisionDataModule)
# Whose classes an option takes by their names alone.
MODULES = (torch.optim, torch.optim.lr_scheduler, loggers, callbacks)
# LightningCLI's, and where that is here.
SUBCOMMANDS = {
    "fit": "there are no subcommands, it always trains and then tests: leave fit out; ",
    **dict.fromkeys(("validate", "test"), "evaluate.py RUN measures a trained network; "),
    "predict": "predict.py IMAGE --weights RUN classifies images; ",
}

# Lightning turns it on: a text in place of a class or a section would be fetched, from s3:// and http:// too.
jsonargparse.set_parsing_settings(config_read_mode_fsspec_enabled=False)


class OneLineParser(LightningArgumentParser):
    """Reports bad input in one line, without the usage text above it."""

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> jsonargparse.Namespace:
        """Parse a config file; an option that there is not, or an empty section, is reported with the file's name."""
        known = self._options()
        for name, value in dotted_options(read_config(Path(cfg_path))).items():
            is_section = name == "data" or any(option.startswith(f"--{name}.") for option in known)
            if is_section and value is None:
                raise InputError(f"{cfg_path}: {name} is empty: give options in it, or remove the line")
            if not is_section and not any(f"--{name}.".startswith(f"{option}.") for option in known):
                hint = hint_for(f"option '{name}", self._options_with_data())
                hint = f"give --{name} on the command line; " if f"--{name}" in OTHER_SHORT_NAMES else hint
                # As it is written in YAML.
                hint = re.sub(r"--(\w+)\.(\w+)", r"\1: {\2: ...}", hint)
                raise InputError(f"{cfg_path}: there is no option {name} ({hint}see --help.full)")
        config = super().parse_path(cfg_path, *args, **kwargs)
        fill_in_save_dir(config)
        return config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line and exit with code 2."""
        if not self.exit_on_error:
            # A parser of one class's options: the parser around it reports the message.
            hint = hint_for(message, self._options()).rstrip("; ")
            super().error(f"{message}: {hint}" if hint else message, ex)
        text = shortened(message)
        hint = hint_for(text, [*re.findall(r"--\w[\w.]*\w(?![\w.])", HELP), *self._options_with_data()])
        if subcommand := re.match(r"unrecognized arguments: (fit|validate|test|predict)\b", message, re.IGNORECASE):
            hint = SUBCOMMANDS[subcommand[1]]
        # The parser of the class's options may have said it.
        hint = "" if hint.rstrip("; ") in text else hint
        sys.exit(fail(f"{text} ({hint}see --help)", EXIT_BAD_INPUT))

    def _options(self) -> list[str]:
        return [f"--{name}" for name in dotted_options(self.get_defaults().as_dict())]

    def _options_with_data(self) -> list[str]:
        # Only before an error: with these defaults, nothing else is to be parsed.
        self.set_defaults({"data": {"class_path": DEFAULT_DATA.partition("=")[2]}})
        return self._options()


def shortened(message: str) -> str:
    """Return the reason alone, where jsonargparse lists an error for each type that an option may have."""
    if message == "argument --data: expected one argument":
        # Said of every option below it.
        return "an option --data.* has no value: give it one, as in --data.skip_broken true"
    if old := re.search(r"\bpytorch_lightning\.[\w.]+", message):
        new = old[0].replace("pytorch_lightning", "lightning.pytorch")
        return f"{old[0]}: Lightning is imported as lightning.pytorch here: give {new}"
    if missing := re.search(r"class_path '([\w.]+)'.*(pip install [^`]+)`", message, re.DOTALL):
        return f"{missing[1]} needs a package that is not installed: {missing[2]}"
    pattern = r"key \"(\w+_transform)\":.*?Errors:\s+- (?:Type .*? callable class: )?(.+?)(\. Got |\n +- Expected)"
    if found := re.search(pattern, message, re.DOTALL):
        name = f"--data.{found[1]}"
        return f"{name}: {found[2]}: give the import path of a class or function, and arguments as {name}.<name>"
    # A class's reason is indented by eight, the types that follow by four.
    pattern = r"Parser key \"([^\"]+)\".*?given class_path '([^']+)':\n(.+?)(\n {,4}\S|\Z)"
    if found := re.search(pattern, message, re.DOTALL):
        reason = re.sub(r"(Parser key \"|[oO]ption '|[kK]ey '|did you mean --)", rf"\1{found[1]}.", found[3].strip())
        message = f"--{found[1]} {found[2]}: {reason}"
    elif refused := re.match(r"Does not validate .+?\nErrors:\n  - (`.+?)\n", message, re.DOTALL):
        # By the class itself, as it was built.
        return refused[1]
    key = re.search(r"Parser key \"([^\"]+)\"", message)
    value = re.search(r"(?:Given|Got) value: (.*)|(?:load config|does not exist:|not a file:) '(.*)'", message)
    if not key or not value:
        return message
    option, typed = key[1], value[1] or value[2]
    given = f"--{option} {typed}"
    if option in ("data", "data.dataset") and (name := {name.lower(): name for name in CLASSES}.get(typed.lower())):
        return f"{given}: give --data minivgg_pl.TorchvisionDataModule --data.dataset {name}"
    if option == "config":
        return f"{given}: there is no such file; give a YAML file, such as a run's config.yaml"
    if value[2]:
        return f"{given}: it is a group of options; give one of them, such as --variant or --{option}.<name>"
    if "import path" in message.lower() and not found:
        names = ", ".join(module.__name__ for module in DATA_MODULES)
        names += " (a data set's name belongs to --data.dataset), or a folder of your own images that exists"
        near = _near_class(typed)
        if near == typed.rpartition(".")[2]:
            return f"{given}: not a class for this option, or one whose package is not installed"
        if option == "data" and "." in typed:
            return f"{given}: not a data module for this command; give an ImageDataModule, or {names}"
        advice = names if option == "data" else near or "the import path of one"
        return f"{given}: no such class; give {advice}"
    types = re.findall(r"(?:Expected an? <class '|Not of type |typing\.Literal\[)(.+?)(?:'>|:|\])", message)
    names = dict.fromkeys(name.strip("'") for group in types for name in group.split(", ") if name != "NoneType")
    if option == "model.optimizer" and (near := _near_class(typed)):
        names[f"--optimizer {near}"] = None
    *others, last = names or [""]
    return f"{given}: expected {', '.join(others)}{' or ' * bool(others)}{last}" if names else message


def _near_class(typed: str) -> str | None:
    """Return the class of MODULES whose name is nearest to `typed`, upper case or lower, or None."""
    names = {name.lower(): name for module in MODULES for name in module.__all__}
    alike = difflib.get_close_matches(typed.rpartition(".")[2].lower(), names, n=1, cutoff=0.5)
    return names[alike[0]] if alike else None


def parse_data(options: list[str], run: Path | None = None) -> ImageDataModule:
    """Return the data module that `--data` and `--data.*` options describe; without `--data`, that of the `run`.

    Raises:
        InputError: On a value out of range, or a run on data of another project's class; what the parser refuses ends
            the process with its one line.
    """
    search_here()
    parser = OneLineParser(allow_abbrev=False)
    # A run's config may come from a stranger, who would choose what is imported.
    parser.add_subclass_arguments(ImageDataModule, "data", fail_untyped=False, skip=set(NO_HYPERPARAMETERS))
    is_named = any(word.partition("=")[0] == "--data" for word in options)
    default = DEFAULT_DATA if is_named or not run else _data_of_run(run)
    return build_data(parser.parse_args([default, *options]).data)


def build_data(config: jsonargparse.Namespace) -> ImageDataModule:
    """Return the data module that a parsed `--data` describes."""
    return instantiate_class((), config.as_dict())


def _data_of_run(folder: Path) -> str:
    """Return the `--data` of a run's newest config."""
    config = newest_config(folder)
    data = read_config(config).get("data") if config else None
    if not isinstance(data, dict):
        return DEFAULT_DATA
    # Only of this package: otherwise, whoever wrote the config would choose what to import.
    if not (path := str(data.get("class_path"))).startswith("minivgg_pl."):
        raise InputError(f"{folder}: it was trained on {path}: give --data, such as --data {path}")
    if isinstance(options := data.get("init_args"), dict):
        data["init_args"] = {name: value for name, value in options.items() if name not in NO_HYPERPARAMETERS}
    return f"--data={json.dumps(data)}"
