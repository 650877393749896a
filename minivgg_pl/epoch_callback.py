"""EpochCallback: what the callbacks here have in common."""

from lightning.pytorch import Callback


class EpochCallback(Callback):
    """A callback that has no part in single training batches, but for the hooks that a subclass defines.

    Lightning enters a profiler's context for each hook of each callback, for empty ones too, and passes by what is not
    callable (`lightning/pytorch/trainer/call.py`). For nine callbacks here that is a half of what its loop costs.
    """

    on_train_batch_start = None
    on_train_batch_end = None
    on_before_zero_grad = None
    on_before_backward = None
    on_after_backward = None
    on_before_optimizer_step = None
