"""The recipes: YAML files in this package that hold what differs from the defaults."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from minivgg_pl.cli.config import read_config
from minivgg_pl.errors import InputError

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = ("article", "modern", "speedrun")
# Which network, from what, on which images and devices: not how.
WHAT_IS_TRAINED = (
    "model.init_from",
    *(f"model.{name}" for name in ("variant", "num_classes", "dense_units", "image_size", "in_channels")),
    *(f"data.{name}" for name in ("class_path", "root", "url", "dataset", "synthetic_size", "val_size", "split_seed")),
    *(f"data.{name}" for name in ("image_size", "in_channels", "cache_dir", "split_batches")),
)


def recipe_path(name: str) -> Path:
    """Return the file of recipe `name`.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in RECIPES:
        raise InputError(f"--recipe {name}: unknown; choose one of {', '.join(RECIPES)}, or --config FILE.yaml")
    return FOLDER / f"{name}.yaml"


def recipe_options(name: str) -> dict[str, Any]:
    """Return the dotted options that recipe `name` sets, such as `{"model.lr": 0.05}`."""
    return dict(_read(recipe_path(name)))


@cache
def _read(path: Path) -> dict[str, Any]:
    return dotted_options(read_config(path))


def recipe_of(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> str | None:
    """Return the recipe that a run's options amount to, or None where they are the user's own mixture.

    Compared are the model's and the data's options other than WHAT_IS_TRAINED, and the number of epochs where a recipe
    has its own: the device, the precision and the trainer's other options make no other recipe.

    Args:
        options: The run's dotted options.
        defaults: The dotted options without any recipe.
    """
    if any(name.startswith(("optimizer", "lr_scheduler")) and value is not None for name, value in options.items()):
        return None
    recipes = {name: recipe_options(name) for name in RECIPES}
    free = WHAT_IS_TRAINED
    if options.get("model.init_from"):
        # These come with the weights.
        free += ("model.mean", "model.std", "model.init")
    compared = [key for key in defaults if key.startswith(("model.", "data.")) and key not in free]
    # The most particular first: modern in speedrun's number of epochs is speedrun.
    for name in reversed(RECIPES):
        recipe = recipes[name]
        epochs = recipe.get("trainer.max_epochs", options["trainer.max_epochs"])
        same = all(options[key] == recipe.get(key, defaults[key]) for key in compared)
        if same and options["trainer.max_epochs"] == epochs:
            return name
    return None


def dotted_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options by their dotted names, the data module's as they are typed: `data.batch_size`."""
    return {name.replace("data.init_args.", "data.", 1): value for name, value in _flatten(options)}


def _flatten(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each option in nested `options`; an empty mapping is a value."""
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
