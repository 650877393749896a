"""What a run of the command line writes and prints while it trains: callbacks around the run folder."""

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import SaveConfigCallback

from minivgg_pl import class_plots, plots, reports, runs
from minivgg_pl.article import article_rows
from minivgg_pl.resume import ResumePoint


def bar_refresh_rate() -> int:
    """Return how many batches to wait between two updates of the bar: on a GPU, each makes the host wait for it."""
    return 50 if torch.cuda.is_available() else 5


class RunRecorder(Callback):
    """Claims the run folder once the data are known to be good, and keeps metrics.csv in it.

    Args:
        base: Folder that run folders are made in.
        name: Name of the folder that the runs of this kind have under `base`.
        title: Heading of the run's pictures.
        resume: Where the run continues, or None for a new run.
    """

    def __init__(self, base: Path, name: str, title: str, resume: ResumePoint | None = None) -> None:
        self.base = base
        self.name = name
        self.title = title
        self.resume = resume
        self.folder: Path | None = None
        self.rows: list[runs.Row] = resume.history() if resume else []
        self._epoch_start = self._train_end = 0.0
        self._num_batches = 0
        self.num_train_images = 0
        self._has_validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.folder is not None:
            return
        folder = None
        if trainer.is_global_zero:
            continued = self.resume.folder if self.resume else None
            folder = continued or runs.claim_run_folder(self.base / self.name)
        self.folder = Path(trainer.strategy.broadcast(folder))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._has_validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._num_batches = batch_idx + 1
        self._train_end = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows.append(self._row(trainer))
        if trainer.is_global_zero:
            runs.write_metrics(self.folder / "metrics.csv", self.rows)

    def _row(self, trainer: Trainer) -> runs.Row:
        data = trainer.datamodule
        self.num_train_images = min(self._num_batches * data.batch_size * trainer.world_size, len(data.train_set))
        # Lightning keeps the values of an earlier epoch where this one had no validation.
        fresh = ("val_",) * self._has_validated
        if trainer.lightning_module.train_totals.sums is None:
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
            "images_per_second": self.num_train_images / (self._train_end - self._epoch_start),
        }


class RunCheckpoint(ModelCheckpoint):
    """One checkpoint in the run folder, looked at after each epoch.

    Two of them make `last.ckpt` and `best.ckpt`: with `save_last=True` a single ModelCheckpoint would refresh the
    last one only in epochs that are also the best so far (Lightning 2.6, `on_train_epoch_end`).

    Args:
        recorder: Knows the run folder.
        filename: Name without `.ckpt`.
        monitor: Metric whose largest value is kept, or None to keep every epoch's, each in place of the one before.
    """

    def __init__(self, recorder: RunRecorder, filename: str, monitor: str | None = None) -> None:
        super().__init__(
            filename=filename, monitor=monitor, mode="max", save_on_train_epoch_end=True, enable_version_counter=False
        )
        self.recorder = recorder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.dirpath = str((self.recorder.folder / runs.LAST_CHECKPOINT.parent).resolve())
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        resume = self.recorder.resume
        if resume is not None and resume.folder is not None:
            # ModelCheckpoint forgets which was the best so far when its folder was moved or renamed.
            best = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
            paths = ("best_model_path", "kth_best_model_path", "last_model_path")
            moved = {name: self._here(state_dict[name]) for name in paths}
            state_dict = {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)

    def _here(self, path: str) -> str:
        return path and str(Path(self.dirpath, Path(path).name))


class SaveRunConfig(SaveConfigCallback):
    """Keeps the parsed configuration in the run folder: config.yaml, then config.resume-1.yaml and so on."""

    def __init__(self, parser: Any, config: Any, recorder: RunRecorder, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)
        self.recorder = recorder

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            path = runs.next_config(self.recorder.folder)
            self.parser.save(self.config, path, skip_none=False, overwrite=False)


class RandomState(Callback):
    """Keeps the random generators in the checkpoint, so that a resumed run draws what it would have drawn."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        kind, keys, *rest = np.random.get_state()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
            "numpy": [kind, keys.tolist(), *rest],
            "python": random.getstate(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # As late as can be: Lightning itself draws numbers while it sets a resumed run up.
        if self._restored is not None:
            state, self._restored = self._restored, None
            torch.set_rng_state(state["torch"])
            if len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda"])
            kind, keys, *rest = state["numpy"]
            np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
            version, internal, gauss = state["python"]
            random.setstate((version, tuple(internal), gauss))


class CurvePlot(Callback):
    """Redraws `curves.png` after each epoch.

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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            path = self.recorder.folder / "curves.png"
            plots.draw_curves(
                self.recorder.rows, path, self.recorder.title, reference=self.reference, val_label=self.val_label
            )


class EpochLines(Callback):
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


class TestReport(Callback):
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
