"""Checks of parsed options that neither the parser nor the classes make; each raises InputError with one line."""

import os
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_info
from yaml import YAMLError

from minivgg_pl.cli.recipes import RECIPES, recipe_options
from minivgg_pl.cli.resume import ResumePoint
from minivgg_pl.data.base import ImageDataModule
from minivgg_pl.data.loader import LEAST_TO_TRAIN
from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.runs.folder import LEARNING_COLUMNS
from minivgg_pl.training.module import HYPERPARAMETER_DEFAULTS
from minivgg_pl.weights.init_from import normalization_of

# Each setting that only one choice of another uses: (setting, what it belongs to, the choice).
BELONGS_TO = (
    ("nesterov", "optimizer", "sgd"),
    ("adamw_lr", "optimizer", "muon"),
    ("lr_decay", "schedule", "decay"),
    ("warmup", "schedule", "triangular"),
)
# What jsonargparse writes in place of an object.
UNKEPT = "Unable to serialize instance"
# More processes than cores are of use in tests alone.
MAX_CPU_PROCESSES = 8
# What only LitMiniVGG's own optimizer and schedule read.
OPTIMIZER_SETTINGS = ("optimizer", "lr", "momentum", "nesterov", "adamw_lr", "schedule", "lr_decay", "warmup")


def check_sections(config: Any) -> None:
    """Check that the sections of a config file hold options: the parser takes any value for a whole section."""
    for name in ("model", "trainer", "curves"):
        section = config[name]
        if not isinstance(section, Namespace) and (section is not None or name != "model"):
            raise InputError(f"{name}: {str(section)[:60]!r} is no section: give {name}.OPTION, each with its value")


def check_model(model: Any) -> None:
    """Check what the parser lets through: a null where a value must be."""
    if model is None or model.variant is None:
        raise InputError(f"--model.variant null: choose one of {', '.join(ARCHITECTURES)}")
    for name, default in HYPERPARAMETER_DEFAULTS.items():
        if model[name] is None and default is not None:
            raise InputError(f"--model.{name} null: give a value, or leave it out for {default}")


def fit_model_to_data(model: Any, data: ImageDataModule) -> None:
    """Set what the data decide: number of classes, channels and size; refuse other values that were typed."""
    channels, size, _ = data.image_shape
    for name, value in (("num_classes", len(data.class_names)), ("in_channels", channels), ("image_size", size)):
        if model[name] not in (HYPERPARAMETER_DEFAULTS[name], value):
            raise InputError(f"--model.{name} {model[name]}: the data have {value}; leave it out, of a config file too")
        model[name] = value


def take_normalization(model: Any) -> None:
    """Set `mean` and `std` to those of the weights to start from, unless others were typed.

    Raises:
        InputError: If the weights cannot be read.
    """
    theirs = normalization_of(model.init_from) if model.init_from else None
    for name, value in (theirs or {}).items():
        if model[name] in _silent_values(name) and len(value or []) in (0, model.in_channels):
            model[name] = value


def check_trainer(trainer: Any) -> None:
    """Check what Lightning would only trip over in the middle of a run."""
    if trainer.max_epochs is not None and trainer.max_epochs < 1 and trainer.max_epochs != -1:
        raise InputError(f"--trainer.max_epochs {trainer.max_epochs}: give 1 or more (or -1 for no end)")
    processes = int(trainer.devices) if str(trainer.devices).isdecimal() else 1
    if trainer.accelerator == "cpu" and processes > max(MAX_CPU_PROCESSES, os.cpu_count() or 1):
        raise InputError(
            f"--trainer.devices {processes}: on the CPU that many processes, and this machine has {os.cpu_count()} "
            "cores: give fewer"
        )
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        if trainer[name] is not None and trainer[name] < 1:
            raise InputError(f"--trainer.{name} {trainer[name]}: give 1 or more")
    interval = trainer.val_check_interval
    if isinstance(interval, int | float) and interval <= 0:
        raise InputError(f"--trainer.val_check_interval {interval}: give a number of batches, or a share of an epoch")


def check_step_checkpoints(config: Any) -> None:
    """Refuse checkpoints inside epochs where Lightning's own loader makes the batches: it could not go on there."""
    if config.checkpoint_every_n_steps and config.trainer.overfit_batches:
        raise InputError(
            f"--checkpoint_every_n_steps {config.checkpoint_every_n_steps}: no epoch can be resumed inside with "
            "--trainer.overfit_batches; leave one of them out"
        )


def check_monitors(trainer: Trainer) -> None:
    """Refuse early stopping on what is never logged; Lightning's own refusal comes after the first epoch."""
    if any(not type(callback).__module__.startswith(("lightning.", "minivgg_pl.")) for callback in trainer.callbacks):
        return  # it may log what it likes
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.strict and callback.monitor not in LEARNING_COLUMNS:
            raise InputError(
                f"--trainer.callbacks: EarlyStopping monitors {callback.monitor!r}: give one of "
                f"{', '.join(LEARNING_COLUMNS)}"
            )


def _silent_values(name: str) -> list[Any]:
    """Return the values of a model's option that need not have been typed: its default, and the recipes'."""
    recipes = [recipe_options(recipe) for recipe in RECIPES]
    return [HYPERPARAMETER_DEFAULTS[name], *(recipe.get(f"model.{name}") for recipe in recipes)]


def check_effects(model: Any) -> None:
    """Refuse settings that were typed and that the others leave without effect."""
    for name, owner, choice in BELONGS_TO:
        if model[owner] != choice and model[name] not in _silent_values(name):
            raise InputError(
                f"--model.{name} {model[name]} has no effect with --model.{owner} {model[owner]}: leave it out, or "
                f"give --model.{owner} {choice}"
            )


def check_schedule(config: Any) -> None:
    """Check that a run whose schedule ends with it has a beginning and an end."""
    if config.model.schedule != "triangular" or config.get("optimizer"):
        return
    for name, none in (("max_steps", 0), ("limit_train_batches", 0)):
        if config.trainer[name] == none and config.trainer[name] is not None:
            raise InputError(
                f"--trainer.{name} {none}: the triangular schedule needs at least one update; give another, or "
                "--model.schedule decay"
            )
    endless = config.trainer.max_epochs == -1 and config.trainer.max_steps in (None, -1)
    if endless:
        raise InputError(
            "--trainer.max_epochs -1: the triangular schedule needs the run's end; give a number of epochs, or "
            "--model.schedule decay"
        )


def check_optimizer(config: Any) -> None:
    """Refuse settings of LitMiniVGG's optimizer where another optimizer replaces it: they would have no effect."""
    if not config.get("optimizer"):
        if config.get("lr_scheduler"):
            raise InputError("--lr_scheduler has no effect without --optimizer: give both, or --model.schedule")
        return
    for name in OPTIMIZER_SETTINGS:
        if config.model[name] not in _silent_values(name):
            raise InputError(
                f"--model.{name} {config.model[name]} has no effect beside --optimizer: give --optimizer.{name} if "
                "that optimizer has it, or leave it out"
            )


def check_config_can_be_kept(parser: ArgumentParser, config: Namespace) -> None:
    """Refuse options that config.yaml could not repeat: some callbacks have objects for defaults."""
    try:
        text = parser.dump(config, skip_none=False)
    except (TypeError, ValueError, YAMLError) as error:
        raise InputError(f"config.yaml cannot keep the default of an option: type that one too ({error})") from error
    for line in text.splitlines():
        if UNKEPT in line:
            name = line.strip().partition(":")[0]
            raise InputError(f"config.yaml cannot keep the default of the option {name!r}: type that one too")


def check_gpus(accelerator: Any, devices: Any) -> None:
    """Check that there are as many GPUs as `devices` asks for."""
    if accelerator not in ("gpu", "cuda"):
        return
    available = torch.cuda.device_count()
    wanted = int(devices) if str(devices).isdecimal() else 1
    if available == 0:
        raise InputError(f"--gpus {wanted}: this machine has no GPU that torch can use; --gpus 0 runs on the CPU")
    if wanted > available:
        raise InputError(f"--gpus {wanted}: this machine has {available}; give --gpus {available} or fewer")


def check_devices(
    trainer: Trainer, sync_batchnorm: bool | None, data: ImageDataModule, resume: ResumePoint | None
) -> None:
    """Check that the devices of `trainer` can train on their shares of the data, from where the run is resumed on."""
    num_devices = trainer.num_devices * trainer.num_nodes
    size = data.global_batch_size(num_devices)
    if size < LEAST_TO_TRAIN * num_devices:
        raise InputError(
            f"--data.batch_size {size} split over {num_devices} devices leaves one a single image, and batch norm "
            f"needs two to train: give {LEAST_TO_TRAIN * num_devices} or more"
        )
    if resume:
        resume.check_position(size, num_devices)
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        # Its processes train copies of the module, and nothing of them comes back to test and to sum up.
        raise InputError("--trainer.strategy: a strategy that spawns or forks cannot be tested afterwards; give ddp")
    if trainer.num_nodes > 1:
        rank_zero_info(f"Waiting for the processes of {trainer.num_nodes} machines: start the same command on each")
    if sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise InputError("--trainer.sync_batchnorm true: torch has it on GPUs alone; leave it out on the CPU")
