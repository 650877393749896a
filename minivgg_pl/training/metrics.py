"""An epoch's end, and its loss and accuracy."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

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
        other = f"the network num_classes={targets.shape[1]}, or " if targets.ndim == 2 and targets.shape[1] > 1 else ""
        raise InputError(
            f"targets are {targets.dtype} {tuple(targets.shape)}, and the network has {num_classes} classes: give "
            f"{other}class indices (N,) of an integer type, or (N, {num_classes}) one-hot or probabilities"
        )
    if is_first or targets.device.type == "cpu":
        least, largest = (value.item() for value in targets.aminmax())
        if least < 0 or largest >= num_classes:
            wrong = least if least < 0 else largest
            raise InputError(f"targets hold the class {wrong}, and the network has classes 0 to {num_classes - 1}")
    return functional.one_hot(targets.long(), num_classes).float()


class EpochMean(Metric):
    """Sum number `row` of an EpochMetrics, divided by the number of images, over all devices, for `self.log`."""

    def __init__(self, metrics: "EpochMetrics", row: int) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.metrics, self.row = metrics, row

    def update(self) -> None:
        """Do nothing: torchmetrics warns of a `compute` without it."""

    def compute(self) -> Tensor:
        """Return the mean `()` over the epoch so far, on the CPU, where Lightning reads it; every device must ask."""
        is_alone = not torch.distributed.is_initialized()
        shares = [self.metrics.on_cpu()] if is_alone else gather_all_tensors(self.metrics.sums)
        sums = torch.stack(shares).sum(dim=0).cpu()
        return sums[self.row] / sums[2]

    def reset(self) -> None:
        """Start an epoch; Lightning calls it as one ends."""
        super().reset()
        self.metrics.reset()


class EpochMetrics:
    """Loss and accuracy of an epoch, summed on the device and read once, so that no step waits for it.

    torchmetrics' MeanMetric, twice, would cost a tenth of Lightning's loop.

    Attributes:
        sums: `(3,)` float32 on the device of the batches: loss, hits, images.
        is_empty: Whether no batch was added since the last reset or `restore`.
        loss: The mean loss, to be logged.
        acc: The accuracy in [0, 1], to be logged.
    """

    def __init__(self) -> None:
        self.reset()
        self.loss, self.acc = EpochMean(self, 0), EpochMean(self, 1)

    def reset(self) -> None:
        """Start an epoch."""
        # Always float32, whatever the network's type: bfloat16 cannot count to 10,000.
        self.restore(torch.zeros(3, dtype=torch.float32, device="cpu"))
        self.is_empty = True

    def restore(self, sums: Tensor) -> None:
        """Go on from the sums `(3,)` of an epoch's first batches."""
        # Checkpoints of earlier versions hold a fourth sum.
        self.sums, self._copy = sums[:3], None

    def update(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss `()`, logits `(B, C)` and class probabilities `(B, C)`."""
        loss = loss.detach().float()
        hits = (logits.detach().argmax(dim=1) == targets.argmax(dim=1)).sum(dtype=loss.dtype)
        size = torch.full_like(loss, len(targets))
        # Not in place: what a validation's inference mode makes could not be changed outside of it.
        sums = torch.stack((loss * size, hits, size))
        self.sums = sums + self.sums.to(loss.device, non_blocking=loss.is_cuda)
        self.is_empty, self._copy = False, None

    def on_cpu(self) -> Tensor:
        """Return this device's `sums` on the CPU; it waits for a GPU once after an update."""
        if self._copy is None:
            self._copy = self.sums.cpu()
        return self._copy

    def so_far(self) -> dict[str, float]:
        """Return the means of this device's batches so far, `loss` and `acc`; it waits for a GPU."""
        loss, hits, images = self.on_cpu().tolist()
        return {"loss": loss / images, "acc": hits / images} if images else {}
