"""Time an epoch of ours against the article's code in Keras 3 on TensorFlow, on this machine's CPU.

    pip install tensorflow-cpu keras
    python scripts/compare_with_keras.py

Both sides train on the same images in float32, batch 64, and then validate. Ours is what `scripts/train.py` runs,
with its checkpoint, table row and picture; Keras' is `fit(..., validation_data=...)` and nothing else. Sides take
turns, each in a process of its own, and neither's start, tracing or first batches are on the clock.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

# Works from a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from minivgg_pl.architectures import ARCHITECTURES
from minivgg_pl.command import EXIT_BAD_INPUT, EXIT_FAILED, fail
from minivgg_pl.errors import InputError

BATCH_SIZE = 64
WARM_UP_BATCHES = 5
SIDES = {"ours": ("torch", "lightning"), "keras": ("tensorflow", "keras")}


class OneLineParser(argparse.ArgumentParser):
    """Reports bad input in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        sys.exit(fail(f"{message} (see --help)", EXIT_BAD_INPUT))


def main() -> int:
    """Measure all rounds and print the table; with the hidden `--role`, measure one side once."""
    args = parse_arguments()
    if args.role:
        seconds = {"ours": time_ours, "keras": time_keras}[args.role](args)
        # Not from the packages' metadata: TensorFlow comes as tensorflow-cpu, tensorflow or others.
        versions = {name: sys.modules[name].__version__ for name in SIDES[args.role]}
        print(json.dumps({"seconds": seconds, "versions": versions}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            store_images(args, Path(folder))
            results = [{side: run_side(side, folder, args) for side in SIDES} for _ in range(args.rounds)]
        except InputError as error:
            return fail(str(error), EXIT_BAD_INPUT)
        except subprocess.CalledProcessError as error:
            return fail(f"a side failed: {error.stderr.strip().splitlines()[-1]}", EXIT_FAILED)
    print_table(results, args)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(ARCHITECTURES), default="classic")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each side (default: 3)")
    parser.add_argument("--images", type=int, default=50_000, help="training images (default: 50000)")
    parser.add_argument("--val-images", type=int, default=10_000, help="validation images (default: 10000)")
    parser.add_argument("--root", help="folder with CIFAR-10, as train.py's --data.root (default: random images)")
    parser.add_argument("--threads", type=int, help="threads of each side (default: what each chooses)")
    parser.add_argument("--role", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    missing = [name for name in SIDES["keras"] if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} not installed: pip install tensorflow-cpu keras")
    if args.rounds < 1 or (args.threads is not None and args.threads < 1):
        parser.error("--rounds and --threads take 1 or more")
    # Batch norm cannot train on a last batch of one image.
    if not 2 <= args.images <= 50_000 or args.images % BATCH_SIZE == 1 or not 1 <= args.val_images <= 10_000:
        parser.error("--images takes 2 to 50000, no multiple of 64 plus 1, and --val-images 1 to 10000")
    return args


def store_images(args: argparse.Namespace, folder: Path) -> None:
    """Write the images, uint8 `(N, 32, 32, 3)`, and labels that both sides read."""
    splits = {"train": args.images, "val": args.val_images}
    random = np.random.default_rng(0)
    sets = {
        split: (random.integers(256, size=(size, 32, 32, 3), dtype=np.uint8), random.integers(10, size=size))
        for split, size in splits.items()
    }
    if args.root:
        from minivgg_pl import CIFAR10DataModule

        data = CIFAR10DataModule(args.root)
        data.prepare_data()
        data.setup("fit")
        sets = {
            split: (dataset.images.numpy(), dataset.labels.numpy())
            for split, dataset in (("train", data.train_set), ("val", data.val_set))
        }
    for split, (images, labels) in sets.items():
        np.save(folder / f"{split}_images.npy", images[: splits[split]])
        np.save(folder / f"{split}_labels.npy", labels[: splits[split]])


def load_images(args: argparse.Namespace, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read what `store_images` wrote."""
    return np.load(f"{args.folder}/{split}_images.npy"), np.load(f"{args.folder}/{split}_labels.npy")


def run_side(side: str, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time one epoch of `side` in a new process, so that the two frameworks' thread pools never meet."""
    # A comparison of CPUs, also where there is a GPU.
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, *sys.argv[1:], "--role", side, "--folder", folder]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{side} {result['seconds']:.1f} s", file=sys.stderr, flush=True)
    return result


def time_ours(args: argparse.Namespace) -> float:
    """Return the seconds of an epoch of what `scripts/train.py` runs."""
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import LambdaCallback

    from minivgg_pl.cli import MiniVGGCLI
    from minivgg_pl.data import CIFAR10DataModule, ImageDataset

    class StoredImages(CIFAR10DataModule):
        def prepare_data(self) -> None:
            pass

        def _load(self, train: bool) -> ImageDataset:
            images, labels = load_images(args, "train" if train else "val")
            return ImageDataset(torch.from_numpy(images), torch.from_numpy(labels))

    class BenchmarkCLI(MiniVGGCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            # Before the data are looked for on disk.
            self.datamodule = StoredImages(batch_size=BATCH_SIZE)
            return super().instantiate_trainer(**kwargs)

    if args.threads:
        torch.set_num_threads(args.threads)
    options = [f"--model.variant={args.variant}", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
    options += [f"--trainer.default_root_dir={args.folder}", "--trainer.enable_progress_bar=false"]
    clock = {}
    for length in (f"--trainer.fast_dev_run={WARM_UP_BATCHES}", "--trainer.max_epochs=1"):
        cli = BenchmarkCLI([*options, length])
        start = LambdaCallback(on_train_epoch_start=lambda *_: clock.update(start=time.perf_counter()))
        end = LambdaCallback(on_train_end=lambda *_: clock.update(end=time.perf_counter()))
        cli.trainer.callbacks = [start, *cli.trainer.callbacks, end]
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return clock["end"] - clock["start"]


def time_keras(args: argparse.Namespace) -> float:
    """Return the seconds of an epoch of the article's code."""
    import keras
    import tensorflow

    if args.threads:
        tensorflow.config.threading.set_intra_op_parallelism_threads(args.threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(args.threads)
    model = keras_model(args.variant)
    decay = keras.optimizers.schedules.InverseTimeDecay(0.01, decay_steps=1, decay_rate=0.01 / 40)
    optimizer = keras.optimizers.SGD(learning_rate=decay, momentum=0.9, nesterov=True)
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    train, val = [
        (images.astype("float32") / 255, np.eye(10, dtype="float32")[labels])
        for images, labels in (load_images(args, split) for split in ("train", "val"))
    ]
    clock = {}
    timer = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: clock.update(start=time.perf_counter()),
        on_epoch_end=lambda *_: clock.update(end=time.perf_counter()),
    )
    # The warm-up has a last batch of the same size, so that no shape is compiled on the clock.
    few = [[array[: WARM_UP_BATCHES * BATCH_SIZE + len(array) % BATCH_SIZE] for array in pair] for pair in (train, val)]
    for (images, targets), validation in (few, (train, val)):
        model.fit(
            images, targets, batch_size=BATCH_SIZE, validation_data=tuple(validation), verbose=0, callbacks=[timer]
        )
    return clock["end"] - clock["start"]


def keras_model(variant: str) -> Any:
    """Build the article's network."""
    import keras
    from keras import layers

    architecture = ARCHITECTURES[variant]
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for block in architecture.blocks:
        for width in block:
            model.add(layers.Conv2D(width, (3, 3), padding="same", activation="relu"))
            model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D((2, 2)))
        model.add(layers.Dropout(architecture.block_dropout))
    model.add(layers.Flatten())
    model.add(layers.Dense(architecture.dense_units, activation="relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dropout(architecture.dense_dropout))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def print_table(results: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print seconds an epoch by round, the medians, and what was measured on what."""
    from torch import device

    from minivgg_pl.summary import device_name

    processor = device_name(device("cpu")).rsplit(", ", 1)[0]
    rows = [(result["ours"]["seconds"], result["keras"]["seconds"]) for result in results]
    ours, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"\n{args.variant}, {args.images:,} images and {args.val_images:,} to validate, float32, batch {BATCH_SIZE}")
    print(f"{processor}, {os.cpu_count()} cores, {args.threads or 'default'} threads")
    for side, result in results[0].items():
        print(f"{side}: " + ", ".join(f"{name} {number}" for name, number in result["versions"].items()))
    print("\nseconds an epoch, validation included")
    print("round       ours     keras  ours/keras")
    for number, (mine, other) in enumerate(rows, start=1):
        print(f"{number:<6} {mine:>9.2f} {other:>9.2f} {mine / other:>11.3f}")
    ratio = statistics.median(mine / other for mine, other in rows)
    print(f"median {ours:>9.2f} {theirs:>9.2f} {ratio:>11.3f}  (below 1: ours is faster)")
    print(f"images/s {args.images / ours:>7.0f} {args.images / theirs:>9.0f}")


if __name__ == "__main__":
    sys.exit(main())
