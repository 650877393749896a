"""What Lightning's loop, our logging and the progress bar cost over a bare PyTorch loop.

    python scripts/benchmarks/loop_overhead.py

Both sides train the same network on the same batches of random images and validate on one batch. The Lightning side is
what `scripts/train.py` runs: progress bar, metrics.csv, curves.png, and checkpoints once an epoch. Sides take turns.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

# Works from a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional

from minivgg_pl.cli.command import OneLineArgumentParser
from minivgg_pl.cli.lightning_cli import MiniVGGCLI
from minivgg_pl.data.cifar10 import CIFAR10DataModule
from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.runs.environment import device_name
from minivgg_pl.training import module
from minivgg_pl.training.module import LitMiniVGG

WARM_UP_IMAGES = 5 * 64


class Epoch(NamedTuple):
    """Seconds of an epoch's training batches, and of all of it, from the first batch to the last checkpoint."""

    batches: float
    total: float


class RandomImages(CIFAR10DataModule):
    """CIFAR10DataModule with noise for images: no file is read."""

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.num_images = num_images

    def prepare_files(self) -> None:
        """Nothing to prepare."""

    def load(self, split: str) -> ImageDataset:
        """Return noise."""
        size = self.num_images if split == "train" else self.batch_size
        images = torch.randint(256, (size, 32, 32, 3), dtype=torch.uint8)
        return ImageDataset(images, torch.randint(10, (size,)))


class BenchmarkCLI(MiniVGGCLI):
    """What `scripts/train.py` builds, with random images."""

    def __init__(self, args: list[str], num_images: int) -> None:
        self.num_images = num_images
        super().__init__(args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Replace the data before they are looked for on disk."""
        self.datamodule = RandomImages(self.num_images)
        return super().instantiate_trainer(**kwargs)


class Clock(Callback):
    """Notes when the epoch starts, when its batches are done, and when all is done."""

    def on_train_epoch_start(self, *_: object) -> None:
        """Note the start."""
        self.start = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        """Note the end of the batches."""
        self.batches_done = time.perf_counter()

    def on_train_end(self, *_: object) -> None:
        """Note the end of the checkpoints, which come after the epoch's other callbacks."""
        self.done = time.perf_counter()

    def epoch(self) -> Epoch:
        """Return the seconds between the three."""
        return Epoch(self.batches_done - self.start, self.done - self.start)


def main() -> int:
    """Warm both sides up, measure all rounds, print the table."""
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.tiny:
        module.MiniVGG = TinyNetwork
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for side in (time_bare, time_lightning):
        side(args.variant, WARM_UP_IMAGES)
    rounds = []
    for _ in range(args.rounds):
        rounds.append((time_bare(args.variant, args.images), time_lightning(args.variant, args.images)))
        print(f"bare {rounds[-1][0].total:.2f} s, lightning {rounds[-1][1].total:.2f} s", file=sys.stderr, flush=True)
    print_table(rounds, args)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = OneLineArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(ARCHITECTURES), default="classic")
    parser.add_argument("--images", type=int, default=50_000, help="images an epoch (default: 50000)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each side (default: 3)")
    parser.add_argument("--threads", type=int, help="threads of both sides (default: PyTorch's choice)")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="one linear layer for a network, to measure the loop alone",
    )
    args = parser.parse_args()
    if args.rounds < 1 or (args.threads is not None and args.threads < 1):
        parser.error("--rounds and --threads take 1 or more")
    # Batch norm cannot train on a last batch of one image.
    if args.images < 2 or args.images % 64 == 1:
        parser.error("--images takes 2 or more, no multiple of 64 plus 1")
    return args


class TinyNetwork(nn.Sequential):
    """Stands in for MiniVGG with next to no arithmetic."""

    image_shape = (3, 32, 32)

    def __init__(self, *_: object) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    def forward(self, images: Tensor, dropout_samples: int = 1) -> Tensor:
        """Return logits `(N, 10)`."""
        return super().forward(images)


def time_bare(variant: str, num_images: int) -> Epoch:
    """Train and validate as little code can; only the network, the optimizer and the batches are ours."""
    data, lit = RandomImages(num_images), LitMiniVGG(variant)
    data.setup("fit")
    configured = lit.configure_optimizers()
    net, optimizer, schedule = lit.net, configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    start = time.perf_counter()
    net.train()
    for images, targets in data.train_dataloader():
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(images), targets)
        loss.backward()
        optimizer.step()
        schedule.step()
    batches = time.perf_counter() - start
    net.eval()
    with torch.no_grad():
        for images, targets in data.val_dataloader():
            functional.cross_entropy(net(images), targets)
    return Epoch(batches, time.perf_counter() - start)


def time_lightning(variant: str, num_images: int) -> Epoch:
    """Train and validate as `scripts/train.py` does in a terminal, with what it prints thrown away."""
    options = [f"--model.variant={variant}", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as devnull,
        redirect_stdout(devnull),
        redirect_stderr(devnull),
    ):
        options += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=true"]
        cli = BenchmarkCLI(options, num_images)
        cli.trainer.callbacks.append(clock)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return clock.epoch()


def print_table(rounds: list[tuple[Epoch, Epoch]], args: argparse.Namespace) -> None:
    """Print seconds an epoch by round and the medians of the paired differences."""
    num_steps = -(-args.images // 64)
    network = "one linear layer" if args.tiny else args.variant
    device = device_name(torch.device("cpu"))
    print(f"\n{network}, {args.images:,} random images, {num_steps} steps, {device}")
    print(f"torch {torch.__version__}\n\nseconds an epoch\nround       bare lightning  overhead")
    for number, (bare, lightning) in enumerate(rounds, start=1):
        print(f"{number:<6} {bare.total:>9.2f} {lightning.total:>9.2f} {lightning.total / bare.total - 1:>9.1%}")
    overhead = statistics.median(lightning.total / bare.total for bare, lightning in rounds) - 1
    step = statistics.median(lightning.batches - bare.batches for bare, lightning in rounds) / num_steps
    epoch_end = statistics.median(
        (lightning.total - lightning.batches) - (bare.total - bare.batches) for bare, lightning in rounds
    )
    print(f"\noverhead     {overhead:.1%} (median of the rounds)")
    print(f"of which     {step * 1e6:.0f} us a step, and {epoch_end:.2f} s an epoch for row, image and checkpoints")


if __name__ == "__main__":
    sys.exit(main())
