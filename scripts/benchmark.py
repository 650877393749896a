"""Race the mini VGG trainings on this machine: ours, a bare PyTorch loop, the usual tutorial, and Keras 3.

    python scripts/benchmark.py                                    # speed, on drawn pictures
    python scripts/benchmark.py --dataset cifar10 --root data --images 50000 --epochs 10 --rounds 1
    python scripts/benchmark.py --grow                             # batch size, data size, width
    python scripts/benchmark.py --profile --contenders modern      # and where the time of an update goes
    python scripts/benchmark.py --runs runs/classic/1 raced/benchmark.csv --output compared

Contenders:
  article   the article recipe through scripts/train.py's Trainer
  modern    the modern recipe, the same way
  speedrun  the speedrun recipe, the same way
  bare      a bare PyTorch loop around the article recipe's network, batches and optimizer
  graph     the same with the whole update in one CUDA graph (--gpus 1)
  tutorial  Lightning as tutorials use it: torchvision transforms, 2 workers, metrics logged every step
  keras     the article's code in Keras 3 on TensorFlow (needs: pip install tensorflow-cpu keras)

Contenders take turns, each in a process of its own; imports, tracing and first batches are not on the clock. Ours and
the bare loop train in bfloat16 where the device computes it natively, the others in float32 as their users find them.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_report import compare_runs, draw, print_table, write_csv
from contenders import Race, run_ours, store_arrays

from minivgg_pl.architectures import ARCHITECTURES
from minivgg_pl.command import EXIT_BAD_INPUT, EXIT_FAILED, OneLineArgumentParser, fail
from minivgg_pl.errors import InputError
from minivgg_pl.recipe import RECIPES

OURS = RECIPES
CONTENDERS = (*OURS, "bare", "graph", "tutorial", "keras")
MATRIX_SIZE = 2048
GROWTH = {
    "batch_size": [["--batch-size", str(size)] for size in (32, 64, 128, 256, 512)],
    "images": [["--images", str(number)] for number in (3200, 6400, 12800, 25600)],
    "dense_units": [[f"--option=--model.dense_units={width}"] for width in (128, 256, 512, 1024, 2048)],
}


def main() -> int:
    """Run all rounds, print the table, write the CSV and the picture; with the hidden `--role`, run one race."""
    args = parse_arguments()
    if args.role:
        return play(args)
    if args.runs:
        try:
            compare_runs(args.runs, args.output)
        except InputError as error:
            return fail(str(error), EXIT_BAD_INPUT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            args.arrays, args.root = folder, args.root or folder
            store_arrays(args, folder)
            return grow(args) if args.grow else compare(args)
        except InputError as error:
            return fail(str(error), EXIT_BAD_INPUT)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"it ended with code {error.returncode}"]
            return fail(f"a contender failed: {lines[-1].removeprefix('error: ')}", EXIT_FAILED)


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = OneLineArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="default: all whose packages are here")
    parser.add_argument("--variant", choices=list(ARCHITECTURES), default="classic")
    parser.add_argument("--rounds", type=int, default=3, help="races of each contender (default: 3)")
    parser.add_argument("--images", type=int, default=6400, help="training images, by the 50 (default: 6400)")
    parser.add_argument("--epochs", type=int, default=1, help="0: each contender's own number (default: 1)")
    parser.add_argument("--batch-size", type=int, help="for all (default: the recipe's; 64 for the others)")
    parser.add_argument("--dataset", choices=("synthetic", "cifar10"), default="synthetic")
    parser.add_argument("--root", help="folder with the data (default: drawn pictures in a temporary folder)")
    parser.add_argument("--gpus", type=int, choices=(0, 1), default=0)
    parser.add_argument("--threads", type=int, help="threads of each contender (default: what each chooses)")
    parser.add_argument("--output", type=Path, help="folder for benchmark.csv and benchmark.png (default: none)")
    parser.add_argument("--grow", action="store_true", help="how the first contender's time and memory grow")
    parser.add_argument("--profile", action="store_true", help="then show where the updates of ours spend their time")
    parser.add_argument(
        "--runs", nargs="+", type=Path, help="compare finished runs of train.py and benchmark.csv files, train nothing"
    )
    parser.add_argument("--option", action="append", default=[], help="one more of ours: --option=--model.lr=0.1")
    parser.add_argument("--arrays", help=argparse.SUPPRESS)
    parser.add_argument("--profiled", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in ("rounds", "images", "batch_size", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
    if args.epochs < 0:
        parser.error(f"--epochs {args.epochs}: give 1 or more, or 0 for each contender's own number")
    if args.dataset == "cifar10" and args.images > 50_000:
        parser.error(f"--images {args.images}: CIFAR-10 has 50,000 training images; give at most that")
    if args.grow and (args.contenders or OURS)[0] not in OURS:
        parser.error(f"--grow {args.contenders[0]}: give one of ours, {', '.join(OURS)}")
    if args.output and any(p.exists() and not p.is_dir() for p in (args.output, *args.output.parents)):
        parser.error(f"--output {args.output}: a file is in the way; give a folder")
    if args.grow and args.dataset == "cifar10":
        parser.error("--grow draws its own pictures: leave --dataset out")
    if args.dataset == "cifar10" and args.root is None:
        parser.error("--dataset cifar10 needs --root, the folder with the data")
    if args.contenders and "graph" in args.contenders and not args.gpus:
        parser.error("graph is a CUDA graph: give --gpus 1, or leave it out")
    has_keras = importlib.util.find_spec("tensorflow") and importlib.util.find_spec("keras")
    if args.contenders and "keras" in args.contenders and not has_keras:
        parser.error("keras needs packages that are not installed: pip install tensorflow-cpu keras")
    if args.gpus and not args.role:
        import torch

        if not torch.cuda.is_available():
            parser.error("--gpus 1: this machine has no GPU that torch can use; --gpus 0 is the CPU")
    left_out = {"speedrun": True, "graph": not args.gpus, "keras": not has_keras}
    args.contenders = args.contenders or [name for name in CONTENDERS if not left_out.get(name)]
    return args


def play(args: argparse.Namespace) -> int:
    """Run one race in this process and print its Race as JSON."""
    if args.role == "keras":
        from rivals import run_keras

        race = run_keras(args)
    else:
        import torch

        if args.threads:
            torch.set_num_threads(args.threads)
        if args.role == "tutorial":
            from rivals import run_tutorial

            race = run_tutorial(args)
        elif args.role in OURS:
            from step_profile import StepProfile

            race = run_ours(args, args.role, *[StepProfile()] * args.profiled)
        else:
            from bare_loops import run_bare, run_graph

            race = run_graph(args) if args.role == "graph" else run_bare(args)
    print(json.dumps(race._asdict()))
    return 0


def run_race(args: argparse.Namespace, contender: str, extra: list[str] | None = None) -> tuple[Race, str]:
    """Run one contender in a new process, so that no two thread pools ever meet; return what else it printed, too."""
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if not args.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, __file__, *sys.argv[1:], "--role", contender, "--root", args.root]
    command += ["--arrays", args.arrays, *(extra or [])]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    printed, _, last = done.stdout.rstrip().rpartition("\n")
    race = Race(**json.loads(last))
    print(f"{contender}: {race.seconds[-1]:.1f} s, accuracy {race.val_acc[-1]:.4f}", file=sys.stderr, flush=True)
    return race, printed


def compare(args: argparse.Namespace) -> int:
    """Race all contenders in turns, with the machine's matrix rate measured in each round."""
    races: dict[str, list[Race]] = {name: [] for name in args.contenders}
    rates = []
    for _ in range(args.rounds):
        rates.append(matrix_rates(args))
        for name in args.contenders:
            races[name].append(run_race(args, name)[0])
    print_table(args, races, rates)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_csv(args, races)
        draw(args, races)
    for name in [name for name in args.contenders if args.profile and name in OURS]:
        _, printed = run_race(args, name, ["--profiled", "--epochs", "1"])
        print(f"\nwhere an update of {name} spends its time\n{printed}", flush=True)
    return 0


def matrix_rates(args: argparse.Namespace) -> dict[str, float]:
    """Return FLOP/s of a large matrix product, in float32 and in bfloat16 where that is native."""
    import torch

    from minivgg_pl.precision import computes_bf16

    device = "cuda" if args.gpus else "cpu"
    if args.threads:
        torch.set_num_threads(args.threads)
    rates = {}
    for name in ["float32"] + ["bfloat16"] * computes_bf16(device):
        matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=getattr(torch, name))
        (matrix @ matrix).sum().item()
        start = time.perf_counter()
        for _ in range(5):
            product = matrix @ matrix
        product.sum().item()
        rates[name] = 5 * 2 * MATRIX_SIZE**3 / (time.perf_counter() - start)
    return rates


def grow(args: argparse.Namespace) -> int:
    """Print how the first contender's speed and memory grow with batch size, images and width."""
    contender = args.contenders[0]
    print(f"{contender}, {args.variant}: how speed and memory grow")
    for what, settings in GROWTH.items():
        print(f"\n{what:<12} images/s  s an epoch  peak MB")
        for extra in settings:
            value = extra[-1].rpartition("=")[2]
            # Another number of pictures is another set on disk.
            folder = ["--root", f"{args.root}/{value}"] if what == "images" else []
            race, _ = run_race(args, contender, [*extra, *folder])
            speed = (int(value) if what == "images" else args.images) / race.train_seconds[-1]
            print(f"{value:<12} {speed:>8,.0f}  {race.train_seconds[-1]:>10.1f}  {race.peak_mb:>7,.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
