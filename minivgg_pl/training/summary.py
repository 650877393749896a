"""A finished run's summary: summary.json and the table on the screen."""

import math
import statistics
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from minivgg_pl.data.description import describe_data
from minivgg_pl.models.layer_table import count_parameters
from minivgg_pl.models.minivgg import MiniVGG
from minivgg_pl.runs.environment import device_name, global_seed, package_versions, weights_sha256
from minivgg_pl.runs.folder import LEARNING_COLUMNS
from minivgg_pl.training.recorder import RunRecorder


def summarize(trainer: Trainer, module: LightningModule, recorder: RunRecorder) -> dict[str, Any]:
    """Return a fit's final numbers, those of the last epoch and never of the best, and what they depend on."""
    rows, loader = recorder.rows, trainer.train_dataloader
    data, last = describe_data(trainer.datamodule, loader), rows[-1] if rows else {}
    if (batch_size_of := getattr(trainer.datamodule, "global_batch_size", None)) is not None:
        batch_size = batch_size_of(trainer.world_size)
    else:
        batch_size = (getattr(loader, "batch_size", None) or 0) * trainer.world_size or None
    # The hash does not depend on the name of the attribute.
    net = module.net if isinstance(getattr(module, "net", None), nn.Module) else module
    trained, fixed = count_parameters(net)
    return {
        "variant": net.options["variant"] if isinstance(net, MiniVGG) else type(module).__name__,
        "init_from": module.hparams.get("init_from"),
        # For the command, which knows it.
        "recipe": None,
        "dataset": data.dataset,
        "dataset_md5": data.integrity,
        "train_images": recorder.num_images(trainer),
        "validation": data.validation,
        "tested_on": data.tested_on,
        "num_parameters": trained + fixed,
        "num_trainable": trained,
        "epochs": int(last.get("epoch", 0)),
        # JSON has no nan, which a run without validation has.
        **{name: None if math.isnan(last.get(name, math.nan)) else last[name] for name in LEARNING_COLUMNS},
        # Until a test.
        **dict.fromkeys(("test_images", "tested_weights", "test_loss", "test_acc")),
        "images_per_second": statistics.median(row["images_per_second"] for row in rows) if rows else None,
        "minutes": sum(row["seconds"] for row in rows) / 60,
        "seed": global_seed(),
        "precision": str(trainer.precision),
        "device": device_name(trainer.strategy.root_device),
        "num_devices": trainer.world_size,
        "global_batch_size": batch_size,
        "weights_sha256": weights_sha256(net),
        "versions": package_versions(),
        "run_folder": str(recorder.folder),
    }


def summary_table(summary: dict[str, Any]) -> str:
    """Return the table that a run prints at its end, from `RunFolder.summary`."""
    start, synthetic = summary["init_from"], summary["dataset"] == "synthetic"
    lines = [
        "",
        f"variant      {summary['variant']}" + (" (synthetic data, not CIFAR-10)" if synthetic else ""),
        f"parameters   {summary['num_parameters']:,} ({summary['num_trainable']:,} trainable)",
        f"recipe       {summary['recipe'] or 'own options'}" + (f", from {start}" if start else ""),
        f"epochs       {summary['epochs']}",
        "             loss    accuracy",
    ]
    notes = {
        "train": f"{summary['train_images']:,} images",
        "val": summary["validation"],
        "test": f"{summary['test_images'] or 0:,} images, {summary['tested_weights'] or 'not tested'}",
    }
    for stage, note in notes.items():
        values = [summary[f"{stage}_{name}"] for name in ("loss", "acc")]
        cells = "  ".join("-" if value is None else f"{value:.4f}" for value in values)
        lines.append(f"{stage:<12} {cells}  ({note})")
    lines += [
        f"images/s     {summary['images_per_second'] or 0:.0f}",
        f"minutes      {summary['minutes']:.1f}",
        f"run folder   {summary['run_folder']}",
    ]
    return "\n".join(lines)
