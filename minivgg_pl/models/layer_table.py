"""A table of a network's layers, as Keras' `model.summary()` prints it."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Keras counts batch norm's moving statistics as parameters that are not trained.
STATISTICS = ("running_mean", "running_var")


def summary(net: nn.Module, image_shape: tuple[int, int, int] | None = None) -> None:
    """Print a line for each layer, with its output shape and its parameters, and their sums as Keras counts them.

    The shapes come from one black image that passes through the network in evaluation mode. The network stays as it is.

    Args:
        net: The network, on any device; also one of your own that takes images `(N, C, H, W)`.
        image_shape: `(C, H, W)`; default: `net.image_shape`, which a MiniVGG has.

    Raises:
        ValueError: If `image_shape` is missing.
    """
    image_shape = image_shape or getattr(net, "image_shape", None)
    if image_shape is None:
        raise ValueError(f"{type(net).__name__} has no image_shape: give it, such as image_shape=(3, 32, 32)")
    rows = [("Layer (type)", "Output shape", "Parameters")]
    for name, (layer, shape) in _output_shapes(net, image_shape).items():
        rows.append((f"{name} ({type(layer).__name__})", shape, f"{sum(count_parameters(layer)):,}"))
    # At least as wide as Keras prints it.
    width = max(30, *(len(name) for name, _, _ in rows))
    lines = [f" {name:<{width}}  {shape:<20} {count:>11}" for name, shape, count in rows]
    rule = "=" * (width + 35)
    trained, fixed = count_parameters(net)
    lines = [lines[0], rule, *lines[1:], rule, f"Total parameters: {trained + fixed:,}"]
    lines += [f"Trainable parameters: {trained:,}", f"Non-trainable parameters: {fixed:,}"]
    print("\n".join(lines))


def count_parameters(net: nn.Module) -> tuple[int, int]:
    """Return how many values of `net` are trained and how many are not: frozen ones, and batch norm's statistics."""
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in net.parameters() if not parameter.requires_grad)
    named = net.named_buffers()
    return trained, frozen + sum(buffer.numel() for name, buffer in named if name.rpartition(".")[2] in STATISTICS)


def _output_shapes(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[nn.Module, str]]:
    """Return each layer that an image passes, in that order, and the shape of what it returns; N is the batch."""
    found: dict[str, tuple[nn.Module, str]] = {}

    def keep(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        sizes = output.shape[1:] if isinstance(output, Tensor) else "?"
        found[name] = layer, f"(N, {', '.join(map(str, sizes))})"

    # A copy, so that the network stays as it is.
    net = copy.deepcopy(net).eval()
    for name, layer in net.named_modules():
        if not any(layer.children()):
            layer.register_forward_hook(partial(keep, name))
    weight = next(net.parameters())
    with torch.no_grad():
        net(torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype))
    return found
