"""SIGTERM, and the end of a run's other processes."""

import signal
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

from minivgg_pl.training.callbacks import EpochCallback

# On a GPU, asking the other processes waits for it: ask only this often (batches).
ASK_INTERVAL = 50
# Words of torch's errors where another process is gone; others, such as NCCL's "invalid usage", keep their traceback.
LOST_PROCESS = (
    # Gloo's messages name its source files.
    "gloo/transport",
    # NCCL's ncclRemoteError, and what it tells of the socket in internal and system errors; torch's store says it, too.
    *("remote process exit", "by remote peer", "reset by peer", "Broken pipe", "Connection was likely closed"),
    # ProcessGroupNCCL, after one of these or a timeout, and the store's timeout.
    *("NCCL communicator was aborted", "collective operation timeout", "wait timeout after"),
)


def end_at_once(number: int, frame: Any) -> None:
    """Handle SIGTERM where it loses nothing: outside training, and in a run of one process."""
    raise SIGTERMException


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether a collective failed because another process of the run is gone."""
    return any(words in str(error) for words in LOST_PROCESS)


def end_other_processes(trainer: Trainer) -> None:
    """Kill the processes that this one started: one of them may not have got as far as to listen."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)
        # Lightning's observer would take their end for a failure, and kill this process too.
        launcher.procs.clear()


def _outlive_children(trainer: Trainer) -> None:
    """Leave the end of another process to the collective that misses it, which is an error with a line."""
    launcher = trainer.strategy.launcher
    # On a GPU the host may wait for ever, and Lightning's observer has to kill this process.
    if isinstance(launcher, _SubprocessScriptLauncher) and trainer.strategy.root_device.type == "cpu":
        # The observer keeps the list that it was given, and ends once that is empty.
        observed, launcher.procs = launcher.procs, [*launcher.procs]
        observed.clear()


class DistributedSigterm(EpochCallback):
    """Ends all processes of a run at the same batch once one of them receives SIGTERM.

    Lightning 2.6 broadcasts in its signal handler (`_SignalConnector._sigterm_notifier_fn`). A process that waits for
    another in a collective does not reach its own handler, and both wait for ever. A run of one process keeps
    Lightning's handler.
    """

    def __init__(self) -> None:
        self._received = False

    def _listen(self, trainer: Trainer, pl_module: LightningModule, stage: str | None = None) -> None:
        if trainer.world_size > 1:
            _outlive_children(trainer)
            # Lightning restores the earlier handler when it is done.
            signal.signal(signal.SIGTERM, self._notice)
        else:
            self.on_train_batch_start = None

    # More than once, because Lightning installs its own after `setup`.
    setup = on_train_start = on_test_start = _listen

    def _notice(self, number: int, frame: Any) -> None:
        self._received = True

    def _agree(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        device = trainer.strategy.root_device
        if trainer.world_size == 1 or (device.type != "cpu" and batch_idx % ASK_INTERVAL):
            return
        received = torch.tensor(float(self._received), device=device)
        if trainer.strategy.reduce(received, reduce_op="max"):
            raise SIGTERMException

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = _agree
