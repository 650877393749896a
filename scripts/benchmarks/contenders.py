"""What all contenders in `race.py` share, and ours: the recipes through the command's Trainer.

A contender trains for some epochs, validates after each, and returns a `Race`. Nothing before the first real batch is
on the clock: imports, warm-up batches, tracing.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

# Works from a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from minivgg_pl.cli.recipes import RECIPES

OURS = RECIPES
CONTENDERS = (*OURS, "bare", "graph", "tutorial", "keras")
# Of those that are not ours.
DEFAULT_BATCH_SIZE = 64
WARM_UP_BATCHES = 5


class Race(NamedTuple):
    """What one contender did.

    Attributes:
        train_seconds: Of each epoch's batches, without validation.
        seconds: From the first batch to the end of each epoch, validation included.
        val_acc: Accuracy on the validation images after each epoch, in [0, 1].
        peak_mb: Largest resident memory of the process and of its workers, in MB; on a GPU, of the device.
    """

    train_seconds: list[float]
    seconds: list[float]
    val_acc: list[float]
    peak_mb: float


class Stopwatch:
    """Notes the ends of batches and epochs; every contender calls it at the same places."""

    def __init__(self) -> None:
        self.train_seconds: list[float] = []
        self.seconds: list[float] = []
        self.val_acc: list[float] = []

    def epoch_starts(self) -> None:
        """Start the epoch's clock."""
        self.epoch_start = time.perf_counter()
        if not self.seconds and not self.train_seconds:
            self.start = self.epoch_start

    def batches_done(self) -> None:
        """Note that the epoch's last update is done."""
        self.train_seconds.append(time.perf_counter() - self.epoch_start)

    def epoch_ends(self, val_acc: float) -> None:
        """Note that the validation is done."""
        self.seconds.append(time.perf_counter() - self.start)
        self.val_acc.append(float(val_acc))

    def race(self) -> Race:
        """Return what was noted, with the memory that it took."""
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        torch = sys.modules.get("torch")
        on_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
        peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else kilobytes * 1024 / 1e6
        return Race(self.train_seconds, self.seconds, self.val_acc, peak)


def data_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return CIFAR10DataModule's arguments; the drawn set is made as large as is asked."""
    options: dict[str, Any] = {"root": args.root, "dataset": args.dataset}
    if args.dataset == "synthetic":
        options["synthetic_size"] = args.images
    return options


def store_arrays(args: argparse.Namespace, folder: str) -> None:
    """Make sure of the data, and keep them as plain arrays for contenders that cannot live beside torch."""
    from minivgg_pl.data.cifar10 import CIFAR10DataModule

    data = CIFAR10DataModule(**data_options(args))
    data.prepare_data()
    data.setup("fit")
    for name, part, size in (("train", data.train_set, args.images), ("val", data.val_set, None)):
        np.save(f"{folder}/{name}_images.npy", part.images[:size].numpy())
        np.save(f"{folder}/{name}_labels.npy", part.labels[:size].numpy())


def load_arrays(args: argparse.Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `(images (N, 32, 32, 3) uint8, labels (N,) int64)`, for training and for validation, without torch.

    TensorFlow and torch in one process end in a segmentation fault.
    """
    return [
        (np.load(f"{args.arrays}/{name}_images.npy"), np.load(f"{args.arrays}/{name}_labels.npy"))
        for name in ("train", "val")
    ]


def run_ours(args: argparse.Namespace, recipe: str, *extra: Any) -> Race:
    """Train through what `scripts/train.py` builds, run folder included, with the callbacks `extra`."""
    import torch
    from lightning.pytorch.callbacks import LambdaCallback

    from minivgg_pl.cli.lightning_cli import MiniVGGCLI
    from minivgg_pl.cli.recipes import recipe_arguments
    from minivgg_pl.training.hardware import keep_freed_memory

    keep_freed_memory()
    options = [*recipe_arguments(recipe), f"--model.variant={args.variant}", "--native_bf16=true"]
    options += [f"--data.{name}={value}" for name, value in data_options(args).items()]
    options += [f"--trainer.{name}" for name in ("enable_progress_bar=false", "enable_model_summary=false")]
    options += ["--trainer.accelerator=gpu" if args.gpus else "--trainer.accelerator=cpu", *args.option]
    if args.batch_size:
        options.append(f"--data.batch_size={args.batch_size}")
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        options.append(f"--trainer.default_root_dir={folder}")
        epochs = [f"--trainer.max_epochs={args.epochs}"] if args.epochs else []
        for length in ([f"--trainer.fast_dev_run={WARM_UP_BATCHES}"], epochs):
            cli = MiniVGGCLI([*options, *length])
            cli.datamodule.setup("fit")
            cli.datamodule.train_set = cli.datamodule.train_set.subset(torch.arange(args.images))
            first = LambdaCallback(
                on_train_epoch_start=lambda *_: watch.epoch_starts(),
                on_validation_start=lambda *_: watch.batches_done(),
            )
            last = LambdaCallback(
                on_train_epoch_end=lambda trainer, _: watch.epoch_ends(trainer.callback_metrics["val_acc"])
            )
            if not cli.trainer.fast_dev_run:
                cli.trainer.callbacks = [first, *cli.trainer.callbacks, last, *extra]
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return watch.race()
