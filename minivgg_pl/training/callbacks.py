"""What the callbacks share."""

from lightning.pytorch import Callback


class EpochCallback(Callback):
    """A callback without the hooks of single training batches, except those that its class defines.

    Lightning enters a profiler's context for each hook of each callback, empty ones too, and skips what is not
    callable (`lightning/pytorch/trainer/call.py`). With eight callbacks that is half of what its loop costs.
    """

    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = None
    on_before_zero_grad = on_before_backward = on_after_backward = None
