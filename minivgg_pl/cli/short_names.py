"""Short names and help text of the flags of `scripts/train.py`. Standard library only, so that `--help` is quick."""

import os
from collections.abc import Sequence
from pathlib import Path

from minivgg_pl.cli.recipes import recipe_arguments
from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES

# Short names that take a value. The first three stand for another option each.
SHORT_NAMES = {"--variant": "--model.variant", "--epochs": "--trainer.max_epochs", "--model": "--model_class"}
OTHER_SHORT_NAMES = ("--data", "--gpus", "--recipe", "--resume")
FLAGS = {"--compile": "--compile=true", "--help.full": "--help"}

HELP = Path(__file__).with_name("help.txt").read_text()


def help_text() -> str:
    """Return the one-screen help."""
    variants = "; ".join(f"{name}: {a.num_parameters:,} parameters" for name, a in ARCHITECTURES.items())
    epochs = ", ".join(f"{a.epochs} for {name}" for name, a in ARCHITECTURES.items())
    return HELP.replace("{variants}", variants).replace("{epochs}", f"the article's, {epochs}")


def expand_short_names(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Replace the short names by Lightning's dotted options, `--recipe` by its config files, and take `--resume` out.

    Links between jsonargparse options would do it too, but make the dotted options unusable.

    Returns:
        The arguments for LightningCLI, and the path given with `--resume` or None.

    Raises:
        InputError: If a short name has no value or a bad one.
    """
    expanded: list[str] = []
    taken: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, has_value, value = word.partition("=")
        if name not in (*SHORT_NAMES, *OTHER_SHORT_NAMES):
            expanded.append(FLAGS.get(word, word))
            continue
        value = value if has_value else next(words, "")
        if not value or value.startswith("--"):
            raise InputError(f"{name} needs a value: see --help")
        if name in ("--recipe", "--resume"):
            taken[name] = value
        elif name == "--data":
            expanded += data_arguments(value)
        elif name == "--model" and _is_config(value):
            expanded.append(f"--model={value}")
        elif name == "--gpus":
            expanded += _device_options(value)
        else:
            expanded.append(f"{SHORT_NAMES[name]}={value}")
    if len(taken) > 1:
        raise InputError("--recipe beside --resume: a run keeps its own recipe; leave --recipe out")
    # In front of all else, wherever it was typed: typed options change a recipe.
    recipe = recipe_arguments(taken["--recipe"]) if "--recipe" in taken else []
    return recipe + expanded, taken.get("--resume")


def data_arguments(value: str) -> list[str]:
    """Return what `--data value` stands for: a folder of the user's own images, or else a data module as it is."""
    path = os.path.expanduser(value)
    if not _is_config(value) and (os.path.exists(path) or os.path.basename(path) != path):
        return ["--data=minivgg_pl.ImageFolderDataModule", f"--data.root={value}"]
    return [f"--data={value}"]


def _is_config(value: str) -> bool:
    """Return whether an option's value is a group of options, or a file of them."""
    return value.startswith("{") or value.endswith((".yaml", ".yml", ".json"))


def _device_options(gpus: str) -> list[str]:
    if not gpus.isdecimal():
        raise InputError(f"--gpus {gpus}: give a whole number, 0 or more")
    number = int(gpus)
    return [f"--trainer.accelerator={'gpu' if number else 'cpu'}", f"--trainer.devices={max(number, 1)}"]
