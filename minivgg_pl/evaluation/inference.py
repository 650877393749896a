"""Inference: from pixels to class probabilities, in batches."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

BATCH_SIZE = 256


@torch.inference_mode()
def class_probabilities(
    net: nn.Module, images: np.ndarray | Tensor | Iterator[Tensor], batch_size: int = BATCH_SIZE
) -> Tensor:
    """Return the softmax of the logits, `(N, num_classes)` float32, on the CPU.

    Args:
        net: The network, in evaluation mode, on any device.
        images: `(N, H, W, C)` uint8 in [0, 255], of the size that the network takes; or an iterator over such batches.
        batch_size: How many images the network gets at a time.

    Raises:
        ValueError: If the images are not of the network's size.
    """
    device = next(net.parameters()).device
    is_cuda = device.type == "cuda"
    parts = [
        # CUDA has read the batch when the copy returns. The moved view is already in torch's channels_last format.
        net(part.to(device, non_blocking=is_cuda).movedim(-1, 1).float().div_(255)).softmax(dim=1, dtype=torch.float32)
        for part in (images if isinstance(images, Iterator) else torch.as_tensor(images).split(batch_size))
    ]
    # Once: each copy to the CPU waits for the GPU.
    return torch.cat(parts).cpu()
