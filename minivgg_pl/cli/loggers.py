"""Loggers that write into the run folder: those of `--trainer.logger` without a `save_dir`."""

import inspect
from collections.abc import Callable
from functools import partial
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
        option, is_whole, value = word.partition("=")
        option, value = (option, value) if is_whole else (before, word)
        kind = getattr(loggers, value.rpartition(".")[2], None)
        is_logger = option.rstrip("+") == "--trainer.logger" and inspect.isclass(kind)
        if is_logger and "save_dir" in inspect.signature(kind).parameters:
            result.append(f"--trainer.logger.save_dir={RUN_FOLDER}")
    return result


def split_loggers(given: Any) -> tuple[list[int], list[Callable[[Path], loggers.Logger]]]:
    """Return which of a parsed `--trainer.logger` to build at once, and what builds the others in the run folder."""
    specs = given if isinstance(given, list) else [given] if given else []
    late = [spec is True or spec.get("init_args", {}).get("save_dir") == RUN_FOLDER for spec in specs]
    builders = [partial(_build, spec) for spec, is_late in zip(specs, late, strict=True) if is_late]
    return [number for number, is_late in enumerate(late) if not is_late], builders


def _build(spec: Any, folder: Path) -> loggers.Logger:
    if spec is not True:
        options = {**spec.as_dict()["init_args"], "save_dir": str(folder)}
        return instantiate_class((), {"class_path": spec.class_path, "init_args": options})
    # As Lightning chooses.
    try:
        return loggers.TensorBoardLogger(folder)
    except ModuleNotFoundError:
        return loggers.CSVLogger(folder)
