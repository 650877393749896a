"""What `race.py` makes of its races: the table, the CSV and the image."""

import argparse
import csv
import io
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from contenders import CONTENDERS, Race

from minivgg_pl.cli.recipes import RECIPES
from minivgg_pl.errors import InputError
from minivgg_pl.files import make_folder, write_atomically
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.plots.curves import draw_accuracy_against_time
from minivgg_pl.runs import folder as runs

# As their users find them; the others take bfloat16 where it is native.
ALWAYS_FLOAT32 = ("tutorial", "keras")
CSV_NAME = "benchmark.csv"
# The article's best validation accuracy: `wide`, 20 epochs.
TARGET = 0.8199
COLUMNS = ("contender", "variant", "dataset", "round", "epoch", "train_seconds", "seconds", "val_acc", "peak_mb")
DATA = {"cifar10": "CIFAR-10", "synthetic": "drawn images, not CIFAR-10"}


class Entry(NamedTuple):
    """A finished run, or a contender's first race.

    Attributes:
        name: What it is called in the table and in the legend.
        path: Where it was read.
        dataset: Name of the data set it was trained on.
        num_epochs: Number of epochs trained, not all of them validated.
        race: The validated epochs, with all epochs' seconds of training.
        accuracy: The last one.
    """

    name: str
    path: Path
    dataset: str
    num_epochs: int
    race: Race
    accuracy: float


def flops_per_image(variant: str) -> float:
    """Return the floating-point operations of one image, forward and backward, in matrix products and convolutions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from minivgg_pl.models.minivgg import MiniVGG

    with FlopCounterMode(display=False) as counter:
        MiniVGG(variant)(torch.zeros(2, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / 2


def images_per_second(args: argparse.Namespace, race: Race) -> float:
    """Return training images a second, without validation, over all of the race's epochs."""
    return args.images * len(race.train_seconds) / sum(race.train_seconds)


def seconds_to_target(race: Race) -> float | None:
    """Return the seconds until the first epoch's end with at least TARGET accuracy, or None."""
    reached = [s for s, accuracy in zip(race.seconds, race.val_acc, strict=True) if accuracy >= TARGET]
    return reached[0] if reached else None


def print_table(args: argparse.Namespace, races: dict[str, list[Race]], rates: list[dict[str, float]]) -> None:
    """Print medians by contender, ratios to the first one within a round, and shares of their precision's ceiling."""
    import torch

    from minivgg_pl.runs.environment import device_name

    flops = flops_per_image(args.variant)
    ceiling = {name: statistics.median(rate[name] for rate in rates) for name in rates[0]}
    data = DATA[args.dataset]
    print(f"\n{args.variant}, {args.images:,} images of {data}, {args.rounds} rounds, {flops / 1e6:.0f} MFLOP an image")
    print(f"{device_name(torch.device('cuda' if args.gpus else 'cpu'))}, torch {torch.__version__}")
    print("matrix rate: " + ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in ceiling.items()))
    first = next(iter(races))
    columns = f"images/s  (lowest-highest)  of {first:<8} training s  s to 81.99 %  accuracy  peak MB  of the ceiling"
    print(f"\n{'':<9} {columns}")
    for name, own in races.items():
        speeds = [images_per_second(args, race) for race in own]
        speed = statistics.median(speeds)
        # Within a round: what slows the machine slows both.
        ratio = statistics.median(
            images_per_second(args, race) / images_per_second(args, other)
            for race, other in zip(own, races[first], strict=True)
        )
        training = statistics.median(sum(race.train_seconds) for race in own)
        times = [seconds_to_target(race) for race in own]
        reached = "-" if None in times or args.dataset != "cifar10" else f"{statistics.median(times):.1f}"
        precision = "float32" if name in ALWAYS_FLOAT32 else list(ceiling)[-1]
        peak = statistics.median(race.peak_mb for race in own)
        accuracy = statistics.mean(race.val_acc[-1] for race in own)
        spread = f"({min(speeds):,.0f}-{max(speeds):,.0f})"
        print(
            f"{name:<9} {speed:>8,.0f}  {spread:>16}  {ratio:>11.2f} {training:>11.1f} {reached:>13}"
            f"  {accuracy:>8.4f}  {peak:>7,.0f}  {speed * flops / ceiling[precision]:>14.0%}"
        )


def write_csv(args: argparse.Namespace, races: dict[str, list[Race]]) -> None:
    """Write one row for each epoch of each race."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for name, own in races.items():
        for number, race in enumerate(own, start=1):
            rows = zip(race.train_seconds, race.seconds, race.val_acc, strict=True)
            for epoch, (train, total, accuracy) in enumerate(rows, start=1):
                cells = (f"{train:.3f}", f"{total:.3f}", f"{accuracy:.4f}", f"{race.peak_mb:.0f}")
                writer.writerow([name, args.variant, args.dataset, number, epoch, *cells])
    write_atomically(args.output / CSV_NAME, text.getvalue())


def draw(args: argparse.Namespace, races: dict[str, list[Race]]) -> None:
    """Draw accuracy against wall time, a line for each contender's first race."""
    curves = {name: (own[0].seconds, own[0].val_acc) for name, own in races.items()}
    draw_curves(curves, args.output, args.dataset, f"mini VGG {args.variant}")


def compare_runs(paths: Iterable[Path], output: Path | None) -> None:
    """Print a row for each finished run and each earlier race, and draw their accuracy against their time.

    Args:
        paths: Folders of finished runs of `scripts/train.py`, and `benchmark.csv` files.
        output: Folder for the image; None: no image.

    Raises:
        InputError: If one is neither, or if a image cannot show all of them.
    """
    entries = [entry for p in dict.fromkeys(paths) for entry in ([_read_run(p)] if p.is_dir() else _read_races(p))]
    entries = _with_own_names(entries)
    if output:
        _check_drawable(entries)
        make_folder(output)
    width = max(40, *(len(entry.name) for entry in entries))
    print(f"{'run':<{width}} epochs  minutes  min to 81.99 %  last accuracy")
    for name, _, dataset, num_epochs, race, accuracy in entries:
        reached = seconds_to_target(race) if dataset == "cifar10" else None
        minutes = "-" if reached is None else f"{reached / 60:.1f}"
        print(f"{name:<{width}} {num_epochs:>6} {sum(race.train_seconds) / 60:>8.1f} {minutes:>15} {accuracy:>14.4f}")
    if output:
        curves = {entry.name: (entry.race.seconds, entry.race.val_acc) for entry in entries if entry.race.seconds}
        draw_curves(curves, output, entries[0].dataset, "mini VGG")


def _with_own_names(entries: list[Entry]) -> list[Entry]:
    # The same number of epochs from the same seed, on two machines for instance.
    times = Counter(entry.name for entry in entries)
    return [e._replace(name=f"{e.name}, {_printable(e.path)}") if times[e.name] > 1 else e for e in entries]


def _printable(path: Path) -> str:
    # A file's name may hold what commands a terminal.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def _check_drawable(entries: list[Entry]) -> None:
    if not any(entry.race.seconds for entry in entries):
        raise InputError("--runs: none of these runs was validated, so there is nothing to draw; leave --output out")
    if len(datasets := sorted({entry.dataset for entry in entries})) > 1:
        raise InputError(
            f"--runs: one image cannot show runs on {' and on '.join(datasets)}; give runs on one of them, or leave "
            "--output out"
        )


def _read_run(folder: Path) -> Entry:
    rows, summary = runs.read_metrics(folder / runs.METRICS), runs.read_summary(folder)
    if not rows or summary is None:
        raise InputError(f"--runs {folder}: no finished run; give folders with {runs.METRICS} and {runs.SUMMARY}")
    kinds = {"variant": str, "dataset": str, "seed": int, "test_acc": int | float}
    for odd in (kind for kind in kinds if not isinstance(summary.get(kind), kinds[kind])):
        raise InputError(f"--runs {folder}: {runs.SUMMARY} is damaged, or of an untested run: it lacks {odd}")
    # On a terminal and in a legend: nothing but names that are known.
    recipe = summary.get("recipe", "article") if summary.get("recipe", "article") in RECIPES else "own options"
    seconds = list(itertools.accumulate(row["seconds"] for row in rows))
    # Not every epoch need be validated.
    seen = [(s, row["val_acc"]) for s, row in zip(seconds, rows, strict=True) if not math.isnan(row["val_acc"])]
    accuracies = [accuracy for _, accuracy in seen]
    known = summary["variant"] in ARCHITECTURES
    if not known or not _are_measured(seconds, [*accuracies, summary["test_acc"]]):
        raise InputError(f"--runs {folder}: {runs.SUMMARY} or {runs.METRICS} is damaged: repair it, or leave it out")
    race = Race([row["seconds"] for row in rows], [s for s, _ in seen], accuracies, 0)
    name = f"{recipe} {summary['variant']}, {len(rows)} epochs, seed {summary['seed']}"
    return Entry(name, folder, summary["dataset"], len(rows), race, summary["test_acc"])


def _read_races(path: Path) -> list[Entry]:
    """Return each contender's first race in a file that `write_csv` wrote."""
    wrong = f"--runs {path}: neither a run's folder nor a {CSV_NAME} of this script"
    # To open a pipe would wait for its other end.
    if not path.is_file():
        raise InputError(wrong)
    races: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["round"] == "1":
                    races.setdefault((row["contender"], row["variant"], row["dataset"]), []).append(row)
        entries = [_entry_of(path, *names, rows) for names, rows in races.items()]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(wrong) from error
    if not entries:
        raise InputError(wrong)
    return entries


def _entry_of(path: Path, contender: str, variant: str, dataset: str, rows: list[dict[str, str]]) -> Entry:
    seconds, accuracies = ([float(row[column]) for row in rows] for column in ("seconds", "val_acc"))
    known = contender in CONTENDERS and variant in ARCHITECTURES and dataset in DATA
    if not known or not _are_measured(seconds, accuracies):
        raise ValueError("not what write_csv writes")
    of_each = [after - before for before, after in itertools.pairwise([0.0, *seconds])]
    race = Race(of_each, seconds, accuracies, 0)
    return Entry(f"{contender} {variant}, {len(rows)} epochs", path, dataset, len(rows), race, accuracies[-1])


def _are_measured(seconds: list[float], accuracies: list[float]) -> bool:
    """Return whether the times since the start rise from above 0, and the accuracies are shares."""
    rises = all(before < after < math.inf for before, after in itertools.pairwise([0.0, *seconds]))
    return rises and all(0 <= accuracy <= 1 for accuracy in accuracies)


def draw_curves(curves: dict[str, tuple[list[float], list[float]]], output: Path, dataset: str, subject: str) -> None:
    """Draw `benchmark.png`: seconds and accuracies by name, and on CIFAR-10 the article's best."""
    target = ("the article's best", TARGET) if dataset == "cifar10" else None
    title = f"{subject} on {DATA.get(dataset, 'other images')}"
    draw_accuracy_against_time(curves, output / "benchmark.png", title, target=target)
