"""The callback that writes the run folder and prints progress, and what it shares with the others."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from minivgg_pl.errors import InputError, as_line
from minivgg_pl.evaluation.reports import write_class_report
from minivgg_pl.files import write_atomically
from minivgg_pl.plots.classification import draw_confusion_matrix
from minivgg_pl.plots.curves import draw_curves
from minivgg_pl.runs import folder as runs

# Drawing the curves takes matplotlib about half a second, and a GPU trains an epoch in less.
SECONDS_BETWEEN_DRAWINGS = 10


class EpochCallback(Callback):
    """A callback without the hooks of single training batches, except those that its class defines.

    Lightning enters a profiler's context for each hook of each callback, empty ones too, and skips what is not
    callable (`lightning/pytorch/trainer/call.py`). With eight callbacks that is half of what its loop costs.
    """

    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = None
    on_before_zero_grad = on_before_backward = on_after_backward = None


def num_train_images(trainer: Trainer) -> int:
    """Return how many images the epoch's batches so far hold, on all devices together."""
    num_batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return sum(trainer.train_dataloader.sizes[:num_batches])


class RunRecorder(EpochCallback):
    """Claims the run folder once the data are known to be good, writes its files and prints a line an epoch.

    The files are config.yaml (config.resume-1.yaml and so on for a resumed run), skipped_images.txt if there are any,
    metrics.csv, curves.png, and after the test report.csv and confusion_matrix.png. The curves are drawn as epochs end,
    every SECONDS_BETWEEN_DRAWINGS at most, and when the fit ends.

    Args:
        base: Folder that the run folder is made in.
        title: Heading of the run's charts.
        config: The parsed options as YAML.
        curves: Options of `draw_curves`.
        continued: The run folder to continue in, or None for a new one.
        rows: The epochs so far.

    Attributes:
        folder: The run folder, once it is claimed.
        num_train_images: Number of images in the last epoch, once the fit has ended.
    """

    def __init__(
        self,
        base: Path,
        title: str,
        config: str,
        curves: Mapping[str, Any],
        continued: Path | None = None,
        rows: Sequence[runs.Row] = (),
    ) -> None:
        self.base = base
        self.title = title
        self.config = config
        self.curves = curves
        self.continued = continued
        self.rows = list(rows)
        self.folder: Path | None = None
        self.num_train_images = 0
        self._lock: int | None = None
        self._epoch_start = self._train_end = 0.0
        self._num_images_before = 0
        self._num_drawn = 0
        self._last_drawing = time.perf_counter()
        self._has_validated = False
        self._val_metrics: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.folder is not None:
            return
        folder = None
        if trainer.is_global_zero:
            folder = self.continued or runs.claim_run_folder(self.base)
            self._lock = runs.lock_run(folder)
            runs.remove_parts(folder)
            write_atomically(runs.next_config(folder), self.config)
            # Of the user's own images alone.
            if skipped := getattr(trainer.datamodule, "skipped", None):
                write_atomically(folder / "skipped_images.txt", "".join(f"{as_line(text)}\n" for text in skipped))
        self.folder = Path(trainer.strategy.broadcast(folder))

    def unlock(self) -> None:
        """Let other processes train in the run folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def state_dict(self) -> dict[str, Any]:
        # A run that is resumed inside an epoch does not repeat the epoch's validations.
        return {"has_validated": self._has_validated, "val_metrics": self._val_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._has_validated, self._val_metrics = state_dict["has_validated"], state_dict["val_metrics"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that is resumed inside an epoch does not start one.
        self._epoch_start = time.perf_counter()
        self._num_images_before = num_train_images(trainer)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._val_metrics.items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._num_images_before = 0
        self._has_validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._train_end = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_validated = True
        logged = trainer.callback_metrics.items()
        self._val_metrics = {name: value.item() for name, value in logged if name in runs.VAL_COLUMNS}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning keeps values of earlier epochs. This one may lack a validation, or the end of its training.
        num_images = num_train_images(trainer) - self._num_images_before
        fresh = ("val_",) * self._has_validated + ("train_",) * (num_images > 0)
        metrics = {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith(fresh)}
        row = {
            **{column: metrics.get(column, math.nan) for column in runs.LEARNING_COLUMNS},
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            # The next batch's: the schedule has already been stepped.
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self._epoch_start,
            "images_per_second": num_images / (self._train_end - self._epoch_start),
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            runs.write_metrics(self.folder / runs.METRICS, self.rows)
            bar, line = trainer.progress_bar_callback, epoch_line(row, trainer.max_epochs)
            bar.print(line) if isinstance(bar, TQDMProgressBar) else print(line, flush=True)
        if time.perf_counter() - self._last_drawing >= SECONDS_BETWEEN_DRAWINGS:
            self._draw_curves(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # For the summary: a test drops the loader. With limit_train_batches 0 there is none.
        if trainer.train_dataloader is not None:
            self.num_train_images = num_train_images(trainer)
        # A run that was killed after its last epoch and is resumed does not get to on_train_end.
        self._draw_curves(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # On a full disk nothing can be drawn.
        if not isinstance(exception, InputError | OSError):
            self._draw_curves(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.folder is not None:
            data, title = trainer.datamodule, f"{self.title}: {trainer.datamodule.tested_on}, last epoch"
            report = {name: value.tolist() for name, value in pl_module.class_report.items()}
            write_class_report(self.folder / "report.csv", data.class_names, report)
            matrix, path = report["confusion_matrix"], self.folder / "confusion_matrix.png"
            draw_confusion_matrix(matrix, data.class_names, path, title)

    def _draw_curves(self, trainer: Trainer) -> None:
        # A run that ends before it trains may have earlier rows, and no folder yet.
        if trainer.is_global_zero and self.folder is not None and len(self.rows) != self._num_drawn:
            draw_curves(self.rows, self.folder / "curves.png", self.title, **self.curves)
            self._num_drawn = len(self.rows)
            self._last_drawing = time.perf_counter()


def epoch_line(row: runs.Row, max_epochs: int | None) -> str:
    """Return the line that a run prints after an epoch."""
    total = max_epochs if max_epochs and max_epochs > 0 else "?"
    values = "  ".join(f"{name} {row[name]:.4f}" for name in runs.LEARNING_COLUMNS)
    speed = f"{row['seconds']:.1f} s  {row['images_per_second']:.0f} images/s"
    return f"epoch {row['epoch']}/{total}  {values}  {speed}"
