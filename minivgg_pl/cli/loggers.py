"""Loggers that write into the run folder: those of `--trainer.logger` without a `save_dir`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.cli import instantiate_class

# Stands in config.yaml, where the folder is not known yet.
RUN_FOLDER = "<run folder>"


def with_save_dir(args: list[str]) -> list[str]:
    """Return the arguments with a `save_dir` of RUN_FOLDER behind each class of logger that takes one."""
    result: list[str] = []
    for before, word in zip(["", *args], args, strict=False):
        result.append(word)
        option, _, value = word.partition("=") if "=" in word else (before, "", word)
        kind = getattr(loggers, value.rpartition(".")[2], None)
        is_logger = option.rstrip("+") == "--trainer.logger" and inspect.isclass(kind)
        if is_logger and "save_dir" in inspect.signature(kind).parameters:
            result.append(f"--trainer.logger.save_dir={RUN_FOLDER}")
    return result


def is_for_run_folder(spec: Any) -> bool:
    """Return whether a parsed logger, or `true` for Lightning's choice, writes into the run folder."""
    return spec is True or spec.get("init_args", {}).get("save_dir") == RUN_FOLDER


def builder(spec: Any) -> Callable[[Path], loggers.Logger]:
    """Return what makes such a logger once it is called with the run folder."""
    if spec is not True:
        return lambda folder: instantiate_class(
            (), {"class_path": spec.class_path, "init_args": {**spec.as_dict()["init_args"], "save_dir": str(folder)}}
        )
    try:
        loggers.TensorBoardLogger("")
    except ModuleNotFoundError:
        return loggers.CSVLogger
    return loggers.TensorBoardLogger
