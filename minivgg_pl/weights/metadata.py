"""What is known of trained weights besides their values: data, recipe, seed, accuracy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.checkpoint import data_state, run_folder_of

# What a weights file says of the run it comes from, where the run said it.
METADATA = (
    *("dataset", "recipe", "init_from", "seed", "epochs", "unfinished"),
    *("test_accuracy", "test_images", "tested_on", "split"),
)


def run_metadata(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the checkpoint's run says of it: the test's result only if it is the tested epoch's."""
    folder = run_folder_of(path)
    summary = runs.read_summary(folder) if folder else None
    data_options = content.get("datamodule_hyper_parameters")
    metadata = {
        "dataset": data_options.get("dataset") if isinstance(data_options, dict) else None,
        "init_from": content["hyper_parameters"].get("init_from"),
        "split": data_state(content).get("split"),
        "unfinished": _place_inside_epoch(content),
    }
    if summary:
        metadata |= {name: summary.get(name) for name in ("dataset", "recipe", "seed")}
        epoch = content.get("epoch", -1)
        if isinstance(epoch, int) and summary.get("epochs") == epoch + 1:
            metadata |= {"epochs": summary["epochs"], "test_accuracy": summary.get("test_acc")}
            metadata |= {name: summary.get(name) for name in ("test_images", "tested_on")}
    return checked_metadata(metadata)


def _place_inside_epoch(content: Mapping[str, Any]) -> str | None:
    """Tell where in an epoch the checkpoint was saved; None at an epoch's end."""
    batches = (data_state(content).get("position") or {}).get("position", 0)
    if type(batches) is not int or batches < 1:
        return None
    return f"saved inside epoch {content.get('epoch', 0) + 1}, after {batches} of its batches"


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `metadata` is of the right kind: they come from files that anybody may have written."""
    kinds = {"seed": int, "epochs": int, "test_images": int, "test_accuracy": float, "split": dict}
    # JSON has no difference between 1 and 1.0.
    metadata = {name: float(v) if name == "test_accuracy" and type(v) is int else v for name, v in metadata.items()}
    metadata = {name: value for name, value in metadata.items() if isinstance(value, kinds.get(name, str))}
    if "split" in metadata and not _is_split(metadata["split"]):
        del metadata["split"]
    return metadata


def _is_split(split: Mapping[str, Any]) -> bool:
    """Tell what a data module keeps of its split from anything else."""
    numbers = (split.get("val_size"), split.get("split_seed"))
    return isinstance(split.get("fingerprint"), str) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
