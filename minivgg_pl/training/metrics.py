"""An epoch's end, and its loss and accuracy."""

import math

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


class EpochMetrics:
    """Loss and accuracy of an epoch, summed on the device and read once, so that no step waits for it.

    Attributes:
        sums: `(4,)` float32 on the device of the batches: loss, hits, images, batches before the first whose loss was
            not finite.
        is_empty: Whether no batch was added since the last reset.
    """

    def __init__(self) -> None:
        # Whatever type and device the network is made with: bfloat16 cannot count to 10,000.
        self.sums = torch.zeros(4, dtype=torch.float32, device="cpu")
        self.is_empty = True

    def reset(self) -> None:
        """Start an epoch."""
        self.sums.zero_()
        self.is_empty = True

    def restore(self, sums: Tensor) -> None:
        """Go on from the sums `(4,)` of an epoch's first batches."""
        self.sums.copy_(sums)
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
        # A sum that is not finite stays so: the last entry then no longer grows.
        total = self.sums[0] + loss * size
        self.sums += torch.stack((loss * size, hits.to(loss.dtype), size, total.isfinite().to(loss.dtype)))
        self.is_empty = False

    def first_bad_batch(self, strategy: Strategy) -> int | None:
        """Return the number (from 0) of the first batch whose loss was not finite on any device, or None.

        Every device must ask, and gets the same answer.
        """
        total, _, _, num_finite = self.sums
        first = strategy.reduce(torch.where(total.isfinite(), math.inf, num_finite), reduce_op="min")
        return None if first.isinf() else int(first)

    def compute_and_reset(self, strategy: Strategy) -> dict[str, Tensor]:
        """Return the epoch's mean `loss` and `acc` in [0, 1] over all devices, and start the next epoch."""
        # A reduction may write into what it is given.
        sums = strategy.reduce(self.sums.clone(), reduce_op="sum")
        self.reset()
        return {"loss": sums[0] / sums[2], "acc": sums[1] / sums[2]}
