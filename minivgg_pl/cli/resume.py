"""Where a run continues: the run folder or checkpoint that `--resume` names, and what may change on the way."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minivgg_pl.cli.config import read_config
from minivgg_pl.cli.recipes import dotted_options
from minivgg_pl.data.base import public_path
from minivgg_pl.data.loader import check_position
from minivgg_pl.errors import InputError
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.checkpoint import data_state, last_checkpoint, read_checkpoint, run_folder_of

# What the checkpoint's state or the numbers so far depend on. Changed, it would be recorded and have no effect (the
# optimizer's state brings its own learning rate), or training images would become validation images.
FIXED_OPTIONS = (
    "model",
    "optimizer",
    "lr_scheduler",
    "seed_everything",
    "data.class_path",
    "data.dataset",
    "data.image_size",
    "data.in_channels",
    "data.val_size",
    "data.split_seed",
    "data.synthetic_size",
    "data.flip",
    "data.shift",
)


# What the triangular schedule's length in updates depends on: changed, the rate would be 0 early, or never.
FIXED_WITH_TRIANGULAR = ("data.batch_size", "trainer.accumulate_grad_batches", "trainer.limit_train_batches")


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues.

    Attributes:
        checkpoint: The checkpoint to load, or None where the run ended before its first.
        epoch: Epochs that it has behind it.
        options: The options that it was trained with, as far as they are known: the run's newest config file, or for
            a checkpoint outside a run folder what the checkpoint itself keeps of model and data.
        config: The run's newest config file, or None for a checkpoint outside a run folder.
        source: The run folder whose rows are the history, or None.
        folder: The run folder to continue in, or None for a new one (the checkpoint is not the run's last).
        data_state: What the checkpoint keeps of its data module.
        written: When the checkpoint was written, in nanoseconds, to tell whether it is another by now.
    """

    checkpoint: Path | None
    epoch: int
    options: dict[str, Any]
    config: Path | None
    source: Path | None
    folder: Path | None
    data_state: dict[str, Any]
    written: int | None = None

    def check_still_there(self) -> None:
        """Check, with the run's folder locked, that nobody has trained on since this was read.

        Raises:
            InputError: If the checkpoint is another one, or the first has come.
        """
        path = self.checkpoint or self.folder / runs.LAST_CHECKPOINT
        if _time_written(path) != self.written:
            raise InputError(f"--resume {self.folder}: another process has just trained on there: repeat the command")

    def history(self) -> list[runs.Row]:
        """Return the run's rows up to the checkpoint; a row that a kill left without its checkpoint is dropped."""
        rows = runs.read_metrics(self.source / "metrics.csv") if self.source else []
        return [row for row in rows if row["epoch"] <= self.epoch]

    def arguments(self) -> list[str]:
        """Return the command-line arguments that stand for the options so far; those typed come after them."""
        if self.config is not None:
            return [f"--config={self.config}"]
        known = {name: value for name, value in dotted_options(self.options).items() if value not in (None, {})}
        # The class first: it decides which options there are.
        data = [f"--data={known.pop('data.class_path')}"] if "data.class_path" in known else []
        return data + [f"--{name}={_as_typed(value)}" for name, value in known.items()]

    def is_finished(self, max_epochs: int | None) -> bool:
        """Tell a finished run from one that was killed between its last epoch and the end of its test."""
        if max_epochs is None or not 0 <= max_epochs <= self.epoch:
            return False
        return self.folder is None or runs.tested_epochs(self.folder) == self.epoch

    def check_position(self, batch_size: int, num_devices: int) -> None:
        """Check that an epoch in progress can go on in batches of `batch_size` on `num_devices` devices together.

        Raises:
            InputError: If it was begun in others.
        """
        check_position(self.data_state.get("position") or {}, batch_size, num_devices)

    def check_data_class(self, class_path: str) -> None:
        """Check that the data are of the class that the run was trained on.

        Raises:
            InputError: If they are not.
        """
        before = public_path(self.data_state.get("class_path", class_path))
        if before != class_path:
            raise InputError(
                f"--resume {self.checkpoint}: it was trained on data of {before}, which is imported only if typed: "
                f"give --data {before} if you trust it (now {class_path})"
            )

    def check_unchanged(self, options: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Check that `options`, those of the run to come, keep what cannot change in the middle of a run.

        Args:
            options: By their dotted names.
            defaults: The same without anything typed: what a run had whose version did not have an option yet.

        Raises:
            InputError: If one of FIXED_OPTIONS is another than before, or with a triangular schedule one of
                FIXED_WITH_TRIANGULAR.
        """
        triangular = options["model.schedule"] == "triangular"
        fixed_options = FIXED_OPTIONS + FIXED_WITH_TRIANGULAR * triangular
        before, now = dotted_options(self.options), dict(options)
        if self.config is not None:
            before = {name: defaults[name] for name in defaults.keys() & now.keys()} | before
        for known_options in (before, now):
            if "data.class_path" in known_options:
                # A class can be imported from its own file and from the package.
                known_options["data.class_path"] = public_path(known_options["data.class_path"])
        for name in before.keys() | now.keys():
            fixed = any(name == option or name.startswith(f"{option}.") for option in fixed_options)
            # A bare checkpoint knows nothing of options outside model and data.
            known = self.config is not None or name in before
            if fixed and known and before.get(name) != now.get(name):
                raise InputError(
                    f"--resume {self.checkpoint or self.folder}: {name} was {before.get(name)} and cannot become "
                    f"{now.get(name)} in the middle of a run: leave --{name} out, or train a new run"
                )


def find_resume_point(path: Path) -> ResumePoint:
    """Find where the run folder or checkpoint at `path` continues.

    Raises:
        InputError: If there is nothing at `path`, or it is no run and no training checkpoint, or a damaged one.
    """
    if not path.exists():
        raise InputError(f"--resume {path}: there is no such file or folder; give a run folder or a .ckpt file")
    if path.is_dir() and not (path / runs.LAST_CHECKPOINT).exists() and (config := runs.newest_config(path)):
        # It ended before its first checkpoint: from the beginning, in its own folder.
        _check_nothing_is_lost(path)
        return ResumePoint(None, 0, _read_options(config), config, source=None, folder=path, data_state={})
    checkpoint = last_checkpoint(path, option="--resume ") if path.is_dir() else path
    if not checkpoint.is_file():  # a pipe would be waited for
        raise InputError(f"--resume {path}: not a file; give a run folder or a .ckpt file")
    written = _time_written(checkpoint)
    content = _read_training_checkpoint(checkpoint)
    source = run_folder_of(checkpoint)
    config = runs.newest_config(source) if source else None
    is_last = config is not None and checkpoint.name == runs.LAST_CHECKPOINT.name
    return ResumePoint(
        checkpoint=checkpoint,
        epoch=_finished_epochs(content, checkpoint),
        options=_read_options(config) if config else _options_of(content),
        config=config,
        source=source if config else None,
        folder=source if is_last else None,
        data_state=data_state(content),
        written=written,
    )


def _time_written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _check_nothing_is_lost(folder: Path) -> None:
    # One row may stand there without its checkpoint: it is written first.
    if (folder / runs.SUMMARY).exists() or len(runs.read_metrics(folder / "metrics.csv")) > 1:
        raise InputError(
            f"--resume {folder}: it was trained, and has no {runs.LAST_CHECKPOINT} to go on from; train anew with "
            f"--config {folder / 'config.yaml'}"
        )


def _read_training_checkpoint(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path)
    if any(key not in content for key in ("optimizer_states", "loops")):
        raise InputError(f"{path}: it holds weights alone, and nothing that a training could go on from")
    return content


def _finished_epochs(content: dict[str, Any], path: Path) -> int:
    try:
        loop = content["loops"]["fit_loop"]
        is_last_batch = loop["epoch_loop.batch_progress"]["is_last_batch"]
        epoch = loop["epoch_progress"]["current"]
        epochs, is_inside = epoch["processed"], epoch["processed"] < epoch["started"]
        if type(epochs) is not int or not 0 <= epochs < 2**31 or type(is_last_batch) is not bool:
            raise TypeError(epochs)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"--resume {path}: a checkpoint without the state of the training loop") from error
    if is_inside and (is_last_batch or not data_state(content).get("position")):
        # Lightning would leave the epoch's validation out, or begin the epoch's images again.
        raise InputError(f"--resume {path}: it was saved inside epoch {epochs + 1}; give one of an epoch's end")
    if not is_inside and not is_last_batch:
        # Lightning would take the rest of the epoch for the next one.
        raise InputError(
            f"--resume {path}: the run stopped inside epoch {epochs} (max_steps, max_time or an early stop) and "
            "counted it; give a checkpoint of an epoch's end, or start from its weights: --model.init_from"
        )
    return epochs


def _read_options(config: Path) -> dict[str, Any]:
    try:
        options = read_config(config)
    except InputError as error:
        raise InputError(f"--resume: {error}: repair it, or resume from the .ckpt elsewhere") from error
    if not isinstance(options, dict):
        raise InputError(f"--resume: {config} holds no options: repair it, or resume from the .ckpt elsewhere")
    return options


def _options_of(content: dict[str, Any]) -> dict[str, Any]:
    state = data_state(content)
    data = dict(content.get("datamodule_hyper_parameters", {}))
    path = public_path(state.get("class_path", ""))
    # Whoever wrote the checkpoint would choose what to import.
    data |= {"class_path": path} if path.startswith("minivgg_pl.") else {}
    return {"model": dict(content["hyper_parameters"]), "data": data}


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
