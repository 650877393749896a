"""RunRecorder: the rows of metrics.csv, the curves, and the line that a run prints an epoch."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from minivgg_pl.data.description import describe_data
from minivgg_pl.errors import InputError
from minivgg_pl.plots.curves import Rows, draw_curves
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.checkpoint import run_folder_of
from minivgg_pl.training.callbacks import EpochCallback
from minivgg_pl.training.progress import epoch_of

# Drawing the curves takes matplotlib about half a second, and a GPU trains an epoch in less.
SECONDS_BETWEEN_DRAWINGS = 10
# In pixels, of the file's 1,800: sharp on a screen of high density.
WIDTH_IN_NOTEBOOK = 750


class RunRecorder(EpochCallback, Checkpoint):
    """Writes metrics.csv and curves.png and prints a line an epoch; the curves show in a notebook, too.

    The curves are drawn as epochs end, every SECONDS_BETWEEN_DRAWINGS at most, and when the fit ends. Lightning calls a
    Checkpoint's `on_train_epoch_end` after the module's own, which may log the epoch's metrics.

    Args:
        folder: The run folder.
        model: What headings call the module.
        reference: Rows that are drawn pale behind the run's, or None.
        resume: The folder that the run goes on in, or None.

    Attributes:
        rows: The epochs so far.
    """

    def __init__(self, folder: Path, model: str, reference: Rows | None = None, resume: Path | None = None) -> None:
        self.folder = folder
        self.model = model
        self.reference = reference
        self.resume = resume
        self.rows: list[runs.Row] = []
        self._epoch_start = self._train_end = 0.0
        self._num_images = self._num_images_before = 0
        self._earlier: dict[str, torch.Tensor] = {}
        self._has_validated = False
        self._val_metrics: dict[str, float] = {}
        self._num_drawn = 0
        # Long ago: a notebook shows the first epoch at once, and the end of a run that is killed soon need not draw it.
        self._last_drawing = 0.0
        self._display: Any = None

    def state_dict(self) -> dict[str, Any]:
        # A run that is resumed inside an epoch does not repeat the epoch's validations.
        return {"has_validated": self._has_validated, "val_metrics": self._val_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._has_validated, self._val_metrics = state_dict["has_validated"], state_dict["val_metrics"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING and (source := self.resume or run_folder_of(Path(trainer.ckpt_path))):
            # Without the row of an epoch that a kill left without its checkpoint.
            num_epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            self.rows = [row for row in runs.read_metrics(source / runs.METRICS) if row["epoch"] <= num_epochs]
            self._num_drawn = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that is resumed inside an epoch does not start one.
        self._epoch_start = time.perf_counter()
        self._num_images_before = self.num_images(trainer)
        self._display = None
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._val_metrics.items()})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._num_images = self._num_images_before = 0
        self._earlier = dict(trainer.callback_metrics)
        self._has_validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A GPU may still be computing, but StopOnNonFinite has waited for it after the epoch's last batch.
        self._train_end = time.perf_counter()
        if isinstance(batch, list | tuple) and isinstance(batch[0], torch.Tensor):
            self._num_images += len(batch[0])

    def num_images(self, trainer: Trainer) -> int:
        """Return how many images the epoch's batches so far hold, on all devices together; 0 where nobody knows."""
        sizes = getattr(trainer.train_dataloader, "sizes", None)
        if sizes is None:
            return self._num_images * trainer.world_size
        return sum(sizes[: trainer.fit_loop.epoch_loop.batch_progress.current.ready])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_validated = True
        logged = trainer.callback_metrics.items()
        self._val_metrics = {name: value.item() for name, value in logged if name in runs.VAL_COLUMNS}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning keeps values of earlier epochs. This one may lack a validation, or the end of its training.
        metrics = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if (self._has_validated if name in runs.VAL_COLUMNS else value is not self._earlier.get(name))
        }
        num_images = self.num_images(trainer) - self._num_images_before
        row = {
            **{column: metrics.get(column, math.nan) for column in runs.LEARNING_COLUMNS},
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            # The next batch's: the schedule has already been stepped.
            "lr": float(trainer.optimizers[0].param_groups[0].get("lr", math.nan)) if trainer.optimizers else math.nan,
            "seconds": time.perf_counter() - self._epoch_start,
            "images_per_second": num_images / (self._train_end - self._epoch_start),
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            runs.write_metrics(self.folder / runs.METRICS, self.rows)
            bar, line = trainer.progress_bar_callback, epoch_line(trainer, row)
            bar.print(line) if isinstance(bar, TQDMProgressBar) else print(line, flush=True)
        if time.perf_counter() - self._last_drawing >= SECONDS_BETWEEN_DRAWINGS:
            self._draw_curves(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that was killed after its last epoch and is resumed does not get to on_train_end.
        self._draw_curves(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # On a full disk nothing can be drawn.
        if not isinstance(exception, InputError | OSError):
            self._draw_curves(trainer)

    def _draw_curves(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and len(self.rows) != self._num_drawn:
            data = describe_data(trainer.datamodule, trainer.train_dataloader)
            path, title = self.folder / "curves.png", f"{self.model} on {data.title}"
            draw_curves(self.rows, path, title, reference=self.reference, val_label=data.val_label)
            self._num_drawn = len(self.rows)
            self._show(path)
            self._last_drawing = time.perf_counter()

    def _show(self, path: Path) -> None:
        """Show the image below a notebook's cell, in place of the one before."""
        # A notebook has imported it already.
        ipython = sys.modules.get("IPython")
        if ipython is None or getattr(ipython.get_ipython(), "kernel", None) is None:
            return
        from IPython.display import Image, display

        image = Image(filename=str(path), width=WIDTH_IN_NOTEBOOK)
        if self._display is None:
            self._display = display(image, display_id=True)
        else:
            self._display.update(image)


def epoch_line(trainer: Trainer, row: runs.Row) -> str:
    """Return the line that a run prints after an epoch."""
    # Nan is what was not measured: an epoch without validation.
    values = "  ".join(f"{name} {row[name]:.4f}" for name in runs.LEARNING_COLUMNS if not math.isnan(row[name]))
    speed = f"{row['seconds']:.1f} s  {row['images_per_second']:.0f} images/s"
    return f"{epoch_of(trainer)}  {values}  {speed}"
