"""The loops without Lightning in `benchmark.py`: plain PyTorch, and one whose update is a single CUDA graph.

Network, optimizer, schedule and batches are the article recipe's, the package's own: what differs from `article` is the
loop alone.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from contenders import WARM_UP_BATCHES, Race, Stopwatch, data_options
from torch import Tensor, nn
from torch.nn import functional

from minivgg_pl.architectures import ARCHITECTURES
from minivgg_pl.data import CIFAR10DataModule
from minivgg_pl.dataset import ImageDataset
from minivgg_pl.module import HYPERPARAMETER_DEFAULTS, LitMiniVGG
from minivgg_pl.precision import choose_precision

Train = Callable[[int | None], None]


def run_bare(args: argparse.Namespace) -> Race:
    """Train with as little code as can be."""
    lit, data = _network_and_data(args)
    configured = lit.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]

    def train(limit: int | None) -> None:
        for number, (images, targets) in enumerate(data.train_dataloader()):
            if number == limit:
                break
            optimizer.zero_grad()
            with _autocast(lit.device):
                logits = lit.net(images)
            functional.cross_entropy(logits.float(), targets).backward()
            optimizer.step()
            schedule.step()

    return _race(args, lit.net, data, train)


def run_graph(args: argparse.Namespace) -> Race:
    """Train with every update but an epoch's last, smaller one replayed from one CUDA graph."""
    lit, data = _network_and_data(args)
    update = GraphUpdate(lit.net, data.train_set, _autocast(lit.device))
    index = torch.zeros(data.batch_size, dtype=torch.int64, device=lit.device)
    graph = torch.cuda.CUDAGraph()

    def train(limit: int | None) -> None:
        batches = torch.randperm(args.images, device=lit.device).split(data.batch_size)
        for batch in batches[:limit]:
            update.set_rate()
            if limit is None and len(batch) == len(index):
                index.copy_(batch)
                graph.replay()
            else:
                update(batch)

    def warm_up(limit: int) -> None:
        # As torch's notes on CUDA graphs ask: a few updates on another stream, then the capture.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            train(limit)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            update(index)

    return _race(args, lit.net, data, train, warm_up)


class GraphUpdate:
    """One update of the article recipe that reads nothing but tensors on its device, so that a graph can repeat it.

    Args:
        net: The network to train.
        images: What its batches are taken from, on its device.
        autocast: Context of the forward pass.
    """

    def __init__(self, net: nn.Module, images: ImageDataset, autocast: AbstractContextManager) -> None:
        self.net, self.images, self.autocast = net, images, autocast
        self.rate = torch.tensor(0.0, device=images.images.device)
        momentum = {name: HYPERPARAMETER_DEFAULTS[name] for name in ("momentum", "nesterov")}
        # Only the fused one reads its rate from the device.
        self.optimizer = torch.optim.SGD(net.parameters(), lr=self.rate, fused=True, **momentum)
        self.number = 0

    def set_rate(self) -> None:
        """Write the next update's learning rate into the tensor that the update reads."""
        self.rate.fill_(HYPERPARAMETER_DEFAULTS["lr"] / (1 + HYPERPARAMETER_DEFAULTS["lr_decay"] * self.number))
        self.number += 1

    def __call__(self, index: Tensor) -> None:
        """Update the network on the images at `index` `(B,)` int64."""
        images, targets = self.images[index]
        # The graph's gradients lie where its capture put them.
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            logits = self.net(images)
        functional.cross_entropy(logits.float(), targets).backward()
        self.optimizer.step()


def _network_and_data(args: argparse.Namespace) -> tuple[LitMiniVGG, CIFAR10DataModule]:
    device = torch.device("cuda" if args.gpus else "cpu")
    data = CIFAR10DataModule(**data_options(args), batch_size=args.batch_size or 64)
    data.setup("fit")
    data.train_set = data.train_set.subset(torch.arange(args.images))
    for part in (data.train_set, data.val_set):
        part.to(device)
    return LitMiniVGG(args.variant).to(device), data


def _autocast(device: torch.device) -> AbstractContextManager:
    precision = choose_precision("gpu" if device.type == "cuda" else "cpu")
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def _race(
    args: argparse.Namespace, net: nn.Module, data: CIFAR10DataModule, train: Train, warm_up: Train | None = None
) -> Race:
    """Train and validate for the epochs that are asked for; `train` takes the most batches it shall train on."""
    device = next(net.parameters()).device
    watch = Stopwatch()
    net.train()
    (warm_up or train)(WARM_UP_BATCHES)
    for _ in range(args.epochs or ARCHITECTURES[args.variant].epochs):
        watch.epoch_starts()
        net.train()
        train(None)
        if args.gpus:
            torch.cuda.synchronize()
        watch.batches_done()
        net.eval()
        with torch.no_grad(), _autocast(device):
            hits = sum(_hits(net, data.val_dataloader()))
        watch.epoch_ends(hits.item() / len(data.val_set))
    return watch.race()


def _hits(net: nn.Module, loader: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    return ((net(images).argmax(1) == targets.argmax(1)).sum() for images, targets in loader)
