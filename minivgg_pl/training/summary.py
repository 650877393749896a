"""A finished run's summary: summary.json and the table on the screen."""

import math
import statistics
from typing import Any

from lightning.pytorch import Trainer

from minivgg_pl.runs.environment import device_name, package_versions, weights_sha256
from minivgg_pl.runs.folder import LEARNING_COLUMNS
from minivgg_pl.training.callbacks import RunRecorder
from minivgg_pl.training.module import LitMiniVGG


def summarize(trainer: Trainer, module: LitMiniVGG, recorder: RunRecorder, test: dict[str, float]) -> dict[str, Any]:
    """Return the run's final numbers, those of the last epoch and never of the best, and what they depend on.

    Args:
        trainer: Has trained and tested.
        module: The trained module.
        recorder: Holds the epochs' rows.
        test: `test_loss` and `test_acc` as `Trainer.test` returned them; empty without a test.
    """
    rows, data = recorder.rows, trainer.datamodule
    last = rows[-1] if rows else {}
    # Keras counts batch norm's statistics as parameters.
    moving = sum(buffer.numel() for name, buffer in module.net.named_buffers() if "running" in name)
    trainable = sum(p.numel() for p in module.net.parameters() if p.requires_grad)
    return {
        "variant": module.hparams.variant,
        "init_from": module.hparams.init_from,
        "dataset": data.dataset,
        "dataset_md5": data.integrity,
        "train_images": recorder.num_train_images,
        "test_images": int(module.class_report["confusion_matrix"].sum()) if module.class_report else 0,
        "validation": data.validation,
        "tested_on": data.tested_on,
        "num_parameters": trainable + moving,
        "num_trainable": trainable,
        "epochs": int(last.get("epoch", 0)),
        # JSON has no nan, which a run without validation has.
        **{name: None if math.isnan(last.get(name, math.nan)) else last[name] for name in LEARNING_COLUMNS},
        **{name: test.get(name) for name in ("test_loss", "test_acc")},
        "images_per_second": statistics.median(row["images_per_second"] for row in rows) if rows else None,
        "minutes": sum(row["seconds"] for row in rows) / 60,
        "precision": str(trainer.precision),
        "device": device_name(trainer.strategy.root_device),
        "num_devices": trainer.world_size,
        "global_batch_size": data.global_batch_size(trainer.world_size),
        "weights_sha256": weights_sha256(module.net),
        "versions": package_versions(),
        "run_folder": str(recorder.folder),
    }


def summary_table(summary: dict[str, Any]) -> str:
    """Return the table that a run prints at its end, from what `summarize` returned and the `recipe`."""
    start, synthetic = summary["init_from"], summary["dataset"] == "synthetic"
    lines = [
        "",
        f"variant      {summary['variant']}" + (" (synthetic data, not CIFAR-10)" if synthetic else ""),
        f"parameters   {summary['num_parameters']:,} ({summary['num_trainable']:,} trainable)",
        f"recipe       {summary['recipe']}" + (f", from {start}" if start else ""),
        f"epochs       {summary['epochs']}",
        "             loss    accuracy",
    ]
    notes = {
        "train": f"{summary['train_images']:,} images",
        "val": summary["validation"],
        "test": f"{summary['test_images']:,} images, last epoch's weights",
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
