"""Measures the terms of `scaling_model.py` on this machine's CPU, one thread a process."""

import json
import statistics
import time
from pathlib import Path

from scaling_model import LEAST_ON_EACH, Terms, gradient_bytes

from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES

WARM_UP, STEPS, ALL_REDUCES = 3, 9, 100
FEW_BYTES = 4


def measure_terms(variant: str, batch_size: int, folder: str) -> dict[str, Terms]:
    """Return each network's terms on this machine: from a step at two batch sizes and an all-reduce of two sizes.

    Args:
        variant: Whose gradients are all-reduced.
        batch_size: The larger of the two batches; the other has a quarter of it.
        folder: Where the two processes meet.

    Raises:
        InputError: If the larger of either took less time than the smaller.
    """
    num_bytes = gradient_bytes(variant)
    few, many = time_all_reduces(folder, [FEW_BYTES, num_bytes])
    sizes = [max(LEAST_ON_EACH, batch_size // 4), batch_size]
    terms = {}
    for name in ARCHITECTURES:
        small, large = time_steps(name, sizes)
        if large <= small or many <= few:
            raise InputError("this machine is too busy: a larger batch or message took less time; try again later")
        rate = (sizes[1] - sizes[0]) / (large - small)
        overhead = max(0.0, large - sizes[1] / rate)
        # Of the two devices each sends two messages: S/W + 2L.
        terms[name] = Terms(rate, overhead, num_bytes / (many - few), few / 2, gradient_bytes(name))
    return terms


def time_steps(variant: str, sizes: list[int]) -> list[float]:
    """Return the median seconds of an update at each batch size, the sizes in turns."""
    import torch
    from torch.nn import functional

    from minivgg_pl.training.module import LitMiniVGG

    module = LitMiniVGG(variant)
    optimizer = module.configure_optimizers()["optimizer"]
    batches = [torch.rand(size, 3, 32, 32).contiguous(memory_format=torch.channels_last) for size in sizes]
    targets = [functional.one_hot(torch.randint(10, (size,)), 10).float() for size in sizes]
    turns = []
    for _ in range(WARM_UP + STEPS):
        turns.append([])
        for images, target in zip(batches, targets, strict=True):
            start = time.perf_counter()
            optimizer.zero_grad()
            functional.cross_entropy(module.net(images), target).backward()
            optimizer.step()
            turns[-1].append(time.perf_counter() - start)
    return [statistics.median(own) for own in zip(*turns[WARM_UP:], strict=True)]


def time_all_reduces(folder: str, sizes: list[int]) -> list[float]:
    """Return the median seconds of an all-reduce of each number of bytes between two processes, the sizes in turns."""
    from torch import multiprocessing

    multiprocessing.spawn(all_reduce_in_turns, args=(folder, sizes), nprocs=2)
    turns = json.loads(Path(folder, "all_reduces.json").read_text())
    return [statistics.median(own) for own in zip(*turns[WARM_UP:], strict=True)]


def all_reduce_in_turns(rank: int, folder: str, sizes: list[int]) -> None:
    """Be one of the two processes."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    tensors = [torch.zeros(size // 4) for size in sizes]
    turns = []
    for _ in range(WARM_UP + ALL_REDUCES):
        turns.append([])
        for tensor in tensors:
            distributed.barrier()
            start = time.perf_counter()
            distributed.all_reduce(tensor)
            turns[-1].append(time.perf_counter() - start)
    distributed.destroy_process_group()
    if rank == 0:
        Path(folder, "all_reduces.json").write_text(json.dumps(turns))
