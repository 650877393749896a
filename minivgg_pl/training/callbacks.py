"""Callbacks for any module: a test's answers by class, and the end of a training that has become NaN or infinite."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from minivgg_pl.errors import NonFiniteLossError
from minivgg_pl.evaluation.metrics import class_metrics
from minivgg_pl.training.metrics import ends_epoch

# Reading the loss waits for the GPU, and several devices wait for each other: look for NaN this often (batches).
FINITE_CHECK_INTERVAL = 50


class EpochCallback(Callback):
    """A callback without the hooks of single training batches, except those that its class defines.

    Lightning enters a profiler's context for each hook of each callback, empty ones too, and skips what is not
    callable (`lightning/pytorch/trainer/call.py`). With eight callbacks that is half of what its loop costs.
    """

    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = None
    on_before_zero_grad = on_before_backward = on_after_backward = None


class ClassReport(EpochCallback):
    """Counts the answers of a test of `(images, targets)`: targets `(N,)` integer labels or `(N, C)` one-hot.

    Of several data loaders it counts the first alone.
    The logits are what `test_step` returns, if that is `(N, C)`; else the images go through the module once more.

    Attributes:
        report: What `class_metrics` computes, as lists; empty before a test, and without such batches or logits.
    """

    def __init__(self) -> None:
        self.report: dict[str, list[Any]] = {}
        # Guesses and labels `(B,)` of each batch: torchmetrics would make the host wait for a GPU in every batch.
        self._answers: list[tuple[Tensor, Tensor]] = []
        self._num_classes = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report, self._answers = {}, []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(b, Tensor) for b in batch)
        if dataloader_idx or not is_pair:
            return
        logits, (images, targets) = outputs, batch
        if not _are_logits(logits, targets):
            with trainer.precision_plugin.forward_context():
                logits = pl_module(images)
        if _are_logits(logits, targets):
            self._num_classes = logits.shape[1]
            self._answers.append((logits.argmax(dim=1), targets.argmax(dim=1) if targets.ndim == 2 else targets))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._answers:
            # On a GPU, computing them waits dozens of times; on a Mac's it also needs a table of images by classes
            # squared. Several GPUs gather them, which works on GPUs alone.
            device = "cpu" if trainer.world_size == 1 else pl_module.device
            answers = (torch.cat(part).to(device) for part in zip(*self._answers, strict=True))
            metrics = class_metrics(self._num_classes).to(device)
            metrics.update(*answers)
            self.report = {name: value.tolist() for name, value in metrics.compute().items()}


def _are_logits(value: Any, targets: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and len(value) == len(targets) and value.shape[1] > 1


def all_finite(tensors: Iterable[Tensor], trainer: Trainer) -> bool:
    """Return whether all values of `tensors` are finite on all devices; every device must ask. It waits once."""
    are_finite = [tensor.isfinite().all() for tensor in tensors] or [torch.tensor(True)]
    is_finite = torch.stack([one.to(are_finite[0].device) for one in are_finite]).all()
    if trainer.world_size > 1:
        is_finite = trainer.strategy.reduce(is_finite.float().to(trainer.strategy.root_device), reduce_op="min")
    return bool(is_finite)


class StopOnNonFinite(EpochCallback):
    """Stops a fit, of any module, whose training loss, `val_loss` or weights are not finite.

    It looks at the loss of each batch, on a GPU or several devices of every 50th, and as epochs end at the last batch's
    loss and at the weights, in one wait for the GPU.

    Raises:
        NonFiniteLossError: From the Trainer, before the epoch's checkpoint is saved.
    """

    _was_last = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_cheap = trainer.strategy.root_device.type == "cpu" and trainer.world_size == 1
        self._was_last = ends_epoch(trainer)
        if is_cheap or self._was_last or (batch_idx + 1) % FINITE_CHECK_INTERVAL == 0:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            weights = pl_module.parameters() if self._was_last else ()
            self._check(trainer, "training", [*([loss] if isinstance(loss, Tensor) else []), *weights])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            metrics = trainer.callback_metrics.items()
            self._check(trainer, "validation", [value for name, value in metrics if name.startswith("val_loss")])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # EarlyStopping may end an epoch in a validation inside it.
        if not self._was_last:
            self._check(trainer, "training", pl_module.parameters())

    def _check(self, trainer: Trainer, stage: str, tensors: Iterable[Tensor]) -> None:
        if not all_finite(tensors, trainer):
            place = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
            advice = "training stopped. Try a lower learning rate"
            raise NonFiniteLossError(f"the {stage} loss is not finite in {place}: {advice}")
