"""The options of `race.py`, and which of them go together."""

import argparse
import importlib.util
from pathlib import Path

from contenders import CONTENDERS, DEFAULT_BATCH_SIZE, OURS

from minivgg_pl.cli.command import OneLineArgumentParser
from minivgg_pl.models.architectures import ARCHITECTURES

# Batch norm cannot train on one image.
LEAST = {"rounds": 1, "images": 1, "batch_size": 2, "threads": 1}
# What --runs, which trains nothing, goes with.
BESIDE_RUNS = ("runs", "output")


def parse_arguments(description: str) -> argparse.Namespace:
    """Read and check the command line; the contenders are those that shall race.

    Args:
        description: The help's text.
    """
    parser = _parser(description)
    args = parser.parse_args()
    _check_runs(parser, args)
    _check_numbers(parser, args)
    _check_data(parser, args)
    has_keras = bool(importlib.util.find_spec("tensorflow") and importlib.util.find_spec("keras"))
    _check_contenders(parser, args, has_keras)
    left_out = {"speedrun": True, "graph": not args.gpus, "keras": not has_keras}
    # In turns, each once a round.
    named = dict.fromkeys(args.contenders or [name for name in CONTENDERS if not left_out.get(name)])
    args.contenders = list(named)
    _check_graph(parser, args)
    if args.gpus and not args.role:
        import torch

        if not torch.cuda.is_available():
            parser.error("--gpus 1: this machine has no GPU that torch can use; --gpus 0 is the CPU")
    return args


def _parser(description: str) -> OneLineArgumentParser:
    parser = OneLineArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="default: all whose packages are here")
    parser.add_argument("--variant", choices=list(ARCHITECTURES), default="classic")
    parser.add_argument("--rounds", type=int, default=3, help="races of each contender (default: 3)")
    parser.add_argument("--images", type=int, default=6400, help="training images, by the 50 (default: 6400)")
    parser.add_argument("--epochs", type=int, default=1, help="0: each contender's own number (default: 1)")
    parser.add_argument("--batch-size", type=int, help="for all (default: the recipe's; 64 for the others)")
    parser.add_argument("--dataset", choices=("synthetic", "cifar10"), default="synthetic")
    parser.add_argument("--root", help="folder with the data (default: drawn images in a temporary folder)")
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
    return parser


def _check_runs(parser: OneLineArgumentParser, args: argparse.Namespace) -> None:
    changed = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    for name in [name for name in changed if args.runs and name not in BESIDE_RUNS]:
        parser.error(f"--runs trains nothing: leave --{name.replace('_', '-')} out")


def _check_numbers(parser: OneLineArgumentParser, args: argparse.Namespace) -> None:
    for name, least in LEAST.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: give {least} or more")
    if args.epochs < 0:
        parser.error(f"--epochs {args.epochs}: give 1 or more, or 0 for each contender's own number")


def _check_data(parser: OneLineArgumentParser, args: argparse.Namespace) -> None:
    if args.dataset != "cifar10":
        return
    if args.images > 50_000:
        parser.error(f"--images {args.images}: CIFAR-10 has 50,000 training images; give at most that")
    if args.grow:
        parser.error("--grow draws its own images: leave --dataset out")
    if args.root is None:
        parser.error("--dataset cifar10 needs --root, the folder with the data")


def _check_contenders(parser: OneLineArgumentParser, args: argparse.Namespace, has_keras: bool) -> None:
    named = args.contenders or OURS
    if args.grow and named[0] not in OURS:
        parser.error(f"--grow {named[0]}: give one of ours, {', '.join(OURS)}")
    if args.grow and args.output:
        parser.error("--grow only prints: leave --output out")
    if args.grow and args.profile:
        parser.error("--grow and --profile: give one of them")
    if args.profile and not set(named) & set(OURS):
        parser.error(f"--profile is of ours alone: name one of {', '.join(OURS)} among --contenders")
    if "graph" in named and not args.gpus:
        parser.error("graph is a CUDA graph: give --gpus 1, or leave it out")
    if "keras" in named and not has_keras:
        parser.error("keras needs packages that are not installed: pip install tensorflow-cpu keras")


def _check_graph(parser: OneLineArgumentParser, args: argparse.Namespace) -> None:
    size = args.batch_size or DEFAULT_BATCH_SIZE
    # One image more joins the only batch, which is then not of the graph's size.
    if "graph" in args.contenders and not args.grow and (args.images < size or args.images == size + 1):
        parser.error(
            f"graph repeats whole batches of {size}: {args.images} images make none; give more, or leave it out"
        )
