"""LitMiniVGG, the system: loss, metrics, optimizer and schedule around the network."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from minivgg_pl.network import IMAGE_CHANNELS, IMAGE_SIZE, MiniVGG

# On a GPU, reading the loss waits for it: look for NaN only this often (batches).
FINITE_CHECK_INTERVAL = 50


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the epoch and the step."""


def ends_epoch(trainer: Trainer) -> bool:
    """Tell, after a training batch, whether it was the epoch's last: of the data, or because the trainer stops."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return trainer.is_last_batch or trainer.global_step == trainer.max_steps or stops


class EpochTotals:
    """Loss and accuracy of an epoch, summed on the device and read once."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss `()`, logits `(B, C)` and one-hot targets `(B, C)`."""
        loss = loss.detach().float()
        hits = (logits.detach().argmax(dim=1) == targets.argmax(dim=1)).sum()
        size = torch.full_like(loss, len(targets))
        # Once not finite, a sum stays so: the last entry counts the batches before that.
        total = loss * size if self.sums is None else self.sums[0] + loss * size
        batch = torch.stack((loss * size, hits.to(loss.dtype), size, total.isfinite().to(loss.dtype)))
        self.sums = batch if self.sums is None else self.sums + batch

    def first_bad_batch(self) -> int | None:
        """Return the number (from 0) of the first batch whose loss was not finite, if there was one."""
        total, _, _, num_finite = self.sums.tolist()
        return None if math.isfinite(total) else int(num_finite)

    def compute_and_reset(self, module: LightningModule) -> dict[str, Tensor]:
        """Return the epoch's mean `loss` and `acc` in [0, 1] over all devices, and start the next epoch."""
        sums = module.trainer.strategy.reduce(self.sums, reduce_op="sum")
        self.sums = None
        return {"loss": sums[0] / sums[2], "acc": sums[1] / sums[2]}


class LitMiniVGG(LightningModule):
    """A mini VGG with the article's training: SGD with Nesterov momentum and a rate that falls every batch.

    Batches are `(images, targets)`: images `(N, 3, 32, 32)` float in [0, 1], targets `(N, num_classes)` float class
    probabilities, one-hot in CIFAR10DataModule. Logs train_loss, train_acc, val_loss, val_acc, test_loss and test_acc
    once an epoch; the train columns are averages over the epoch with dropout on, as Keras prints them.

    Args:
        variant: Which of the article's two networks: `classic` or `wide`.
        num_classes: Number of classes.
        dense_units: Width of the hidden dense layer; default: the variant's own, 512 or 256. 300 with `wide` gives
            the network of the article's listing.
        mean: Per-channel mean in [0, 1] that the network subtracts from its input; default: none, as in the article.
        std: Per-channel standard deviation that the network divides by; default: none, as in the article.
        lr: Learning rate of the first batch.
        momentum: SGD momentum in [0, 1).
        nesterov: Whether the momentum is Nesterov's.
        lr_decay: Keras' legacy `decay`: before update t, counted from 0, the rate is lr / (1 + lr_decay * t). The
            article's is 0.01 / 40.

    Raises:
        ValueError: On a value out of range.
        NonFiniteLossError: While training, when the loss is NaN or infinite.
    """

    def __init__(
        self,
        variant: Literal["classic", "wide"] = "classic",
        num_classes: int = 10,
        dense_units: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        lr: float = 0.01,
        momentum: float = 0.9,
        nesterov: bool = True,
        lr_decay: float = 0.01 / 40,
    ) -> None:
        super().__init__()
        _check_optimizer_arguments(lr, momentum, nesterov, lr_decay)
        self.save_hyperparameters()
        net = MiniVGG(variant, num_classes, dense_units, mean, std)
        # channels_last only orders the bytes in memory; state dict and results stay those of the plain layout.
        self.net = net.to(memory_format=torch.channels_last)
        self.example_input_array = torch.zeros(2, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
        self.train_totals = EpochTotals()
        self._first_step = 0
        self.eval_totals = EpochTotals()
        self.class_metrics = _class_metrics(num_classes)
        self.class_report: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, num_classes)` for images `(N, 3, 32, 32)` in [0, 1]."""
        return self.net(images)

    def on_train_epoch_start(self) -> None:
        self.train_totals.sums = None
        self._first_step = self.trainer.global_step

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the batch's mean cross-entropy `()`."""
        images, targets = batch
        logits = self.net(images)
        loss = functional.cross_entropy(logits, targets)
        self.train_totals.update(loss, logits, targets)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        is_last = ends_epoch(self.trainer)
        if is_last or self.device.type == "cpu" or batch_idx % FINITE_CHECK_INTERVAL == 0:
            self._check_finite()
        if is_last:
            # Here, and not in on_train_epoch_end, so that every callback finds the values at the epoch's end.
            self._log_epoch("train", self.train_totals)

    def _check_finite(self) -> None:
        first_bad = self.train_totals.first_bad_batch()
        if first_bad is not None:
            step = self._first_step + first_bad // self.trainer.accumulate_grad_batches + 1
            raise NonFiniteLossError(_non_finite_message("training", self.current_epoch, step))

    def on_validation_epoch_start(self) -> None:
        self.eval_totals.sums = None

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Add the batch to the epoch's totals."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        # Before the log: a callback that saves on val_acc must not keep weights that are NaN.
        if self.trainer.state.fn == TrainerFn.FITTING and self.eval_totals.first_bad_batch() is not None:
            raise NonFiniteLossError(_non_finite_message("validation", self.current_epoch, self.trainer.global_step))
        self._log_epoch("val", self.eval_totals)

    def on_test_epoch_start(self) -> None:
        self.eval_totals.sums = None
        self.class_metrics.reset()

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Add the batch to the epoch's totals and to the per-class report."""
        logits, targets = self._evaluate(batch)
        self.class_metrics.update(logits.argmax(dim=1), targets.argmax(dim=1))

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.eval_totals)
        self.class_report = {name: value.cpu() for name, value in self.class_metrics.compute().items()}

    def predict_step(self, batch: Sequence[Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return class probabilities `(N, num_classes)` for `(images, targets)` or for images alone."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.net(images).softmax(dim=1)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the article's SGD and its per-batch decay.

        PyTorch keeps the rate outside the momentum buffer and Keras inside. The two paths part only as far as the
        rate changes within the momentum's memory of about ten batches: 0.025 % a batch.
        """
        hparams = self.hparams
        optimizer = torch.optim.SGD(
            self.parameters(), lr=hparams.lr, momentum=hparams.momentum, nesterov=hparams.nesterov
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + hparams.lr_decay * step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _evaluate(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        images, targets = batch
        logits = self.net(images)
        self.eval_totals.update(functional.cross_entropy(logits, targets), logits, targets)
        return logits, targets

    def _log_epoch(self, stage: str, totals: EpochTotals) -> None:
        values = totals.compute_and_reset(self)
        metrics = {f"{stage}_{name}": value for name, value in values.items()}
        # The totals are already those of all devices; sync_dist only averages equal values.
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)


def _class_metrics(num_classes: int) -> MetricCollection:
    return MetricCollection(
        {
            "precision": MulticlassPrecision(num_classes, average=None),
            "recall": MulticlassRecall(num_classes, average=None),
            "f1": MulticlassF1Score(num_classes, average=None),
            "confusion_matrix": MulticlassConfusionMatrix(num_classes),
        }
    )


def _non_finite_message(stage: str, epoch: int, step: int) -> str:
    where = f"epoch {epoch + 1}, step {step}"
    return f"the {stage} loss is not finite in {where}: training stopped. Try a lower learning rate"


def _check_optimizer_arguments(lr: float, momentum: float, nesterov: bool, lr_decay: float) -> None:
    if not lr > 0:
        raise ValueError(f"lr is {lr}: give a learning rate above 0")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}: give 0 to below 1")
    if nesterov and momentum == 0:
        raise ValueError("nesterov needs momentum above 0: give a momentum, or nesterov=false")
    if not lr_decay >= 0:
        raise ValueError(f"lr_decay is {lr_decay}: give 0 or more")
