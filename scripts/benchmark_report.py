"""What `benchmark.py` makes of its races: the table, the CSV and the picture."""

import argparse
import csv
import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

from contenders import Race

from minivgg_pl import runs
from minivgg_pl.errors import InputError
from minivgg_pl.plots import draw_accuracy_against_time

# As their users find them; the others take bfloat16 where it is native.
ALWAYS_FLOAT32 = ("tutorial", "keras")
CSV_NAME = "benchmark.csv"
# The article's best validation accuracy: `wide`, 20 epochs.
TARGET = 0.8199


def flops_per_image(variant: str) -> float:
    """Return the floating-point operations of one image, forward and backward, in matrix products and convolutions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from minivgg_pl.network import MiniVGG

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

    from minivgg_pl.environment import device_name

    flops = flops_per_image(args.variant)
    ceiling = {name: statistics.median(rate[name] for rate in rates) for name in rates[0]}
    data = "CIFAR-10" if args.dataset == "cifar10" else "drawn pictures, not CIFAR-10"
    print(f"\n{args.variant}, {args.images:,} images of {data}, {args.rounds} rounds, {flops / 1e6:.0f} MFLOP an image")
    print(f"{device_name(torch.device('cuda' if args.gpus else 'cpu'))}, torch {torch.__version__}")
    print("matrix rate: " + ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in ceiling.items()))
    first = args.contenders[0]
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
    with (args.output / CSV_NAME).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["contender", "variant", "round", "epoch", "train_seconds", "seconds", "val_acc", "peak_mb"])
        for name, own in races.items():
            for number, race in enumerate(own, start=1):
                rows = zip(race.train_seconds, race.seconds, race.val_acc, strict=True)
                for epoch, (train, total, accuracy) in enumerate(rows, start=1):
                    cells = (f"{train:.3f}", f"{total:.3f}", f"{accuracy:.4f}", f"{race.peak_mb:.0f}")
                    writer.writerow([name, args.variant, number, epoch, *cells])


def draw(args: argparse.Namespace, races: dict[str, list[Race]]) -> None:
    """Draw accuracy against wall time, a line for each contender's first race."""
    data = "CIFAR-10" if args.dataset == "cifar10" else "drawn pictures, not CIFAR-10"
    curves = {name: (own[0].seconds, own[0].val_acc) for name, own in races.items()}
    draw_curves(curves, args.output, f"mini VGG {args.variant} on {data}")


def compare_runs(paths: list[Path], output: Path | None) -> None:
    """Print a row for each finished run and each earlier race, and draw their accuracy against their time.

    Args:
        paths: Folders of finished runs of `scripts/train.py`, and `benchmark.csv` files.
        output: Folder for the picture; None: no picture.

    Raises:
        InputError: If one is neither.
    """
    results = list(itertools.chain(*([_read_run(p)] if p.is_dir() else _read_races(p) for p in paths)))
    curves = {name: (race.seconds, race.val_acc) for name, _, race, _ in results if race.seconds}
    print(f"{'run':<40} epochs  minutes  min to 81.99 %  last accuracy")
    for name, num_epochs, race, accuracy in results:
        reached = seconds_to_target(race)
        minutes = "-" if reached is None else f"{reached / 60:.1f}"
        print(f"{name:<40} {num_epochs:>6} {sum(race.train_seconds) / 60:>8.1f} {minutes:>15} {accuracy:>14.4f}")
    if output:
        if not curves:
            raise InputError(
                "--runs: none of these runs was validated, so there is nothing to draw; leave --output out"
            )
        output.mkdir(parents=True, exist_ok=True)
        draw_curves(curves, output, "mini VGG on CIFAR-10")


def _read_run(folder: Path) -> tuple[str, int, Race, float]:
    """Return a run's name, epochs, validated epochs (with all epochs' whole seconds) and test accuracy."""
    rows, summary = runs.read_metrics(folder / "metrics.csv"), runs.read_summary(folder)
    if not rows or summary is None:
        raise InputError(f"--runs {folder}: no finished run; give folders with metrics.csv and {runs.SUMMARY}")
    kinds = {"variant": str, "seed": int, "test_acc": int | float}
    for odd in (kind for kind in kinds if not isinstance(summary.get(kind), kinds[kind])):
        raise InputError(f"--runs {folder}: {runs.SUMMARY} is damaged, or of an untested run: it lacks {odd}")
    seconds = list(itertools.accumulate(row["seconds"] for row in rows))
    # Not every epoch need be validated.
    seen = [(s, row["val_acc"]) for s, row in zip(seconds, rows, strict=True) if not math.isnan(row["val_acc"])]
    race = Race([row["seconds"] for row in rows], [s for s, _ in seen], [accuracy for _, accuracy in seen], 0)
    name = f"{summary.get('recipe', 'article')} {summary['variant']}, {len(rows)} epochs, seed {summary['seed']}"
    return name, len(rows), race, summary["test_acc"]


def _read_races(path: Path) -> Iterator[tuple[str, int, Race, float]]:
    """Yield name, epochs, race and last accuracy of each contender's first race in a file that `write_csv` wrote."""
    wrong = f"--runs {path}: neither a run's folder nor a {CSV_NAME} of this script"
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["round"] == "1"]
        for name, group in itertools.groupby(rows, key=lambda row: f"{row['contender']} {row['variant']}"):
            own = list(group)
            seconds, accuracies = ([float(row[column]) for row in own] for column in ("seconds", "val_acc"))
            of_each = [after - before for before, after in itertools.pairwise([0.0, *seconds])]
            yield f"{name}, {len(own)} epochs", len(own), Race(of_each, seconds, accuracies, 0), accuracies[-1]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(wrong) from error
    if not rows:
        raise InputError(wrong)


def draw_curves(curves: dict[str, tuple[list[float], list[float]]], output: Path, title: str) -> None:
    """Draw `benchmark.png`: seconds and accuracies by name."""
    target = ("the article's best", TARGET)
    draw_accuracy_against_time(curves, output / "benchmark.png", title, target=target)
