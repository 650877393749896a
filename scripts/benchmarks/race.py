"""Race mini VGG trainings on this machine: ours, a bare PyTorch loop, the usual tutorial, and Keras 3.

    python scripts/benchmarks/race.py                                    # speed, on synthetic images
    python scripts/benchmarks/race.py --dataset cifar10 --root data --images 50000 --epochs 10 --rounds 1
    python scripts/benchmarks/race.py --contenders modern --profile      # and the operations of an update
    python scripts/benchmarks/race.py --contenders bare article --tiny   # what Lightning and the run folder cost
    python scripts/benchmarks/race.py --runs runs/classic/1 raced/benchmark.csv --output compared

Contenders take turns, each in its own process; imports, tracing and first batches are not timed. The recipes and the
bare loops train in bfloat16 where the device computes it natively, the others in float32, as their users find them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from common import Race, store_arrays, whole_number
from contenders import CONTENDERS, Recipe
from race_report import CSV_NAME, compare_runs, draw_runs, print_table, read_races, write_csv

from minivgg_pl.cli.command import EXIT_FAILED, EXIT_TERMINATED, OneLineArgumentParser, fail, guarded
from minivgg_pl.files import make_folder
from minivgg_pl.models.architectures import ARCHITECTURES

# torch's threads, and TensorFlow's within and between its operators.
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def main() -> int:
    """Run what the command line asks for, and return the exit code."""
    args = parse_arguments()
    return guarded(lambda: run(args))


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    described = "\n".join(f"  {name:<9} {contender.description}" for name, contender in CONTENDERS.items())
    parser = OneLineArgumentParser(description=f"{__doc__}\ncontenders:\n{described}")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="default: all that can run, not speedrun")
    parser.add_argument("--variant", choices=list(ARCHITECTURES), default="classic")
    parser.add_argument("--rounds", type=whole_number(1), default=3, help="races of each contender (default: 3)")
    parser.add_argument("--images", type=whole_number(50), default=6400, help="training images (default: 6400)")
    parser.add_argument("--epochs", type=whole_number(0), default=1, help="0: each contender's own (default: 1)")
    parser.add_argument("--batch-size", type=whole_number(2), help="default: the recipe's; 64 for the others")
    parser.add_argument("--dataset", choices=("synthetic", "cifar10"), default="synthetic")
    parser.add_argument("--root", help="folder with the data (default: data for cifar10, else a temporary one)")
    parser.add_argument("--gpus", type=int, choices=(0, 1), default=0)
    parser.add_argument("--threads", type=whole_number(1), help="of each contender (default: what each chooses)")
    parser.add_argument("--output", type=Path, help="folder for benchmark.csv and benchmark.png (default: none)")
    parser.add_argument("--profile", action="store_true", help="then print the operations of an update of each recipe")
    parser.add_argument("--tiny", action="store_true", help="one linear layer as the network of bare and the recipes")
    parser.add_argument("--runs", nargs="+", type=Path, help="train nothing: compare run folders, benchmark.csv files")
    parser.add_argument("--option", action="append", default=[], help="more for the recipes: --option=--model.lr=0.1")
    for hidden in ("--role", "--arrays"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--profiled", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in args.contenders or []:
        if missing := CONTENDERS[name].missing(args):
            parser.error(f"--contenders {name}: {missing}")
    can_run = [name for name in CONTENDERS if name != "speedrun" and not CONTENDERS[name].missing(args)]
    args.contenders = list(dict.fromkeys(args.contenders or can_run))
    return args


def run(args: argparse.Namespace) -> int:
    """Compare earlier runs, or run one contender (the hidden `--role`), or race all."""
    if args.runs:
        compare_runs(args.runs, args.output)
        return 0
    if args.threads:
        # Before torch and TensorFlow are imported, here and in the contenders' processes.
        os.environ |= dict.fromkeys(THREADS, str(args.threads))
    if args.role:
        print(json.dumps(asdict(CONTENDERS[args.role].run(args))))
        return 0
    if args.output:
        # Before hours of races.
        make_folder(args.output)
    # As an exception: the contender ends too, and the temporary folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    with tempfile.TemporaryDirectory() as args.arrays:
        args.root = args.root or ("data" if args.dataset == "cifar10" else args.arrays)
        store_arrays(args)
        return race(args)


def race(args: argparse.Namespace) -> int:
    """Race all contenders in turns.

    A contender that fails is left out, its earlier races too: only whole rounds can be compared.
    """
    races: dict[str, list[Race]] = {name: [] for name in args.contenders}
    for _ in range(args.rounds):
        for name in list(races):
            if result := run_contender(args, name):
                races[name].append(result[0])
            else:
                del races[name]
            # After each race: a kill then loses only the one that it ends.
            if args.output and races:
                write_csv(args, races)
    if not races:
        return EXIT_FAILED
    print_table(args, races)
    if args.output:
        draw_runs(read_races(args.output / CSV_NAME), args.output)
    failed = len(races) < len(args.contenders)
    for name in races:
        if args.profile and isinstance(CONTENDERS[name], Recipe):
            result = run_contender(args, name, "--profiled", "--epochs", "1")
            failed |= result is None
            if result:
                print(f"\nan update of {name}\n{result[1]}", flush=True)
    return EXIT_FAILED if failed else 0


def run_contender(args: argparse.Namespace, name: str, *extra: str) -> tuple[Race, str] | None:
    """Run one contender in a new process, so that thread pools do not meet.

    Returns:
        The race and what else the process printed. None if it failed, which is reported in one line.
    """
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if not args.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, __file__, *sys.argv[1:], "--role", name, "--root", args.root, "--arrays", args.arrays]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *extra], env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            output, errors = process.communicate()
        finally:
            process.terminate()
    if process.returncode:
        reason = [f"exit code {process.returncode}", *errors.strip().splitlines()][-1].removeprefix("error: ")
        fail(f"{name} failed, and is left out: {reason}", EXIT_FAILED)
        return None
    printed, _, last = output.rstrip().rpartition("\n")
    result = Race(**json.loads(last))
    print(f"{name}: {result.seconds[-1]:.1f} s, accuracy {result.val_acc[-1]:.4f}", file=sys.stderr, flush=True)
    return result, printed


if __name__ == "__main__":
    sys.exit(main())
