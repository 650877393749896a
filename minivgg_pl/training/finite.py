"""The end of a training whose loss or weights are NaN or infinite."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from minivgg_pl.errors import NonFiniteLossError
from minivgg_pl.training.callbacks import EpochCallback
from minivgg_pl.training.metrics import ends_epoch

# Reading the loss waits for the GPU, and several devices wait for each other: look for NaN this often (batches).
FINITE_CHECK_INTERVAL = 50


def all_finite(tensors: Iterable[Tensor], strategy: Strategy) -> bool:
    """Return whether all values of `tensors` are finite on all devices; every device must ask."""
    is_finite = float(all(tensor.isfinite().all() for tensor in tensors))
    return bool(strategy.reduce(torch.tensor(is_finite, device=strategy.root_device), reduce_op="min"))


class StopOnNonFinite(EpochCallback):
    """Stops a fit, of any module, whose training loss, `val_loss` or weights are not finite.

    It looks at the loss of each batch, on a GPU or several devices of every 50th, and at the weights as epochs end.

    Raises:
        NonFiniteLossError: From the Trainer, before the epoch's checkpoint is saved.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_cheap = trainer.strategy.root_device.type == "cpu" and trainer.world_size == 1
        if is_cheap or batch_idx % FINITE_CHECK_INTERVAL == 0 or ends_epoch(trainer):
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self._check(trainer, "training", [loss] if isinstance(loss, Tensor) else [])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            metrics = trainer.callback_metrics.items()
            self._check(trainer, "validation", [value for name, value in metrics if name.startswith("val_loss")])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, "training", pl_module.parameters())

    def _check(self, trainer: Trainer, stage: str, tensors: Iterable[Tensor]) -> None:
        if not all_finite(tensors, trainer.strategy):
            raise NonFiniteLossError(stage, trainer.current_epoch + 1, trainer.global_step)
