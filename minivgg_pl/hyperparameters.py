"""Checks of LitMiniVGG's hyperparameters: ranges, and settings that the others leave without effect."""

from typing import Any

# Each setting that only one choice of another uses: (setting, what it belongs to, the choice).
BELONGS_TO = (
    ("nesterov", "optimizer", "sgd"),
    ("adamw_lr", "optimizer", "muon"),
    ("lr_decay", "schedule", "decay"),
    ("warmup", "schedule", "triangular"),
)


def check_hyperparameters(hparams: Any, defaults: dict[str, Any]) -> None:
    """Check values, and that none was changed which has no effect beside the others.

    Args:
        hparams: LitMiniVGG's.
        defaults: The default of each.

    Raises:
        ValueError: With what was given, what is expected and how to fix it.
    """
    if hparams.optimizer not in ("sgd", "muon"):
        raise ValueError(f"optimizer is {hparams.optimizer!r}: choose sgd or muon")
    if hparams.schedule not in ("decay", "triangular"):
        raise ValueError(f"schedule is {hparams.schedule!r}: choose decay or triangular")
    for name, value in (("lr", hparams.lr), ("adamw_lr", hparams.adamw_lr)):
        if not value > 0:
            raise ValueError(f"{name} is {value}: give a learning rate above 0")
    for name in ("momentum", "warmup", "label_smoothing"):
        if not 0 <= hparams[name] < 1:
            raise ValueError(f"{name} is {hparams[name]}: give 0 to below 1")
    if not hparams.lr_decay >= 0:
        raise ValueError(f"lr_decay is {hparams.lr_decay}: give 0 or more")
    if not hparams.batch_norm_images >= 0:
        raise ValueError(f"batch_norm_images is {hparams.batch_norm_images}: give 0 (as Keras) or more, such as 5000")
    if hparams.optimizer == "sgd" and hparams.nesterov and hparams.momentum == 0:
        raise ValueError("nesterov needs momentum above 0: give a momentum, or nesterov=false")
    for name, owner, choice in BELONGS_TO:
        if hparams[owner] != choice and hparams[name] != defaults[name]:
            raise ValueError(
                f"{name} {hparams[name]} has no effect with {owner}={hparams[owner]}: leave it out, or choose "
                f"{owner}={choice}"
            )
