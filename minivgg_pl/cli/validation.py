"""Checks of parsed options that neither the parser nor the classes make."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from minivgg_pl.cli.recipes import RECIPES, recipe_options
from minivgg_pl.cli.resume import ResumePoint, settings_that_span
from minivgg_pl.data.base import ImageDataModule
from minivgg_pl.data.description import describe_data
from minivgg_pl.data.loader import LEAST_TO_TRAIN, check_position
from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import NORMALIZATION, MiniVGG
from minivgg_pl.runs.checkpoint import POSITION
from minivgg_pl.runs.folder import LEARNING_COLUMNS
from minivgg_pl.training.hardware import uses_mps
from minivgg_pl.training.module import LitMiniVGG
from minivgg_pl.weights.load import TrainedNetwork

# What jsonargparse writes in place of a value that YAML has no type for.
UNKEPT = "Unable to serialize instance"
# Settings that are used only with one value of another setting: (setting, the other, its value).
BELONGS_TO = (
    ("nesterov", "optimizer", "sgd"),
    ("classifier_lr", "optimizer", "sgd"),
    ("adamw_lr", "optimizer", "muon"),
    ("lr_decay", "schedule", "decay"),
    ("warmup", "schedule", "triangular"),
)
# What only LitMiniVGG's own optimizer and schedule read.
OPTIMIZER_SETTINGS = ("optimizer", "schedule", "lr", "momentum", *(name for name, _, _ in BELONGS_TO))


def check_options(config: Any, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check what the parser lets through and Lightning would trip over in the middle of a run.

    Raises:
        InputError: On the first problem in `config`, or in `options`, the same by their dotted names.
    """
    for name, default in defaults.items():
        if name.startswith(("model.", "data.")) and default is not None and options.get(name) is None:
            raise InputError(f"--{name} null: give a value, or leave it out for {default}")
    for name, value in options.items():
        # Of jsonargparse, for types such as numbers.Number. Those of Lightning's callbacks have defaults.
        if name.startswith("data.") and UNKEPT in str(value):
            raise InputError(f"--{name}: config.yaml cannot keep its arguments: give a class of your own without any")
    trainer, model = config.trainer, config.model
    if trainer.max_epochs is not None and trainer.max_epochs < 1 and trainer.max_epochs != -1:
        raise InputError(f"--epochs {trainer.max_epochs}: give 1 or more (-1: without end)")
    if model.classifier_lr is not None and not model.init_from:
        raise InputError("--recipe finetune trains on from weights: give --model.init_from, such as classic")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        if isinstance(trainer[name], int | float) and trainer[name] <= 0:
            raise InputError(f"--trainer.{name} {trainer[name]}: give a number above 0")
    if settings := settings_that_span(options):
        endless = {"max_epochs": -1} if trainer.max_steps in (None, -1) else {}
        for name, value in {**endless, "max_steps": 0, "limit_train_batches": 0}.items():
            if trainer[name] == value:
                span = f"the span of {' and '.join(settings)}"
                raise InputError(f"--trainer.{name} {value}: give a number above 0, {span}")
    if config.compile and model.dropout_schedule == "linear":
        advice = "each rate would be compiled anew; give --model.dropout_schedule constant, too"
        raise InputError(f"--compile with --model.dropout_schedule linear: {advice}")
    if config.checkpoint_every_n_steps and trainer.overfit_batches:
        raise InputError("--checkpoint_every_n_steps and --trainer.overfit_batches: leave one of them out")
    if trainer.accelerator in ("gpu", "cuda"):
        wanted = int(trainer.devices) if str(trainer.devices).isdecimal() else 1
        if wanted > (available := 1 if uses_mps(trainer.accelerator) else torch.cuda.device_count()):
            raise InputError(f"--gpus {wanted}: this machine has {available}; --gpus 0 runs on the CPU")
    if config.get("lr_scheduler") and not config.get("optimizer"):
        raise InputError("--lr_scheduler has no effect without --optimizer: give both, or --model.schedule")
    unused = {name: f"--model.{owner} {model[owner]}" for name, owner, choice in BELONGS_TO if model[owner] != choice}
    if config.get("optimizer"):
        unused |= dict.fromkeys(OPTIMIZER_SETTINGS, "--optimizer, which has options of its own")
    for name, other in unused.items():
        if _is_typed(model, name, defaults):
            raise InputError(f"--model.{name} {model[name]} has no effect with {other}: leave it out")


def _is_typed(model: Any, name: str, defaults: Mapping[str, Any]) -> bool:
    """Tell an option of the model that somebody typed from the default and from what a recipe set."""
    known = (defaults, *(recipe_options(recipe) for recipe in RECIPES))
    return model[name] not in [options.get(f"model.{name}") for options in known]


def fit_model_to_data(model: Any, data: LightningDataModule, defaults: Mapping[str, Any]) -> None:
    """Set what the data decide, as far as they say it: number of classes, channels and size.

    Raises:
        InputError: If another value was typed.
    """
    channels, size, _ = data.image_shape if isinstance(data, ImageDataModule) else (None, None, None)
    num_classes = len(describe_data(data).class_names) or None
    for name, value in (("num_classes", num_classes), ("in_channels", channels), ("image_size", size)):
        if value is not None and model[name] not in (defaults[f"model.{name}"], value):
            raise InputError(f"--model.{name} {model[name]}: the data have {value}; leave it out, of a config file too")
        model[name] = value or model[name]


def report_unused(module: LitMiniVGG, options: Any, defaults: Mapping[str, Any]) -> None:
    """Say which of the options given, by a recipe too, a network of the user's own may not know."""
    names = ("variant", "dense_units", "mean", "std", "batch_norm_momentum", "init", "dropout_samples", "freeze")
    given = [f"--model.{name}" for name in names if options[name] != defaults[f"model.{name}"]]
    if given and not isinstance(module.net, MiniVGG):
        advice = "no effect, unless its constructor uses them"
        rank_zero_info(f"{type(module).__name__} has a network of its own: {', '.join(given)} have {advice}")


def take_normalization(model: Any, trained: TrainedNetwork, defaults: Mapping[str, Any]) -> None:
    """Set `mean` and `std` to those of the weights to start from, unless others were typed."""
    for name in NORMALIZATION:
        value = trained.net.options[name]
        if not _is_typed(model, name, defaults) and len(value or []) in (0, model.in_channels):
            model[name] = value


def check_trainer(
    trainer: Trainer, config: Any, module: LitMiniVGG, data: LightningDataModule, resume: ResumePoint | None
) -> None:
    """Check that `trainer`, built from `config`, can train `module` on its devices' shares of the data, and resume.

    Raises:
        InputError: With the first problem.
    """
    options = config.trainer
    for stopping in trainer.early_stopping_callbacks:
        # A class of the user's own may log others. Lightning's own refusal comes after the first epoch.
        if stopping.strict and stopping.monitor not in LEARNING_COLUMNS and type(module) is LitMiniVGG:
            known = f"{', '.join(LEARNING_COLUMNS)}, or strict false for a metric that your own callback logs"
            raise InputError(f"--trainer.callbacks: EarlyStopping monitors {stopping.monitor!r}: give one of {known}")
    own = (config.get("optimizer") or {}).get("init_args") or {}
    if own.get("fused") and trainer.gradient_clip_val and "mixed" in trainer.precision:
        advice = f"Lightning does not clip its gradients in {trainer.precision}; leave it out"
        raise InputError(f"--optimizer.fused true and --trainer.gradient_clip_val: {advice}")
    for callback in trainer.callbacks:
        if isinstance(callback, DeviceStatsMonitor | LearningRateMonitor) and not options.logger:
            name = type(callback).__name__
            raise InputError(f"--trainer.callbacks {name}: there is no logger to write to; give --trainer.logger, too")
        if isinstance(callback, BackboneFinetuning) and not isinstance(getattr(module, "backbone", None), nn.Module):
            name = type(module).__name__
            raise InputError(f"--trainer.callbacks BackboneFinetuning: {name} has no `backbone`: give it that property")
    if isinstance(data, ImageDataModule):
        _check_batch_size(trainer, data, resume)
    if any(method in str(options.strategy) for method in ("spawn", "fork", "notebook")):
        # Its processes train copies of the module, and nothing of them comes back to test and to sum up.
        raise InputError("--trainer.strategy: a strategy that spawns or forks cannot be tested afterwards; give ddp")
    if trainer.num_nodes > 1:
        rank_zero_info(f"Waiting for the processes of {trainer.num_nodes} machines: start the same command on each")
    if options.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise InputError("--trainer.sync_batchnorm true: torch has it on GPUs alone; leave it out on the CPU")


def _check_batch_size(trainer: Trainer, data: ImageDataModule, resume: ResumePoint | None) -> None:
    num_devices = trainer.num_devices * trainer.num_nodes
    size = data.global_batch_size(num_devices)
    if size < LEAST_TO_TRAIN * num_devices:
        reason = f"batch norm needs {LEAST_TO_TRAIN} on each of {num_devices} devices"
        raise InputError(f"--data.batch_size {size}: {reason}; give {LEAST_TO_TRAIN * num_devices} or more")
    if resume:
        check_position(resume.data_state.get(POSITION) or {}, size, num_devices)
