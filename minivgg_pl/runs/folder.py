"""The run folder: where it lies, what its files are called, how its metrics are kept and a run is found again."""

import csv
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from minivgg_pl.errors import InputError
from minivgg_pl.files import PART_SUFFIX, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VAL_COLUMNS = ("val_loss", "val_acc")
LEARNING_COLUMNS = ("train_loss", "train_acc", *VAL_COLUMNS)
METRIC_COLUMNS = ("epoch", "step", "lr", *LEARNING_COLUMNS, "seconds", "images_per_second")
INTEGER_COLUMNS = ("epoch", "step")
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
SUMMARY = "summary.json"
METRICS = "metrics.csv"

DEFAULT_OPTION = "--trainer.default_root_dir"

Row = dict[str, float]


def check_base(base: Path, option: str = DEFAULT_OPTION) -> None:
    """Check, writing nothing, that run folders can be made in `base`.

    Args:
        base: Folder to make them in.
        option: What names another one, for the message.

    Raises:
        InputError: If `base`, or the nearest folder above it that exists, is a file or cannot be written.
    """
    nearest = next(path for path in (base.absolute(), *base.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(_unusable(base, f"{nearest} is no folder that can be written", option))


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


def _unusable(base: Path, reason: str, option: str = DEFAULT_OPTION) -> str:
    return f"run folders cannot be made in {base}: {reason}; name another folder with {option}"


def lock_run(folder: Path) -> int | None:
    """Keep other processes from training in `folder` until this one ends; return the lock, or None where there is none.

    Raises:
        InputError: If another process trains there.
    """
    if fcntl is None:
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise InputError(f"{folder}: another process is training in this run folder; wait for it, or end it") from error
    except OSError:
        # A file system without locks.
        os.close(lock)
        return None
    return lock


def remove_parts(folder: Path) -> None:
    """Remove what kills have left of files that were being written in a run folder."""
    for part in folder.rglob(f".*{PART_SUFFIX}"):
        with suppress(OSError):
            part.unlink()


def write_metrics(path: Path, rows: list[Row]) -> None:
    """Write `metrics.csv`: a header and one row an epoch, in the order of METRIC_COLUMNS; a missing value is nan."""
    lines = [",".join(METRIC_COLUMNS)]
    lines += [",".join(_cell(column, row.get(column, math.nan)) for column in METRIC_COLUMNS) for row in rows]
    write_atomically(path, "\n".join(lines) + "\n")


def read_metrics(path: Path) -> list[Row]:
    """Read what `write_metrics` wrote; no file is no rows.

    Raises:
        InputError: If the file is not what `write_metrics` writes.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            # Cells too many would come in the place of the epoch, where a list is refused.
            reader = csv.DictReader(file, restkey="epoch")
            return [{column: _number(column, row[column]) for column in METRIC_COLUMNS} for row in reader]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged, or not a run's: repair it, or move it away to go on without") from error


def history(run: str | Path) -> dict[str, list[float]]:
    """Return the columns of a run's metrics.csv as lists, one entry an epoch: what Keras' `History.history` is.

    Args:
        run: The run folder.

    Raises:
        InputError: If there is no metrics.csv in it, or a damaged one.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a run folder")
    rows = read_metrics(path)
    return {column: [row[column] for row in rows] for column in METRIC_COLUMNS}


def _number(column: str, text: str) -> float:
    return int(text) if column in INTEGER_COLUMNS else float(text)


def _cell(column: str, value: float) -> str:
    return str(int(value)) if column in INTEGER_COLUMNS else f"{value:.6g}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return what the run's summary.json holds, or None where the run was not tested or the file is damaged."""
    try:
        summary = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return summary if isinstance(summary, dict) else None


def tested_epochs(folder: Path) -> int | None:
    """Return after how many epochs the run was tested, or None if it was not."""
    summary = read_summary(folder)
    return summary.get("epochs") if summary else None


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
