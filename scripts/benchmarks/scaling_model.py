"""When more devices stop paying: a step's time as a formula, and `scaling.py`'s tables and image of it.

A step with b images on each of N devices takes

    t(N) = o + b/r + 2 (N-1)/N S/W + 2 (N-1) L

seconds: an overhead o, the images at r a second, and an all-reduce of S bytes of gradients round a ring, 2 (N-1)
messages of S/N bytes one after the other, each at W bytes a second after a latency L (Patarasuk and Yuan, Bandwidth
optimal all-reduce algorithms for clusters of workstations, J. Parallel Distrib. Comput. 69(2), 2009). DDP sends some
gradients while it computes others, which the model leaves out: it errs on the slow side.

A batch of B images split over the devices, b = B/N, is fastest where dt/dN = (2S/W - B/r)/N^2 + 2L is 0:
N* = sqrt((B/r - 2S/W) / (2L)), and on one device if B/r is less than 2S/W.
"""

import bisect
import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from minivgg_pl.models.architectures import ARCHITECTURES

TABLE = [2**power for power in range(7)]
# Batch norm cannot train on one image: a split batch ends here.
LEAST_ON_EACH = 2
# Beyond any machine: a bound for the search.
MOST_DEVICES = 2**40
COLUMNS = ["source", "variant", "batch", "devices", "images_per_second", "speed_up", "efficiency"]


class Terms(NamedTuple):
    """What a step's time is made of.

    Attributes:
        images_per_second: r, of one device.
        overhead: o, seconds a step that do not depend on the batch.
        bandwidth: W, bytes a second from a device to its neighbour.
        latency: L, seconds a message takes however small it is.
        num_bytes: S, bytes all-reduced a step.
    """

    images_per_second: float
    overhead: float
    bandwidth: float
    latency: float
    num_bytes: int


class Measured(NamedTuple):
    """What runs on a number of devices came to.

    Attributes:
        num_devices: Number of processes.
        split: Whether a batch was split over them, or each had a whole one.
        speeds: Images a second of all processes together, one entry a round.
        speed_up: Median over the rounds of the ratio to one process in the same round.
    """

    num_devices: int
    split: bool
    speeds: list[float]
    speed_up: float


def gradient_bytes(variant: str) -> int:
    """Return the bytes of a network's gradients, float32 and one for each trainable parameter."""
    return 4 * ARCHITECTURES[variant].num_trainable


def step_seconds(terms: Terms, num_devices: int, images: float) -> float:
    """Return t(N) with `images` on each device."""
    message = terms.num_bytes / num_devices / terms.bandwidth + terms.latency
    return terms.overhead + images / terms.images_per_second + 2 * (num_devices - 1) * message


def speed_up(terms: Terms, num_devices: int, batch_size: int, split: bool) -> float:
    """Return images a second on `num_devices`, over those on one."""
    alone = step_seconds(terms, 1, batch_size)
    if split:
        return alone / step_seconds(terms, num_devices, batch_size / num_devices)
    return num_devices * alone / step_seconds(terms, num_devices, batch_size)


def optimum(terms: Terms, batch_size: int) -> float:
    """Return N*, or 1 where more devices than one are never faster."""
    gain = batch_size / terms.images_per_second - 2 * terms.num_bytes / terms.bandwidth
    return max(1.0, math.sqrt(max(gain, 0.0) / (2 * terms.latency)))


def fastest(terms: Terms, batch_size: int) -> int:
    """Return the number of devices on which a split batch is fastest, each with enough images to train."""
    # Up to N* the time falls, and beyond it rises: the best whole number is one of the two around it.
    most = max_devices(batch_size, split=True)
    below = math.floor(min(optimum(terms, batch_size), most))
    return max(below, min(below + 1, most), key=lambda number: speed_up(terms, number, batch_size, split=True))


def most_efficient(terms: Terms, batch_size: int, split: bool) -> int:
    """Return the largest number of devices whose efficiency, speed-up over number, is still at least 1/2."""
    # More devices are never more efficient.
    numbers = range(1, max_devices(batch_size, split) + 1)
    return bisect.bisect_right(numbers, 2, key=lambda number: number / speed_up(terms, number, batch_size, split))


def max_devices(batch_size: int, split: bool) -> int:
    """Return how many devices there may be."""
    return batch_size // LEAST_ON_EACH if split else MOST_DEVICES


def batch_name(batch_size: int, split: bool) -> str:
    """Return what tables and images call a way to deal out the batches."""
    return f"{batch_size} split" if split else f"{batch_size} on each"


def print_measured(measured: Sequence[Measured], batch_size: int) -> None:
    """Print a row for each number of processes and each way to deal out the batches."""
    print("processes  batch        images/s  (lowest-highest)  speed-up  efficiency")
    for row in measured:
        low, high = min(row.speeds), max(row.speeds)
        batch = batch_name(batch_size, row.split) if row.num_devices > 1 else batch_size
        print(
            f"{row.num_devices:>9}  {batch:<10} {statistics.median(row.speeds):>10,.0f}"
            f"  {f'({low:,.0f}-{high:,.0f})':>16}  {row.speed_up:>8.2f}  {row.speed_up / row.num_devices:>9.0%}"
        )


def print_predicted(terms: Mapping[str, Terms], batch_size: int) -> None:
    """Print each network's terms, its speed-up by number of devices, and where more stop paying."""
    for variant, own in terms.items():
        print(
            f"{variant}: {own.num_bytes / 1e6:.2f} MB all-reduced a step; r {own.images_per_second:,.0f} images/s, "
            f"o {own.overhead * 1e3:.2f} ms, W {own.bandwidth / 1e9:.2f} GB/s, L {own.latency * 1e6:,.0f} us"
        )
    print("\nPredicted speed-up, t(N) = o + b/r + 2 (N-1)/N S/W + 2 (N-1) L, not measured:")
    print("devices" + " " * 13 + "".join(f"{number:>7}" for number in TABLE) + "  fastest on  efficiency >= 1/2")
    for variant, own in terms.items():
        for split in (True, False):
            numbers = [number for number in TABLE if number <= max_devices(batch_size, split)]
            cells = [f"{speed_up(own, number, batch_size, split):.2f}" for number in numbers]
            best = fastest(own, batch_size) if split else "-"
            print(
                f"{f'{variant}, {batch_name(batch_size, split)}':<20}"
                + "".join(f"{cell:>7}" for cell in cells + ["-"] * (len(TABLE) - len(cells)))
                + f"  {best:>10}  up to {most_efficient(own, batch_size, split):,}"
            )


def as_csv(terms: Mapping[str, Terms], measured: Sequence[Measured], variant: str, batch_size: int) -> str:
    """Return what was measured with `variant` and what is predicted, a row for each number of devices."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = [("measured", variant, m.num_devices, m.split, statistics.median(m.speeds), m.speed_up) for m in measured]
    for name, own in terms.items():
        alone = batch_size / step_seconds(own, 1, batch_size)
        for split in (True, False):
            numbers = [number for number in TABLE if number <= max_devices(batch_size, split)]
            gains = [speed_up(own, number, batch_size, split) for number in numbers]
            rows += [
                ("predicted", name, number, split, gain * alone, gain)
                for number, gain in zip(numbers, gains, strict=True)
            ]
    for source, name, number, split, speed, gain in rows:
        cells = (f"{speed:.1f}", f"{gain:.4f}", f"{gain / number:.4f}")
        writer.writerow([source, name, batch_name(batch_size, split), number, *cells])
    return file.getvalue()


def draw(terms: Mapping[str, Terms], measured: Sequence[Measured], variant: str, batch_size: int, path: Path) -> None:
    """Draw speed-up against number of devices: the model's lines, and dots for what was measured with `variant`."""
    from minivgg_pl.plots.curves import CONTENDER_COLOURS, LINE_WIDTH
    from minivgg_pl.plots.figure import new_axes, save_figure

    figure, axes = new_axes(7.5, 4.8, "Predicted speed-up of mini VGG trainings on several devices")
    axes.plot(TABLE, TABLE, color="0.5", linestyle="--", linewidth=1.2, label="ideal")
    for colour, (name, own) in zip(CONTENDER_COLOURS, terms.items(), strict=False):
        for split in (True, False):
            numbers = range(1, min(TABLE[-1], max_devices(batch_size, split)) + 1)
            gains = [speed_up(own, number, batch_size, split) for number in numbers]
            style = {"color": colour, "linestyle": "-" if split else ":", "linewidth": LINE_WIDTH}
            label = f"{name}, {batch_name(batch_size, split)}"
            if split:
                label += f": fastest on {fastest(own, batch_size)}"
            axes.plot(numbers, gains, **style, label=label)
            dots = [(row.num_devices, row.speed_up) for row in measured if row.split == split and name == variant]
            if dots:
                face = colour if split else "white"
                label = f"{name}, {batch_name(batch_size, split)}, measured"
                axes.plot(*zip(*dots, strict=True), "o", color=colour, markerfacecolor=face, label=label, zorder=3)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("devices")
    axes.set_ylabel("speed-up: images a second over those of one device")
    axes.grid(color="0.9", linewidth=0.8)
    axes.legend(frameon=False)
    save_figure(figure, path)
