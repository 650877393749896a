"""An epoch's loss and accuracy, kept on the device so that no step waits for it."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # importing Lightning takes seconds, and what reads a checkpoint for its weights needs none of it
    from lightning.pytorch import LightningModule

NUM_TOTALS = 4


class EpochMetrics:
    """Loss and accuracy of an epoch, summed on the device and read once.

    Attributes:
        sums: `(4,)` float32 on the device of the batches: loss, hits, images, batches before the first that was not
            finite.
        is_empty: Whether no batch was added since the last reset.
    """

    def __init__(self) -> None:
        # Whatever type and device the network is made with: bfloat16 cannot count to 10,000.
        self.sums = torch.zeros(NUM_TOTALS, dtype=torch.float32, device="cpu")
        self.is_empty = True

    def reset(self) -> None:
        """Start an epoch."""
        self.sums.zero_()
        self.is_empty = True

    def restore(self, sums: Tensor) -> None:
        """Go on from the sums `(4,)` of an epoch's first batches."""
        self.sums.copy_(sums)
        self.is_empty = False

    def to(self, device: torch.device) -> None:
        """Move the sums to where the batches are."""
        if self.sums.device != device:
            # Made in a validation's inference mode, they could not be changed outside of one.
            with torch.inference_mode(False):
                self.sums = self.sums.to(device)

    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss `()`, logits `(B, C)` and one-hot targets `(B, C)`."""
        self.to(loss.device)
        loss = loss.detach().float()
        hits = (logits.detach().argmax(dim=1) == targets.argmax(dim=1)).sum()
        size = torch.full_like(loss, len(targets))
        # Once not finite, a sum stays so: the last entry counts the batches before that.
        total = self.sums[0] + loss * size
        self.sums += torch.stack((loss * size, hits.to(loss.dtype), size, total.isfinite().to(loss.dtype)))
        self.is_empty = False

    def first_bad_batch(self, module: "LightningModule") -> int | None:
        """Return the number (from 0) of the first batch whose loss was not finite, on any device, if there was one.

        Every device must ask, and gets the same answer.
        """
        total, _, _, num_finite = self.sums
        first = module.trainer.strategy.reduce(torch.where(total.isfinite(), math.inf, num_finite), reduce_op="min")
        return None if first.isinf() else int(first)

    def compute_and_reset(self, module: "LightningModule") -> dict[str, Tensor]:
        """Return the epoch's mean `loss` and `acc` in [0, 1] over all devices, and start the next epoch."""
        # A reduction may write into what it is given.
        sums = module.trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")
        self.reset()
        return {"loss": sums[0] / sums[2], "acc": sums[1] / sums[2]}
