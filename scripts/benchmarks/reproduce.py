"""Repeat a result of the README and judge it, or judge finished runs.

    python scripts/benchmarks/reproduce.py --list  # the names, and what is claimed
    python scripts/benchmarks/reproduce.py classic-article --data.root data --gpus 0  # the claimed seeds
    python scripts/benchmarks/reproduce.py classic-modern --seeds 7 8 9 --output mine.csv
    python scripts/benchmarks/reproduce.py --runs runs/classic/1 runs/classic/2  # trains nothing
    python scripts/benchmarks/reproduce.py --runs RUN --output scripts/benchmarks/results.csv  # adds a row
    python scripts/benchmarks/reproduce.py --table  # the README's tables

Options of the data and the trainer (--data.*, --trainer.*, --gpus) go on to scripts/train.py. The exit code is 0 for
pass and 1 for fail. A result passes unless its mean test accuracy lies below the claimed mean by more than chance
explains: t s sqrt(1/n + 1/m), a one-sided 95 % prediction interval for n new seeds from m claimed ones. s is the sample
standard deviation of the claim, for a claim of one seed that of the others.
"""

import argparse
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from claims import (
    CLAIMS,
    COMPARED,
    Claims,
    Result,
    add_result,
    by_name,
    mean_and_deviation,
    name_of,
    read_results,
    result_of_run,
    result_tables,
    tolerance,
)
from common import TRAIN, whole_number

from minivgg_pl.cli.command import EXIT_FAILED, OneLineArgumentParser, fail, guarded
from minivgg_pl.errors import InputError
from minivgg_pl.files import check_output

FORWARDED = ("--data", "--gpus", "--data.", "--trainer.")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for, and return the exit code."""
    args, options = parse_arguments(argv)
    return guarded(lambda: run(args, options))


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Return this command's own options, and those for train.py as they were typed."""
    parser = OneLineArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help="the result to repeat: see --list")
    parser.add_argument("--seeds", nargs="+", type=whole_number(0), metavar="N", help="default: those of the claim")
    parser.add_argument("--root-dir", type=Path, metavar="DIR", default=Path("runs/reproduce"), help="for run folders")
    parser.add_argument("--runs", nargs="+", type=Path, metavar="RUN", help="judge these finished runs, train nothing")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="results file to add each run's row to")
    parser.add_argument("--claims", type=Path, metavar="FILE.csv", default=CLAIMS, help="default: the README's")
    parser.add_argument("--list", action="store_true", help="print the names with their claims")
    parser.add_argument("--table", action="store_true", help="print the README's tables")
    args, options = parser.parse_known_args(argv)
    if sum(map(bool, (args.name, args.runs, args.list, args.table))) != 1:
        parser.error("give one of NAME, --runs, --list and --table")
    wrong = [word for word in options if word.startswith("-") and not word.startswith(FORWARDED)]
    if wrong or (options and not args.name):
        parser.error(f"{(wrong or options)[0]}: not an option here; NAME takes those of the data and the trainer")
    return args, options


def run(args: argparse.Namespace, options: list[str]) -> int:
    """Do what `args` ask for, and return the exit code."""
    claims = by_name(read_results(args.claims))
    # Before hours of training.
    check_output("--output", args.output, [".csv"], overwrite=True)
    if args.list:
        return print_claims(claims)
    if args.table:
        print("\n\n".join(result_tables(list(chain(*claims.values())))))
        return 0
    if args.name:
        if args.name not in claims:
            raise InputError(f"{args.name}: no result of that name; choose one of {', '.join(claims)}")
        args.runs = []
        for seed in dict.fromkeys(args.seeds or [row["seed"] for row in claims[args.name]]):
            folder = args.root_dir / args.name / str(seed)
            if code := train(claims[args.name][0], seed, folder, options):
                return code
            args.runs.append(max(folder.glob("*/*"), key=lambda path: path.stat().st_mtime))
    measured = by_name([result_of_run(folder) for folder in args.runs])
    for result in chain(*measured.values()):
        check_comparable(result, claims.get(name_of(result), []))
        if args.output and add_result(args.output, result):
            print(f"{name_of(result)}, seed {result['seed']}: added to {args.output}", flush=True)
    return max(judge(results, claims.get(name, []), claims) for name, results in measured.items())


def train(claim: Result, seed: int, folder: Path, options: list[str]) -> int:
    """Train the claim's network from `seed`, in a new run folder in `folder`, and return the exit code."""
    words = ["--variant", claim["variant"], "--model.dense_units", claim["dense_units"]]
    words += ["--recipe", claim["recipe"], "--epochs", claim["epochs"]]
    words += ["--seed_everything", seed, "--trainer.default_root_dir", folder, *options]
    command = [sys.executable, *map(str, (TRAIN, *words))]
    print(f"seed {seed}: {' '.join(command[1:])}", flush=True)
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        code = process.wait()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return fail(f"the training ended by signal {-code}", EXIT_FAILED) if code < 0 else code


def check_comparable(result: Result, claimed: Sequence[Result]) -> None:
    """Refuse a run on other data than the claim's."""
    for column in COMPARED:
        if any(result[column] != claim[column] for claim in claimed):
            raise InputError(
                f"{name_of(result)}, seed {result['seed']}: its {column} is {result[column]}, the claim's "
                f"{claimed[0][column]}; give a run on the same"
            )


def judge(measured: Sequence[Result], claimed: Sequence[Result], claims: Claims) -> int:
    """Print measured beside claimed and the verdict; return 0 for pass, or if nothing is claimed, and 1 for fail."""
    print(f"\n{name_of(measured[0])}, {measured[0]['epochs']} epochs")
    hashes = {row["weights_sha256"] for row in claimed}
    for row in measured:
        note = "  the claim's weights, bit for bit" if row["weights_sha256"] in hashes else ""
        print(f"seed {row['seed']:<8} train {row['train_acc']:.2%}  test {row['test_acc']:.2%}{note}")
    for label, rows in (("measured", measured), ("claimed", claimed)):
        if rows:
            train, test = (mean_and_deviation([row[column] for row in rows]) for column in ("train_acc", "test_acc"))
            print(f"{label:<13} train {train}, test {test}, {len(rows)} seed{'s' if len(rows) > 1 else ''}")
    if not claimed:
        print("verdict       none: nothing of that name is claimed")
        return 0
    own, theirs = ([row["test_acc"] for row in rows] for rows in (measured, claimed))
    allowed = tolerance(len(own), theirs, [[row["test_acc"] for row in rows] for rows in claims.values()])
    difference = statistics.mean(own) - statistics.mean(theirs)
    passed = difference >= -allowed
    print(
        f"verdict       {'pass' if passed else 'FAIL'}: test accuracy {difference * 100:+.2f} points from the claim, "
        f"lowest allowed {-allowed * 100:.2f}"
    )
    return 0 if passed else EXIT_FAILED


def print_claims(claims: Claims) -> int:
    """Print a line for each claim."""
    for name, rows in claims.items():
        seeds = " ".join(str(row["seed"]) for row in rows)
        accuracy = mean_and_deviation([row["test_acc"] for row in rows])
        print(f"{name:<16} {rows[0]['epochs']:>3} epochs  test accuracy {accuracy:<16} seeds {seeds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
