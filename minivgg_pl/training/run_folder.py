"""RunFolder, the callback that leaves a run folder behind."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from minivgg_pl.data.description import describe_data
from minivgg_pl.errors import InputError, as_line
from minivgg_pl.evaluation.reports import write_class_report
from minivgg_pl.files import write_atomically
from minivgg_pl.plots.classification import draw_confusion_matrix
from minivgg_pl.plots.curves import Rows
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.environment import describe_environment
from minivgg_pl.training.callbacks import ClassReport, StopOnNonFinite
from minivgg_pl.training.checkpointing import AtomicCheckpointIO, RandomState, RunCheckpoint
from minivgg_pl.training.module import LitMiniVGG
from minivgg_pl.training.recorder import RunRecorder
from minivgg_pl.training.run_config import run_config
from minivgg_pl.training.summary import summarize


class RunFolder(ClassReport):
    """Leaves a run folder, `<root>/<name>/<n>`, and prints a line an epoch: `Trainer(callbacks=[RunFolder("runs")])`.

    It takes any LightningModule and any data. The module logs train_loss, train_acc, val_loss and val_acc once an epoch
    (`on_epoch=True`; what it does not log is nan), and test_loss and test_acc in a test.

    The files are config.yaml (config.resume-1.yaml and so on for a resumed run), skipped_images.txt if there are any,
    metrics.csv, curves.png, checkpoints/last.ckpt and checkpoints/best.ckpt (the largest val_acc), summary.json, and
    after a test report.csv and confusion_matrix.png (see ClassReport). A notebook shows the curves as they grow.

    The folder is claimed once the data are set up. A kill leaves whole checkpoints, which hold the state of the random
    generators. A ModelCheckpoint without `dirpath` writes there, too. With `enable_checkpointing=False` there are no
    checkpoints, with `fast_dev_run` there is no folder.

    Args:
        root: Folder of all runs.
        name: Folder in it; default: the mini VGG's variant or the module's class, and the name of the data.
        config: Text of config.yaml; default: see `run_config`.
        reference: Rows drawn pale behind the curves, such as `article_rows("classic")`.
        resume: A run folder to go on in; it needs `trainer.fit(..., ckpt_path="<run>/checkpoints/last.ckpt")`.
        every: Number of updates between two savings of last.ckpt inside epochs, or None.
        loggers: Each is called with the run folder and returns a logger for the Trainer: a class such as `CSVLogger`.
        notes: Further entries of summary.json.

    Attributes:
        folder: The run folder, once it is claimed.
        summary: What summary.json holds, once the fit has ended.

    Raises:
        InputError: When a fit begins, if the folder cannot be made, or another process trains in it.
    """

    def __init__(
        self,
        root: str | Path = "runs",
        name: str | None = None,
        config: str | None = None,
        reference: Rows | None = None,
        resume: str | Path | None = None,
        every: int | None = None,
        loggers: Sequence[Callable[[Path], Logger]] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root).expanduser()
        self.name = name
        self.config = config
        self.reference = reference
        self.resume = None if resume is None else Path(resume)
        self.every = every
        self.loggers = loggers
        self.notes = dict(notes or {})
        self.folder: Path | None = None
        self.summary: dict[str, Any] = {}
        self._recorder: RunRecorder | None = None
        self._lock: int | None = None

    @property
    def rows(self) -> list[runs.Row]:
        """The epochs so far, as in metrics.csv."""
        return self._recorder.rows if self._recorder else []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not trainer.fast_dev_run and self._recorder not in trainer.callbacks:
            self._claim(trainer, pl_module)
            self._join(trainer, pl_module)
        elif self.folder is not None and trainer.is_global_zero:
            self._lock = self._lock or runs.lock_run(self.folder)

    def _claim(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder or take the one to go on in, and write there how the run was started."""
        folder = None
        self._start = time.perf_counter()
        if trainer.is_global_zero:
            name = self.name or f"{_short_name(pl_module)}{describe_data(trainer.datamodule).run_suffix}"
            folder = self.resume or runs.claim_run_folder(self.root / name)
            self._lock = runs.lock_run(folder)
            runs.remove_parts(folder)
            self._config_path = runs.next_config(folder)
            self._write_config(trainer, pl_module)
            # Of the user's own images alone.
            if skipped := getattr(trainer.datamodule, "skipped", None):
                write_atomically(folder / "skipped_images.txt", "".join(f"{as_line(text)}\n" for text in skipped))
            # Now, because the files of this code may have changed when the run ends.
            self.notes["environment"] = describe_environment(trainer.strategy.root_device)
        self.folder = Path(trainer.strategy.broadcast(folder))

    def _write_config(self, trainer: Trainer, pl_module: LightningModule) -> None:
        write_atomically(self._config_path, self.config or run_config(trainer, pl_module, str(self.root)))

    def _join(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the Trainer what else a run needs; Lightning sets up the callbacks that come after this one here."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        trainer.loggers = [*trainer.loggers, *(make(self.folder) for make in self.loggers)]
        callbacks, given = trainer.callbacks, trainer.checkpoint_callbacks
        place = self.folder / runs.LAST_CHECKPOINT.parent
        for checkpoint in given:
            if _is_default(checkpoint):
                callbacks.remove(checkpoint)
            elif isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None:
                checkpoint.dirpath = str(place.resolve())
        kind = type(pl_module)
        model = f"mini VGG {pl_module.hparams.variant}" if kind is LitMiniVGG else kind.__name__
        self._recorder = RunRecorder(self.folder, model, self.reference, self.resume)
        continued = self.resume is not None
        best = RunCheckpoint(place, "best", monitor="val_acc", continued=continued)
        last = RunCheckpoint(place, runs.LAST_CHECKPOINT.stem, every=self.every, continued=continued)
        kept = trainer.checkpoint_callbacks
        others = [callback for callback in callbacks if callback not in kept]
        callbacks[:] = [*others, StopOnNonFinite(), RandomState(), self._recorder, *kept]
        if given:
            # `best` in front, since `ckpt_path="best"` takes the first one. `last` behind, since it keeps the state of
            # all others, which is then this epoch's.
            callbacks.insert(callbacks.index(self._recorder), best)
            callbacks.append(last)

    def unlock(self) -> None:
        """Let other processes train in the run folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.resume:
            return
        # Without it, or with another run's, the rows in metrics.csv would not be those of the weights.
        last, given = self.resume / runs.LAST_CHECKPOINT, trainer.ckpt_path
        if last.resolve() != Path(given).resolve() if given else last.exists():
            raise InputError(f"resume={str(self.resume)!r}: give its last checkpoint: fit(..., ckpt_path='{last}')")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Since `setup`, Tuner.lr_find may have changed the rate.
        if self.config is None and self._recorder is not None and trainer.is_global_zero:
            self._write_config(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._recorder is not None and trainer.is_global_zero:
            self.summary = summarize(trainer, pl_module, self._recorder)
            self._write_summary()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.unlock()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Here, since a test without batches does not get to on_test_end.
        if stage == "test":
            # On all devices, since asking for a metric may gather it.
            metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
            if self.summary:
                self._write_test(trainer, metrics)
        self.unlock()

    def _write_test(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        data = describe_data(trainer.datamodule, trainer.test_dataloaders)
        weights = f"weights of {Path(trainer.ckpt_path).name}" if trainer.ckpt_path else runs.LAST_WEIGHTS
        if matrix := self.report.get("confusion_matrix", []):
            is_named = len(data.class_names) == len(matrix)
            names = data.class_names if is_named else [str(number) for number in range(len(matrix))]
            write_class_report(self.folder / "report.csv", names, self.report)
            title = f"{self._recorder.model} on {data.title}: {data.tested_on}, {weights}"
            draw_confusion_matrix(matrix, names, self.folder / "confusion_matrix.png", title)
        self.summary |= {name: metrics.get(name) for name in ("test_loss", "test_acc")}
        self.summary |= {"test_images": sum(map(sum, matrix)), "tested_weights": weights}
        self._write_summary()

    def _write_summary(self) -> None:
        self.summary |= {**self.notes, "wall_seconds_of_this_start": time.perf_counter() - self._start}
        runs.write_json(self.folder / runs.SUMMARY, self.summary)


def _short_name(module: LightningModule) -> str:
    """Return what folders call the module: the mini VGG's variant, or the class of another module."""
    return module.hparams.variant if type(module) is LitMiniVGG else type(module).__name__.lower()


def _is_default(checkpoint: Any) -> bool:
    """Return whether it has the settings of the one that a Trainer makes itself, which says no more than `last`."""
    settings = vars(ModelCheckpoint()).items()
    return type(checkpoint) is ModelCheckpoint and all(vars(checkpoint)[name] == value for name, value in settings)
