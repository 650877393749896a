"""Batch norm statistics, measured with dropout off."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from minivgg_pl.data.loader import ImageLoader
from minivgg_pl.training.dropout import DropoutRates

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def first_images(loader: Iterable[Sequence[Tensor]], least: int, most: int) -> Iterator[Tensor]:
    """Yield the images of the epoch's first batches, `most` at most, once more, until there are `least` images.

    They are augmented as before; a training loader that is not this package's begins another epoch.
    """
    # Not the loader itself, which counts the batches that it yields.
    batches = loader.batches() if isinstance(loader, ImageLoader) else loader
    for images, _ in islice(batches, most):
        yield images
        least -= len(images)
        if least <= 0:
            return


@torch.no_grad()
def measure_statistics(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running mean and variance of each batch norm that trains by their averages over `batches`.

    Dropout raises the variance of the layers behind it. Running averages are taken with dropout on, and so are wrong
    for the network without it (Li et al., "Understanding the Disharmony between Dropout and Batch Normalization by
    Variance Shift", arXiv:1801.05134). Weights, and the statistics of a frozen batch norm, stay as they are.

    The network is in training mode. The batches are images `(B, C, H, W)`, at least one batch of two or more.
    """
    dropout = DropoutRates(net)
    dropout.scale(0)
    # torch's update_bn would reset frozen ones too.
    norms = {
        module: (module.momentum, module.num_batches_tracked)
        for module in net.modules()
        if isinstance(module, BATCH_NORMS) and module.training and module.track_running_stats
    }
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        # torch reads the count in every batch, and the host would wait for a GPU.
        norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked, device="cpu")
    device = next(net.parameters()).device
    try:
        for images in batches:
            net(images.to(device))
    finally:
        # Ctrl-C in a notebook leaves the network to its user.
        dropout.scale(1)
        for norm, (momentum, count) in norms.items():
            norm.momentum = momentum
            norm.num_batches_tracked = count.copy_(norm.num_batches_tracked, non_blocking=count.is_cuda)


def average_over_devices(net: nn.Module, strategy: Strategy) -> None:
    """Give every device the mean of all devices' statistics."""
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.copy_(strategy.reduce(buffer, reduce_op="mean"))
