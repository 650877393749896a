"""Weight initialization: Keras' Glorot, and a whitened start that sees edges from the first step."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

# (27, 27): mean of p @ p.T over all 3x3 patches p, flattened by channel, row and column, of CIFAR-10's 50,000 training
# images after subtracting the channels' mean and dividing by their deviation. Other photographs differ little.
PATCH_COVARIANCE = Path(__file__).parent / "patch_covariance.csv"
# Added to each eigenvalue, so that rare directions are not blown up; the scale keeps outputs below 1. Batch norm and
# Muon undo any scale of the whole kernel: only the proportions of the filters last.
EIGENVALUE_EPS = 5e-4
FILTER_SCALE = 0.3


@torch.no_grad()
def initialize(net: nn.Module, init: str) -> None:
    """Draw the weights of all convolutions and dense layers of `net` anew, and set their biases to zero.

    Args:
        net: The network to change. With `"whitened"`, its first convolution must be `(O, 3, 3, 3)`.
        init: `"glorot"`: Glorot-uniform kernels, the default of Keras' Conv2D and Dense. `"whitened"`: after that, the
            first convolution gets filters that whiten small patches and then the negatives of these, since a ReLU
            follows; in each other convolution, the first outputs pass the inputs on (a Dirac kernel). Whitened inputs
            make the first layers learn faster (Tysam's hlb-CIFAR10, and airbench, arXiv:2404.00498, which freeze this
            layer; here it is trained on).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    if init == "whitened":
        first, *others = (module for module in net.modules() if isinstance(module, nn.Conv2d))
        filters = whitening_filters()[: first.out_channels // 2]
        first.weight[: 2 * len(filters)] = torch.cat((filters, -filters))
        for conv in others:
            nn.init.dirac_(conv.weight[: conv.in_channels])


def whitening_filters() -> Tensor:
    """Return `(27, 3, 3, 3)` float32: eigenvectors of PATCH_COVARIANCE, the largest first, scaled to whiten."""
    covariance = torch.from_numpy(np.loadtxt(PATCH_COVARIANCE, delimiter=","))
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    filters = (FILTER_SCALE * eigenvectors / (eigenvalues + EIGENVALUE_EPS).sqrt()).T.flip(0)
    # Linear algebra libraries differ in the sign of an eigenvector: make its largest entry positive.
    largest = filters.gather(1, filters.abs().argmax(dim=1, keepdim=True))
    return (filters * largest.sign()).float().view(-1, 3, 3, 3)
