"""An epoch's end, and its loss and accuracy."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from minivgg_pl.errors import InputError


def ends_epoch(trainer: Trainer) -> bool:
    """Return whether the batch just trained is the epoch's last: of the data, or because the trainer stops."""
    return trainer.is_last_batch or trainer.global_step == trainer.max_steps or stops_early(trainer)


def stops_early(trainer: Trainer) -> bool:
    """Return whether the trainer was told to stop, as by EarlyStopping, and has trained its minimum."""
    if not trainer.should_stop:
        return False
    return trainer.current_epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)


def as_probabilities(targets: Tensor, logits: Tensor, is_first: bool) -> Tensor:
    """Return targets as class probabilities `(N, C)` float.

    Args:
        targets: Class indices `(N,)` of any integer type, or one-hot or probabilities `(N, C)` of any type.
        logits: `(M, C)`.
        is_first: Whether to look for indices out of range on a GPU too, which waits for it.

    Raises:
        InputError: If they have another shape, or name a class that the logits lack.
    """
    num_classes = logits.shape[1]
    if targets.ndim == 2 and targets.shape[1] == num_classes:
        return targets if targets.dtype in (torch.float32, logits.dtype) else targets.float()
    if targets.ndim != 1 or targets.is_floating_point():
        raise InputError(
            f"targets are {targets.dtype} {tuple(targets.shape)}, and the network has {num_classes} classes: give "
            f"class indices (N,) of an integer type, or (N, {num_classes}) one-hot or probabilities"
        )
    if is_first or targets.device.type == "cpu":
        least, largest = (value.item() for value in targets.aminmax())
        if least < 0 or largest >= num_classes:
            wrong = least if least < 0 else largest
            raise InputError(f"targets hold the class {wrong}, and the network has classes 0 to {num_classes - 1}")
    return functional.one_hot(targets.long(), num_classes).float()


class EpochMean(Metric):
    """The mean of a number over the images of an epoch and over all devices, read once, so that no step waits for it.

    Attributes:
        sums: `(2,)` float32 on the device of the batches: the sum of the number, and images.
    """

    def __init__(self) -> None:
        super().__init__()
        # Always float32, whatever the network's type: bfloat16 cannot count to 10,000.
        self.add_state("sums", torch.zeros(2, dtype=torch.float32, device="cpu"), dist_reduce_fx="sum")

    def update(self, total: Tensor, size: int) -> None:
        """Add a batch: the sum `()` float32 of the number over its `size` images."""
        if self.device != total.device:
            self.to(total.device)
        # Not in place: what a validation's inference mode makes could not be changed outside of it.
        self.sums = self.sums + torch.stack((total, torch.full_like(total, size)))

    def compute(self) -> Tensor:
        """Return the mean `()`."""
        return self.sums[0] / self.sums[1]


class EpochMetrics:
    """Loss and accuracy of an epoch.

    Attributes:
        loss: Mean loss.
        acc: Accuracy in [0, 1].
    """

    def __init__(self) -> None:
        self.loss, self.acc = EpochMean(), EpochMean()

    @property
    def is_empty(self) -> bool:
        """Whether no batch was added since the last reset or `restore`."""
        return not self.loss.update_called

    def reset(self) -> None:
        """Start an epoch; Lightning resets what it logged by itself, but not after an exception."""
        self.loss.reset()
        self.acc.reset()

    def sums(self) -> Tensor:
        """Return `(3,)` float32: the sums of loss and hits, and images."""
        return torch.cat((self.loss.sums[:1], self.acc.sums))

    def restore(self, sums: Tensor) -> None:
        """Go on from the `sums()` of an epoch's first batches."""
        # Checkpoints of earlier versions hold a fourth sum.
        loss, hits, images = sums[:3]
        self.loss.sums, self.acc.sums = torch.stack((loss, images)), torch.stack((hits, images))

    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss `()`, logits `(B, C)` and class probabilities `(B, C)`."""
        size = len(targets)
        hits = (logits.detach().argmax(dim=1) == targets.argmax(dim=1)).sum()
        self.loss.update(loss.detach().float() * size, size)
        self.acc.update(hits.float(), size)

    def so_far(self) -> dict[str, float]:
        """Return the means of this device's batches so far, `loss` and `acc`; it waits for a GPU."""
        loss, hits, images = self.sums().tolist()
        return {"loss": loss / images, "acc": hits / images} if images else {}
