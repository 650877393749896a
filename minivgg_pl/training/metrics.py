"""An epoch's end, and its loss and accuracy."""

from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor


def ends_epoch(trainer: Trainer) -> bool:
    """Return whether the batch just trained is the epoch's last: of the data, or because the trainer stops."""
    return trainer.is_last_batch or trainer.global_step == trainer.max_steps or stops_early(trainer)


def stops_early(trainer: Trainer) -> bool:
    """Return whether the trainer was told to stop, as by EarlyStopping, and has trained its minimum."""
    if not trainer.should_stop:
        return False
    return trainer.current_epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)


def all_finite(tensors: Iterable[Tensor], strategy: Strategy) -> bool:
    """Return whether all values of `tensors` are finite on all devices; every device must ask."""
    is_finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all().float()
    return bool(strategy.reduce(is_finite, reduce_op="min"))


class EpochMetrics:
    """Loss and accuracy of an epoch, summed on the device and read once, so that no step waits for it.

    Attributes:
        sums: `(3,)` float32 on the device of the batches: loss, hits, images.
        is_empty: Whether no batch was added since the last reset.
    """

    def __init__(self) -> None:
        # Always float32, whatever the network's type: bfloat16 cannot count to 10,000.
        self.sums = torch.zeros(3, dtype=torch.float32, device="cpu")
        self.is_empty = True

    def reset(self) -> None:
        """Start an epoch."""
        self.sums.zero_()
        self.is_empty = True

    def restore(self, sums: Tensor) -> None:
        """Go on from the sums `(3,)` of an epoch's first batches."""
        # Checkpoints of earlier versions hold a fourth sum.
        self.sums.copy_(sums[:3])
        self.is_empty = False

    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss `()`, logits `(B, C)` and one-hot targets `(B, C)`."""
        if self.sums.device != loss.device:
            # A tensor made in a validation's inference mode could not be changed outside of it.
            with torch.inference_mode(False):
                self.sums = self.sums.to(loss.device)
        loss = loss.detach().float()
        hits = (logits.detach().argmax(dim=1) == targets.argmax(dim=1)).sum()
        size = torch.full_like(loss, len(targets))
        self.sums += torch.stack((loss * size, hits.to(loss.dtype), size))
        self.is_empty = False

    def compute_and_reset(self, strategy: Strategy) -> dict[str, Tensor]:
        """Return the epoch's mean `loss` and `acc` in [0, 1] over all devices, and start the next epoch."""
        # A reduction may write into what it is given.
        sums = strategy.reduce(self.sums.clone(), reduce_op="sum")
        self.reset()
        return {"loss": sums[0] / sums[2], "acc": sums[1] / sums[2]}
