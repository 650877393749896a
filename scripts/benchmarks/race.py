"""Race the mini VGG trainings on this machine: ours, a bare PyTorch loop, the usual tutorial, and Keras 3.

    python scripts/benchmarks/race.py                                    # speed, on drawn images
    python scripts/benchmarks/race.py --dataset cifar10 --root data --images 50000 --epochs 10 --rounds 1
    python scripts/benchmarks/race.py --grow                             # batch size, data size, width
    python scripts/benchmarks/race.py --profile --contenders modern      # and where the time of an update goes
    python scripts/benchmarks/race.py --runs runs/classic/1 raced/benchmark.csv --output compared

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
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from contenders import OURS, Race, run_ours, store_arrays
from race_options import parse_arguments
from race_report import CSV_NAME, compare_runs, draw, print_table, write_csv

from minivgg_pl.cli.command import EXIT_FAILED, EXIT_TERMINATED, fail, guarded
from minivgg_pl.files import check_output, make_folder

MATRIX_SIZE = 2048
GROWTH = {
    "batch_size": [["--batch-size", str(size)] for size in (32, 64, 128, 256, 512)],
    "images": [["--images", str(number)] for number in (3200, 6400, 12800, 25600)],
    "dense_units": [[f"--option=--model.dense_units={width}"] for width in (128, 256, 512, 1024, 2048)],
}


def main() -> int:
    """Do what the command line asks for, and return the exit code."""
    return guarded(lambda: run(parse_arguments(__doc__)))


def run(args: argparse.Namespace) -> int:
    """Run all rounds, print the table, write the CSV and the image; with the hidden `--role`, run one race."""
    if args.role:
        return play(args)
    if args.runs:
        compare_runs(args.runs, args.output)
        return 0
    if args.output:
        # Before hours of races.
        make_folder(args.output)
        check_output("--output", args.output / CSV_NAME, [".csv"], overwrite=True)
    with exit_on_sigterm(), tempfile.TemporaryDirectory() as folder:
        args.arrays, args.root = folder, args.root or folder
        store_arrays(args, folder)
        return grow(args) if args.grow else compare(args)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM leave as an exception does, so that the contender is ended and the temporary folder removed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


def run_race(args: argparse.Namespace, contender: str, extra: list[str] | None = None) -> tuple[Race, str] | None:
    """Run one contender in a new process, so that no two thread pools ever meet.

    Returns:
        The race and what else the process printed, or None where it failed, which is then said in one line.
    """
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if not args.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, __file__, *sys.argv[1:], "--role", contender, "--root", args.root]
    command += ["--arrays", args.arrays, *(extra or [])]
    code, output, errors = finish(command, env)
    if code:
        lines = errors.strip().splitlines() if code > 0 else []
        reason = lines[-1].removeprefix("error: ") if lines else f"it ended with code {code}"
        fail(f"{contender} failed, and is left out: {reason}", EXIT_FAILED)
        return None
    printed, _, last = output.rstrip().rpartition("\n")
    race = Race(**json.loads(last))
    print(f"{contender}: {race.seconds[-1]:.1f} s, accuracy {race.val_acc[-1]:.4f}", file=sys.stderr, flush=True)
    return race, printed


def finish(command: list[str], env: dict[str, str]) -> tuple[int, str, str]:
    """Run a process to its end and return its code, output and errors; whatever ends the wait ends the process."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            output, errors = process.communicate()
        finally:
            process.terminate()
    return process.returncode, output, errors


def compare(args: argparse.Namespace) -> int:
    """Race all contenders in turns, with the machine's matrix rate measured in each round.

    A contender that fails is left out from then on, its earlier races as well: only whole rounds can be compared.
    """
    races: dict[str, list[Race]] = {name: [] for name in args.contenders}
    rates = []
    for _ in range(args.rounds):
        rates.append(matrix_rates(args))
        for name in list(races):
            result = run_race(args, name)
            if result:
                races[name].append(result[0])
            else:
                del races[name]
            # After each, so that a kill loses no more than the race that it ends.
            if args.output and races:
                write_csv(args, races)
        if not races:
            return EXIT_FAILED
    print_table(args, races, rates)
    if args.output:
        draw(args, races)
    ours = [name for name in races if args.profile and name in OURS]
    profiled = [profile_updates(args, name) for name in ours]
    return 0 if all(profiled) and len(races) == len(args.contenders) else EXIT_FAILED


def profile_updates(args: argparse.Namespace, name: str) -> bool:
    """Print where the updates of one of ours spend their time, and return whether that went well."""
    result = run_race(args, name, ["--profiled", "--epochs", "1"])
    if result:
        print(f"\nwhere an update of {name} spends its time\n{result[1]}", flush=True)
    return result is not None


def matrix_rates(args: argparse.Namespace) -> dict[str, float]:
    """Return FLOP/s of a large matrix product, in float32 and in bfloat16 where that is native."""
    import torch

    from minivgg_pl.training.hardware import computes_bf16

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
    failed = False
    print(f"{contender}, {args.variant}: how speed and memory grow")
    for what, settings in GROWTH.items():
        print(f"\n{what:<12} images/s  s an epoch  peak MB", flush=True)
        for extra in settings:
            value = extra[-1].rpartition("=")[2]
            # Another number of images is another set on disk.
            folder = ["--root", f"{args.root}/{value}"] if what == "images" else []
            result = run_race(args, contender, [*extra, *folder])
            if not result:
                failed = True
                continue
            race = result[0]
            speed = (int(value) if what == "images" else args.images) / race.train_seconds[-1]
            print(f"{value:<12} {speed:>8,.0f}  {race.train_seconds[-1]:>10.1f}  {race.peak_mb:>7,.0f}", flush=True)
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
