"""`scripts/evaluate.py`: accuracy, tables and charts of a trained network on a test set."""

import os
import shutil
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivgg_pl.cli.command import OneLineArgumentParser, guarded
from minivgg_pl.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from minivgg_pl.data.base import ImageDataModule
    from minivgg_pl.data.loader import ImageDataset
    from minivgg_pl.weights.load import TrainedNetwork

NUM_MISTAKES = 32

DESCRIPTION = """\
Measure a trained network on a test set: accuracy with its 95 % interval, top-5 accuracy, loss, calibration error.

Leaves a new folder with summary.json, report.csv (each class), predictions.csv (each image), confusion_matrix.csv and
.png, the same normalised, mistakes.png (the most confident ones) and reliability.png (accuracy against confidence).
"""
EXAMPLES = """\
A run is tested on the data it was trained for, other weights on CIFAR-10. Options of the data are those of train.py:
--data.root DIR, --data.dataset synthetic, or --data minivgg_pl.ImageFolderDataModule --data.root my_images.

examples:
  evaluate.py wide
  evaluate.py runs/classic/1 --data.root ~/data --tta flip
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scripts/evaluate.py` with `argv` (default: the process's own) and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args, data_options = parse_arguments(argv)
    return guarded(lambda: evaluate(args, data_options))


def parse_arguments(argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return this command's own options, and those of the data as they were typed."""
    parser = OneLineArgumentParser(
        prog="evaluate.py",
        usage="evaluate.py WEIGHTS [--tta flip] [--output DIR] [--data.* ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="classic, wide, a run folder, a .ckpt or .safetensors file")
    parser.add_argument("--tta", choices=["flip"], help="report also the mean over each image and its mirror image")
    parser.add_argument("--output", type=Path, metavar="DIR", help="new folder (default: runs/evaluate-<run>/<n>)")
    own: list[str] = []
    of_data: list[str] = []
    words = iter(argv)
    for word in words:
        is_of_data = word.startswith(("--data.", "--data=")) or word == "--data"
        (of_data if is_of_data else own).append(word)
        if is_of_data and "=" not in word:
            of_data += islice(words, 1)
    return parser.parse_args(own), of_data


def evaluate(args: Namespace, data_options: list[str]) -> int:
    """Measure, write the folder, print the table.

    Raises:
        InputError: On bad input.
    """
    # Late: importing torch and Lightning takes seconds, and the help text and most errors need neither.
    from minivgg_pl.evaluation import metrics as evaluation
    from minivgg_pl.runs import folder as runs
    from minivgg_pl.weights.load import load_trained

    if args.output and os.path.lexists(args.output):
        raise InputError(f"--output {args.output}: it exists; give a new folder")
    runs.check_base(args.output or Path("runs"), option="--output")
    trained = load_trained(args.weights)
    data, images = _prepare(data_options, trained)
    probabilities = _probabilities(trained, images)
    summary = _description(trained, data) | evaluation.evaluate_probabilities(probabilities, images.labels)
    if args.tta:
        mirrored = (probabilities + _probabilities(trained, images, mirror=True)) / 2
        summary["with_mirror_images"] = evaluation.evaluate_probabilities(mirrored, images.labels)
    folder = args.output or runs.claim_run_folder(
        Path("runs", f"evaluate-{trained.net.options['variant']}{data.run_suffix}")
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_json(folder / runs.SUMMARY, summary)
        _write_report(folder, trained, f"{trained.source} on {data.title}", images, probabilities)
    except BaseException:
        # All of it, or nothing.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(_table(summary, folder))
    return 0


def _prepare(options: list[str], trained: "TrainedNetwork") -> tuple["ImageDataModule", "ImageDataset"]:
    from minivgg_pl.cli.parser import parse_data
    from minivgg_pl.runs.checkpoint import run_folder_of

    path = Path(trained.source)
    data = parse_data(options, run=path if path.is_dir() else run_folder_of(path))
    if data.image_shape != trained.net.image_shape:
        raise InputError(
            f"{trained.source}: it takes images {trained.net.image_shape} (channels, height, width), and the data have "
            f"{data.image_shape}: give data that suit"
        )
    if data.class_names != trained.class_names:
        ours, theirs = (
            f"{len(names)} classes ({', '.join(names[:3] + ['...'] * (len(names) > 3))})"
            for names in (trained.class_names, data.class_names)
        )
        raise InputError(f"{trained.source}: it knows {ours}, and the data have {theirs}: give data with its classes")
    data.prepare_data()
    return data, _images_to_test(data, trained)


def _images_to_test(data: "ImageDataModule", trained: "TrainedNetwork") -> "ImageDataset":
    """Return the test set; without one, what the network did not train on."""
    split = trained.metadata.get("split") or {}
    if "test" not in data.splits and "val" not in data.splits:
        if split.get("fingerprint") != data.fingerprint:
            if split and trained.metadata.get("dataset") == data.dataset:
                raise InputError(
                    f"{data.title} have changed since {trained.source} was trained on them, so that which of them it "
                    "has seen is not known: give other images, in a folder of another name"
                )
            return data.load("train")
        data.adopt_split(split)
    data.setup("test")
    return data.test_set


def _probabilities(trained: "TrainedNetwork", images: "ImageDataset", mirror: bool = False) -> "Tensor":
    import torch
    from tqdm import tqdm

    from minivgg_pl.evaluation.inference import BATCH_SIZE, class_probabilities

    net = trained.net.to("cuda" if torch.cuda.is_available() else "cpu")
    parts = []
    # In parts, since a mapped data set may be larger than memory.
    for indices in tqdm(torch.arange(len(images)).split(BATCH_SIZE), "testing", unit=" batches", disable=None):
        part = images.bytes_at(indices)
        parts.append(class_probabilities(net, part.flip(2) if mirror else part))
    return torch.cat(parts)


def _description(trained: "TrainedNetwork", data: "ImageDataModule") -> dict[str, Any]:
    from minivgg_pl.runs.environment import package_versions

    return {
        "weights": trained.source,
        "variant": trained.net.options["variant"],
        "weights_facts": trained.metadata,
        "dataset": data.dataset,
        "title": data.title,
        "dataset_md5": data.integrity,
        "versions": package_versions(),
    }


def _write_report(
    folder: Path, trained: "TrainedNetwork", heading: str, images: "ImageDataset", probabilities: "Tensor"
) -> None:
    from minivgg_pl.evaluation import metrics as evaluation
    from minivgg_pl.evaluation import reports
    from minivgg_pl.plots import classification as class_plots
    from minivgg_pl.plots.gallery import draw_gallery

    names, labels = trained.class_names, images.labels
    metrics = evaluation.class_metrics(len(names))
    report = {name: value.tolist() for name, value in metrics(probabilities, labels).items()}
    matrix = report["confusion_matrix"]
    reports.write_predictions(folder / "predictions.csv", names, labels, probabilities)
    reports.write_class_report(folder / "report.csv", names, report)
    reports.write_matrix(folder / "confusion_matrix.csv", names, matrix)
    class_plots.draw_confusion_matrix(matrix, names, folder / "confusion_matrix.png", f"{heading}, images")
    shares = [[count / max(sum(row), 1) for count in row] for row in matrix]
    reports.write_matrix(folder / "confusion_matrix_normalized.csv", names, shares)
    class_plots.draw_confusion_matrix(
        matrix, names, folder / "confusion_matrix_normalized.png", f"{heading}, per cent of the true class", shares=True
    )
    class_plots.draw_reliability(evaluation.reliability(probabilities, labels), folder / "reliability.png", heading)
    mistakes = evaluation.confident_mistakes(probabilities, labels, NUM_MISTAKES)
    if mistakes:
        shown = [images.bytes_at(index).numpy() for index, _, _ in mistakes]
        captions = [f"{names[labels[index]]}\n→ {names[guess]} {p:.0%}" for index, guess, p in mistakes]
        draw_gallery(shown, captions, folder / "mistakes.png", f"{heading}: the most confident mistakes, truth → guess")


def _table(summary: dict[str, Any], folder: Path) -> str:
    def percent(value: float) -> str:
        return f"{value:.2%}"

    lower, upper = summary["accuracy_95"]
    lines = [
        f"weights          {summary['weights']} ({summary['variant']})",
        f"images           {summary['images']:,} of {summary['title']}",
        f"accuracy         {percent(summary['accuracy'])}  (95 % interval: {percent(lower)} to {percent(upper)})",
        # With five classes or fewer there is none.
        *([f"top-5 accuracy   {percent(top5)}"] if (top5 := summary["top5_accuracy"]) is not None else []),
        f"loss             {summary['loss']:.4f}",
        f"calibration      {percent(summary['expected_calibration_error'])}  (expected error of its probabilities)",
    ]
    if claimed := summary["weights_facts"].get("test_accuracy"):
        lines.insert(3, f"claimed          {percent(claimed)}  (by the run that made the weights)")
    if place := summary["weights_facts"].get("unfinished"):
        lines.insert(1, f"training         {place}: not finished")
    if mirrored := summary.get("with_mirror_images"):
        lines.append(f"mirror images    {percent(mirrored['accuracy'])}  (mean over each image and its mirror image)")
    return "\n".join([*lines, f"folder           {folder}"])
