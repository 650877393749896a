"""What LitMiniVGG does between its steps, as a callback, so that a subclass may override any hook without `super()`."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from minivgg_pl.data.loader import ImageLoader
from minivgg_pl.models.minivgg import MiniVGG
from minivgg_pl.runs.checkpoint import EPOCH_SO_FAR, MODEL_CLASS, class_path
from minivgg_pl.training.batch_norm import average_over_devices, first_images, measure_statistics
from minivgg_pl.training.callbacks import EpochCallback
from minivgg_pl.training.dropout import DropoutRates
from minivgg_pl.training.metrics import ends_epoch
from minivgg_pl.training.schedule import checked_length


class ModuleHooks(EpochCallback):
    """Loads initial weights, weakens dropout, measures batch norm, and keeps an unfinished epoch's sums in checkpoints.

    `LitMiniVGG.configure_callbacks` returns it. It has no state to be saved.
    """

    _dropout: DropoutRates | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.load_initial_weights(getattr(trainer.datamodule, "class_names", None))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.on_train_batch_end = self._measure_statistics if pl_module.hparams.batch_norm_images else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_batch_start = self._start_first_batch
        # Bytes become 0 to 1, and a look at the values waits for a GPU.
        if isinstance(loader := trainer.train_dataloader, ImageLoader) and loader.dataset.transform is None:
            self._start_all_batches(pl_module)

    def _start_first_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        check_image_range(pl_module.net, batch)
        self._start_all_batches(pl_module)
        if self.on_train_batch_start:
            self.on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def _start_all_batches(self, pl_module: LightningModule) -> None:
        self.on_train_batch_start = self._weaken_dropout if pl_module.hparams.dropout_schedule == "linear" else None

    def _weaken_dropout(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        total = checked_length(trainer.estimated_stepping_batches, "dropout_schedule linear")
        # Not before: a subclass may make its network in setup or configure_model.
        self._dropout = self._dropout or DropoutRates(pl_module)
        self._dropout.scale(max(0, 1 - trainer.global_step / total))

    def _measure_statistics(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Behind the epoch's last update, and before its validation.
        if ends_epoch(trainer):
            least = pl_module.hparams.batch_norm_images
            with trainer.precision_plugin.forward_context():
                measure_statistics(pl_module, first_images(trainer.train_dataloader, least, batch_idx + 1))
            average_over_devices(pl_module, trainer.strategy)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Inside an epoch: its sums so far, `(devices, 3)`.
        metrics, sums = pl_module.epoch_metrics["train"], None
        if not (metrics.is_empty or ends_epoch(trainer)):
            sums = pl_module.all_gather(metrics.sums).reshape(-1, 3)
        checkpoint[EPOCH_SO_FAR] = {"sums": sums}
        checkpoint[MODEL_CLASS] = class_path(type(pl_module))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        sums = checkpoint.get(EPOCH_SO_FAR, {}).get("sums")
        # A run on more devices than before goes on at an epoch's start, without sums.
        if sums is not None and trainer.global_rank < len(sums):
            pl_module.epoch_metrics["train"].restore(sums[trainer.global_rank])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: Any) -> None:
        if self._dropout:
            self._dropout.scale(1)
            self._dropout = None
        # `make_optimizer` has changed the order of the kernels in memory.
        for module in pl_module.modules():
            if isinstance(module, MiniVGG):
                module.to(memory_format=torch.contiguous_format)

    on_exception = teardown


def check_image_range(net: nn.Module, batch: Any) -> None:
    """Say so if the images of `batch`, `(images, targets)`, are floats outside of [0, 1], the range of a MiniVGG."""
    images = batch[0] if isinstance(batch, list | tuple) else None
    if not (isinstance(net, MiniVGG) and isinstance(images, Tensor) and images.is_floating_point()):
        return
    low, high = (value.item() for value in images.aminmax())
    # An interpolated image may be a little outside; NaN is in no range.
    if not (low >= -0.1 and high <= 1.1):
        rank_zero_info(
            f"The first images have values from {low:.3g} to {high:.3g}. The commands give a trained network 0 to 1: "
            "leave scaling to the network (--model.mean and --model.std)"
        )
