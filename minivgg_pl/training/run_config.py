"""The config.yaml of a run that was started from Python."""

from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from minivgg_pl.runs.environment import global_seed
from minivgg_pl.training.module import LitMiniVGG

# What a result depends on; the Trainer has them under the names of its arguments.
TRAINER_SETTINGS = (
    *("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    *("check_val_every_n_epoch", "limit_train_batches", "limit_val_batches", "limit_test_batches"),
)


class _Dumper(yaml.SafeDumper):
    """Writes what YAML has no type for as text."""


_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))


def run_config(trainer: Trainer, module: LightningModule, root: str) -> str:
    """Return module, data, trainer and seed as YAML, in the layout that `scripts/train.py --config` reads.

    Of a module and data that have not called `save_hyperparameters`, the class alone is known; of plain DataLoaders,
    nothing.

    Args:
        trainer: Trains.
        module: Is trained.
        root: Folder of all runs.
    """
    config: dict[str, Any] = {}
    if (seed := global_seed()) is not None:
        config["seed_everything"] = seed
    settings = {name: getattr(trainer, name) for name in TRAINER_SETTINGS}
    device = trainer.strategy.root_device.type
    settings |= {"accelerator": "gpu" if device == "cuda" else device, "devices": trainer.num_devices}
    config["trainer"] = {"default_root_dir": root, **settings}
    config["model"] = dict(module.hparams) if type(module) is LitMiniVGG else _object(module)
    if trainer.datamodule is not None:
        config["data"] = _object(trainer.datamodule)
    return f"# Trained from Python.\n{yaml.dump(config, Dumper=_Dumper, sort_keys=False)}"


def _object(thing: LightningModule | LightningDataModule) -> dict[str, Any]:
    path = f"{type(thing).__module__}.{type(thing).__qualname__}"
    return {"class_path": getattr(thing, "class_path", path), "init_args": dict(thing.hparams)}
