"""Lightning's checkpoints of this project, read as plain data."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from minivgg_pl.errors import InputError
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.torch_archives import check_archive, check_extent


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that Lightning wrote for LitMiniVGG; nothing in it is executed.

    Raises:
        InputError: If the file is damaged, no such checkpoint, or one of another model.
    """
    try:
        check_archive(path)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        check_extent(content)
    except Exception as error:  # what torch raises for a damaged file is not one type
        # Its first sentence; advice to trust the file follows.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint, or a damaged one ({reason})") from error
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), dict) for key in ("state_dict", "hyper_parameters")
    ):
        raise InputError(f"{path}: not a checkpoint that Lightning wrote for this project")
    if not {"variant", "num_classes", "lr_decay"} <= content["hyper_parameters"].keys():
        raise InputError(f"{path}: a checkpoint of another model, not of LitMiniVGG")
    for name in _damaged_parts(content):
        raise InputError(f"{path}: a damaged checkpoint: its {name} is not what a run writes")
    return content


def _damaged_parts(content: dict[Any, Any]) -> Iterator[str]:
    """Yield the names of what others rely on and is of another kind than Lightning and this project write."""
    if not all(isinstance(key, str) for key in [*content, *content["hyper_parameters"]]):
        yield "list of names"
    if not _is_plain(content["hyper_parameters"]):
        yield "hyper_parameters"
    for name, kind in (("epoch", int), ("global_step", int), ("datamodule_hyper_parameters", dict)):
        if not isinstance(content.get(name, kind()), kind):
            yield name
    state = data_state(content)
    kinds = {"shuffle_seed": int, "class_names": list, "class_path": str, "split": dict}
    if not _is_plain(state) or any(not isinstance(state.get(name, kind()), kind) for name, kind in kinds.items()):
        yield "state of the data module"
    if not isinstance(state.get("position"), dict | None):
        yield "position in the epoch"
    if not _is_epoch_so_far(content.get("epoch_so_far", {})):
        yield "epoch_so_far"
    if not -(2**63) <= state.get("shuffle_seed", 0) < 2**64:
        yield "shuffle_seed"


def _is_epoch_so_far(value: Any) -> bool:
    if not isinstance(value, dict) or type(value.get("first_step", 0)) is not int:
        return False
    sums = value.get("sums")
    if not isinstance(sums, torch.Tensor):
        return sums is None
    is_plain = sums.dtype == torch.float32 and sums.layout == torch.strided and not sums.is_meta
    return is_plain and sums.ndim in (1, 2) and bool(sums.isfinite().all())


def _is_plain(value: Any) -> bool:
    """Tell what JSON can hold from tensors and the like."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def last_checkpoint(folder: Path, option: str = "") -> Path:
    """Return the checkpoint of a run folder's last epoch.

    Raises:
        InputError: If there is none; the message begins with `option`.
    """
    checkpoint = folder / runs.LAST_CHECKPOINT
    if not checkpoint.is_file():
        raise InputError(f"{option}{folder}: the folder has no {runs.LAST_CHECKPOINT}; give a run folder that has one")
    return checkpoint


def data_state(content: dict[str, Any]) -> dict[str, Any]:
    """Return what this project's data module kept in a checkpoint, or nothing where there was another."""
    # Lightning keeps it under the name of the data module's class, whatever that is.
    states = (value for value in content.values() if isinstance(value, dict) and "shuffle_seed" in value)
    return next(states, {})


def run_folder_of(checkpoint: Path) -> Path | None:
    """Return the run folder that the checkpoint lies in, or None if it lies elsewhere."""
    # Resolved, since the path may have been typed from inside the run folder.
    folder = checkpoint.resolve().parent
    if folder.name != runs.LAST_CHECKPOINT.parent.name:
        return None
    return folder.parent if checkpoint.is_absolute() else Path(os.path.relpath(folder.parent))
