"""Checks of LitMiniVGG's hyperparameters."""

import math
from typing import Any

# Each is a batch of its own for the dense layers.
MAX_DROPOUT_SAMPLES = 256
# The confusion matrix has its square.
MAX_CLASSES = 10_000


def check_hyperparameters(hparams: Any) -> None:
    """Check that each value is in its range.

    Args:
        hparams: LitMiniVGG's.

    Raises:
        ValueError: With what was given, what is expected and how to fix it.
    """
    if hparams.optimizer not in ("sgd", "muon"):
        raise ValueError(f"optimizer is {hparams.optimizer!r}: choose sgd or muon")
    if hparams.schedule not in ("decay", "triangular"):
        raise ValueError(f"schedule is {hparams.schedule!r}: choose decay or triangular")
    for name, value in (("lr", hparams.lr), ("adamw_lr", hparams.adamw_lr)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}: give a finite learning rate above 0")
    for name in ("momentum", "warmup", "label_smoothing"):
        if not 0 <= hparams[name] < 1:
            raise ValueError(f"{name} is {hparams[name]}: give 0 to below 1")
    if not hparams.lr_decay >= 0:
        raise ValueError(f"lr_decay is {hparams.lr_decay}: give 0 or more")
    if not 1 <= hparams.dropout_samples <= MAX_DROPOUT_SAMPLES:
        raise ValueError(
            f"dropout_samples is {hparams.dropout_samples}: give 1 (one mask an image) to {MAX_DROPOUT_SAMPLES}, such "
            "as 8"
        )
    if hparams.num_classes > MAX_CLASSES:
        raise ValueError(f"num_classes is {hparams.num_classes}: give at most {MAX_CLASSES:,}")
    if not hparams.batch_norm_images >= 0:
        raise ValueError(f"batch_norm_images is {hparams.batch_norm_images}: give 0 (as Keras) or more, such as 5000")
    if hparams.optimizer == "sgd" and hparams.nesterov and hparams.momentum == 0:
        raise ValueError("nesterov needs momentum above 0: give a momentum, or nesterov=false")
