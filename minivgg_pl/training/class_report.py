"""The answers of a test, counted by class."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MetricCollection

from minivgg_pl.evaluation.metrics import class_metrics
from minivgg_pl.training.callbacks import EpochCallback


class ClassReport(EpochCallback):
    """Counts the answers of a test of `(images, targets)`: targets `(N,)` integer labels or `(N, C)` one-hot.

    The logits are what `test_step` returns, if that is `(N, C)`; else the images go through the module once more.

    Attributes:
        report: What `class_metrics` computes, as lists; empty before a test, and without such batches or logits.
    """

    def __init__(self) -> None:
        self.report: dict[str, list[Any]] = {}
        self._metrics: MetricCollection | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report, self._metrics = {}, None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(b, Tensor) for b in batch)):
            return
        logits, (images, targets) = outputs, batch
        if not _are_logits(logits, targets):
            with trainer.precision_plugin.forward_context():
                logits = pl_module(images)
        if _are_logits(logits, targets):
            if self._metrics is None:
                self._metrics = class_metrics(logits.shape[1]).to(logits.device)
            self._metrics.update(logits.argmax(dim=1), targets.argmax(dim=1) if targets.ndim == 2 else targets)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metrics is not None:
            self.report = {name: value.tolist() for name, value in self._metrics.compute().items()}


def _are_logits(value: Any, targets: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and len(value) == len(targets) and value.shape[1] > 1
