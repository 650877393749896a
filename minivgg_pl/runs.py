"""The run folder: where it lies, what its files are called, how its metrics are kept and a run is found again."""

import csv
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minivgg_pl.errors import InputError

LEARNING_COLUMNS = ("train_loss", "train_acc", "val_loss", "val_acc")
METRIC_COLUMNS = ("epoch", "step", "lr", *LEARNING_COLUMNS, "seconds", "images_per_second")
INTEGER_COLUMNS = ("epoch", "step")
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
SUMMARY = "summary.json"

Row = dict[str, float]


def check_base(base: Path) -> None:
    """Check, writing nothing, that run folders can be made in `base`.

    Raises:
        InputError: If `base`, or the nearest folder above it that exists, is a file or cannot be written.
    """
    nearest = next(path for path in (base.absolute(), *base.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(_unusable(base, f"{nearest} is no folder that can be written"))


def claim_run_folder(base: Path) -> Path:
    """Create and return `base/<n>`, n one above the largest there is; two processes never get the same one.

    Raises:
        InputError: If the folder cannot be made.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name) for p in base.iterdir() if p.name.isdecimal()), default=0)
        while True:
            number += 1
            with suppress(FileExistsError):
                (base / str(number)).mkdir()
                return base / str(number)
    except OSError as error:
        raise InputError(_unusable(base, error.strerror)) from error


def _unusable(base: Path, reason: str) -> str:
    return f"run folders cannot be made in {base}: {reason}; name another folder with --trainer.default_root_dir"


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def write_metrics(path: Path, rows: list[Row]) -> None:
    """Write `metrics.csv`: a header and one row an epoch, in the order of METRIC_COLUMNS; a missing value is nan."""
    lines = [",".join(METRIC_COLUMNS)]
    lines += [",".join(_cell(column, row.get(column, math.nan)) for column in METRIC_COLUMNS) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def read_metrics(path: Path) -> list[Row]:
    """Read what `write_metrics` wrote; no file is no rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {column: int(value) if column in INTEGER_COLUMNS else float(value) for column, value in row.items()}
            for row in csv.DictReader(file)
        ]


def _cell(column: str, value: float) -> str:
    return str(int(value)) if column in INTEGER_COLUMNS else f"{value:.6g}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues.

    Attributes:
        checkpoint: The checkpoint to load.
        epoch: Epochs that it has behind it.
        hparams: The module's hyperparameters, as the checkpoint keeps them.
        dataset: Name of the data set that it was trained on, or None where the checkpoint does not tell.
        config: The run's newest config file, or None for a checkpoint outside a run folder.
        source: The run folder whose rows are the history, or None.
        folder: The run folder to continue in, or None for a new one (the checkpoint is not the run's last).
    """

    checkpoint: Path
    epoch: int
    hparams: dict[str, Any]
    dataset: str | None
    config: Path | None
    source: Path | None
    folder: Path | None

    def history(self) -> list[Row]:
        """Return the run's rows up to the checkpoint; a row that a kill left without its checkpoint is dropped."""
        rows = read_metrics(self.source / "metrics.csv") if self.source else []
        return [row for row in rows if row["epoch"] <= self.epoch]


def find_resume_point(path: Path) -> ResumePoint:
    """Find where the run folder or checkpoint at `path` continues.

    Raises:
        InputError: If there is nothing at `path`, or it is no run and no training checkpoint, or a damaged one.
    """
    if not path.exists():
        raise InputError(f"--resume {path}: there is no such file or folder; give a run folder or a .ckpt file")
    checkpoint = path / LAST_CHECKPOINT if path.is_dir() else path
    if not checkpoint.is_file():
        raise InputError(f"--resume {path}: the folder has no {LAST_CHECKPOINT}; give a run folder that has one")
    content = _load_checkpoint(checkpoint)
    source = checkpoint.parent.parent if checkpoint.parent.name == LAST_CHECKPOINT.parent.name else None
    config = newest_config(source) if source else None
    is_last = source is not None and config is not None and checkpoint.name == LAST_CHECKPOINT.name
    return ResumePoint(
        checkpoint=checkpoint,
        epoch=content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"],
        hparams=dict(content["hyper_parameters"]),
        dataset=content.get("datamodule_hyper_parameters", {}).get("dataset"),
        config=config,
        source=source if config else None,
        folder=source if is_last else None,
    )


def _load_checkpoint(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a damaged file is not one type
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
        raise InputError(f"--resume {path}: not a readable checkpoint, or a damaged one ({reason})") from error
    needed = ("state_dict", "optimizer_states", "loops", "hyper_parameters")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        raise InputError(f"--resume {path}: not a training checkpoint that Lightning wrote for this project")
    if "variant" not in content["hyper_parameters"]:
        raise InputError(f"--resume {path}: a checkpoint of another model, not of LitMiniVGG")
    return content


def newest_config(folder: Path) -> Path | None:
    """Return `config.resume-<k>.yaml` with the largest k, or `config.yaml`, or None where there is neither."""
    resumed = sorted(folder.glob("config.resume-*.yaml"), key=_resume_number)
    original = folder / "config.yaml"
    return resumed[-1] if resumed else original if original.exists() else None


def next_config(folder: Path) -> Path:
    """Return where this start of the run keeps its config; an existing file is never the answer."""
    newest = newest_config(folder)
    if newest is None:
        return folder / "config.yaml"
    return folder / f"config.resume-{_resume_number(newest) + 1}.yaml"


def _resume_number(config: Path) -> int:
    number = config.name.removeprefix("config.resume-").removesuffix(".yaml")
    return int(number) if number.isdecimal() else 0
