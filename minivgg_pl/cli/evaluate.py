"""`scripts/evaluate.py`: accuracy, tables and charts of a trained network on a test set."""

import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivgg_pl.cli.command import WEIGHTS, OneLineArgumentParser, guarded, load_weights
from minivgg_pl.cli.short_names import data_arguments
from minivgg_pl.errors import InputError
from minivgg_pl.files import make_folder

if TYPE_CHECKING:
    from torch import Tensor

    from minivgg_pl.data.base import ImageDataModule
    from minivgg_pl.data.loader import ImageDataset
    from minivgg_pl.weights.load import TrainedNetwork

DESCRIPTION = """\
Measure a trained network on a test set: accuracy with its 95 % interval, top-5 accuracy, loss, calibration error.

Leaves a new folder with summary.json, report.csv (each class), predictions.csv (each image), confusion_matrix.csv and
.png, the same normalised, mistakes.png (the most confident ones) and reliability.png (accuracy against confidence).
"""
EXAMPLES = """\
A run is tested on the data it was trained for, other weights on CIFAR-10. Options of the data are those of train.py:
--data.root DIR, --data.dataset synthetic, or --data DIR for your own images.

examples:
  evaluate.py wide
  evaluate.py runs/classic/1 --data.root ~/data --tta flip
  evaluate.py runs/classic-my_images/1 --data other_images
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scripts/evaluate.py` with `argv` (default: the process's own) and return its exit code."""
    return guarded(lambda: evaluate(*parse_arguments(sys.argv[1:] if argv is None else argv)))


def parse_arguments(argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return this command's own options, and those of the data."""
    parser = OneLineArgumentParser(
        prog="evaluate.py",
        usage="evaluate.py WEIGHTS [--classes A,B] [--model MODULE.CLASS] [--tta flip] [--output DIR] [--data.* ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_class_options()
    parser.add_argument("--tta", choices=["flip"], help="report also the mean over each image and its mirror image")
    parser.add_argument("--output", type=Path, metavar="DIR", help="new folder (default: runs/evaluate-<run>/<n>)")
    own: list[str] = []
    of_data: list[str] = []
    words = iter(argv)
    for word in words:
        name, has_value, value = word.partition("=")
        if name == "--data":
            of_data += data_arguments(value if has_value else next(words, ""))
        elif name.startswith("--data."):
            of_data += [word, *islice(words, 0 if has_value else 1)]
        else:
            own.append(word)
    return parser.parse_args(own), of_data


def evaluate(args: Namespace, data_options: list[str]) -> int:
    """Measure, write the folder, print the table."""
    # Late: importing torch and Lightning takes seconds, and the help text and most errors need neither.
    from minivgg_pl.evaluation.metrics import evaluate_probabilities
    from minivgg_pl.evaluation.reports import write_report
    from minivgg_pl.runs import folder as runs
    from minivgg_pl.runs.environment import package_versions

    if args.output and args.output.exists():
        raise InputError(f"--output {args.output}: it exists; give a new folder")
    runs.check_base(args.output or Path("runs"), "--output")
    trained = load_weights(args.weights, args.classes, args.model)
    data, images = _prepare(data_options, trained)
    probabilities = _probabilities(trained, images)
    variant = trained.net.options["variant"]
    summary = {
        "weights": trained.source,
        "variant": variant,
        "weights_facts": trained.metadata,
        "dataset": data.dataset,
        "title": data.title,
        "dataset_md5": data.integrity,
        "versions": package_versions(),
        **evaluate_probabilities(probabilities, images.labels),
    }
    if args.tta:
        mirrored = (probabilities + _probabilities(trained, images, mirror=True)) / 2
        summary["with_mirror_images"] = evaluate_probabilities(mirrored, images.labels)
    folder = args.output or runs.claim_run_folder(Path("runs", f"evaluate-{variant}{data.run_suffix}"))
    make_folder(folder)
    try:
        write_report(folder, f"{trained.source} on {data.title}", trained.class_names, images, probabilities)
        runs.write_json(folder / runs.SUMMARY, summary)
    except BaseException:
        # All of the folder or nothing.
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
        shapes = f"{trained.net.image_shape} (channels, height, width), and the data have {data.image_shape}"
        raise InputError(f"{trained.source}: it takes images {shapes}: give data that suit")
    rows = _rows_of_classes(data.class_names, trained)
    data.prepare_data()
    images = _images_to_test(data, trained)
    images.labels = rows[images.labels]
    return data, images


def _rows_of_classes(names: Sequence[str], trained: "TrainedNetwork") -> "Tensor":
    """Return which logit is that of each of the data's classes, by their names: `(num_classes,)` int64."""
    import torch

    from minivgg_pl.data.class_names import plain_name
    from minivgg_pl.data.image_files import some

    for form in (str, plain_name):
        rows = {form(name): row for row, name in enumerate(trained.class_names)}
        if len(rows) == len(trained.class_names) and sorted(rows) == sorted(map(form, names)):
            return torch.tensor([rows[form(name)] for name in names])
    both = rows.keys() & set(map(plain_name, names))
    ours, theirs = ([name for name in side if plain_name(name) not in both] for side in (trained.class_names, names))
    counts = f"it knows {len(trained.class_names)} classes, and the data have {len(names)}"
    only = [f"{who}: {some(lacking)}" for who, lacking in (("only it", ours), ("only the data", theirs)) if lacking]
    give = "give its data, or --classes" if trained.assumed else "give data of its classes"
    raise InputError(f"{trained.source}: {'; '.join([counts, *only])}: {give}")


def _images_to_test(data: "ImageDataModule", trained: "TrainedNetwork") -> "ImageDataset":
    """Return the test set; without one, what the network did not train on."""
    split = trained.metadata.get("split") or {}
    if "test" not in data.splits and "val" not in data.splits:
        if split.get("fingerprint") != data.fingerprint:
            if split and trained.metadata.get("dataset") == data.dataset:
                reason = f"{data.title} have changed since {trained.source} was trained on some of them"
                raise InputError(f"{reason}: give other images, in a folder of another name")
            return data.load("train")
        data.adopt_split(split)
    data.setup("test")
    return data.test_set


def _probabilities(trained: "TrainedNetwork", images: "ImageDataset", mirror: bool = False) -> "Tensor":
    import torch
    from tqdm import tqdm

    from minivgg_pl.evaluation.inference import BATCH_SIZE, class_probabilities
    from minivgg_pl.memory import keep_freed_memory

    keep_freed_memory()
    net = trained.net.to("cuda" if torch.cuda.is_available() else "cpu")
    batches = torch.arange(len(images)).split(BATCH_SIZE)
    # In parts, since a mapped data set may be larger than memory.
    parts = (images.bytes_at(indices) for indices in tqdm(batches, "testing", unit=" batches", disable=None))
    return class_probabilities(net, (part.flip(2) if mirror else part for part in parts))


def _table(summary: dict[str, Any], folder: Path) -> str:
    (lower, upper), top5 = summary["accuracy_95"], summary["top5_accuracy"]
    facts, mirrored = summary["weights_facts"], summary.get("with_mirror_images")
    place, claimed, temperature = (facts.get(name) for name in ("unfinished", "test_accuracy", "temperature"))
    divided = f"; its logits were divided by {temperature:g}" if temperature else ""
    # CIFAR-10 stands in for data that a run does not name, or whose class is not this package's.
    trained_on = facts.get("dataset", summary["dataset"])
    rows = {
        "weights": f"{summary['weights']} ({summary['variant']})",
        "training": place and f"{place}: not finished",
        "trained on": trained_on != summary["dataset"] and f"{trained_on}, not on these data; --data names others",
        "images": f"{summary['images']:,} of {summary['title']}",
        "accuracy": f"{summary['accuracy']:.2%}  (95 % interval: {lower:.2%} to {upper:.2%})",
        "claimed": claimed and f"{claimed:.2%}  (by the run that made the weights)",
        # With five classes or fewer there is none.
        "top-5 accuracy": None if top5 is None else f"{top5:.2%}",
        "loss": f"{summary['loss']:.4f}",
        "calibration": f"{summary['expected_calibration_error']:.2%}  (expected error of its probabilities{divided})",
        "mirror images": mirrored and f"{mirrored['accuracy']:.2%}  (mean over each image and its mirror image)",
        "folder": folder,
    }
    return "\n".join(f"{name:<17}{text}" for name, text in rows.items() if text)
