"""Batch norm statistics, measured with dropout off."""

from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from minivgg_pl.data.loader import ImageLoader

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class BatchBuffer:
    """An epoch's first training images, augmented, to measure the statistics on.

    Args:
        least: Smallest number of images to keep, in whole batches; with 0 none are kept.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self.batches: list[Tensor] = []

    def keep(self, images: Tensor, batch_idx: int, trainer: Trainer) -> None:
        """Keep the images `(B, C, H, W)` of batch `batch_idx`, counted from 0, unless there are enough."""
        if self.least and batch_idx and not self.batches:
            # The run was resumed in the middle of the epoch.
            loader = trainer.train_dataloader
            if isinstance(loader, ImageLoader):
                for earlier, _ in loader.batches(stop=batch_idx):
                    self._add(earlier.to(images.device))
        self._add(images)

    def _add(self, images: Tensor) -> None:
        if sum(map(len, self.batches)) < self.least:
            self.batches.append(images)


@torch.no_grad()
def measure_statistics(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running mean and variance of each batch norm in `net` by their averages over `batches`.

    Dropout raises the variance of the layers behind it. Running averages are taken with dropout on, and so are wrong
    for the network without it (Li et al., "Understanding the Disharmony between Dropout and Batch Normalization by
    Variance Shift", arXiv:1801.05134). Weights and modes stay as they are.

    Args:
        net: The network, in any mode.
        batches: Images `(B, 3, 32, 32)` of the training set, at least one batch of two or more.
    """
    modes = {module: module.training for module in net.modules()}
    norms = _batch_norms(net)
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    for images in batches:
        net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


def average_over_devices(net: nn.Module, strategy: Strategy) -> None:
    """Give every device the mean of all devices' statistics."""
    for norm in _batch_norms(net):
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(strategy.reduce(statistic, reduce_op="mean"))


def _batch_norms(net: nn.Module) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, BATCH_NORMS)]
