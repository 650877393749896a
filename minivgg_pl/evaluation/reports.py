"""Tables of results by class and by image, as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from minivgg_pl.files import write_atomically


def write_class_report(path: Path, class_names: Sequence[str], report: Mapping[str, Sequence[Any]]) -> None:
    """Write precision, recall and F1 in [0, 1] and the number of images of each class.

    Args:
        path: File to write.
        class_names: In the order of the labels.
        report: `precision`, `recall` and `f1`, one value a class, and `confusion_matrix`, rows true classes.
    """
    rows = [["class", "precision", "recall", "f1", "support"]]
    for number, name in enumerate(class_names):
        scores = [f"{report[column][number]:.4f}" for column in ("precision", "recall", "f1")]
        rows.append([name, *scores, str(sum(report["confusion_matrix"][number]))])
    _write(path, rows)


def write_matrix(path: Path, class_names: Sequence[str], matrix: Sequence[Sequence[float]]) -> None:
    """Write a confusion matrix with the names of its rows, the true classes, and columns, the predicted ones."""
    rows = [["true class", *class_names]]
    rows += [[name, *(f"{value:.6g}" for value in row)] for name, row in zip(class_names, matrix, strict=True)]
    _write(path, rows)


def write_predictions(path: Path, class_names: Sequence[str], labels: Tensor, probabilities: Tensor) -> None:
    """Write a row for each image of a test set: its number from 0, true class, guess and the guess's probability.

    Args:
        path: File to write.
        class_names: In the order of the labels.
        labels: `(N,)` integers.
        probabilities: `(N, C)`, the images in the order of the labels.
    """
    best = probabilities.max(dim=1)
    rows = [["image", "true class", "predicted class", "probability"]]
    for number, (label, guess, value) in enumerate(
        zip(labels.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    ):
        rows.append([str(number), class_names[label], class_names[guess], f"{value:.6f}"])
    _write(path, rows)


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue())
