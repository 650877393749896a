"""LitMiniVGG, the Lightning module: loss, metrics, optimizer and schedule around the network."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional

from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import BATCH_NORM_MOMENTUM, IMAGE_CHANNELS, IMAGE_SIZE, MiniVGG
from minivgg_pl.training.hardware import match_layout
from minivgg_pl.training.hooks import ModuleHooks
from minivgg_pl.training.metrics import EpochMetrics, as_probabilities
from minivgg_pl.training.optim import check_hyperparameters, make_optimizer
from minivgg_pl.training.schedule import make_schedule
from minivgg_pl.weights.init_from import load_initial_weights
from minivgg_pl.weights.load import TrainedNetwork, load_trained


class LitMiniVGG(LightningModule):
    """A mini VGG and its training; the defaults are the article's: SGD, and a rate that falls every batch.

    Batches are `(images, targets)`: images `(N, C, H, W)` float in [0, 1], 3x32x32 by default, targets
    class indices `(N,)` of any integer type, or `(N, num_classes)` one-hot of any type or probabilities. Logs
    train_loss, train_acc, val_loss, val_acc, test_loss and test_acc once an epoch; the train columns are averages over
    the epoch with dropout on, as Keras prints them. Of several data loaders the first has these names, the next ones
    `val_loss/dataloader_idx_1` and so on. With a logger, also train_loss_step every `log_every_n_steps` batches.

    A subclass may replace `self.net`, and override `forward`, `compute_loss`, the steps, and all hooks but
    `configure_callbacks` without `super()`.

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
        class_weights: A weight of at least 0 for each class, by which its images count in the training loss, as Keras'
            `class_weight`: the loss is the mean over images, not over weights. Default: all alike.
        dropout_samples: Number of dropout masks for each image in a training step, from the last block's dropout on;
            the loss is the mean over them (see `MiniVGG.dropout_samples`). Default: 1.
        dropout_schedule: `constant`, or `linear`: the rates of dropout fall in a straight line to 0 at the last update,
            and the number of masks with them, to 1.
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
        class_weights: list[float] | None = None,
        dropout_samples: int = 1,
        dropout_schedule: Literal["constant", "linear"] = "constant",
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
        self.net = net
        self.net.dropout_samples = dropout_samples
        self.net.freeze(*([freeze] if isinstance(freeze, str) else freeze or ()))
        if not any(parameter.requires_grad for parameter in self.net.parameters()):
            raise ValueError("freeze leaves nothing to train: leave a part out of it")
        self.example_input_array = torch.zeros(2, *net.image_shape)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("_class_weights", weights, persistent=False)
        # By stage, and for further data loaders by stage and number, such as `val/1`.
        self.epoch_metrics: defaultdict[str, EpochMetrics] = defaultdict(EpochMetrics)
        self._has_initial_weights = False

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, num_classes)` for images `(N, in_channels, image_size, image_size)` in [0, 1]."""
        return self.net(images)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that does what this module needs between its steps; a subclass adds its own to it."""
        # Once, or Lightning would tell at each test that it replaces the one of the fit.
        return [] if any(isinstance(callback, ModuleHooks) for callback in self.trainer.callbacks) else [ModuleHooks()]

    @property
    def backbone(self) -> nn.Module:
        """The layers before the classifier, for BackboneFinetuning: those of `self.net`, or what a subclass sets."""
        return self._part("backbone")

    @property
    def head(self) -> nn.Module:
        """The classifier: that of `self.net`, or what a subclass sets."""
        return self._part("head")

    def _part(self, name: str) -> nn.Module:
        # A module that is set comes after the property of that name.
        own = dict(self.named_children())
        return own[name] if name in own else getattr(self.net, name)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights, see `torch.nn.Module.load_state_dict`; a fit then leaves out `init_from`."""
        self._has_initial_weights = True
        return super().load_state_dict(*args, **kwargs)

    def load_initial_weights(
        self, class_names: Sequence[str] | None = None, trained: TrainedNetwork | None = None
    ) -> None:
        """Load the weights that `init_from` names, if any, unless they or a checkpoint's are loaded already.

        Those of the data's classes that the weights know keep their rows of the classifier. `trained` are the weights,
        where they are read already.

        Raises:
            InputError: If they cannot be read, or are of another network.
        """
        if self.hparams.init_from and not self._has_initial_weights:
            for line in load_initial_weights(self.net, trained or load_trained(self.hparams.init_from), class_names):
                rank_zero_info(line)
        self._has_initial_weights = True

    def compute_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy `()`, the loss of all steps; a subclass may have another.

        Label smoothing and class weights apply in training mode alone.

        Args:
            logits: `(N, num_classes)`.
            targets: `(N, num_classes)` float class probabilities.
        """
        if not self.training:
            return functional.cross_entropy(logits, targets)
        # With probabilities as targets, torch divides by the number of images and not by the sum of the weights.
        weight, smoothing = self._class_weights, self.hparams.label_smoothing
        return functional.cross_entropy(logits, targets, weight, label_smoothing=smoothing)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the batch's mean loss `()`."""
        loss, _ = self._step("train", batch, batch_idx)
        if self.loggers:
            self.log("train_loss_step", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Add the batch to the epoch's metrics and return its logits `(N, num_classes)`."""
        return self._step("val", batch, batch_idx, dataloader_idx)[1]

    def test_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Add the batch to the epoch's metrics and return its logits `(N, num_classes)`."""
        return self._step("test", batch, batch_idx, dataloader_idx)[1]

    def predict_step(self, batch: Sequence[Tensor] | Tensor, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return class probabilities `(N, num_classes)` for `(images, targets)` or for images alone."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self(images).softmax(dim=1)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and its schedule, which is stepped after every update."""
        try:
            trainer = self.trainer
        except RuntimeError:  # there is none
            trainer = None
        optimizer = make_optimizer(self, self.hparams, trainer)
        optimizer.register_load_state_dict_post_hook(match_layout)
        schedule = make_schedule(optimizer, self.hparams, lambda: self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _step(
        self, stage: str, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return loss and logits of a batch, and add it to the epoch's metrics."""
        if not (isinstance(batch, list | tuple) and len(batch) == 2):
            raise InputError(f"a batch is a {type(batch).__name__} of {len(batch)}: give (images, targets)")
        images, targets = batch
        logits = self(images)
        metrics = self.epoch_metrics[f"{stage}/{dataloader_idx}" if dataloader_idx else stage]
        if batch_idx == 0:
            metrics.reset()
        is_first = metrics.is_empty
        targets = as_probabilities(targets, logits, is_first)
        if len(logits) > len(images):  # several dropout masks for each image
            targets = targets.repeat(len(logits) // len(images), 1)
        loss = self.compute_loss(logits, targets)
        metrics.update(loss, logits, targets)
        if is_first:
            # Once an epoch: Lightning computes the means at its end.
            options = {"on_step": False, "on_epoch": True, "prog_bar": True, "metric_attribute": "epoch_metrics"}
            # The run folder and its best checkpoint follow the first of several.
            options["add_dataloader_idx"] = dataloader_idx > 0
            for name, metric in (("loss", metrics.loss), ("acc", metrics.acc)):
                metric.update()
                self.log(f"{stage}_{name}", metric, **options)
        return loss, logits
