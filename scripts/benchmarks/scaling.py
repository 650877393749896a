"""Measure training in several processes on the CPU, and predict where more devices stop paying for these networks.

    python scripts/benchmarks/scaling.py --output scaling   # real runs of train.py, one thread a process, and its terms
    python scripts/benchmarks/scaling.py --model-only --images-per-second R --overhead S --bandwidth BYTES --latency S

The second line measures nothing: give it the numbers of your GPUs. Both print and draw what follows for both networks,
with the article's batch split over the devices and with a whole batch on each; scaling_model.py has the formula.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# Works from a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scaling_model import (
    LEAST_ON_EACH,
    Measured,
    Terms,
    as_csv,
    batch_name,
    draw,
    gradient_bytes,
    print_measured,
    print_predicted,
)
from scaling_terms import measure_terms

from minivgg_pl.cli.command import EXIT_FAILED, OneLineArgumentParser, fail, guarded
from minivgg_pl.files import check_output, make_folder, write_atomically
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.runs.folder import METRICS, read_metrics

TRAIN = Path(__file__).parents[1] / "train.py"
EPOCHS = 2  # the first warms up
TERMS = ("images_per_second", "overhead", "bandwidth", "latency")
# Beyond any machine, and no sum of such numbers overflows.
SMALLEST, LARGEST = 1e-12, 1e15


def main() -> int:
    """Measure the terms or take them from the command line, then print and keep what follows from them."""
    args = parse_arguments()
    return guarded(lambda: scale(args))


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = OneLineArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(ARCHITECTURES), default="classic", help="network to run (classic)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="numbers of processes (1 2)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch, split or on each device (64)")
    parser.add_argument("--images", type=int, default=3200, help="training images, a multiple of 50 (3200)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (3)")
    parser.add_argument("--model-only", action="store_true", help="measure nothing: predict from the next four")
    parser.add_argument("--images-per-second", type=float, metavar="R", help="--variant's rate on one device")
    parser.add_argument("--overhead", type=float, metavar="SECONDS", help="time of a step besides its images")
    parser.add_argument("--bandwidth", type=float, metavar="BYTES", help="bytes a second between two devices")
    parser.add_argument("--latency", type=float, metavar="SECONDS", help="time of an empty message between two")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for scaling.csv and scaling.png")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    args = parser.parse_args()
    check_arguments(parser, args)
    args.devices = sorted({1, *args.devices})
    return args


def check_arguments(parser: OneLineArgumentParser, args: argparse.Namespace) -> None:
    """End the process with one line where the options make no sense."""
    for name, value in (("rounds", args.rounds), ("devices", min(args.devices))):
        if value < 1:
            parser.error(f"--{name} {value}: give 1 or more")
    if args.images not in range(50, 50_001, 50):
        parser.error(f"--images {args.images}: give a multiple of 50, up to 50,000")
    for name in TERMS:
        value, least = getattr(args, name), 0 if name == "overhead" else SMALLEST
        if value is not None and not least <= value <= LARGEST:
            parser.error(f"--{name.replace('_', '-')} {value:g}: give {least:g} to {LARGEST:g}")
    if [getattr(args, name) is not None for name in TERMS] != [args.model_only] * len(TERMS):
        names = ", ".join(f"--{name}" for name in TERMS).replace("_", "-")
        parser.error(f"give --model-only and {names}, or none of them to measure them here")
    least = LEAST_ON_EACH * max(2, *args.devices)
    if args.batch_size < least:
        parser.error(f"--batch-size {args.batch_size}: give {least} or more: batch norm needs two images a device")


def scale(args: argparse.Namespace) -> int:
    """Print what was measured and what is predicted, and write both to `--output`.

    Raises:
        InputError: On bad input.
    """
    if args.output:
        make_folder(args.output)
        for name in ("scaling.csv", "scaling.png"):
            check_output("--output", args.output / name, [name], args.overwrite)
    if args.model_only:
        terms, measured = given_terms(args), []
    else:
        try:
            terms, measured = measure(args)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"it ended with code {error.returncode}"]
            return fail(f"a run failed: {lines[-1].removeprefix('error: ')}", EXIT_FAILED)
    print_predicted(terms, args.batch_size)
    if args.output:
        write_atomically(args.output / "scaling.csv", as_csv(terms, measured, args.variant, args.batch_size))
        draw(terms, measured, args.variant, args.batch_size, args.output / "scaling.png")
    return 0


def given_terms(args: argparse.Namespace) -> dict[str, Terms]:
    """Return each network's terms; the rate of the one that is not `--variant` follows from its operations."""
    from race_report import flops_per_image

    work = args.images_per_second * flops_per_image(args.variant)
    print(f"From the numbers given; the rate of the network that is not {args.variant} by its operations an image.")
    own = (args.overhead, args.bandwidth, args.latency)
    return {name: Terms(work / flops_per_image(name), *own, gradient_bytes(name)) for name in ARCHITECTURES}


def measure(args: argparse.Namespace) -> tuple[dict[str, Terms], list[Measured]]:
    """Measure the model's terms and the real runs, and print the runs."""
    import torch

    from minivgg_pl.data.synthetic import prepare_synthetic
    from minivgg_pl.training.hardware import keep_freed_memory
    from minivgg_pl.training.summary import device_name

    torch.set_num_threads(1)
    # As train.py, whose steps these are.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        prepare_synthetic(folder, train_size=args.images)
        terms = measure_terms(args.variant, args.batch_size, folder)
        measured = measure_runs(args, folder)
    print(f"{args.variant}, {args.images:,} drawn images, not CIFAR-10, rounds: {args.rounds}; epoch {EPOCHS}")
    print(f"{device_name(torch.device('cpu'))} a process, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print_measured(measured, args.batch_size)
    print("\nFrom a step at two batch sizes in one process, and gloo's all-reduce between two:")
    return terms, measured


def measure_runs(args: argparse.Namespace, folder: str) -> list[Measured]:
    """Train on each number of devices with each way to deal out the batches, all in turns."""
    # On one device the two ways are one.
    sides = [(number, split) for number in args.devices for split in (True, False) if split or number > 1]
    rounds = []
    for _ in range(args.rounds):
        rounds.append([])
        for number, split in sides:
            rounds[-1].append(train(args, folder, number, split))
            name = batch_name(args.batch_size, split)
            print(f"processes: {number}, batch: {name}, {rounds[-1][-1]:,.0f} images/s", file=sys.stderr, flush=True)
    measured = []
    for column, (number, split) in enumerate(sides):
        # Within a round: what slows the machine slows both.
        ratio = statistics.median(speeds[column] / speeds[0] for speeds in rounds)
        measured.append(Measured(number, split, [speeds[column] for speeds in rounds], ratio))
    return measured


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
    return read_metrics(metrics)[-1]["images_per_second"]


if __name__ == "__main__":
    sys.exit(main())
