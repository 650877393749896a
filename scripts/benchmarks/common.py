"""What the benchmark scripts share: the import path, options, and the clock and data of a race."""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# The package is found in a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from minivgg_pl.errors import InputError

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
# Of contenders other than recipes.
DEFAULT_BATCH_SIZE = 64
WARM_UP_BATCHES = 5


def whole_number(least: int) -> Callable[[str], int]:
    """Return a type of option: a whole number, `least` or more."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: give a whole number, {least} or more")
        return int(text)

    return number


@dataclass
class Race:
    """The times of one contender, which calls the methods as it trains.

    The clock starts at the first real batch: imports, warm-up batches and tracing are not timed.

    Attributes:
        train_seconds: Duration of each epoch's batches, without validation.
        seconds: Time from the first batch to the end of each epoch, validation included.
        val_acc: Accuracy on the validation images after each epoch, in [0, 1].
    """

    train_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    val_acc: list[float] = field(default_factory=list)

    def epoch_starts(self) -> None:
        """Start the clock of the epoch, and before the first epoch that of the race."""
        self.epoch_start = time.perf_counter()
        if not self.train_seconds:
            self.start = self.epoch_start

    def batches_done(self) -> None:
        """Note the end of the epoch's last update."""
        self.train_seconds.append(time.perf_counter() - self.epoch_start)

    def epoch_ends(self, val_acc: float) -> None:
        """Note the end of the validation."""
        self.seconds.append(time.perf_counter() - self.start)
        self.val_acc.append(float(val_acc))


def data_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of CIFAR10DataModule. The synthetic set has as many images as are asked for."""
    options: dict[str, Any] = {"root": args.root, "dataset": args.dataset}
    return options if args.dataset == "cifar10" else {**options, "synthetic_size": args.images}


def store_arrays(args: argparse.Namespace) -> None:
    """Prepare the data, and save them in `args.arrays` for contenders that cannot share a process with torch.

    Raises:
        InputError: If there are fewer images than asked for.
    """
    from minivgg_pl.data.cifar10 import CIFAR10DataModule

    data = CIFAR10DataModule(**data_options(args))
    data.prepare_data()
    data.setup("fit")
    if args.images > len(data.train_set):
        raise InputError(f"--images {args.images}: give at most {len(data.train_set):,}, all training images")
    for name, part, size in (("train", data.train_set, args.images), ("val", data.val_set, None)):
        np.savez(f"{args.arrays}/{name}.npz", images=part.images[:size], labels=part.labels[:size])


def load_arrays(args: argparse.Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `(images (N, 32, 32, 3) uint8, labels (N,) int64)` for training and for validation, without torch."""
    files = [np.load(f"{args.arrays}/{name}.npz") for name in ("train", "val")]
    return [(file["images"], file["labels"]) for file in files]
