"""Inference: from pixels to class probabilities, in batches."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

BATCH_SIZE = 256


def class_probabilities(net: nn.Module, images: np.ndarray | Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return the softmax of the logits, `(N, num_classes)` float32, on the CPU.

    Args:
        net: The network, in evaluation mode, on any device.
        images: `(N, H, W, C)` uint8 in [0, 255], of the size that the network takes.
        batch_size: How many images the network gets at a time.

    Raises:
        ValueError: If the images are not of the network's size.
    """
    return probabilities_of_batches(net, torch.as_tensor(images).split(batch_size))


@torch.inference_mode()
def probabilities_of_batches(net: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Return what `class_probabilities` does, of batches `(B, H, W, C)` uint8 that are read as the network gets them.

    The network's device keeps the probabilities until the last batch: no copy makes the host wait for a GPU before.
    """
    device = next(net.parameters()).device
    parts = []
    for batch in batches:
        # CUDA has read the batch when the copy returns.
        batch = batch.to(device, non_blocking=device.type == "cuda")
        # The permuted view is already in torch's channels_last format.
        parts.append(net(batch.permute(0, 3, 1, 2).float().div_(255)).float().softmax(dim=1))
    return torch.cat(parts).cpu()
