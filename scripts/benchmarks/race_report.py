"""The table, benchmark.csv and the chart of `race.py`, and its comparison of earlier runs."""

import argparse
import csv
import io
import itertools
import math
import statistics
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from common import Race
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from minivgg_pl.errors import InputError
from minivgg_pl.files import make_folder, write_atomically
from minivgg_pl.plots.figure import new_axes, save_figure, show_percent
from minivgg_pl.runs import folder as runs

CSV_NAME = "benchmark.csv"
# The article's best validation accuracy: `wide`, 20 epochs.
TARGET = 0.8199
# The dark colours of Okabe and Ito's palette (jfly.uni-koeln.de/color): told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WHO = ("contender", "variant", "dataset", "device")
COLUMNS = (*WHO, "round", "epoch", "train_seconds", "seconds", "val_acc")
DATA = {"cifar10": "CIFAR-10", "synthetic": "synthetic images, not CIFAR-10"}


class Run(NamedTuple):
    """A training to compare with others.

    Attributes:
        name: Its name in the table and the legend.
        dataset: Name of the data set.
        device: Processor with its number of threads, or GPU.
        seconds: Time from the start to the end of each validated epoch.
        val_acc: Accuracy after each, in [0, 1].
    """

    name: str
    dataset: str
    device: str
    seconds: list[float]
    val_acc: list[float]


def seconds_to_target(run: Race | Run) -> float | None:
    """Return the time to the end of the first epoch with an accuracy of TARGET or more, or None."""
    return next((s for s, accuracy in zip(run.seconds, run.val_acc, strict=True) if accuracy >= TARGET), None)


def this_device(args: argparse.Namespace) -> str:
    """Return the name of the device that the contenders run on."""
    import torch

    from minivgg_pl.runs.environment import device_name

    return device_name(torch.device("cuda" if args.gpus else "cpu"))


def print_table(args: argparse.Namespace, races: dict[str, list[Race]]) -> None:
    """Print the medians of each contender's rounds, and the median of its ratio to the first one within a round."""
    network = "one linear layer" if args.tiny else args.variant
    print(f"\n{network}, {args.images:,} images of {DATA[args.dataset]}, {args.rounds} rounds")
    print(f"{this_device(args)}, torch {version('torch')}")
    # An epoch of each race, without validation.
    epochs = {name: [statistics.mean(race.train_seconds) for race in own] for name, own in races.items()}
    first = next(iter(epochs))
    columns = f"images/s  (lowest-highest)  of {first:<8} s an epoch  s to 81.99 %  accuracy"
    print(f"\n{'':<9} {columns}")
    for name, own in races.items():
        speeds = [args.images / seconds for seconds in epochs[name]]
        # Within a round: what slows the machine slows both.
        ratio = statistics.median(theirs / mine for mine, theirs in zip(epochs[name], epochs[first], strict=True))
        times = [seconds_to_target(race) for race in own]
        reached = "-" if None in times or args.dataset != "cifar10" else f"{statistics.median(times):.1f}"
        accuracy = statistics.mean(race.val_acc[-1] for race in own)
        print(
            f"{name:<9} {statistics.median(speeds):>8,.0f}  {f'({min(speeds):,.0f}-{max(speeds):,.0f})':>16}  "
            f"{ratio:>11.2f} {statistics.median(epochs[name]):>10.2f} {reached:>13}  {accuracy:>8.4f}"
        )


def write_csv(args: argparse.Namespace, races: dict[str, list[Race]]) -> None:
    """Write one row for each epoch of each race."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, own in races.items():
        for number, race in enumerate(own, start=1):
            rows = zip(race.train_seconds, race.seconds, race.val_acc, strict=True)
            for epoch, (train, total, accuracy) in enumerate(rows, start=1):
                who = (name, args.variant, args.dataset, this_device(args), number, epoch)
                writer.writerow([*who, f"{train:.3f}", f"{total:.3f}", f"{accuracy:.4f}"])
    write_atomically(args.output / CSV_NAME, text.getvalue())


def compare_runs(paths: Iterable[Path], output: Path | None) -> None:
    """Print a row for each finished run and each earlier race, and draw their accuracy against their time.

    Args:
        paths: Run folders of `scripts/train.py`, and `benchmark.csv` files.
        output: Folder for the chart; None: no chart.

    Raises:
        InputError: If a path is neither, or one chart would show several data sets.
    """
    compared = [run for path in paths for run in ([read_run(path)] if path.is_dir() else read_races(path))]
    width = max(40, *(len(run.name) for run in compared))
    print(f"{'run':<{width}}  minutes  min to 81.99 %  last accuracy  device")
    for run in compared:
        reached = seconds_to_target(run) if run.dataset == "cifar10" else None
        minutes = "-" if reached is None else f"{reached / 60:.1f}"
        print(f"{run.name:<{width}} {run.seconds[-1] / 60:>8.1f} {minutes:>15} {run.val_acc[-1]:>14.4f}  {run.device}")
    if output:
        make_folder(output)
        draw_runs(compared, output)


def read_run(folder: Path) -> Run:
    """Return a finished run of `scripts/train.py`.

    Raises:
        InputError: If it is none, or was never validated.
    """
    rows, summary = runs.read_metrics(folder / runs.METRICS), runs.read_summary(folder)
    seconds = itertools.accumulate(row["seconds"] for row in rows)
    validated = [(s, row["val_acc"]) for s, row in zip(seconds, rows, strict=True) if not math.isnan(row["val_acc"])]
    try:
        name = f"{summary['recipe'] or 'own options'} {summary['variant']}, {len(rows)} epochs, seed {summary['seed']}"
        return Run(name, summary["dataset"], summary["device"], *map(list, zip(*validated, strict=True)))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"--runs {folder}: no finished run; give folders with {runs.METRICS} and {runs.SUMMARY}"
        ) from error


def read_races(path: Path) -> list[Run]:
    """Return each contender's first race in a file of `write_csv`.

    Raises:
        InputError: If `path` is not a benchmark.csv.
    """
    races: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["round"] == "1":
                    epoch = float(row["seconds"]), float(row["val_acc"])
                    races.setdefault(tuple(row[column] for column in WHO), []).append(epoch)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"--runs {path}: neither a run folder nor a {CSV_NAME} of this script") from error
    return [
        Run(f"{contender} {variant}, {len(own)} epochs", dataset, device, *map(list, zip(*own, strict=True)))
        for (contender, variant, dataset, device), own in races.items()
    ]


def draw_runs(compared: list[Run], output: Path) -> Figure:
    """Draw accuracy against wall time into `benchmark.png`, one line a training, and return the figure.

    Raises:
        InputError: If the runs are on several data sets.
    """
    datasets, devices = ({getattr(run, name) for run in compared} for name in ("dataset", "device"))
    if len(datasets) > 1:
        raise InputError(f"--runs: one chart cannot show {' and '.join(sorted(datasets))}; give runs on one data set")
    dataset = compared[0].dataset
    one_device = f", {compared[0].device}" if len(devices) == 1 else ""
    figure, axes = new_axes(7.5, 4.8, f"mini VGG on {DATA.get(dataset, dataset)}{one_device}")
    unit, one = ("seconds", 1) if max(run.seconds[-1] for run in compared) < 100 else ("minutes", 60)
    for run, colour in zip(compared, itertools.cycle(COLOURS), strict=False):
        name = run.name if one_device else f"{run.name}, {run.device}"
        label = f"{name}: {run.val_acc[-1]:.1%} after {run.seconds[-1] / one:.1f} {unit[:3]}"
        times = [seconds / one for seconds in run.seconds]
        axes.plot(times, run.val_acc, "o-", color=colour, markersize=4, linewidth=1.8, label=label)
    if dataset == "cifar10":
        axes.axhline(TARGET, color="0.5", linewidth=1.2, linestyle="--", label=f"the article's best: {TARGET:.2%}")
    axes.set(xscale="log", xlabel=f"{unit} (logarithmic), validation included", ylabel="accuracy on the test set")
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter="{x:g}")
    show_percent(axes.yaxis)
    axes.grid(color="0.9", linewidth=0.8)
    figure.legend(loc="outside lower center", frameon=False)
    return save_figure(figure, output / "benchmark.png")
