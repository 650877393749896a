"""Reports of a test: tables by class and by image as CSV files, and charts; the learning curves of a run."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from minivgg_pl.data.loader import ImageDataset
from minivgg_pl.errors import InputError
from minivgg_pl.evaluation.metrics import class_metrics, confident_mistakes, reliability
from minivgg_pl.files import write_atomically
from minivgg_pl.plots.classification import draw_confusion_matrix, draw_reliability
from minivgg_pl.plots.curves import draw_curves
from minivgg_pl.plots.gallery import draw_gallery
from minivgg_pl.runs.folder import LEARNING_COLUMNS, history

# Images on mistakes.png.
NUM_MISTAKES = 32


def write_report(
    folder: Path, heading: str, class_names: Sequence[str], images: ImageDataset, probabilities: Tensor
) -> None:
    """Write all tables and charts of `scripts/evaluate.py` into an empty folder.

    `class_names` are in the order of the labels. `probabilities`, `(N, num_classes)` float in [0, 1], are in the order
    of the test set `images`.
    """
    labels = images.labels
    answers = zip(images.names, labels.tolist(), probabilities.argmax(dim=1).tolist(), probabilities, strict=True)
    rows = (
        [name, class_names[label], class_names[guess], *(f"{p:.6f}" for p in [row[guess].item(), *row.tolist()])]
        for name, label, guess, row in answers
    )
    header = ["image", "true class", "predicted class", "probability", *(f"p({name})" for name in class_names)]
    _write(folder / "predictions.csv", header, rows)
    metrics = class_metrics(len(class_names))(probabilities, labels)
    report = {name: value.tolist() for name, value in metrics.items()}
    write_class_report(folder / "report.csv", class_names, report)
    counts = report["confusion_matrix"]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    for name, matrix, what in (("", counts, "images"), ("_normalized", shares, "per cent of the true class")):
        path = folder / f"confusion_matrix{name}.csv"
        rows = ([label, *(f"{value:.6g}" for value in row)] for label, row in zip(class_names, matrix, strict=True))
        _write(path, ["true class", *class_names], rows)
        title = f"{heading}, {what}"
        draw_confusion_matrix(matrix, class_names, path.with_suffix(".png"), title, shares=matrix is shares)
    draw_reliability(reliability(probabilities, labels), folder / "reliability.png", heading)
    if mistakes := confident_mistakes(probabilities, labels, NUM_MISTAKES):
        shown = [images.bytes_at(index).numpy() for index, _, _ in mistakes]
        captions = [
            f"{images.names[i]}\n{class_names[labels[i]]}\n→ {class_names[guess]} {p * 100:.0f} %"
            for i, guess, p in mistakes
        ]
        title = f"{heading}: the most confident mistakes, truth → guess"
        draw_gallery(shown, captions, folder / "mistakes.png", title)


def write_class_report(path: Path, class_names: Sequence[str], report: Mapping[str, Sequence[Any]]) -> None:
    """Write precision, recall and F1 in [0, 1] and the number of images of each class.

    `report` has `precision`, `recall` and `f1`, one value a class, and `confusion_matrix`, a row for each true class.
    """
    columns = [report[name] for name in ("precision", "recall", "f1", "confusion_matrix")]
    rows = [
        [name, *(f"{score:.4f}" for score in scores), sum(counts)]
        for name, *scores, counts in zip(class_names, *columns, strict=True)
    ]
    _write(path, ["class", "precision", "recall", "f1", "support"], rows)


def plot_history(run: Any, title: str = "", **options: Any) -> Figure:
    """Return a run's learning curves as a figure, which a notebook shows.

    Args:
        run: A run folder, a RunFolder, what `history` returned, or rows such as `{"train_loss": 1.2}`, one an epoch. A
            column that is missing is left out.
        title: Line above the curves.
        **options: `reference`, such as `article_rows("classic")`, and `val_label`, see `plots.curves.draw_curves`.

    Raises:
        InputError: If it has no epoch, or no column that can be drawn.
    """
    epochs = history(run) if isinstance(run, str | Path) else getattr(run, "rows", run)
    if isinstance(epochs, Mapping):
        epochs = [dict(zip(epochs, values, strict=True)) for values in zip(*epochs.values(), strict=True)]
    missing = dict.fromkeys(LEARNING_COLUMNS, math.nan)
    rows = [{**missing, "epoch": number, **row} for number, row in enumerate(epochs, start=1)]
    if not any(math.isfinite(row[column]) for row in rows for column in LEARNING_COLUMNS):
        raise InputError(f"there is no epoch to plot: no values of {', '.join(LEARNING_COLUMNS)}")
    return draw_curves(rows, None, title, **options)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, text.getvalue())
