"""LitMiniVGG, the Lightning module: loss, metrics, optimizer and schedule around the network."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional

from minivgg_pl.errors import NonFiniteLossError
from minivgg_pl.evaluation.metrics import class_metrics
from minivgg_pl.models.minivgg import BATCH_NORM_MOMENTUM, IMAGE_CHANNELS, IMAGE_SIZE, MiniVGG
from minivgg_pl.runs.checkpoint import EPOCH_SO_FAR
from minivgg_pl.training.batch_norm import average_over_devices, first_images, measure_statistics
from minivgg_pl.training.metrics import EpochMetrics, all_finite, ends_epoch
from minivgg_pl.training.optim import check_hyperparameters, make_optimizer, make_schedule
from minivgg_pl.weights.init_from import load_initial_weights
from minivgg_pl.weights.load import TrainedNetwork, load_trained

# Reading the loss waits for the GPU, and several devices wait for each other: look for NaN this often (batches).
FINITE_CHECK_INTERVAL = 50


class LitMiniVGG(LightningModule):
    """A mini VGG and its training; the defaults are the article's: SGD, and a rate that falls every batch.

    Batches are `(images, targets)`: images `(N, C, H, W)` float in [0, 1], 3x32x32 by default, targets
    `(N, num_classes)` float class probabilities, one-hot in this package's data modules. Logs train_loss, train_acc,
    val_loss, val_acc, test_loss and test_acc once an epoch; the train columns are averages over the epoch with dropout
    on, as Keras prints them.

    Args:
        variant: Which of the article's two networks: `classic` or `wide`.
        num_classes: Number of classes.
        dense_units: Width of the hidden dense layer; default: the variant's own, 512 or 256. 300 with `wide` gives
            the network of the article's listing.
        mean: Per-channel mean in [0, 1] that the network subtracts from its input; default: none, as in the article.
        std: Per-channel standard deviation that the network divides by; default: none, as in the article.
        optimizer: `sgd`, or `muon`: orthogonalised momentum for the kernels of the convolutions and of the hidden
            dense layer, AdamW for all other parameters.
        lr: Learning rate: the first batch's under the `decay` schedule, the peak of the `triangular` one. With `muon`,
            the size of a kernel's update relative to the kernel.
        classifier_lr: With `sgd`: the classifier's learning rate, on the same schedule; default: `lr`.
        momentum: Momentum of SGD or Muon, in [0, 1).
        nesterov: Whether SGD's momentum is Nesterov's; Muon's always is.
        adamw_lr: With `muon`: AdamW's learning rate, on the same schedule.
        schedule: `decay`, or `triangular`: up in a straight line to `lr`, then down; no update has the rate 0.
        lr_decay: With `decay`, Keras' legacy option of that name: before update t, counted from 0, the rate is
            lr / (1 + lr_decay * t). The article's is 0.01 / 40.
        warmup: With `triangular`: share of all updates before the peak, in [0, 1).
        label_smoothing: Share of a target that is spread over all classes while training, in [0, 1). Validation and
            test losses are never smoothed.
        dropout_samples: Number of dropout masks for each image in a training step, from the last block's dropout on;
            the loss is the mean over them (see `MiniVGG.forward`). Default: 1.
        batch_norm_momentum: Share of a batch's statistic in batch norm's running one, in (0, 1]; default: Keras'.
        init: How kernels start: `glorot`, as in Keras; `whitened`: the first convolution with filters that whiten
            natural images, the others by passing on what they get (see `initialization`).
        batch_norm_images: Number of an epoch's first images on which batch norm's statistics are measured, with dropout
            off, after the epoch's last update; default: 0, which keeps the running averages, as Keras.
        image_size: Height and width of the images in pixels, a multiple of 4.
        in_channels: Channels of the images: 3 for colour, 1 for grey.
        init_from: Trained weights to start from in place of `init`: `classic`, `wide`, a run folder, a `.ckpt` or
            `.safetensors` file of this project, or the article's model as Keras saved it (`.h5`, `.keras`). Classes of
            the same name keep their rows of the classifier; the others' start at zero. Read when a fit begins, not
            when it is resumed.
        freeze: Parts of the network that stay as they are, such as `block1` or `[block1, dense_bn]` (see
            `MiniVGG.freeze`).

    Raises:
        ValueError: On a value out of range; an InputError when the weights to start from cannot be read.
        NonFiniteLossError: While training, when the loss is NaN or infinite.
    """

    def __init__(
        self,
        variant: Literal["classic", "wide"] = "classic",
        num_classes: int = 10,
        dense_units: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        optimizer: Literal["sgd", "muon"] = "sgd",
        lr: float = 0.01,
        classifier_lr: float | None = None,
        momentum: float = 0.9,
        nesterov: bool = True,
        adamw_lr: float = 0.002,
        schedule: Literal["decay", "triangular"] = "decay",
        lr_decay: float = 0.01 / 40,
        warmup: float = 0.2,
        label_smoothing: float = 0.0,
        dropout_samples: int = 1,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        init: Literal["glorot", "whitened"] = "glorot",
        batch_norm_images: int = 0,
        image_size: int = IMAGE_SIZE,
        in_channels: int = IMAGE_CHANNELS,
        init_from: str | None = None,
        freeze: list[str] | str | None = None,
    ) -> None:
        super().__init__()
        # Checkpoints hold plain types alone: a Path could not be read back.
        init_from = None if init_from is None else str(init_from)
        self.save_hyperparameters()
        check_hyperparameters(self.hparams)
        net = MiniVGG(variant, num_classes, dense_units, mean, std, batch_norm_momentum, init, image_size, in_channels)
        # Only the order in memory changes; state dict and results stay the same.
        self.net = net.to(memory_format=torch.channels_last)
        self.net.freeze(*([freeze] if isinstance(freeze, str) else freeze or ()))
        if not any(parameter.requires_grad for parameter in self.net.parameters()):
            raise ValueError("freeze leaves nothing to train: leave a part out of it")
        self.example_input_array = torch.zeros(2, *net.image_shape)
        self.train_metrics = EpochMetrics()
        self._has_initial_weights = False
        self.eval_metrics = EpochMetrics()
        self.class_metrics = class_metrics(num_classes)
        self.class_report: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, num_classes)` for images `(N, in_channels, image_size, image_size)` in [0, 1]."""
        return self.net(images)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Inside an epoch: its sums so far, `(devices, 3)`.
        sums = self.train_metrics.sums
        sums = None if self.train_metrics.is_empty else self.all_gather(sums).reshape(-1, len(sums))
        checkpoint[EPOCH_SO_FAR] = {"sums": sums}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._has_initial_weights = True
        sums = checkpoint.get(EPOCH_SO_FAR, {}).get("sums")
        # A run on more devices than before goes on at an epoch's start, without sums.
        if sums is not None and self.global_rank < len(sums):
            self.train_metrics.restore(sums[self.global_rank])

    def load_initial_weights(
        self, class_names: Sequence[str] | None = None, trained: TrainedNetwork | None = None
    ) -> None:
        """Load the weights that `init_from` names, if any, unless they or a checkpoint's are loaded already.

        Args:
            class_names: Of the data; classes that the weights know keep their rows of the classifier.
            trained: The weights, if they are read already.

        Raises:
            InputError: If they cannot be read, or are of another network.
        """
        if self.hparams.init_from and not self._has_initial_weights:
            for line in load_initial_weights(self.net, trained or load_trained(self.hparams.init_from), class_names):
                rank_zero_info(line)
        self._has_initial_weights = True

    def on_fit_start(self) -> None:
        self.load_initial_weights(getattr(self.trainer.datamodule, "class_names", None))

    def is_finite(self) -> bool:
        """Return whether every device's weights, and its losses of this epoch so far, are finite."""
        return all_finite([*self.state_dict().values(), self.train_metrics.sums], self.trainer.strategy)

    def on_train_epoch_start(self) -> None:
        self.train_metrics.reset()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the batch's mean cross-entropy `()`."""
        images, targets = batch
        logits = self.net(images, self.hparams.dropout_samples)
        targets = targets.repeat(self.hparams.dropout_samples, 1)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.hparams.label_smoothing)
        self.train_metrics.update(loss, logits, targets)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        is_last = ends_epoch(self.trainer)
        if is_last and (least := self.hparams.batch_norm_images):
            with self.trainer.precision_plugin.forward_context():
                measure_statistics(self.net, first_images(self.trainer.train_dataloader, least, batch_idx + 1))
            average_over_devices(self.net, self.trainer.strategy)
        is_cheap = self.device.type == "cpu" and self.trainer.world_size == 1
        if is_last or is_cheap or batch_idx % FINITE_CHECK_INTERVAL == 0:
            self._check_finite("training", self.train_metrics)
        if is_last:
            # Not in on_train_epoch_end, so that every callback finds the values at the epoch's end.
            self._log_epoch("train", self.train_metrics)

    def on_validation_epoch_start(self) -> None:
        self.eval_metrics.reset()
        self.class_metrics.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Add the batch to the epoch's metrics."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        # Before the log: a callback that saves on val_acc must not keep weights that are NaN.
        is_fitting = self.trainer.state.fn == TrainerFn.FITTING
        if is_fitting:
            self._check_finite("validation", self.eval_metrics)
        self._log_epoch("val", self.eval_metrics)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Add the batch to the epoch's metrics and to the per-class report."""
        logits, targets = self._evaluate(batch)
        self.class_metrics.update(logits.argmax(dim=1), targets.argmax(dim=1))

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.eval_metrics)
        self.class_report = {name: value.cpu() for name, value in self.class_metrics.compute().items()}

    def predict_step(self, batch: Sequence[Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return class probabilities `(N, num_classes)` for `(images, targets)` or for images alone."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.net(images).softmax(dim=1)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and its schedule, which is stepped after every update."""
        optimizer = make_optimizer(self.net, self.hparams, self._clips_gradients())
        schedule = make_schedule(optimizer, self.hparams, lambda: self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _clips_gradients(self) -> bool:
        try:
            return bool(self.trainer.gradient_clip_val)
        except RuntimeError:  # there is no Trainer
            return False

    def _evaluate(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        images, targets = batch
        logits = self.net(images)
        self.eval_metrics.update(functional.cross_entropy(logits, targets), logits, targets)
        return logits, targets

    def _check_finite(self, stage: str, metrics: EpochMetrics) -> None:
        if not all_finite([metrics.sums], self.trainer.strategy):
            raise NonFiniteLossError(stage, self.current_epoch + 1, self.global_step)

    def _log_epoch(self, stage: str, metrics: EpochMetrics) -> None:
        values = metrics.compute_and_reset(self.trainer.strategy)
        # The values are already those of all devices; sync_dist only averages equal ones.
        options = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
        self.log_dict({f"{stage}_{name}": value for name, value in values.items()}, **options)
