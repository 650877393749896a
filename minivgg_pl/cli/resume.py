"""`--resume`: where a run continues, and which of its options may change."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minivgg_pl.cli.config import dotted_options, read_config
from minivgg_pl.data.base import NO_HYPERPARAMETERS, public_path
from minivgg_pl.errors import InputError
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.checkpoint import (
    CLASS_PATH,
    MODEL_CLASS,
    POSITION,
    data_state,
    last_checkpoint,
    read_checkpoint,
    run_folder_of,
)

# The checkpoint's state and the rows so far depend on them. A change would be recorded and have no effect (the
# optimizer's state brings its own learning rate), or training images would become validation images.
FIXED_OPTIONS = (
    *("model_class", "model", "optimizer", "lr_scheduler", "seed_everything"),
    *(f"data.{name}" for name in ("class_path", "dataset", "image_size", "in_channels", "synthetic_size")),
    *(f"data.{name}" for name in ("val_size", "split_seed", "skip_broken", "flip", "shift")),
    *(f"data.{name}" for name in NO_HYPERPARAMETERS),
)
# The length of a run in updates depends on them: after a change the rate, or dropout, would be 0 early, or never.
FIXED_WITH_LENGTH = ("data.batch_size", "trainer.accumulate_grad_batches", "trainer.limit_train_batches")


def settings_that_span(options: Mapping[str, Any]) -> list[str]:
    """Return those of the `options`, by their dotted names, that change over the whole length of a run."""
    has_own_schedule = any(name.startswith("optimizer.") for name in options)
    spanning = {"model.dropout_schedule": "linear"} | ({} if has_own_schedule else {"model.schedule": "triangular"})
    return [f"--{name} {value}" for name, value in spanning.items() if options[name] == value]


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues.

    Attributes:
        checkpoint: The checkpoint to load, or None where the run ended before its first.
        epoch: Number of finished epochs.
        options: The options that it was trained with, nested as in a config file: the run's newest one, or for a
            checkpoint outside a run folder the options of model and data in the checkpoint.
        config: The run folder's newest config file, or None for a checkpoint outside one.
        folder: The run folder to continue in, or None for a new one (the checkpoint is not the run's last).
        content: What the checkpoint holds.
    """

    checkpoint: Path | None
    epoch: int
    options: dict[str, Any]
    config: Path | None
    folder: Path | None
    content: dict[str, Any]

    @property
    def data_state(self) -> dict[str, Any]:
        """The state of the data module in the checkpoint."""
        return data_state(self.content)

    def arguments(self) -> list[str]:
        """Return the options so far as command-line arguments; the typed ones come after them."""
        if self.config is not None:
            return [f"--config={self.config}"]
        return [f"--{name}={json.dumps(value)}" for name, value in self.options.items()]

    def is_finished(self, max_epochs: int | None) -> bool:
        """Return whether the run has its epochs, and its test too."""
        has_epochs = max_epochs is not None and 0 <= max_epochs <= self.epoch
        summary = runs.read_summary(self.folder) if self.folder else {"epochs": self.epoch}
        is_tested = summary.get("tested_weights", runs.LAST_WEIGHTS) is not None
        return has_epochs and summary.get("epochs") == self.epoch and is_tested

    def check_unchanged(self, options: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Check that `options`, those of the run to come, keep what cannot change in the middle of a run.

        All are by their dotted names. The `defaults` are the values of options that are newer than the run.

        Raises:
            InputError: If one of FIXED_OPTIONS has changed, or of FIXED_WITH_LENGTH, where a schedule spans the run.
        """
        fixed_options = FIXED_OPTIONS + FIXED_WITH_LENGTH * bool(settings_that_span(options))
        before = dotted_options(self.options)
        # A checkpoint alone knows nothing of options outside model and data.
        if self.config is not None:
            before = {name: defaults.get(name) for name in options} | before
        if CLASS_PATH in self.data_state:
            before["data.class_path"] = self.data_state[CLASS_PATH]
        if MODEL_CLASS in self.content:
            before["model_class"] = self.content[MODEL_CLASS]
        for name, was in before.items():
            now = options.get(name)
            if name == "data.class_path":
                was, now = public_path(str(was)), public_path(str(now))
            if was != now and f"{name}.".startswith(tuple(f"{fixed}." for fixed in fixed_options)):
                option = {"data.class_path": "data", "model_class": "model"}.get(name, name)
                raise InputError(
                    f"--resume {self.checkpoint or self.folder}: {name} was {was} and cannot become {now} in the "
                    f"middle of a run: give --{option} {was}, or train a new run"
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
        if (path / runs.SUMMARY).exists() or len(runs.read_metrics(path / runs.METRICS)) > 1:
            # One row may be there without its checkpoint, because it is written first.
            reason = f"it was trained, and has no {runs.LAST_CHECKPOINT} to go on from"
            raise InputError(f"--resume {path}: {reason}; train anew with --config {config}")
        return ResumePoint(None, 0, read_config(config), config, folder=path, content={})
    checkpoint = last_checkpoint(path) if path.is_dir() else path
    content = read_checkpoint(checkpoint)
    if any(key not in content for key in ("optimizer_states", "loops")):
        raise InputError(f"{checkpoint}: it holds weights alone, and nothing that a training could go on from")
    folder = run_folder_of(checkpoint)
    config = runs.newest_config(folder) if folder else None
    if config is not None:
        # Now, before anything is written: RunFolder goes on with its rows.
        runs.read_metrics(folder / runs.METRICS)
    is_last = config is not None and checkpoint.name == runs.LAST_CHECKPOINT.name
    return ResumePoint(
        checkpoint=checkpoint,
        epoch=_finished_epochs(content, checkpoint),
        options=read_config(config) if config else _options_of(content),
        config=config,
        folder=folder if is_last else None,
        content=content,
    )


def _finished_epochs(content: dict[str, Any], path: Path) -> int:
    try:
        loop = content["loops"]["fit_loop"]
        is_last_batch = bool(loop["epoch_loop.batch_progress"]["is_last_batch"])
        epochs, started = (int(loop["epoch_progress"]["current"][name]) for name in ("processed", "started"))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"--resume {path}: a checkpoint without the state of the training loop") from error
    is_inside = epochs < started
    # Lightning would leave the epoch's validation out, begin the epoch's images again, or take the rest of an epoch
    # that max_steps, max_time or an early stop has ended for the next one.
    if is_inside == is_last_batch or (is_inside and not data_state(content).get(POSITION)):
        raise InputError(
            f"--resume {path}: it was saved inside epoch {started}, or stopped there; give a checkpoint of an "
            "epoch's end, or start from its weights: --model.init_from"
        )
    return epochs


def _options_of(content: dict[str, Any]) -> dict[str, Any]:
    options = {"model": dict(content["hyper_parameters"])}
    path = public_path(data_state(content).get(CLASS_PATH, ""))
    # Otherwise whoever wrote the checkpoint would choose what is imported.
    if path.startswith("minivgg_pl."):
        given = content.get("datamodule_hyper_parameters", {})
        known = {name: value for name, value in given.items() if not str(name).startswith(NO_HYPERPARAMETERS)}
        options["data"] = {"class_path": path, "init_args": known}
    return options
