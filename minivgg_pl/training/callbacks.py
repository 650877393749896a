"""What a run of the command line writes and prints while it trains: callbacks around the run folder."""

import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import SaveConfigCallback

from minivgg_pl.cli.resume import ResumePoint
from minivgg_pl.data.loader import BatchSampler
from minivgg_pl.errors import InputError
from minivgg_pl.evaluation import reports
from minivgg_pl.files import write_atomically
from minivgg_pl.plots import classification as class_plots
from minivgg_pl.plots import curves as plots
from minivgg_pl.plots.article import article_rows
from minivgg_pl.runs import folder as runs
from minivgg_pl.training.epoch_callback import EpochCallback

# Of a run's time, the most that drawing its curves may take while it trains: a GPU is done with an epoch in less time
# than matplotlib with a image.
DRAWING_SHARE = 0.05
# What a drawing takes, before one was made.
FIRST_DRAWING_SECONDS = 0.3


def bar_refresh_rate() -> int:
    """Return how many batches to wait between two updates of the bar: on a GPU, each makes the host wait for it."""
    return 50 if torch.cuda.is_available() else 5


def num_train_images(trainer: Trainer, num_batches: int) -> int:
    """Return how many images the epoch's first `num_batches` batches hold on all devices together."""
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    if isinstance(sampler, BatchSampler):
        return sum(sampler.sizes[:num_batches])
    # Lightning's own, for overfit_batches.
    data = trainer.datamodule
    return min(num_batches * data.global_batch_size(trainer.world_size), len(data.train_set))


class RunRecorder(EpochCallback):
    """Claims the run folder once the data are known to be good, and keeps metrics.csv in it.

    Args:
        base: Folder that run folders are made in.
        name: Name of the folder that the runs of this kind have under `base`.
        title: Heading of the run's images.
        resume: Where the run continues, or None for a new run.
    """

    def __init__(self, base: Path, name: str, title: str, resume: ResumePoint | None = None) -> None:
        self.base = base
        self.name = name
        self.title = title
        self.resume = resume
        self.folder: Path | None = None
        self._lock: int | None = None
        self.rows: list[runs.Row] = resume.history() if resume else []
        self._epoch_start = self._train_end = 0.0
        self._num_batches = self._first_batch = 0
        self.num_train_images = 0
        self._has_validated = False
        self._val_metrics: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.folder is not None:
            return
        folder = None
        if trainer.is_global_zero:
            continued = self.resume.folder if self.resume else None
            folder = continued or runs.claim_run_folder(self.base / self.name)
            self._lock = runs.lock_run(folder)
            if continued:
                self.resume.check_still_there()
            runs.remove_parts(folder)
        self.folder = Path(trainer.strategy.broadcast(folder))

    def unlock(self) -> None:
        """Let other processes train in the run folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that is resumed inside an epoch does not start one.
        self._epoch_start = time.perf_counter()
        self._first_batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._val_metrics.items()})

    def state_dict(self) -> dict[str, Any]:
        # A run that is resumed behind a validation inside an epoch does not repeat it.
        return {"has_validated": self._has_validated, "val_metrics": self._val_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._has_validated, self._val_metrics = state_dict["has_validated"], state_dict["val_metrics"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._first_batch = 0
        self._has_validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._num_batches = batch_idx + 1
        self._train_end = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_validated = True
        logged = trainer.callback_metrics.items()
        self._val_metrics = {name: value.item() for name, value in logged if name in runs.VAL_COLUMNS}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows.append(self._row(trainer))
        if trainer.is_global_zero:
            runs.write_metrics(self.folder / "metrics.csv", self.rows)

    def _row(self, trainer: Trainer) -> runs.Row:
        self.num_train_images = num_train_images(trainer, self._num_batches)
        num_timed = self.num_train_images - num_train_images(trainer, self._first_batch)
        # Lightning keeps the values of an earlier epoch where this one had no validation.
        fresh = ("val_",) * self._has_validated
        if trainer.lightning_module.train_metrics.is_empty:
            # Unless a validation stopped the epoch in the middle, before it was logged.
            fresh += ("train_",)
        metrics = {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith(fresh)}
        return {
            **{column: metrics.get(column, math.nan) for column in runs.LEARNING_COLUMNS},
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            # What the next batch will use: the schedule has already been stepped.
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self._epoch_start,
            "images_per_second": num_timed / (self._train_end - self._epoch_start),
        }


class SaveRunConfig(EpochCallback, SaveConfigCallback):
    """Keeps the parsed configuration in the run folder: config.yaml, then config.resume-1.yaml and so on."""

    def __init__(self, parser: Any, config: Any, recorder: RunRecorder, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)
        self.recorder = recorder

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            # Not with the parser's own `save`: a kill would leave half a file.
            write_atomically(runs.next_config(self.recorder.folder), self.parser.dump(self.config, skip_none=False))


class CurvePlot(EpochCallback):
    """Redraws `curves.png` as the epochs end, but no more often than DRAWING_SHARE allows, and when the fit ends.

    Args:
        recorder: Holds the rows to draw.
        variant: Whose article curve to draw.
        reference: `article` draws the article's own curve behind the run's.
        val_label: What the validation images are.
    """

    def __init__(self, recorder: RunRecorder, variant: str, reference: str | None, val_label: str) -> None:
        self.recorder = recorder
        self.reference = article_rows(variant) if reference == "article" else None
        self.val_label = val_label
        self._num_drawn = 0
        self._seconds = FIRST_DRAWING_SECONDS
        self._last_end = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._seconds < DRAWING_SHARE * (time.perf_counter() - self._last_end):
            self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not on_train_end, which a run that was killed after its last epoch does not come to again.
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # After a full disk there is nothing to draw on.
        if not isinstance(exception, InputError | OSError):
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        rows = self.recorder.rows
        # A run that ends before it trains may have its earlier rows, and no folder yet.
        if not trainer.is_global_zero or self.recorder.folder is None or len(rows) == self._num_drawn:
            return
        start = time.perf_counter()
        path = self.recorder.folder / "curves.png"
        plots.draw_curves(rows, path, self.recorder.title, reference=self.reference, val_label=self.val_label)
        self._num_drawn = len(rows)
        self._last_end = time.perf_counter()
        self._seconds = self._last_end - start


class EpochLines(EpochCallback):
    """Prints one line an epoch, above the progress bar where there is one."""

    def __init__(self, recorder: RunRecorder) -> None:
        self.recorder = recorder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        row = self.recorder.rows[-1]
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        line = (
            f"epoch {row['epoch']}/{total}  "
            + "  ".join(f"{name} {row[name]:.4f}" for name in runs.LEARNING_COLUMNS)
            + f"  {row['seconds']:.1f} s  {row['images_per_second']:.0f} images/s"
        )
        bar = trainer.progress_bar_callback
        bar.print(line) if isinstance(bar, TQDMProgressBar) else print(line, flush=True)


class TestReport(EpochCallback):
    """Writes report.csv and confusion_matrix.png after the test."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, recorder: RunRecorder) -> None:
        self.recorder = recorder

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or self.recorder.folder is None:
            return
        report = {name: value.tolist() for name, value in pl_module.class_report.items()}
        names = trainer.datamodule.class_names
        reports.write_class_report(self.recorder.folder / "report.csv", names, report)
        path = self.recorder.folder / "confusion_matrix.png"
        class_plots.draw_confusion_matrix(
            report["confusion_matrix"],
            names,
            path,
            f"{self.recorder.title}: {trainer.datamodule.tested_on}, last epoch",
        )
