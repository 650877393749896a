"""The run folder: its place, its files and its metrics."""

import csv
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from minivgg_pl.errors import InputError
from minivgg_pl.files import PART_SUFFIX, try_lock, write_atomically

VAL_COLUMNS = ("val_loss", "val_acc")
LEARNING_COLUMNS = ("train_loss", "train_acc", *VAL_COLUMNS)
INTEGER_COLUMNS = ("epoch", "step")
METRIC_COLUMNS = (*INTEGER_COLUMNS, "lr", *LEARNING_COLUMNS, "seconds", "images_per_second")
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
SUMMARY = "summary.json"
METRICS = "metrics.csv"
# What summary.json says was tested; None until then, and nothing in summaries of earlier versions.
LAST_WEIGHTS = "last epoch's weights"

Row = dict[str, float]


def check_base(base: Path, option: str) -> None:
    """Check that run folders can be made in `base`, which `option` names; write nothing.

    Raises:
        InputError: If `base`, or the nearest folder above it that exists, is a file or is not writable.
    """
    nearest = next(path for path in (base.absolute(), *base.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            f"run folders cannot be made in {base}: {nearest} is no writable folder; give another: {option}"
        )


def claim_run_folder(base: Path) -> Path:
    """Create and return `base/<n>`, where n is the largest number there plus 1. Two processes get different folders.

    Raises:
        InputError: If the folder cannot be made.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        while True:
            number = 1 + max((int(path.name) for path in base.iterdir() if path.name.isdecimal()), default=0)
            with suppress(FileExistsError):
                (base / str(number)).mkdir()
                return base / str(number)
    except OSError as error:
        raise InputError(f"run folders cannot be made in {base}: {error.strerror}; give another folder") from error


def lock_run(folder: Path) -> int | None:
    """Keep other processes from training in `folder` until this one ends.

    Returns:
        The lock, to be closed with `os.close`, or None on Windows, which has no such locks.

    Raises:
        InputError: If another process trains there.
    """
    if os.name == "nt":  # Windows cannot open a folder.
        return None
    lock = os.open(folder, os.O_RDONLY)
    if not try_lock(lock):
        os.close(lock)
        raise InputError(f"{folder}: another process is training in this run folder; wait for it, or end it")
    return lock


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in a run folder."""
    for part in folder.rglob(f".*{PART_SUFFIX}"):
        with suppress(OSError):
            part.unlink()


def write_metrics(path: Path, rows: list[Row]) -> None:
    """Write `metrics.csv`: a header and one row an epoch, in the order of METRIC_COLUMNS; a missing value is nan."""
    values = ([row.get(column, math.nan) for column in METRIC_COLUMNS] for row in rows)
    lines = (",".join(str(v) if isinstance(v, int) else f"{v:.6g}" for v in line) for line in values)
    write_atomically(path, "\n".join([",".join(METRIC_COLUMNS), *lines]) + "\n")


def read_metrics(path: Path) -> list[Row]:
    """Read what `write_metrics` wrote; return no rows if there is no file.

    Raises:
        InputError: If the file is damaged, or is not a run's metrics.csv.
    """
    kinds = {column: int if column in INTEGER_COLUMNS else float for column in METRIC_COLUMNS}
    try:
        with path.open(newline="") as file:
            return [{column: kind(row[column]) for column, kind in kinds.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged, or not a run's: repair it, or move it away to go on without") from error


def history(run: str | Path) -> dict[str, list[float]]:
    """Return the columns of the metrics.csv in the folder `run`, one entry an epoch, like Keras' `History.history`.

    Raises:
        InputError: If there is no metrics.csv, or a damaged one.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a run folder")
    rows = read_metrics(path)
    return {column: [row[column] for row in rows] for column in METRIC_COLUMNS}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON atomically."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the content of the run's summary.json; an empty dict if there is none, or a damaged one."""
    try:
        return dict(json.loads((folder / SUMMARY).read_text()))
    except (OSError, TypeError, ValueError):
        return {}


def newest_config(folder: Path) -> Path | None:
    """Return `config.resume-<k>.yaml` with the largest k, else `config.yaml`, else None."""
    original = folder / "config.yaml"
    resumed = folder.glob("config.resume-*.yaml")
    return max(resumed, key=_resume_number, default=original if original.exists() else None)


def next_config(folder: Path) -> Path:
    """Return the path of this start's config; there is no such file yet."""
    newest = newest_config(folder)
    return folder / (f"config.resume-{_resume_number(newest) + 1}.yaml" if newest else "config.yaml")


def _resume_number(config: Path) -> int:
    number = config.name.removeprefix("config.resume-").removesuffix(".yaml")
    return int(number) if number.isdecimal() else 0
