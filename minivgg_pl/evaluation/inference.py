"""Inference: from pixels to class probabilities, in batches."""

import numpy as np
import torch
from torch import Tensor, nn

BATCH_SIZE = 256


@torch.inference_mode()
def class_probabilities(net: nn.Module, images: np.ndarray | Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return the softmax of the logits, `(N, num_classes)` float32, on the CPU.

    Args:
        net: The network, in evaluation mode, on any device.
        images: `(N, H, W, C)` uint8 in [0, 255], of the size that the network takes.
        batch_size: How many images the network gets at a time.

    Raises:
        ValueError: If the images are not of the network's size.
    """
    device = next(net.parameters()).device
    parts = [
        # The permuted view is already in torch's channels_last format.
        net(part.to(device).permute(0, 3, 1, 2).float().div_(255)).float().softmax(dim=1).cpu()
        for part in torch.as_tensor(images).split(batch_size)
    ]
    return torch.cat(parts)
