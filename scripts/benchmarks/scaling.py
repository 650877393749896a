"""Measure training in several processes on the CPU, or predict the speed-up on devices of known speed.

    python scripts/benchmarks/scaling.py   # real runs of train.py, one thread a process
    python scripts/benchmarks/scaling.py --model-only --images-per-second R --overhead S --bandwidth BYTES --latency S

The second line measures nothing: give it the numbers of your GPUs. The model: a step with b images on each of N devices
takes

    t(N) = o + b/r + 2 (N-1)/N S/W + 2 (N-1) L

seconds: an overhead o, the images at r a second, and an all-reduce of S bytes of gradients round a ring, 2 (N-1)
messages of S/N bytes one after the other, each at W bytes a second after a latency L (Patarasuk and Yuan, Bandwidth
optimal all-reduce algorithms for clusters of workstations, J. Parallel Distrib. Comput. 69(2), 2009). DDP sends some
gradients while it computes others, which the model leaves out: it errs on the slow side.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import TRAIN, whole_number

from minivgg_pl.cli.command import EXIT_FAILED, OneLineArgumentParser, fail, guarded
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.runs.folder import METRICS, read_metrics

EPOCHS = 2  # the first warms up
# Batch norm cannot train on one image.
LEAST_ON_EACH = 2
TABLE = [2**power for power in range(7)]
# r, o, W and L of the model.
GIVEN = ("--images-per-second", "--overhead", "--bandwidth", "--latency")


def main() -> int:
    """Print the measured or the predicted speed-ups."""
    args = parse_arguments()
    if args.model_only:
        print_predicted(args)
        return 0
    return guarded(lambda: measure(args))


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = OneLineArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=list(ARCHITECTURES), default="classic")
    parser.add_argument("--devices", type=whole_number(1), nargs="+", default=[1, 2], help="numbers of processes (1 2)")
    parser.add_argument("--batch-size", type=whole_number(2), default=64, help="images a batch, split or on each (64)")
    parser.add_argument("--images", type=whole_number(50), default=3200, help="training images (3200)")
    parser.add_argument("--rounds", type=whole_number(1), default=3, help="runs of each side (3)")
    parser.add_argument("--model-only", action="store_true", help="measure nothing: predict from the next four")
    for name, symbol in zip(GIVEN, "roWL", strict=True):
        parser.add_argument(name, type=float, metavar=symbol, help=f"{symbol} of the model, in seconds and bytes")
    args = parser.parse_args()
    given = [args.images_per_second, args.overhead, args.bandwidth, args.latency]
    if args.model_only and not all(value and value > 0 for value in given):
        parser.error(f"--model-only needs {', '.join(GIVEN)}, all above 0")
    args.devices = sorted({1, *args.devices})
    return args


def measure(args: argparse.Namespace) -> int:
    """Train on each number of devices with each way to deal out the batches, in turns, and print the speeds."""
    # On one device the two ways are the same.
    sides = [(number, split) for number in args.devices for split in (True, False) if split or number > 1]
    with tempfile.TemporaryDirectory() as folder:
        try:
            rounds = [[train(args, folder, *side) for side in sides] for _ in range(args.rounds)]
        except subprocess.CalledProcessError as error:
            reason = [f"exit code {error.returncode}", *error.stderr.strip().splitlines()][-1]
            return fail(f"a run failed: {reason.removeprefix('error: ')}", EXIT_FAILED)
    print(f"{args.variant}, {args.images:,} synthetic images, rounds: {args.rounds}; {os.cpu_count()} cores")
    print("processes  batch        images/s  (lowest-highest)  speed-up  efficiency")
    for column, (number, split) in enumerate(sides):
        speeds = [speeds[column] for speeds in rounds]
        # Within a round: what slows the machine slows both.
        gain = statistics.median(speeds[column] / speeds[0] for speeds in rounds)
        print(
            f"{number:>9}  {batch_name(args, split):<10} {statistics.median(speeds):>10,.0f}"
            f"  {f'({min(speeds):,.0f}-{max(speeds):,.0f})':>16}  {gain:>8.2f}  {gain / number:>9.0%}"
        )
    return 0


def batch_name(args: argparse.Namespace, split: bool) -> str:
    """Return the name of a way to deal out the batches."""
    return f"{args.batch_size} split" if split else f"{args.batch_size} on each"


def train(args: argparse.Namespace, root: str, num_devices: int, split: bool) -> float:
    """Run train.py and return the images a second of its last epoch, all processes together."""
    folder = tempfile.mkdtemp(dir=root)
    options = {
        "variant": args.variant,
        "epochs": EPOCHS,
        "trainer.accelerator": "cpu",
        "trainer.devices": num_devices,
        "trainer.strategy": "ddp" if num_devices > 1 else "auto",
        "trainer.default_root_dir": folder,
        "data.dataset": "synthetic",
        "data.synthetic_size": args.images,
        "data.root": root,
        "data.batch_size": args.batch_size,
        "data.split_batches": str(split).lower(),
    }
    command = [sys.executable, str(TRAIN), *(f"--{name}={value}" for name, value in options.items())]
    # Each process on one thread, or they would fight over the cores.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    (metrics,) = Path(folder).rglob(METRICS)
    speed = read_metrics(metrics)[-1]["images_per_second"]
    print(f"{num_devices} processes, {batch_name(args, split)}: {speed:,.0f} images/s", file=sys.stderr, flush=True)
    return speed


def step_seconds(args: argparse.Namespace, num_devices: int, images: float) -> float:
    """Return t(N) with `images` on each device."""
    # Float32, and one for each trainable parameter.
    num_bytes = 4 * ARCHITECTURES[args.variant].num_trainable
    message = num_bytes / num_devices / args.bandwidth + args.latency
    return args.overhead + images / args.images_per_second + 2 * (num_devices - 1) * message


def speed_up(args: argparse.Namespace, num_devices: int, split: bool) -> float:
    """Return images a second on `num_devices`, over those on one; a batch is split, or each device has a whole one."""
    alone = step_seconds(args, 1, args.batch_size)
    if split:
        return alone / step_seconds(args, num_devices, args.batch_size / num_devices)
    return num_devices * alone / step_seconds(args, num_devices, args.batch_size)


def fastest(args: argparse.Namespace) -> int:
    """Return the number of devices on which a split batch is fastest, each with enough images to train."""
    return max(range(1, args.batch_size // LEAST_ON_EACH + 1), key=lambda number: speed_up(args, number, split=True))


def print_predicted(args: argparse.Namespace) -> None:
    """Print the speed-up by number of devices, and the fastest number."""
    print(f"{args.variant}: predicted speed-up, not measured")
    print(f"{'devices':<12}" + "".join(f"{number:>7}" for number in TABLE))
    for split in (True, False):
        numbers = [number for number in TABLE if not split or number * LEAST_ON_EACH <= args.batch_size]
        print(
            f"{batch_name(args, split):<12}" + "".join(f"{speed_up(args, number, split):>7.2f}" for number in numbers)
        )
    print(f"a split batch is fastest on {fastest(args)}")


if __name__ == "__main__":
    sys.exit(main())
