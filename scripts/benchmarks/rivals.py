"""The others in `race.py`: Lightning as its tutorials use it, and the article's code in Keras 3."""

import argparse
import tempfile
from typing import Any

import numpy as np
from contenders import DEFAULT_BATCH_SIZE, WARM_UP_BATCHES, Race, Stopwatch, load_arrays

from minivgg_pl.models.architectures import ARCHITECTURES

WORKERS = 2


def run_tutorial(args: argparse.Namespace) -> Race:
    """Train as Lightning tutorials do: a image at a time, worker processes, metrics logged every step."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset
    from torchmetrics.classification import MulticlassAccuracy
    from torchvision.transforms.v2 import Compose, ToDtype, ToImage

    from minivgg_pl.models.minivgg import MiniVGG

    class Images(Dataset):
        def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
            self.images, self.labels = images, labels
            self.transform = Compose([ToImage(), ToDtype(torch.float32, scale=True)])

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            target = functional.one_hot(torch.tensor(self.labels[index]), 10).float()
            return self.transform(self.images[index]), target

    class Tutorial(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = MiniVGG(args.variant)
            for name, module in list(self.net.named_modules()):
                if isinstance(module, torch.nn.Dropout):  # torch's own, not this package's faster one
                    self.net.set_submodule(name, torch.nn.Dropout(module.p))
            self.accuracy = torch.nn.ModuleDict({s: MulticlassAccuracy(10, average="micro") for s in ("fit", "val")})

        def _loss(self, batch: Any, stage: str) -> torch.Tensor:
            logits = self.net(batch[0])
            loss = functional.cross_entropy(logits, batch[1])
            self.accuracy[stage](logits, batch[1].argmax(dim=1))
            self.log(f"{stage}_loss", loss, prog_bar=True)
            self.log(f"{stage}_acc", self.accuracy[stage], prog_bar=True)
            return loss

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self._loss(batch, "fit")

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self._loss(batch, "val")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True)

        def on_train_epoch_start(self) -> None:
            watch.epoch_starts()

        def on_validation_start(self) -> None:
            watch.batches_done()

        def on_train_epoch_end(self) -> None:
            watch.epoch_ends(self.trainer.callback_metrics["val_acc"])

    train, val = load_arrays(args)
    batch = args.batch_size or DEFAULT_BATCH_SIZE
    options = {"batch_size": batch, "num_workers": WORKERS, "persistent_workers": True}
    # Batch norm cannot train on a last batch of one image.
    shuffled = DataLoader(Images(*train), shuffle=True, drop_last=len(train[0]) % batch == 1, **options)
    loaders = shuffled, DataLoader(Images(*val), **options)
    for epochs, limit in ((1, WARM_UP_BATCHES), (args.epochs or ARCHITECTURES[args.variant].epochs, None)):
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                max_epochs=epochs,
                limit_train_batches=limit,
                limit_val_batches=limit,
                accelerator="gpu" if args.gpus else "cpu",
                devices=1,
                num_sanity_val_steps=0,
                default_root_dir=folder,
                enable_model_summary=False,
            )
            trainer.fit(Tutorial(), *loaders)
    return watch.race()


def run_keras(args: argparse.Namespace) -> Race:
    """Train the article's code."""
    import keras

    batch = args.batch_size or DEFAULT_BATCH_SIZE
    model = article_model(args.variant)
    decay = keras.optimizers.schedules.InverseTimeDecay(0.01, decay_steps=1, decay_rate=0.01 / 40)
    optimizer = keras.optimizers.SGD(learning_rate=decay, momentum=0.9, nesterov=True)
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    train, val = [
        (images.astype("float32") / 255, np.eye(10, dtype="float32")[labels]) for images, labels in load_arrays(args)
    ]
    # The warm-up has last batches of the same size, so that no shape is traced on the clock.
    few = [[array[: WARM_UP_BATCHES * batch + len(array) % batch] for array in pair] for pair in (train, val)]
    model.fit(*few[0], batch_size=batch, validation_data=tuple(few[1]), verbose=0)
    watch = Stopwatch()
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: watch.epoch_starts(),
        on_test_begin=lambda *_: watch.batches_done(),
        on_epoch_end=lambda _, logs: watch.epoch_ends(logs["val_accuracy"]),
    )
    epochs = args.epochs or ARCHITECTURES[args.variant].epochs
    model.fit(*train, batch_size=batch, validation_data=val, epochs=epochs, verbose=0, callbacks=[clock])
    return watch.race()


def article_model(variant: str) -> Any:
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
