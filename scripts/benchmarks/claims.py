"""The measured results that the README claims: results.csv, one row a finished run, and its tables and statistics.

Accuracies are shares in [0, 1].
"""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minivgg_pl.cli.config import dotted_options, read_config
from minivgg_pl.cli.recipes import RECIPES, recipe_options
from minivgg_pl.errors import InputError
from minivgg_pl.files import write_atomically
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.plots.article import article_rows
from minivgg_pl.runs import folder as runs

CLAIMS = Path(__file__).with_name("results.csv")
# A run is compared with a claim only if it has these in common with it.
COMPARED = ("dataset", "train_images", "test_images")
COLUMNS = (
    *("variant", "dense_units", "recipe", "epochs", "seed", "dataset", "train_images", "test_images"),
    *("train_loss", "train_acc", "test_loss", "test_acc"),
    *("minutes", "device", "torch", "lightning", "precision", "git_revision", "weights_sha256"),
)
NUMBERS = dict.fromkeys(("dense_units", "epochs", "seed", "train_images", "test_images"), int)
NUMBERS |= dict.fromkeys(("train_acc", "test_acc"), float)
# Of Student's t at 0.95, one-sided, for 1, 2, ... degrees of freedom: NIST/SEMATECH e-Handbook of Statistical Methods,
# 1.3.6.7.2. The last one stands for more, the normal one for a standard deviation that is known.
T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
NORMAL_95 = 1.645
# Standard deviation where none is known: half a point, about that of `classic` under the article's recipe.
FLOOR = 0.005

Result = dict[str, Any]
Claims = dict[str, list[Result]]


def name_of(result: Result) -> str:
    """Return a result's name: `classic-article`, `wide-300-article` of unusual width, `wide-modern-60` of length."""
    usual = ARCHITECTURES[result["variant"]]
    width = "" if result["dense_units"] == usual.dense_units else f"-{result['dense_units']}"
    epochs = recipe_options(result["recipe"]).get("trainer.max_epochs", usual.epochs)
    length = "" if result["epochs"] == epochs else f"-{result['epochs']}"
    return f"{result['variant']}{width}-{result['recipe']}{length}"


def by_name(results: Sequence[Result]) -> Claims:
    """Return the rows of each name, in their order."""
    return {name: [row for row in results if name_of(row) == name] for name in dict.fromkeys(map(name_of, results))}


def read_results(path: Path = CLAIMS) -> list[Result]:
    """Read a results file. The columns of NUMBERS are numbers, the others text.

    Raises:
        InputError: If there is none at `path`, or it is not what `write_results` writes.
    """
    try:
        with path.open(newline="") as file:
            return [{column: _typed(column, row[column]) for column in COLUMNS} for row in csv.DictReader(file)]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a results file") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a results file; its columns are {','.join(COLUMNS)}") from error


def _typed(column: str, value: Any) -> Any:
    return NUMBERS.get(column, str)("" if value is None else value)


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write a results file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    write_atomically(path, text.getvalue())


def add_result(path: Path, result: Result) -> bool:
    """Add a row to the results file at `path`, which is made if need be; return whether it is new there.

    Raises:
        InputError: If the file has another row for the same seed.
    """
    results = read_results(path) if path.exists() else []
    if result in results:
        return False
    if (name_of(result), result["seed"]) in ((name_of(other), other["seed"]) for other in results):
        raise InputError(f"{path}: it has another row for {name_of(result)}, seed {result['seed']}: remove it first")
    write_results(path, [*results, result])
    return True


def result_of_run(folder: Path) -> Result:
    """Return the row of a finished run.

    Raises:
        InputError: If the run is not finished, or has no recipe that it can be named after.
    """
    summary = runs.read_summary(folder)
    if summary.get("test_acc") is None:
        raise InputError(f"{folder}: no finished run; give folders with a {runs.SUMMARY} of a tested network")
    if summary.get("recipe") not in RECIPES or summary.get("init_from"):
        raise InputError(f"{folder}: its options are no recipe's, or it started from trained weights; give another run")
    # No part of the recipe, but another network.
    width = dotted_options(read_config(runs.newest_config(folder) or folder / "config.yaml")).get("model.dense_units")
    try:
        git = summary["environment"]["git"]
        row = {
            **{column: summary.get(column) for column in COLUMNS},
            "dense_units": width or ARCHITECTURES[summary["variant"]].dense_units,
            **{name: f"{summary[name]:.6g}" for name in ("train_loss", "test_loss")},
            # Float32 has seven digits, and 50,000 images need five.
            **{name: round(summary[name], 6) for name in ("train_acc", "test_acc")},
            "minutes": f"{summary['minutes']:.1f}",
            **{name: summary["versions"][name] for name in ("torch", "lightning")},
            "git_revision": git["revision"] + ("" if git["clean"] else "-dirty") if git else None,
        }
        return {column: _typed(column, value) for column, value in row.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / runs.SUMMARY} is damaged, or not train.py's: give another run") from error


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return shares as per cent: the mean, and with two or more the sample standard deviation."""
    mean = f"{statistics.mean(values) * 100:.2f}"
    return f"{mean} ± {statistics.stdev(values) * 100:.2f} %" if len(values) > 1 else f"{mean} %"


def result_tables(results: Sequence[Result]) -> tuple[str, str]:
    """Return the README's two tables: the article's recipe beside the article, and the other recipes."""
    ours = [
        "| network | epochs | seeds | train accuracy | article | test accuracy | article |",
        "|---|---|---|---|---|---|---|",
    ]
    others = ["| network | recipe | epochs | seeds | train accuracy | test accuracy |", "|---|---|---|---|---|---|"]
    for rows in by_name(results).values():
        variant, width, recipe, epochs = (rows[0][column] for column in ("variant", "dense_units", "recipe", "epochs"))
        network = f"`{variant}`" if width == ARCHITECTURES[variant].dense_units else f"`{variant}`, {width} units"
        train, test = ([row[column] for row in rows] for column in ("train_acc", "test_acc"))
        if recipe == "article":
            article = article_rows(variant)[-1]
            theirs = [f"{article[column] * 100:.2f} %" for column in ("train_acc", "val_acc")]
            cells = [network, epochs, len(rows), mean_and_deviation(train), theirs[0]]
            cells += [mean_and_deviation(test), theirs[1]]
        else:
            each = f" ({', '.join(f'{accuracy * 100:.2f}' for accuracy in test)})" if len(test) > 1 else ""
            cells = [network, f"`{recipe}`", epochs, len(rows), mean_and_deviation(train)]
            cells.append(mean_and_deviation(test) + each)
        (ours if recipe == "article" else others).append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(ours), "\n".join(others)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within groups and its degrees of freedom, 0 if no group has two values."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups)
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def tolerance(num_measured: int, claimed: Sequence[float], others: Sequence[Sequence[float]]) -> float:
    """Return by how much the mean of new seeds may lie below the mean of the claimed ones.

    One-sided prediction interval: t(0.95) s sqrt(1/n + 1/m) for n new and m claimed seeds. s is the claim's own
    standard deviation; with one claimed seed that of `others`, pooled; without those FLOOR, taken as known.
    """
    deviation, freedom = pooled_deviation([claimed])
    if not freedom:
        deviation, freedom = pooled_deviation(others)
    factor = T_95[min(freedom, len(T_95)) - 1]
    if not freedom:
        deviation, factor = FLOOR, NORMAL_95
    return factor * deviation * math.sqrt(1 / num_measured + 1 / len(claimed))
