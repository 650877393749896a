"""Recipes: named config files in this package, which hold what differs from the defaults."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from minivgg_pl.errors import InputError

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = ("article", "modern", "speedrun", "finetune")
# A recipe's own file comes after the file of the recipe that it changes.
BASED_ON = {"speedrun": "modern"}
# What a recipe leaves free: the network, the weights that it starts from, the images and the devices.
WHAT_IS_TRAINED = (
    "model.init_from",
    *(f"model.{name}" for name in ("variant", "num_classes", "dense_units", "image_size", "in_channels")),
    *(f"data.{name}" for name in ("class_path", "root", "url", "dataset", "synthetic_size", "val_size", "split_seed")),
    *(f"data.{name}" for name in ("image_size", "in_channels", "cache_dir", "split_batches", "skip_broken")),
)


def recipe_arguments(name: str) -> list[str]:
    """Return the `--config` options that `--recipe name` stands for.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in RECIPES:
        raise InputError(f"--recipe {name}: unknown; choose one of {', '.join(RECIPES)}, or --config FILE.yaml")
    return [f"--config={FOLDER / part}.yaml" for part in (BASED_ON.get(name), name) if part]


@cache
def recipe_options(name: str) -> Mapping[str, Any]:
    """Return the dotted options that recipe `name` sets, such as `{"model.lr": 0.08}`."""
    # Late: the help text needs no YAML.
    from minivgg_pl.cli.config import dotted_options, read_config

    own = dotted_options(read_config(FOLDER / f"{name}.yaml"))
    return {**recipe_options(BASED_ON[name]), **own} if name in BASED_ON else own


def recipe_of(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the recipe that a run's options come nearest to and what differs: `modern, changed: batch_size 32`.

    Compared are the options of the model and of the data other than WHAT_IS_TRAINED, and the number of epochs where
    a recipe sets it. The device, the precision and the trainer's other options make no difference. `defaults` are the
    dotted options without any recipe.
    """
    free = WHAT_IS_TRAINED
    if options.get("model.init_from"):
        # These come with the weights.
        free += ("model.mean", "model.std", "model.init")
    compared = [key for key in defaults if key.startswith(("model.", "data.")) and key not in free]
    compared.append("trainer.max_epochs")
    changed: dict[str, list[str]] = {}
    # The most particular first: modern in speedrun's number of epochs is speedrun.
    for name in reversed(RECIPES):
        recipe = {**defaults, "trainer.max_epochs": options["trainer.max_epochs"], **recipe_options(name)}
        # A data module of another project may lack options of the recipe.
        missing = [key for key in recipe_options(name) if key.startswith("data.") and key not in defaults]
        changed[name] = [key for key in (*compared, *missing) if options.get(key) != recipe[key]]
    nearest = min(changed, key=lambda name: len(changed[name]))
    values = {key.rpartition(".")[2]: options.get(key) for key in changed[nearest]}
    if options["model_class"] != defaults["model_class"]:
        values["model"] = options["model_class"]
    for name in ("optimizer", "lr_scheduler", "data.train_transform", "data.val_transform"):
        if path := options.get(f"{name}.class_path"):
            values[name.removeprefix("data.")] = path.rpartition(".")[2]
    if not values:
        return nearest
    words = [f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]
    return f"{nearest}, changed: {', '.join(words)}"
