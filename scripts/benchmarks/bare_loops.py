"""The loops without Lightning in `race.py`: plain PyTorch, and one whose update is a single CUDA graph.

Network, learning rates and batch sizes are the article recipe's, the package's own. `bare` differs from `article` in
the loop alone; `graph` also takes torch's fused SGD, and draws its own orders.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from contenders import DEFAULT_BATCH_SIZE, WARM_UP_BATCHES, Race, Stopwatch, data_options
from torch import Tensor, nn
from torch.nn import functional

from minivgg_pl.data.cifar10 import CIFAR10DataModule
from minivgg_pl.data.loader import (
    LEAST_TO_TRAIN,
    BatchSampler,
    ImageDataset,
    ImageLoader,
    ShuffledBatchSampler,
    batch_sizes,
)
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.training.hardware import choose_precision
from minivgg_pl.training.module import HYPERPARAMETER_DEFAULTS, LitMiniVGG

# Takes the epoch's number and the most batches to train on; None: all.
Train = Callable[[int, int | None], None]


def run_bare(args: argparse.Namespace) -> Race:
    """Train with as little code as can be."""
    lit, batches, val_batches = _network_and_loaders(args)
    configured = lit.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]

    def train(epoch: int, limit: int | None) -> None:
        batches.sampler.set_epoch(epoch)
        for number, (images, targets) in enumerate(batches):
            if number == limit:
                break
            optimizer.zero_grad()
            with _autocast(lit.device):
                logits = lit.net(images)
            functional.cross_entropy(logits.float(), targets).backward()
            optimizer.step()
            schedule.step()

    return _race(args, lit.net, val_batches, train)


def run_graph(args: argparse.Namespace) -> Race:
    """Train with every update but an epoch's last one, of another size, replayed from one CUDA graph."""
    lit, batches, val_batches = _network_and_loaders(args)
    update = GraphUpdate(lit.net, batches.dataset, _autocast(lit.device))
    index = torch.zeros(batches.sampler.batch_size, dtype=torch.int64, device=lit.device)
    graph = torch.cuda.CUDAGraph()

    def train(epoch: int, limit: int | None) -> None:
        for batch in random_batches(args.images, len(index), lit.device)[:limit]:
            update.set_rate()
            if limit is None and len(batch) == len(index):
                index.copy_(batch)
                graph.replay()
            else:
                update(batch)

    def warm_up(epoch: int, limit: int | None) -> None:
        # As torch's notes on CUDA graphs ask: a few updates on another stream, then the capture.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            train(epoch, limit)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            update(index)

    return _race(args, lit.net, val_batches, train, warm_up)


def random_batches(num_images: int, batch_size: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return the images' numbers `(B,)` int64 in a new order; a rest of one image joins the batch before it."""
    order = torch.randperm(num_images, device=device)
    return order.split(batch_sizes(num_images, batch_size, LEAST_TO_TRAIN))


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


def _network_and_loaders(args: argparse.Namespace) -> tuple[LitMiniVGG, ImageLoader, ImageLoader]:
    device, size = torch.device("cuda" if args.gpus else "cpu"), args.batch_size or DEFAULT_BATCH_SIZE
    data = CIFAR10DataModule(**data_options(args))
    data.setup("fit")
    # Not the module's own loaders: without a trainer these move the images back to the CPU.
    train_set = data.train_set.subset(torch.arange(args.images)).to(device)
    val_set = data.val_set.to(device)
    shuffler = ShuffledBatchSampler(train_set, data.shuffle_seed, size, num_devices=1, rank=0)
    sampler = BatchSampler(val_set, size, num_devices=1, rank=0)
    return LitMiniVGG(args.variant).to(device), ImageLoader(shuffler), ImageLoader(sampler)


def _autocast(device: torch.device) -> AbstractContextManager:
    precision = choose_precision("gpu" if device.type == "cuda" else "cpu")
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def _race(
    args: argparse.Namespace, net: nn.Module, val_batches: ImageLoader, train: Train, warm_up: Train | None = None
) -> Race:
    """Train and validate for the epochs that are asked for."""
    device = next(net.parameters()).device
    watch = Stopwatch()
    net.train()
    (warm_up or train)(0, WARM_UP_BATCHES)
    for epoch in range(args.epochs or ARCHITECTURES[args.variant].epochs):
        watch.epoch_starts()
        net.train()
        train(epoch, None)
        if args.gpus:
            torch.cuda.synchronize()
        watch.batches_done()
        net.eval()
        with torch.no_grad(), _autocast(device):
            hits = sum(_hits(net, val_batches))
        watch.epoch_ends(hits.item() / len(val_batches.dataset))
    return watch.race()


def _hits(net: nn.Module, loader: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    return ((net(images).argmax(1) == targets.argmax(1)).sum() for images, targets in loader)
