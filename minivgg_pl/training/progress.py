"""Progress inside epochs: a bar on a terminal, lines elsewhere."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.data import extract_batch_size

from minivgg_pl.training.callbacks import EpochCallback
from minivgg_pl.training.metrics import EpochMetrics

SECONDS_BETWEEN_LINES = 60


def train_means(pl_module: LightningModule) -> dict[str, float]:
    """Return `train_loss` and `train_acc` of the epoch so far; of a module that is no LitMiniVGG, nothing."""
    metrics = getattr(pl_module, "epoch_metrics", {}).get("train")
    means = metrics.so_far() if isinstance(metrics, EpochMetrics) else {}
    return {f"train_{name}": value for name, value in means.items()}


def epoch_of(trainer: Trainer) -> str:
    """Return the epoch's number, from 1, of how many, such as `epoch 3/20`."""
    total = trainer.max_epochs
    return f"epoch {trainer.current_epoch + 1}/{total if total and total > 0 else '?'}"


class EpochProgressBar(TQDMProgressBar):
    """Lightning's bar with the epoch's training loss and accuracy so far, as Keras shows them.

    Args:
        refresh_rate: Number of batches between two updates; each makes the host wait for a GPU. Default: 50 on a GPU,
            else 5.
    """

    def __init__(self, refresh_rate: int | None = None) -> None:
        super().__init__(refresh_rate=refresh_rate or 5)
        self._is_default = refresh_rate is None
        self._least_rate = 1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        is_on_gpu = trainer.strategy.root_device.type != "cpu"
        self._least_rate = 50 if self._is_default and is_on_gpu else 1

    @property
    def refresh_rate(self) -> int:
        """Number of batches between two updates."""
        return max(super().refresh_rate, self._least_rate)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # A run that is resumed inside an epoch does not start one.
        self.train_progress_bar.set_description(epoch_of(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.train_progress_bar.set_description(epoch_of(trainer))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what the bar shows; Lightning asks as often as it redraws."""
        means = train_means(pl_module)
        # First, and in place of the last epoch's.
        return means | super().get_metrics(trainer, pl_module) | means


class ProgressLines(EpochCallback):
    """Where no bar can be seen, prints a line every minute: loss and accuracy of the epoch so far, and the speed."""

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        self._start, self._num_batches = time.monotonic(), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_over()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._num_batches += 1
        seconds = time.monotonic() - self._start
        if seconds >= SECONDS_BETWEEN_LINES:
            speed = self._num_batches * extract_batch_size(batch) * trainer.world_size / seconds
            values = "".join(f"  {name} {value:.4f}" for name, value in train_means(pl_module).items())
            place = f"batch {batch_idx + 1}/{trainer.num_training_batches}"
            self._print(trainer, f"{place}{values}  {speed:.0f} images/s")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        if time.monotonic() - self._start >= SECONDS_BETWEEN_LINES:
            self._print(trainer, f"validation batch {batch_idx + 1}")

    def _print(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero:
            print(f"{epoch_of(trainer)}  {text}", flush=True)
        self._start_over()
