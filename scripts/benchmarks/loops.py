"""What the contenders of `race.py` do in torch: loops without Lightning, the tutorial's module, and a profiler."""

import argparse
import time
from typing import Any

import numpy as np
import torch
from common import DEFAULT_BATCH_SIZE, WARM_UP_BATCHES, Race, data_options
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms.v2 import Compose, ToDtype, ToImage

from minivgg_pl.data.cifar10 import CIFAR10DataModule
from minivgg_pl.data.loader import batch_sizes
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.models.minivgg import MiniVGG
from minivgg_pl.training.hardware import choose_precision
from minivgg_pl.training.module import LitMiniVGG

# As `article` does on a GPU.
GPU_EVALUATED = 1000
FIRST_PROFILED, PROFILED = 5, 10  # the batches before fill caches
ROWS = 15
# Innermost operators that compute nothing.
VIEWS = {f"aten::{name}" for name in ("alias", "as_strided", "empty", "empty_strided", "result_type", "set_", "view")}


class TinyNetwork(nn.Sequential):
    """One linear layer in place of MiniVGG, to measure the loop alone."""

    image_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


class BareLoop:
    """A PyTorch loop with as little code as possible.

    Args:
        args: Options of `race.py`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device("cuda" if args.gpus else "cpu")
        self.is_bf16 = choose_precision("gpu" if args.gpus else "cpu") == "bf16-mixed"
        self.batch_size = args.batch_size or DEFAULT_BATCH_SIZE
        self.epochs = args.epochs or ARCHITECTURES[args.variant].epochs
        data = CIFAR10DataModule(**data_options(args))
        data.setup("fit")
        self.train_set = data.train_set.subset(torch.arange(args.images)).to(self.device)
        self.val_set = data.val_set.to(self.device)
        self.lit = LitMiniVGG(args.variant)
        if args.tiny:
            self.lit.net = TinyNetwork()
        self.lit.to(self.device)
        self.net = self.lit.net
        self.configure()

    def configure(self) -> None:
        """Make the optimizer and its schedule."""
        configured = self.lit.configure_optimizers()
        self.optimizer, self.schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]

    def run(self) -> Race:
        """Train and validate for all epochs."""
        race = Race()
        self.warm_up()
        for _ in range(self.epochs):
            race.epoch_starts()
            self.net.train()
            for index in self.random_batches():
                self.update(index)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            race.batches_done()
            race.epoch_ends(self.accuracy())
        return race

    def warm_up(self) -> None:
        """Train on a few batches."""
        for index in self.random_batches()[:WARM_UP_BATCHES]:
            self.update(index)

    def random_batches(self) -> tuple[Tensor, ...]:
        """Return the indices `(B,)` int64 of an epoch's batches; a rest of one image joins the batch before it."""
        order = torch.randperm(len(self.train_set), device=self.device)
        return order.split(batch_sizes(len(order), self.batch_size, least=2))

    def update(self, index: Tensor) -> None:
        """Update the network on the images at `index` `(B,)` int64, and set the next learning rate."""
        self.step(index)
        self.schedule.step()

    def step(self, index: Tensor) -> None:
        """Update the network on the images at `index` `(B,)` int64."""
        images, targets = self.train_set[index]
        self.optimizer.zero_grad()
        functional.cross_entropy(self.logits(images).float(), targets).backward()
        self.optimizer.step()

    def logits(self, images: Tensor) -> Tensor:
        """Return logits `(B, 10)`, computed in bfloat16 where that is native."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            return self.net(images)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the accuracy on the validation images, in [0, 1]."""
        self.net.eval()
        batch_size = GPU_EVALUATED if self.device.type == "cuda" else self.batch_size
        hits = 0
        for index in torch.arange(len(self.val_set), device=self.device).split(batch_size):
            images, targets = self.val_set[index]
            hits += (self.logits(images).argmax(1) == targets.argmax(1)).sum()
        return hits.item() / len(self.val_set)


class GraphLoop(BareLoop):
    """The loop with each update of a whole batch replayed from one CUDA graph, and torch's fused SGD."""

    def configure(self) -> None:
        """Make an optimizer that reads its learning rate from the device; only the fused one does."""
        options = self.lit.hparams
        self.rate = torch.tensor(options.lr, device=self.device)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=self.rate, momentum=options.momentum, nesterov=options.nesterov, fused=True
        )
        self.num_updates = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.index = torch.zeros(self.batch_size, dtype=torch.int64, device=self.device)

    def warm_up(self) -> None:
        """Train on a few batches on another stream, then capture, as torch's notes on CUDA graphs ask."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            super().warm_up()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(self.index)
        self.graph = graph

    def update(self, index: Tensor) -> None:
        """Set the learning rate of the update and replay the graph; the last batch of an epoch may be smaller."""
        options = self.lit.hparams
        self.rate.fill_(options.lr / (1 + options.lr_decay * self.num_updates))
        self.num_updates += 1
        if self.graph and len(index) == len(self.index):
            self.index.copy_(index)
            self.graph.replay()
        else:
            self.step(index)


class Images(Dataset):
    """Images `(N, 32, 32, 3)` uint8 and labels `(N,)`, read one at a time through torchvision's transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = Compose([ToImage(), ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        target = functional.one_hot(torch.tensor(self.labels[index]), 10).float()
        return self.transform(self.images[index]), target


class TutorialModule(LightningModule):
    """MiniVGG with torch's own dropout, and metrics logged every step."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.net = MiniVGG(variant)
        for name, module in list(self.net.named_modules()):
            if isinstance(module, nn.Dropout):
                self.net.set_submodule(name, nn.Dropout(module.p))
        self.accuracy = nn.ModuleDict({stage: MulticlassAccuracy(10, average="micro") for stage in ("fit", "val")})

    def _loss(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        logits = self.net(batch[0])
        loss = functional.cross_entropy(logits, batch[1])
        self.accuracy[stage](logits, batch[1].argmax(dim=1))
        self.log(f"{stage}_loss", loss, prog_bar=True)
        self.log(f"{stage}_acc", self.accuracy[stage], prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch, "fit")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._loss(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True)


class StepProfile(Callback):
    """Prints the operations of `PROFILED` updates of the first epoch, the slowest first."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == FIRST_PROFILED and not trainer.current_epoch:
            on_gpu = pl_module.device.type == "cuda"
            self.profiler = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu)
            _wait_for(pl_module.device)
            self.profiler.start()
            self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        updates = batch_idx + 1 - FIRST_PROFILED
        if not trainer.current_epoch and (updates == PROFILED or (trainer.is_last_batch and 0 < updates < PROFILED)):
            _wait_for(pl_module.device)
            seconds = time.perf_counter() - self.start
            self.profiler.stop()
            print(_report(self.profiler, seconds, updates, pl_module.device.type), flush=True)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _report(profiler: profile, seconds: float, updates: int, device: str) -> str:
    events = profiler.key_averages()
    lines = [events.table(sort_by=f"self_{device}_time_total", row_limit=ROWS, max_name_column_width=50)]
    lines.append(f"{updates} updates, {1e3 * seconds / updates:.2f} ms each, the profiler's own cost included")
    if device == "cuda":
        # Annotations span kernels, which would count twice.
        on_gpu = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        busy = sum(event.self_device_time_total for event in on_gpu) / 1e6 / seconds
        lines.append(f"the GPU was busy for {busy:.0%} of that time")
        count = sum(event.count for event in on_gpu) / updates
        lines.append(f"{count:.0f} kernels, copies and fills an update on the GPU")
    else:
        inner = [e.name for e in profiler.events() if not e.cpu_children and e.name.startswith("aten::")]
        count = sum(name not in VIEWS for name in inner) / updates
        lines.append(f"{count:.0f} operators an update, views and allocations left out")
    return "\n".join(lines)
