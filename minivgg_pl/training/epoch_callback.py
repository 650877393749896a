"""EpochCallback: what the callbacks here have in common."""

from typing import Any, Self

from lightning.pytorch import Callback

BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


class EpochCallback(Callback):
    """A callback that has no part in single training batches, but for the hooks that its class defines.

    Lightning enters a profiler's context for each hook of each callback, for empty ones too, and passes by what is not
    callable (`lightning/pytorch/trainer/call.py`). For nine callbacks here that is a half of what its loop costs.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make a callback without the hooks that are Callback's empty ones."""
        callback = super().__new__(cls)
        for hook in BATCH_HOOKS:
            # On the object alone: a subclass's `super().on_train_batch_end(...)` still finds Callback's.
            if getattr(cls, hook) is getattr(Callback, hook):
                setattr(callback, hook, None)
        return callback
