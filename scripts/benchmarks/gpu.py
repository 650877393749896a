"""All that is to be measured on a GPU, in 8 minutes at most: a table, gpu.csv and a chart.

    python scripts/benchmarks/gpu.py --root data           # CIFAR-10 is there, or is downloaded first
    python scripts/benchmarks/gpu.py --parts speedrun      # this part again; what the others measured stays
    python scripts/benchmarks/gpu.py --tiny --output tiny  # tries the command without a GPU, on a few drawn images

The parts run one after another, each in its own process with a time limit. One that fails is reported, and the others
go on. What a part prints is in the output folder; article.txt and modern.txt have the operations of an update.
"""

import argparse
import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from common import store_arrays
from race_report import CSV_NAME, TARGET, draw_runs, read_races, seconds_to_target, this_device

from minivgg_pl.cli.command import EXIT_FAILED, OneLineArgumentParser, fail, guarded
from minivgg_pl.errors import InputError
from minivgg_pl.files import make_folder

HERE = Path(__file__).resolve().parent
# Seconds that each part may take; together 8 minutes.
LIMITS = {"tests": 120, "article": 90, "modern": 90, "speedrun": 60, "rates": 120}


def main() -> int:
    """Run the parts, print the table, and return the exit code: 0 if each part ran to its end."""
    parser = OneLineArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder with CIFAR-10 (default: data)")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS), help="default: all")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder for all files (default: gpu)")
    parser.add_argument("--tiny", action="store_true", help="a trial on the CPU, with one linear layer as the network")
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Run the parts, and report what they and earlier ones measured."""
    import torch

    args.gpus = 0 if args.tiny else 1
    if args.gpus and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA GPU here: --tiny tries the command without one")
    make_folder(args.output)
    if not args.tiny:
        # Before any limit begins: it may be downloaded.
        args.dataset, args.images = "cifar10", 50_000
        with tempfile.TemporaryDirectory() as args.arrays:
            store_arrays(args)
    device = f"{this_device(args)}, torch {torch.__version__}{', a trial: the numbers mean nothing' * args.tiny}"
    has_run = [run_part(name, command(args, name), LIMITS[name], args.output) for name in args.parts]
    report(args.output, device)
    return 0 if all(has_run) else EXIT_FAILED


def command(args: argparse.Namespace, part: str) -> list[str]:
    """Return the command of a part."""
    if part == "tests":
        tests = HERE.parents[1] / ("tests/benchmarks" if args.tiny else "tests")
        return [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", str(tests)]
    data = [] if args.tiny else ["--dataset=cifar10", f"--root={args.root}"]
    size = "--tiny --images=200 --epochs=1" if args.tiny else "--images=50000 --epochs=0"
    if part == "rates":
        # A fraction of an epoch is enough.
        size = size if args.tiny else "--images=12800 --epochs=3"
        contenders = f"article {'bare' if args.tiny else 'graph'} tutorial"
    else:
        contenders = f"{part} --variant=classic" if part == "speedrun" else f"{part} --profile"
    options = f"--gpus={args.gpus} --rounds=1 --variant=wide {size} --contenders {contenders}"
    return [sys.executable, str(HERE / "race.py"), *options.split(), *data, f"--output={args.output / part}"]


def run_part(name: str, command: list[str], limit: float, output: Path) -> bool:
    """Run a part for `limit` seconds at most, keep what it prints in `<name>.txt`, and return whether it ended well."""
    log = output / f"{name}.txt"
    (output / name / CSV_NAME).unlink(missing_ok=True)
    options = {"stderr": subprocess.STDOUT, "start_new_session": True}
    with log.open("w") as file, subprocess.Popen(command, stdout=file, **options) as process:
        try:
            code, reason = process.wait(limit), None
        except subprocess.TimeoutExpired:
            code, reason = EXIT_FAILED, f"it took longer than {limit:g} s"
        finally:
            if process.poll() is None:
                # With the processes that it started.
                os.killpg(process.pid, signal.SIGKILL)
    lines = ["", *log.read_text().strip().splitlines()]
    if code:
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        fail(f"{name}: {reason or [lines[-1], *errors][-1]}; see {log}", EXIT_FAILED)
    else:
        print(f"{name}: {lines[-1]}", file=sys.stderr, flush=True)
    return not code


def report(output: Path, device: str) -> None:
    """Print the table of what the parts have left in `output`, and write gpu.csv and benchmark.png."""
    paths = {name: output / name / CSV_NAME for name in LIMITS}
    races = {name: read_races(path) for name, path in paths.items() if path.exists()}
    total = {name: own[0].seconds[-1] for name, own in races.items()}
    tests = output / "tests.txt"
    tested = tests.read_text() if tests.exists() else ""
    passed = re.search(r"(\d+) passed", tested) if " failed" not in tested else None
    target = seconds_to_target(races["speedrun"][0]) if "speedrun" in races else None
    epochs: dict[str, float] = {}  # seconds of each contender's last
    if "rates" in races:
        with paths["rates"].open(newline="") as file:
            epochs = {row["contender"]: float(row["train_seconds"]) for row in csv.DictReader(file)}
    ours = epochs.get("article")
    faster = {name: seconds / ours for name, seconds in epochs.items() if ours}
    rows = [
        ("tests -m gpu, passed", passed and int(passed[1]), ">=", 1),
        ("seconds for 20 epochs of wide, article", total.get("article"), "<=", 10),
        ("seconds for 20 epochs of wide, modern", total.get("modern"), "<=", 5),
        (f"seconds to {TARGET:.2%}, speedrun of classic", target, "<=", 2),
        ("article's rate / a hand-written graph loop's", faster.get("graph"), ">=", 0.8),
        ("article's rate / the usual tutorial's", faster.get("tutorial"), ">=", 10),
    ]
    print(f"\n{device}\n")
    with (output / "gpu.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("what", "value", "goal", "verdict", "device"))
        for what, value, sign, bound in rows:
            is_met = value is not None and (value <= bound if sign == "<=" else value >= bound)
            verdict = "not measured" if value is None else "met" if is_met else "missed"
            cells = what, "-" if value is None else f"{value:.3g}", f"{sign} {bound:g}", verdict
            print("{:<46} {:>8}  {:<7} {}".format(*cells))
            writer.writerow([*cells, device])
    if drawn := [own[0] for name, own in races.items() if name != "rates"]:
        draw_runs(drawn, output)


if __name__ == "__main__":
    sys.exit(main())
