"""Where the time of an update goes: torch's profiler around a few batches of `race.py --profile`."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

SKIPPED = 5  # batches that still fill caches
PROFILED = 10
ROWS = 15


class StepProfile(Callback):
    """Prints what `PROFILED` updates of the first epoch spend their time on, the largest first."""

    def __init__(self) -> None:
        self.profiler: profile | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start after the first batches, where there are as many."""
        if not batch_idx:
            self.first = min(SKIPPED, trainer.num_training_batches - 1)
        if batch_idx == self.first and not trainer.current_epoch:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (pl_module.device.type == "cuda")
            _wait_for(pl_module.device)
            self.profiler = profile(activities=activities)
            self.profiler.start()
            self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after the last batch to be profiled, and print."""
        if self.profiler and (batch_idx + 1 == self.first + PROFILED or trainer.is_last_batch):
            _wait_for(pl_module.device)
            seconds = time.perf_counter() - self.start
            self.profiler.stop()
            print(_report(self.profiler, seconds, batch_idx + 1 - self.first, pl_module.device.type), flush=True)
            self.profiler = None


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _report(profiler: profile, seconds: float, updates: int, device: str) -> str:
    events = profiler.key_averages()
    lines = [events.table(sort_by=f"self_{device}_time_total", row_limit=ROWS, max_name_column_width=50)]
    lines.append(f"{updates} updates, {1e3 * seconds / updates:.2f} ms each, the profiler's own cost included")
    if device == "cuda":
        # The annotations' spans would count their kernels twice.
        on_gpu = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        kernels = sum(event.self_device_time_total for event in on_gpu)
        lines.append(f"the GPU was busy for {kernels / 1e6 / seconds:.0%} of that time")
    return "\n".join(lines)
