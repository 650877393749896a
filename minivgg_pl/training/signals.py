"""SIGTERM: one line and exit code 143, at the same batch in every process of a run."""

import signal
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from minivgg_pl.training.epoch_callback import EpochCallback

# On a GPU, asking the other processes waits for it: ask only this often (batches).
ASK_INTERVAL = 50


def end_at_once(number: int, frame: Any) -> None:
    """Answer SIGTERM where nothing is lost by it: outside training, and in a run of one process."""
    raise SIGTERMException


class DistributedSigterm(EpochCallback):
    """Ends all processes of a run at the same batch once one of them is sent SIGTERM.

    Lightning 2.6 answers the signal with a broadcast inside its handler (`_SignalConnector._sigterm_notifier_fn`). A
    process that waits for another in a collective does not get to its own handler, and both wait for ever. Where there
    is one process alone, Lightning's way stays.
    """

    def __init__(self) -> None:
        self._received = False

    def _listen(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            # Lightning puts back what was there before when it is done.
            signal.signal(signal.SIGTERM, self._notice)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has put its own in place since.
        self._listen(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def _notice(self, number: int, frame: Any) -> None:
        self._received = True

    def _agree(self, trainer: Trainer, batch_idx: int) -> None:
        device = trainer.strategy.root_device
        if trainer.world_size == 1 or (device.type != "cpu" and batch_idx % ASK_INTERVAL):
            return
        received = torch.tensor(float(self._received), device=device)
        if trainer.strategy.reduce(received, reduce_op="max"):
            raise SIGTERMException

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._agree(trainer, batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._agree(trainer, batch_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._agree(trainer, batch_idx)
