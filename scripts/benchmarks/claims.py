"""The measured results that the README claims, one row a finished run: results.csv, and the tables made from it."""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minivgg_pl.cli.recipes import RECIPES, recipe_options
from minivgg_pl.errors import InputError
from minivgg_pl.files import write_atomically
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.plots.article import article_rows
from minivgg_pl.runs import folder as runs

CLAIMS = Path(__file__).with_name("results.csv")
# What a run must have in common with a claim to be compared with it.
COMPARED = ("dataset", "train_images", "test_images")
COLUMNS = (
    *("variant", "recipe", "epochs", "seed", "dataset", "train_images", "test_images"),
    *("train_loss", "train_acc", "test_loss", "test_acc"),
    *("minutes", "device", "torch", "lightning", "precision", "git_revision", "weights_sha256"),
)
NUMBERS = {"epochs": int, "seed": int, "train_images": int, "test_images": int, "train_acc": float, "test_acc": float}

Result = dict[str, Any]


def name_of(result: Result) -> str:
    """Return what a result is called on the command line: `classic-article`, or `wide-modern-60` in unusual epochs."""
    name = f"{result['variant']}-{result['recipe']}"
    usual = recipe_options(result["recipe"]).get("trainer.max_epochs", ARCHITECTURES[result["variant"]].epochs)
    return name if result["epochs"] == usual else f"{name}-{result['epochs']}"


def read_results(path: Path = CLAIMS) -> list[Result]:
    """Read a results file; only the columns of NUMBERS are numbers.

    Raises:
        InputError: If there is none at `path`, or it is not what `write_results` writes.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if any(row["variant"] not in ARCHITECTURES or row["recipe"] not in RECIPES for row in rows):
            raise ValueError("of other networks or recipes")
        return [{column: NUMBERS.get(column, str)(row[column]) for column in COLUMNS} for row in rows]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a results file") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a results file; its columns are {','.join(COLUMNS)}") from error


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write a results file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    write_atomically(path, text.getvalue())


def add_result(path: Path, result: Result) -> bool:
    """Append a row to the results file at `path`, which is made if need be; return whether it was not there yet.

    Raises:
        InputError: If the file has another row for the same seed.
    """
    results = read_results(path) if path.exists() else []
    for other in results:
        if (name_of(other), other["seed"]) == (name_of(result), result["seed"]):
            if other == result:
                return False
            raise InputError(
                f"{path}: it has another row for {name_of(result)}, seed {result['seed']}: remove it first"
            )
    write_results(path, sorted([*results, result], key=_order))
    return True


def _order(result: Result) -> tuple[Any, ...]:
    # The article's results first, its networks in their order.
    return result["recipe"], list(ARCHITECTURES).index(result["variant"]), result["epochs"], result["seed"]


def result_of_run(folder: Path) -> Result:
    """Return the row of a finished run; what older versions did not record stays empty.

    Raises:
        InputError: If the run is not finished, or has no recipe that it can be named after.
    """
    summary = runs.read_summary(folder)
    if summary is None or summary.get("test_acc") is None or type(summary.get("seed")) is not int:
        raise InputError(
            f"{folder}: no finished run with a seed; give folders with a {runs.SUMMARY} of a tested network"
        )
    if not summary.get("recipe") or summary.get("init_from"):
        raise InputError(f"{folder}: its options are no recipe's, or it started from trained weights; give another run")
    try:
        if summary["variant"] not in ARCHITECTURES or summary["recipe"] not in RECIPES:
            raise ValueError("of another network or recipe")
        return _row(summary | {"weights_sha256": summary.get("weights_sha256") or _checkpoints_hash(folder, summary)})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / runs.SUMMARY} is damaged, or not train.py's: give another run") from error


def _checkpoints_hash(folder: Path, summary: Result) -> str | None:
    """Return what a run from before summaries had the hash would have written."""
    # Late: torch takes seconds to import.
    from minivgg_pl.runs.environment import weights_sha256
    from minivgg_pl.weights.load import load_trained

    trained = load_trained(folder)
    return weights_sha256(trained.net) if trained.metadata.get("epochs") == summary["epochs"] else None


def _row(summary: Result) -> Result:
    git = summary.get("environment", {}).get("git")
    result = {column: summary.get(column) for column in COLUMNS} | {
        **{name: f"{summary[name]:.6g}" for name in ("train_loss", "test_loss")},
        # Float32 has seven digits, and 50,000 images need five.
        **{name: round(summary[name], 6) for name in ("train_acc", "test_acc")},
        "minutes": f"{summary['minutes']:.1f}",
        **{name: summary["versions"][name] for name in ("torch", "lightning")},
        "git_revision": git["revision"] + ("" if git["clean"] else "-dirty") if git else None,
    }
    # As it is read back.
    return {name: NUMBERS.get(name, str)("" if value is None else value) for name, value in result.items()}


def claims_by_name(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the rows of each name, in the file's order."""
    names = dict.fromkeys(map(name_of, results))
    return {name: [row for row in results if name_of(row) == name] for name in names}


def mean_and_spread(values: Sequence[float]) -> str:
    """Return shares as per cent: the mean, and with two or more the sample standard deviation."""
    mean = f"{statistics.mean(values) * 100:.2f}"
    return f"{mean} ± {statistics.stdev(values) * 100:.2f} %" if len(values) > 1 else f"{mean} %"


def result_tables(results: Sequence[Result]) -> tuple[str, str]:
    """Return the README's two tables: the article's recipe beside the article, and the other recipes."""
    claims = claims_by_name(results)
    ours = [
        "| network | epochs | seeds | train accuracy | article | test accuracy | article |",
        "|---|---|---|---|---|---|---|",
    ]
    others = ["| network | recipe | epochs | seeds | train accuracy | test accuracy |", "|---|---|---|---|---|---|"]
    for rows in claims.values():
        variant, recipe, epochs = (rows[0][column] for column in ("variant", "recipe", "epochs"))
        train, test = ([row[column] for row in rows] for column in ("train_acc", "test_acc"))
        if recipe == "article":
            theirs = article_rows(variant)[-1]
            cells = [f"`{variant}`", epochs, len(rows), mean_and_spread(train), f"{theirs['train_acc']:.2%}"]
            cells += [mean_and_spread(test), f"{theirs['val_acc']:.2%}"]
        else:
            each = f" ({', '.join(f'{accuracy * 100:.2f}' for accuracy in test)})" if len(test) > 1 else ""
            cells = [f"`{variant}`", f"`{recipe}`", epochs, len(rows), mean_and_spread(train)]
            cells.append(mean_and_spread(test) + each)
        line = f"| {' | '.join(map(str, cells))} |".replace("%", " %").replace("  %", " %")
        (ours if recipe == "article" else others).append(line)
    return "\n".join(ours), "\n".join(others)
