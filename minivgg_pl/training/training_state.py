"""What a checkpoint holds to go on from, compared with what this run itself would write.

Lightning and torch put it into place as it stands: a momentum of another shape is a crash or wrong weights in torch's
fused optimizers, a number in place of a list a traceback. A checkpoint may come from anyone, hence this.
"""

import copy
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from minivgg_pl.errors import InputError
from minivgg_pl.runs.checkpoint import read_checkpoint
from minivgg_pl.runs.folder import VAL_COLUMNS
from minivgg_pl.training.callbacks import RunRecorder
from minivgg_pl.training.checkpointing import RandomState, RunCheckpoint, is_random_state
from minivgg_pl.training.module import LitMiniVGG

LIGHTNING_VERSION = r"[2-9](\.\d{1,4}){1,2}((a|b|rc|\.post|\.dev)\d{1,8})?"
# A count of batches or epochs above that was never counted.
MAX_COUNT = 2**48
# Settings of a parameter group that torch fills in where another version of it has not written them.
FILLED_IN = {"maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"}


def check_training_state(path: Path, trainer: Trainer, module: LitMiniVGG, is_own_run: bool) -> None:
    """Check that training can go on from the checkpoint at `path`.

    Args:
        path: A checkpoint of this project.
        trainer: What is to train on, as built from the options.
        module: The system to train, likewise.
        is_own_run: Whether the checkpoint lies in a run folder of the command, which keeps more in it.

    Raises:
        InputError: If it cannot, or would go on otherwise than it was trained.
    """
    content = read_checkpoint(path)
    for name in _odd_parts(content, trainer, module, is_own_run):
        raise InputError(
            f"--resume {path}: a damaged checkpoint: its {name} is not what such a run writes; resume from another, or "
            "start from its weights: --model.init_from"
        )


def _odd_parts(content: dict[str, Any], trainer: Trainer, module: LitMiniVGG, is_own_run: bool) -> Iterator[str]:
    """Yield the names of what is not as it should be."""
    if not _is_version(content.get("pytorch-lightning_version")):
        yield "version of Lightning"
    if not _has_all_weights(content["state_dict"], module):
        yield "network"
    if not _is_loops(content["loops"]["fit_loop"], trainer):
        yield "state of the training loop"
    callbacks = content.get("callbacks", {})
    if not isinstance(callbacks, dict) or not all(isinstance(name, str) for name in callbacks):
        yield "list of callbacks"
        return
    generators = callbacks.get(RandomState.__name__)
    # A Trainer of one's own need not have kept any.
    if not is_random_state(generators) and (is_own_run or generators is not None):
        yield "state of the random generators"
    validated = callbacks.get(RunRecorder.__name__)
    # Nor had runs of an earlier version.
    if validated is not None and not _is_validation(validated):
        yield "validation"
    kept = [state for name, state in callbacks.items() if name.startswith(f"{RunCheckpoint.__name__}{{")]
    if not all(isinstance(state, dict) and _is_score(state.get("best_model_score")) for state in kept):
        yield "best score"
    states, schedules = content.get("optimizer_states"), content.get("lr_schedulers")
    # As the Trainer will convert it: the optimizer's state has the type of the weights.
    twin = trainer.precision_plugin.convert_module(copy.deepcopy(module))
    if not (_is_list_of_dicts(states) and _is_list_of_dicts(schedules) and _suit(content, twin)):
        yield "optimizer or schedule"


def _is_version(value: Any) -> bool:
    """Tell whether this project can have used that version: Lightning rewrites what older ones have written."""
    return isinstance(value, str) and re.fullmatch(LIGHTNING_VERSION, value) is not None


def _has_all_weights(state: dict[Any, Any], module: LitMiniVGG) -> bool:
    own = module.state_dict()
    is_whole = state.keys() == own.keys()
    return is_whole and all(isinstance(t, Tensor) and t.shape == own[name].shape for name, t in state.items())


def _is_loops(state: Any, trainer: Trainer) -> bool:
    own = trainer.fit_loop.state_dict()
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        return False
    # The loader's; a Trainer has none before it trains.
    loaders = state["state_dict"].get("combined_loader", [])
    is_read = isinstance(loaders, list) and all(isinstance(loader, dict) for loader in loaders)
    return is_read and _is_progress(state | {"state_dict": own["state_dict"]}, own)


def _is_progress(value: Any, own: Any) -> bool:
    """Tell whether `value` has the same counts and flags under the same names as `own`."""
    if isinstance(own, dict):
        is_dict = isinstance(value, dict) and value.keys() == own.keys()
        return is_dict and all(_is_progress(value[name], own[name]) for name in own)
    return type(value) is type(own) and 0 <= value < MAX_COUNT


def _is_validation(state: Any) -> bool:
    if not isinstance(state, dict) or state.keys() != {"has_validated", "val_metrics"}:
        return False
    values = state["val_metrics"]
    are_floats = isinstance(values, dict) and all(type(value) is float for value in values.values())
    return are_floats and values.keys() <= set(VAL_COLUMNS) and type(state["has_validated"]) is bool


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, Tensor) and not value.ndim and not value.is_meta)


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _suit(content: dict[str, Any], module: LitMiniVGG) -> bool:
    """Tell whether the optimizer's and the schedule's state are those of `module`'s, which is changed."""
    states, schedules = content["optimizer_states"], content["lr_schedulers"]
    # What the triangular schedule spans; of no account here, and the Trainer does not know it yet.
    module._num_updates = lambda: 1
    optimizer, schedulers = _configured(module)
    if (len(states), len(schedules)) != (1, len(schedulers)):
        return False
    if "configure_optimizers" in vars(module):
        # LightningCLI has put `--optimizer` there; it holds the module's own parameters, which must not change.
        return _can_go_on(*copy.deepcopy((optimizer, schedulers)), states[0], schedules)
    _update_by_nothing(optimizer)
    has_updates = content.get("global_step", 0) > 0
    return _is_optimizers(optimizer, states[0], has_updates) and _is_schedules(schedulers[0], schedules[0])


def _configured(module: LitMiniVGG) -> tuple[Optimizer, list[LRScheduler]]:
    """Return the optimizer and the schedulers, whichever way LightningModule allows to give them."""
    configured = module.configure_optimizers()
    if isinstance(configured, Optimizer):
        return configured, []
    if isinstance(configured, dict):
        return configured["optimizer"], [configured["lr_scheduler"]["scheduler"]]
    (optimizer,), schedulers = configured
    return optimizer, list(schedulers)


def _can_go_on(optimizer: Optimizer, schedulers: list[LRScheduler], state: Any, schedules: list[Any]) -> bool:
    """Try it: what another optimizer keeps is its own affair."""
    try:
        optimizer.load_state_dict(copy.deepcopy(state))
        for scheduler, schedule in zip(schedulers, schedules, strict=True):
            scheduler.load_state_dict(schedule)
        _update_by_nothing(optimizer)
    except Exception:  # whatever it trips over
        return False
    return True


def _update_by_nothing(optimizer: Optimizer) -> None:
    """Make an update with gradients of 0: the optimizer then has the state that a run's has."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step(lambda: torch.zeros(()))


def _is_optimizers(optimizer: Optimizer, state: dict[str, Any], has_updates: bool) -> bool:
    own = optimizer.state_dict()
    groups = state.get("param_groups")
    if not _is_list_of_dicts(groups) or len(groups) != len(own["param_groups"]):
        return False
    for group, own_group in zip(groups, own["param_groups"], strict=True):
        if own_group.keys() - group.keys() - FILLED_IN or group["params"] != own_group["params"]:
            return False
        if not all(_is_like(group[name], value) for name, value in own_group.items() if name in group):
            return False
    return _is_like(state.get("state"), own["state"] if has_updates else {})


def _is_schedules(scheduler: LRScheduler, state: dict[str, Any]) -> bool:
    own = scheduler.state_dict()
    # load_state_dict makes attributes of them all.
    if any(hasattr(scheduler, str(name)) for name in state.keys() - own.keys()):
        return False
    counted = type(state.get("last_epoch")) is int and state["last_epoch"] >= 0
    return counted and "base_lrs" in state and all(_is_like(state[n], v) for n, v in own.items() if n in state)


def _is_like(value: Any, own: Any) -> bool:
    """Tell whether `value` is of the kind, and as large, as `own`."""
    if own is None or isinstance(own, bool):
        return value is None or isinstance(value, bool)
    if isinstance(own, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(own, Tensor):
        return isinstance(value, Tensor) and _layout(value) == _layout(own)
    if isinstance(own, list | tuple):
        is_list = isinstance(value, list | tuple) and len(value) == len(own)
        return is_list and all(map(_is_like, value, own))
    if isinstance(own, dict):
        is_dict = isinstance(value, dict) and value.keys() == own.keys()
        return is_dict and all(_is_like(value[name], own[name]) for name in own)
    return type(value) is type(own)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Return what torch's fused optimizers do not compare before they go through the memory of several tensors."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return (tensor.layout,)
    # The step along a dimension of one value is arbitrary.
    strides = [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return tensor.shape, tensor.dtype, strides
