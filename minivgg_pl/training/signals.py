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
# What torch's errors say where another process is gone: Gloo's source files, NCCL's sockets, torch's store, timeouts.
# NCCL's other errors, such as "invalid usage", keep their traceback.
LOST_PROCESS = (
    "gloo/transport|remote process exit|(remote|reset by) peer|Broken pipe|Connection was likely closed|"
    "NCCL communicator was aborted|collective operation timeout|wait timeout after"
)


def end_at_once(number: int, frame: Any) -> None:
    """Handle SIGTERM where it loses nothing: outside training, and in a run of one process."""
    raise SIGTERMException


def end_other_processes(trainer: Trainer) -> None:
    """Kill the processes that this one started: one of them may not have got as far as to listen."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)
        # Lightning's observer would take their end for a failure, and kill this process too.
        launcher.procs.clear()


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
            launcher = trainer.strategy.launcher
            # On the CPU a collective fails once a process is gone, and the run ends in a line; on a GPU it may wait for
            # ever. Lightning's observer would kill this process first. It ends once the list it was given is empty.
            if isinstance(launcher, _SubprocessScriptLauncher) and trainer.strategy.root_device.type == "cpu":
                observed, launcher.procs = launcher.procs, [*launcher.procs]
                observed.clear()
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
