"""The config.yaml of a run that was started from Python."""

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer

from minivgg_pl.runs.checkpoint import class_path
from minivgg_pl.runs.environment import global_seed
from minivgg_pl.training.module import LitMiniVGG

# The Trainer has them under the names of its arguments.
SETTINGS = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val")
LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")


class _Dumper(yaml.SafeDumper):
    """Writes what YAML has no type for as text."""


_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))


def run_config(trainer: Trainer, module: LightningModule, root: str) -> str:
    """Return seed, trainer, module and data as YAML, in the layout that `scripts/train.py --config` reads.

    Of a module or data module that has not called `save_hyperparameters` the class alone is known, and of plain
    DataLoaders nothing. `root` is the folder of all runs.
    """
    settings = {name: getattr(trainer, name) for name in SETTINGS}
    settings |= {name: limit for name in LIMITS if (limit := getattr(trainer, name)) != 1.0}
    device = trainer.strategy.root_device.type
    settings |= {"accelerator": "gpu" if device in ("cuda", "mps") else device, "devices": trainer.num_devices}
    config = {
        "seed_everything": global_seed(),
        "trainer": {"default_root_dir": root, **settings},
        "model_class": class_path(type(module)) if isinstance(module, LitMiniVGG) else None,
        "model": dict(module.hparams) if isinstance(module, LitMiniVGG) else _object(module),
        "data": _object(trainer.datamodule) if trainer.datamodule else None,
    }
    known = {name: value for name, value in config.items() if value is not None}
    return f"# Trained from Python.\n{yaml.dump(known, Dumper=_Dumper, sort_keys=False)}"


def _object(thing: Any) -> dict[str, Any]:
    path = getattr(thing, "class_path", class_path(type(thing)))
    return {"class_path": path, "init_args": dict(thing.hparams)}
