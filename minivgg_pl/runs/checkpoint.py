"""Lightning checkpoints of this project, read as plain data, and the keys that the project keeps in them."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from minivgg_pl.errors import InputError
from minivgg_pl.runs import folder as runs

# Beside Lightning's own keys. `LitMiniVGG` keeps the sums of an unfinished epoch.
EPOCH_SO_FAR = "epoch_so_far"
# The import path of the module's class; checkpoints of earlier versions lack it.
MODEL_CLASS = "model_class"
DEFAULT_CLASS = "minivgg_pl.LitMiniVGG"
# In the state of the data module, which data/base.py writes.
SHUFFLE_SEED = "shuffle_seed"
CLASS_NAMES = "class_names"
CLASS_PATH = "class_path"
POSITION = "position"
SPLIT = "split"
VAL_TRANSFORM = "val_transform"

CHECKPOINT_TYPES = {
    "state_dict": dict,
    "hyper_parameters": dict,
    "datamodule_hyper_parameters": dict,
    "epoch": int,
    "global_step": int,
    MODEL_CLASS: str,
    EPOCH_SO_FAR: dict,
}
DATA_STATE_TYPES = {SHUFFLE_SEED: int, CLASS_NAMES: list, CLASS_PATH: str, POSITION: dict | None, SPLIT: dict}


def class_path(kind: type) -> str:
    """Return the path that a class is imported by; of this package, the public one."""
    package = kind.__module__.partition(".")[0]
    return f"{package if package == 'minivgg_pl' else kind.__module__}.{kind.__qualname__}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that Lightning wrote for LitMiniVGG. No code in the file is run.

    Returns:
        The checkpoint's entries by key, tensors on the CPU. What CHECKPOINT_TYPES and DATA_STATE_TYPES name has the
        type given there.

    Raises:
        InputError: If the file is damaged, not a Lightning checkpoint, or a checkpoint of another model.
    """
    try:
        check_archive(path)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a damaged file
        # The first sentence only: torch goes on to advise trusting the file.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint, or a damaged one ({reason})") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise InputError(f"{path}: not a checkpoint that Lightning wrote for this project")
    hyperparameters = content.get("hyper_parameters")
    if not isinstance(hyperparameters, dict) or not {"variant", "num_classes", "lr_decay"} <= hyperparameters.keys():
        raise InputError(f"{path}: a checkpoint of another model, not of LitMiniVGG")
    for entries, types in ((content, CHECKPOINT_TYPES), (data_state(content), DATA_STATE_TYPES)):
        for key, kind in types.items():
            if key in entries and not isinstance(entries[key], kind):
                raise InputError(f"{path}: a damaged checkpoint: its {key} has the type {type(entries[key]).__name__}")
    return content


def check_archive(path: Path) -> None:
    """Check that a zip archive unpacks to no more than its own size; torch itself unpacks whatever it finds.

    Raises:
        ValueError: If it would.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are compressed, which neither torch nor Keras does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries claim more bytes than the file has")


def last_checkpoint(folder: Path) -> Path:
    """Return the checkpoint of a run folder's last epoch.

    Raises:
        InputError: If there is none.
    """
    checkpoint = folder / runs.LAST_CHECKPOINT
    if not checkpoint.is_file():
        raise InputError(f"{folder}: the folder has no {runs.LAST_CHECKPOINT}; give a run folder that has one")
    return checkpoint


def data_state(content: dict[str, Any]) -> dict[str, Any]:
    """Return what this project's data module kept in a checkpoint; an empty dict if there was another data module."""
    # Lightning keeps it under the name of the data module's class, which may be the user's own.
    states = (value for value in content.values() if isinstance(value, dict) and SHUFFLE_SEED in value)
    return next(states, {})


def batches_in_epoch(content: dict[str, Any]) -> int:
    """Return after how many batches of an epoch the checkpoint was saved; 0 at the end of an epoch."""
    return (data_state(content).get(POSITION) or {}).get("position", 0)


def run_folder_of(checkpoint: Path) -> Path | None:
    """Return the run folder that holds the checkpoint, or None if the checkpoint lies elsewhere."""
    # Resolved, since the path may have been typed from inside the run folder.
    folder = checkpoint.resolve().parent
    if folder.name != runs.LAST_CHECKPOINT.parent.name:
        return None
    return folder.parent if checkpoint.is_absolute() else Path(os.path.relpath(folder.parent))
