"""Repeat a result of the README and judge it, or judge finished runs.

    python scripts/benchmarks/reproduce.py --list  # the names, and what is claimed
    python scripts/benchmarks/reproduce.py classic-article --data.root data --gpus 0  # the claimed seeds
    python scripts/benchmarks/reproduce.py classic-modern --seeds 7 8 9 --output mine.csv
    python scripts/benchmarks/reproduce.py --runs runs/classic/1 runs/classic/2  # trains nothing
    python scripts/benchmarks/reproduce.py --runs RUN --output scripts/benchmarks/results.csv  # adds a row
    python scripts/benchmarks/reproduce.py --table  # the README's tables
    python scripts/benchmarks/reproduce.py --significance  # how many seeds a difference needs

Options of the data and the trainer (--data.*, --trainer.*, --gpus) go on to scripts/train.py. Repeated after an
interruption, the same command goes on. The exit code is 0 for pass and 1 for fail. A result passes unless its mean test
accuracy lies below the claimed mean by more than chance explains: t s sqrt(1/n + 1/m), a one-sided 95 % prediction
interval for n new seeds from m claimed ones, s the claim's sample standard deviation, and for a claim of one seed that
of the others.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

# Works from a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from claims import (
    CLAIMS,
    COMPARED,
    Result,
    add_result,
    claims_by_name,
    name_of,
    read_results,
    result_of_run,
    result_tables,
)
from reproduce_report import Claims, judge, print_claims, print_significance

from minivgg_pl.cli.command import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    OneLineArgumentParser,
    fail,
    guarded,
)
from minivgg_pl.errors import InputError, check_seed
from minivgg_pl.files import check_output
from minivgg_pl.runs import folder as runs

TRAIN = Path(__file__).parents[1] / "train.py"
FORWARDED = ("--data", "--gpus", "--data.*", "--trainer.*")
OURS = ("--trainer.default_root_dir", "--trainer.max_epochs", "--trainer.fast_dev_run")


class TrainingFailed(Exception):
    """A training ended with another exit code than 0, its argument; it has said why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for, and return the exit code."""
    args, options = parse_arguments(argv)
    return guarded(lambda: run(args, options))


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Return this command's own options, and those for train.py as they were typed."""
    parser = OneLineArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="the result to repeat: see --list")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: those of the claim")
    parser.add_argument("--root-dir", type=Path, metavar="DIR", default=Path("runs/reproduce"), help="for run folders")
    parser.add_argument("--runs", nargs="+", type=Path, metavar="RUN", help="judge these finished runs, train nothing")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="results file to add each run's row to")
    parser.add_argument("--claims", type=Path, metavar="FILE.csv", default=CLAIMS, help="default: the README's")
    for name, text in (
        ("list", "print the names with their claims"),
        ("table", "print the README's tables"),
        ("significance", "print how many seeds separate two recipes"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=text)
    args, options = parser.parse_known_args(argv)
    asked = [bool(args.name), bool(args.runs), args.list, args.table, args.significance]
    if sum(asked) != 1:
        parser.error("give one of NAME, --runs, --list, --table and --significance")
    names = [word.partition("=")[0] for word in options if word.startswith("--")]
    wrong = [name for name in names if name in OURS or not any(fnmatchcase(name, known) for known in FORWARDED)]
    if not args.name:
        wrong = options
    if wrong:
        parser.error(f"{wrong[0]}: not an option here, since NAME decides how to train; give {', '.join(FORWARDED)}")
    return args, options


def run(args: argparse.Namespace, options: list[str]) -> int:
    """Do what `args` ask for, and return the exit code."""
    claims = claims_by_name(read_results(args.claims))
    # Before hours of training.
    check_output("--output", args.output, [".csv"], overwrite=True)
    kept = read_results(args.output) if args.output and args.output.exists() else []
    if args.list:
        return print_claims(claims)
    if args.table:
        print("\n\n".join(result_tables([row for rows in claims.values() for row in rows])))
        return 0
    if args.significance:
        return print_significance(claims)
    if args.runs:
        return judge_runs(args, claims)
    if args.name not in claims:
        raise InputError(f"{args.name}: no result of that name; choose one of {', '.join(claims)}")
    claimed = claims[args.name]
    seeds = [check_seed("--seeds", seed) for seed in dict.fromkeys(args.seeds or [row["seed"] for row in claimed])]
    folders = {seed: args.root_dir / args.name / str(seed) for seed in seeds}
    for seed in seeds:
        is_kept = (args.name, seed) in ((name_of(row), row["seed"]) for row in kept)
        if is_kept and not find_finished(folders[seed], claimed[0]["epochs"]):
            raise InputError(
                f"--output {args.output}: it has another run's row for {args.name}, seed {seed}: remove it"
            )
    measured = []
    try:
        for seed in seeds:
            measured.append(result_of_run(finished_run(claimed[0], seed, folders[seed], options)))
            check_comparable(measured[-1], claimed)
            keep(args, measured[-1])
    except TrainingFailed as failure:
        return failure.args[0]
    return judge(measured, claimed, claims)


def finished_run(claim: Result, seed: int, folder: Path, options: list[str]) -> Path:
    """Return the run of that seed in `folder`: the one that is there, resumed if need be, or a new one.

    Raises:
        TrainingFailed: If the training ended with another exit code than 0.
    """
    if finished := find_finished(folder, claim["epochs"]):
        return finished
    started = [path for path in runs_in(folder) if (path / runs.LAST_CHECKPOINT).exists()]
    if started:
        words = ["--resume", started[-1]]
    else:
        words = ["--variant", claim["variant"], "--recipe", claim["recipe"], "--epochs", claim["epochs"]]
        words += ["--seed_everything", seed]
    command = [sys.executable, TRAIN, *words, "--trainer.default_root_dir", folder, *options]
    print(f"seed {seed}: {' '.join(map(str, command[1:]))}", flush=True)
    train([str(word) for word in command])
    finished = [path.parent for path in folder.glob(f"*/*/{runs.SUMMARY}")]
    if not finished:
        raise InputError(f"{folder}: the training left no {runs.SUMMARY} of a test; leave options that prevent it out")
    return max(finished, key=lambda path: (path / runs.SUMMARY).stat().st_mtime)


def find_finished(folder: Path, epochs: int) -> Path | None:
    """Return the oldest run below `folder` that has its test of the last of `epochs` epochs behind it, or None."""
    return next((path for path in runs_in(folder) if runs.tested_epochs(path) == epochs), None)


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders below `folder`, the oldest first."""
    configs = sorted(folder.glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in configs]


def train(command: list[str]) -> None:
    """Run one training as a process of its own; Ctrl-C reaches it as well, SIGTERM is passed on."""
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise TrainingFailed(EXIT_INTERRUPTED) from None
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code < 0:
        raise TrainingFailed(fail(f"the training got signal {-code}: repeat the command to go on", EXIT_FAILED))
    if code:
        raise TrainingFailed(code if code in (EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED) else EXIT_FAILED)


def judge_runs(args: argparse.Namespace, claims: Claims) -> int:
    """Judge the finished runs of `--runs`, each name's against its claim."""
    measured = claims_by_name([result_of_run(folder) for folder in args.runs])
    for name, results in measured.items():
        for result in results:
            check_comparable(result, claims.get(name) or list(chain(*claims.values())) or [result])
            keep(args, result)
    codes = [judge(results, claims.get(name, []), claims) for name, results in measured.items()]
    return max(codes)


def check_comparable(result: Result, claimed: Sequence[Result]) -> None:
    """Refuse a run on other data than the claim's."""
    for column in COMPARED:
        if result[column] != claimed[0][column]:
            raise InputError(
                f"{name_of(result)}, seed {result['seed']}: its {column} is {result[column] or 'unknown'}, the claim's "
                f"{claimed[0][column]}; give a run on the same"
            )


def keep(args: argparse.Namespace, result: Result) -> None:
    """Add the row to `--output`."""
    if args.output and add_result(args.output, result):
        print(f"{name_of(result)}, seed {result['seed']}: added to {args.output}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
