"""How the networks' kernels start: Keras' Glorot, and a start that already sees edges and passes them on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

# (27, 27): mean of p @ p.T over all 3x3 patches p, flattened by channel, row and column, of CIFAR-10's 50,000 training
# images after subtracting the channels' mean and dividing by their deviation. Other photographs differ little.
PATCH_COVARIANCE = Path(__file__).parent / "patch_covariance.csv"
# Added to each eigenvalue, so that what is nearly never seen is not blown up; and a scale that keeps outputs below 1.
# Batch norm and Muon undo any scale of the whole kernel: only the filters' proportions last.
EIGENVALUE_EPS = 5e-4
FILTER_SCALE = 0.3


def glorot(net: nn.Module) -> None:
    """Draw Glorot-uniform kernels and set every bias to zero: the defaults of Keras' Conv2D and Dense."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def whiten(first: nn.Conv2d) -> None:
    """Set the filters of `first` to those that whiten small patches, and then to the negatives of these.

    Whitened inputs make the first layers learn faster (Tysam's hlb-CIFAR10, and airbench, arXiv:2404.00498, which
    freeze such a layer; here it goes on learning). A ReLU follows, hence the negatives.

    Args:
        first: Convolution `(O, 3, 3, 3)`; filters beyond the 54 there are keep their values.
    """
    filters = whitening_filters()[: first.out_channels // 2]
    pairs = torch.cat((filters, -filters))
    first.weight[: len(pairs)] = pairs


def whitening_filters() -> Tensor:
    """Return `(27, 3, 3, 3)` float32: eigenvectors of PATCH_COVARIANCE, the largest first, scaled to whiten."""
    covariance = torch.from_numpy(np.loadtxt(PATCH_COVARIANCE, delimiter=","))
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    filters = (FILTER_SCALE * eigenvectors / (eigenvalues + EIGENVALUE_EPS).sqrt()).T.flip(0)
    # An eigenvector's sign is the linear algebra library's whim: the largest entry is made positive.
    largest = filters.gather(1, filters.abs().argmax(dim=1, keepdim=True))
    return (filters * largest.sign()).float().view(-1, 3, 3, 3)


@torch.no_grad()
def pass_on(conv: nn.Conv2d) -> None:
    """Let the first outputs of `conv` be its inputs (a Dirac kernel); the remaining outputs keep their values."""
    nn.init.dirac_(conv.weight[: conv.in_channels])
