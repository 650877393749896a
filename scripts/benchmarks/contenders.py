"""The contenders of `race.py`, one class each."""

import argparse
import importlib.util
import tempfile
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from common import DEFAULT_BATCH_SIZE, WARM_UP_BATCHES, Race, data_options, load_arrays

from minivgg_pl.cli.recipes import RECIPES, recipe_arguments
from minivgg_pl.models.architectures import ARCHITECTURES

# Heavy imports are late: TensorFlow and torch in one process end in a segmentation fault.


class Contender(ABC):
    """One side of a race.

    Attributes:
        name: What it is called on the command line.
        description: What the help says of it.
    """

    name: str
    description: str

    def missing(self, args: argparse.Namespace) -> str | None:
        """Return what it lacks to run with these options, or None."""
        return None

    @abstractmethod
    def run(self, args: argparse.Namespace) -> Race:
        """Train for `args.epochs` epochs, validating after each."""


class Recipe(Contender):
    """A recipe through what `scripts/train.py` builds, run folder included."""

    def __init__(self, name: str) -> None:
        self.name, self.description = name, f"the {name} recipe through scripts/train.py's Trainer"

    def run(self, args: argparse.Namespace) -> Race:
        import torch
        from loops import StepProfile, TinyNetwork

        from minivgg_pl.cli.lightning_cli import MiniVGGCLI
        from minivgg_pl.memory import keep_freed_memory

        keep_freed_memory()
        race = Race()
        epochs = [f"--trainer.max_epochs={args.epochs}"] if args.epochs else []
        with tempfile.TemporaryDirectory() as folder:
            for length in ([f"--trainer.fast_dev_run={WARM_UP_BATCHES}"], epochs):
                cli = MiniVGGCLI([*self.options(args), f"--trainer.default_root_dir={folder}", *args.option, *length])
                if args.tiny:
                    cli.model.net = TinyNetwork()
                cli.datamodule.setup("fit")
                cli.datamodule.train_set = cli.datamodule.train_set.subset(torch.arange(args.images))
                if length is epochs:
                    first, last = clock(race)
                    cli.trainer.callbacks = [first, *cli.trainer.callbacks, last, *[StepProfile()] * args.profiled]
                cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        return race

    def options(self, args: argparse.Namespace) -> list[str]:
        """Return the options of `scripts/train.py`."""
        options = [*recipe_arguments(self.name), f"--model.variant={args.variant}", "--native_bf16=true"]
        options += [f"--data.{name}={value}" for name, value in data_options(args).items()]
        options += [f"--trainer.{name}=false" for name in ("enable_progress_bar", "enable_model_summary")]
        options.append("--trainer.accelerator=gpu" if args.gpus else "--trainer.accelerator=cpu")
        return options + [f"--data.batch_size={args.batch_size}"] * bool(args.batch_size)


def clock(race: Race) -> list[Any]:
    """Return Lightning callbacks that note the times of `race`: one to call before all others, one after them."""
    from lightning.pytorch.callbacks import LambdaCallback

    first = LambdaCallback(
        on_train_epoch_start=lambda *_: race.epoch_starts(), on_validation_start=lambda *_: race.batches_done()
    )
    last = LambdaCallback(on_train_epoch_end=lambda trainer, _: race.epoch_ends(trainer.callback_metrics["val_acc"]))
    return [first, last]


class Bare(Contender):
    """A loop without Lightning."""

    name = "bare"
    description = "a bare PyTorch loop around the article recipe's network, images and optimizer"

    def run(self, args: argparse.Namespace) -> Race:
        from loops import BareLoop

        return BareLoop(args).run()


class Graph(Contender):
    """A loop without Lightning, its updates captured."""

    name = "graph"
    description = "the same with each update as one CUDA graph (--gpus 1)"

    def missing(self, args: argparse.Namespace) -> str | None:
        return None if args.gpus else "a CUDA graph needs --gpus 1"

    def run(self, args: argparse.Namespace) -> Race:
        from loops import GraphLoop

        return GraphLoop(args).run()


class Tutorial(Contender):
    """Lightning without this package's data and metrics."""

    name = "tutorial"
    description = "Lightning as tutorials use it: torchvision transforms, 2 workers, metrics logged every step"

    def run(self, args: argparse.Namespace) -> Race:
        from lightning.pytorch import Trainer
        from loops import Images, TutorialModule
        from torch.utils.data import DataLoader

        train, val = load_arrays(args)
        batch = args.batch_size or DEFAULT_BATCH_SIZE
        options = {"batch_size": batch, "num_workers": 2, "persistent_workers": True}
        # Batch norm cannot train on a last batch of one image.
        shuffled = DataLoader(Images(*train), shuffle=True, drop_last=len(train[0]) % batch == 1, **options)
        loaders = shuffled, DataLoader(Images(*val), **options)
        for epochs, limit in ((1, WARM_UP_BATCHES), (args.epochs or ARCHITECTURES[args.variant].epochs, None)):
            race = Race()
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(
                    max_epochs=epochs,
                    limit_train_batches=limit,
                    limit_val_batches=limit,
                    accelerator="gpu" if args.gpus else "cpu",
                    devices=1,
                    callbacks=clock(race),
                    num_sanity_val_steps=0,
                    default_root_dir=folder,
                    enable_model_summary=False,
                )
                trainer.fit(TutorialModule(args.variant), *loaders)
        return race


class Keras(Contender):
    """The original."""

    name = "keras"
    description = "the article's code in Keras 3 on TensorFlow (pip install tensorflow-cpu keras)"

    def missing(self, args: argparse.Namespace) -> str | None:
        is_here = importlib.util.find_spec("tensorflow") and importlib.util.find_spec("keras")
        return None if is_here else "packages are not installed: pip install tensorflow-cpu keras"

    def run(self, args: argparse.Namespace) -> Race:
        import keras

        batch = args.batch_size or DEFAULT_BATCH_SIZE
        model = article_model(args.variant)
        decay = keras.optimizers.schedules.InverseTimeDecay(0.01, decay_steps=1, decay_rate=0.01 / 40)
        optimizer = keras.optimizers.SGD(learning_rate=decay, momentum=0.9, nesterov=True)
        model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
        train, val = [
            (images.astype("float32") / 255, np.eye(10, dtype="float32")[labels])
            for images, labels in load_arrays(args)
        ]
        # The warm-up has last batches of the same size, so that no shape is traced on the clock.
        few = [[array[: WARM_UP_BATCHES * batch + len(array) % batch] for array in pair] for pair in (train, val)]
        model.fit(*few[0], batch_size=batch, validation_data=tuple(few[1]), verbose=0)
        race = Race()
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: race.epoch_starts(),
            on_test_begin=lambda *_: race.batches_done(),
            on_epoch_end=lambda _, logs: race.epoch_ends(logs["val_accuracy"]),
        )
        epochs = args.epochs or ARCHITECTURES[args.variant].epochs
        model.fit(*train, batch_size=batch, validation_data=val, epochs=epochs, verbose=0, callbacks=[callback])
        return race


def article_model(variant: str) -> Any:
    """Build the article's network in Keras."""
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


CONTENDERS = {contender.name: contender for contender in (*map(Recipe, RECIPES), Bare(), Graph(), Tutorial(), Keras())}
