"""Loggers that write into the run folder: those of `--trainer.logger` without a `save_dir`."""

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import loggers
from lightning.pytorch.cli import instantiate_class

# Stands in config.yaml, where the folder is not known yet.
RUN_FOLDER = "<run folder>"


def listed(given: Any) -> list[Any]:
    """Return what was given for an option that takes one object or several, as a list."""
    return given if isinstance(given, list) else [given] if given else []


def with_save_dir(args: list[str]) -> list[str]:
    """Return the arguments with a `save_dir` of RUN_FOLDER behind each class of logger that takes one."""
    result: list[str] = []
    for before, word in zip(["", *args], args, strict=False):
        result.append(word)
        option, _, value = word.partition("=") if "=" in word else (before, "", word)
        if option.rstrip("+") == "--trainer.logger" and _takes_save_dir(value):
            result.append(f"--trainer.logger.save_dir={RUN_FOLDER}")
    return result


def fill_in_save_dir(config: Namespace) -> None:
    """Do the same to the loggers of a parsed config file."""
    for spec in listed(config.get("trainer.logger")):
        if isinstance(spec, Namespace) and "init_args.save_dir" not in spec and _takes_save_dir(spec.class_path):
            spec["init_args.save_dir"] = RUN_FOLDER


def is_for_run_folder(spec: Any) -> bool:
    """Return whether a parsed logger, or `true` for Lightning's choice, writes into the run folder."""
    return spec is True or spec.get("init_args", {}).get("save_dir") == RUN_FOLDER


def builder(spec: Any) -> Callable[[Path], loggers.Logger]:
    """Return what makes such a logger once it is called with the run folder."""
    if spec is True:
        is_installed = any(map(find_spec, ("tensorboard", "tensorboardX")))
        return loggers.TensorBoardLogger if is_installed else loggers.CSVLogger
    return lambda folder: instantiate_class(
        (), {"class_path": spec.class_path, "init_args": {**spec.as_dict()["init_args"], "save_dir": str(folder)}}
    )


def _takes_save_dir(name: str) -> bool:
    kind = getattr(loggers, name.rpartition(".")[2], None)
    return inspect.isclass(kind) and "save_dir" in inspect.signature(kind).parameters
