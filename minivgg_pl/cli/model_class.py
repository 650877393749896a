"""`--model`, a subclass of LitMiniVGG, and where files and packages of the user's own are found."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from minivgg_pl.training.module import LitMiniVGG


def named_class(args: Sequence[str]) -> str | None:
    """Return the import path of the model's class, which the last option or config file names."""
    # Late: the other commands need no YAML.
    from minivgg_pl.cli.config import read_config

    found = None
    for word, following in zip(args, [*args[1:], ""], strict=False):
        name, has_value, value = word.partition("=")
        value = value if has_value else following
        if name == "--model_class":
            found = value
        # The parser reports a file that is not there.
        elif name == "--config" and Path(value).is_file():
            found = read_config(Path(value)).get("model_class", found)
    return found


def search_here() -> None:
    """Let Python find the user's own files in the working directory; last, since a file may be named as a package."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def import_model_class(path: str | None) -> "type[LitMiniVGG]":
    """Return the class at the import path `path`, from the working directory too; None: LitMiniVGG.

    Raises:
        InputError: If there is none, or it is no subclass of LitMiniVGG.
    """
    # Late: torch and Lightning take seconds to import.
    from minivgg_pl.runs.checkpoint import DEFAULT_CLASS
    from minivgg_pl.training.module import LitMiniVGG

    if path in (None, DEFAULT_CLASS):
        return LitMiniVGG
    *parents, name = str(path).split(".")
    module_name = ".".join(parents)
    give = "give the import path of a class, such as my_module.MyVGG for MyVGG in my_module.py"
    if not parents or not all(part.isidentifier() for part in parents):
        give += f" ({path} belongs to --variant or --weights)" if path in ARCHITECTURES else ""
        raise InputError(f"--model {path}: {give}")
    search_here()
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        # Another name is that of a package that the user's file needs.
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"--model {path}: there is no module {error.name} in {os.getcwd()}; {give}") from error
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, LitMiniVGG):
        return found
    if found is None:
        raise InputError(f"--model {path}: {module_name} has no {name}; {give}")
    raise InputError(f"--model {path}: no subclass of LitMiniVGG; from Python, RunFolder trains any LightningModule")
