"""How the learning rate changes over a run: the article's decay, and a triangle."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from minivgg_pl.errors import InputError


def checked_length(num_updates: float, option: str) -> int:
    """Return the number of updates of a run, which `option` spans, as `Trainer.estimated_stepping_batches` gives it.

    Raises:
        InputError: If the run has no end (infinity), its data no length (-1), or it has no update (0).
    """
    if not 0 < num_updates < math.inf:
        raise InputError(f"{option} needs the number of updates: give max_steps (--trainer.max_steps)")
    return int(num_updates)


class Schedule(LambdaLR):
    """A LambdaLR that leaves the rates of groups that were added later, as by BackboneFinetuning, as they are."""

    def get_lr(self) -> list[float]:
        added = self.optimizer.param_groups[len(self.base_lrs) :]
        return [*super().get_lr(), *(group["lr"] for group in added)]


def make_schedule(optimizer: torch.optim.Optimizer, hparams: Any, num_updates: Callable[[], int]) -> LambdaLR:
    """Return the schedule that `hparams`, those of LitMiniVGG, describe, to be stepped after every update.

    `num_updates` returns the number of updates of the whole run; it is called for the triangular schedule alone.
    """
    # Partial functions of this module's own can be pickled, closures cannot.
    if hparams.schedule == "decay":
        return Schedule(optimizer, partial(decay, rate=hparams.lr_decay))
    total = checked_length(num_updates(), "schedule triangular")
    peak = min(round(hparams.warmup * total), total - 1)
    return Schedule(optimizer, partial(triangle, peak=peak, total=total))


def decay(step: int, rate: float) -> float:
    """Return the share of the first rate before update `step`, counted from 0, as Keras' legacy option `decay`."""
    return 1 / (1 + rate * step)


def triangle(step: int, peak: int, total: int) -> float:
    """Return the share of the peak rate at update `step`, counted from 0, of `total`: up until `peak`, then down.

    A rate of 0 would waste the update: neither the first nor the last has it. After the last the rate is 0.
    """
    if step < peak:
        return (step + 1) / (peak + 1)
    return max(0.0, (total - step) / (total - peak))
