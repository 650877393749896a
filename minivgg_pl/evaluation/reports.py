"""Tables of results by class and by image, as CSV files."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from minivgg_pl.files import write_atomically


def write_class_report(path: Path, class_names: Sequence[str], report: Mapping[str, Sequence[Any]]) -> None:
    """Write precision, recall and F1 in [0, 1] and the number of images of each class.

    Args:
        path: File to write.
        class_names: In the order of the labels.
        report: `precision`, `recall` and `f1`, one value a class, and `confusion_matrix`, a row for each true class.
    """
    columns = [report[name] for name in ("precision", "recall", "f1", "confusion_matrix")]
    rows = [
        [name, *(f"{score:.4f}" for score in scores), sum(counts)]
        for name, *scores, counts in zip(class_names, *columns, strict=True)
    ]
    _write(path, ["class", "precision", "recall", "f1", "support"], rows)


def write_matrix(path: Path, class_names: Sequence[str], matrix: Sequence[Sequence[float]]) -> None:
    """Write a confusion matrix with the names of its rows, the true classes, and columns, the predicted ones."""
    rows = ([name, *(f"{value:.6g}" for value in row)] for name, row in zip(class_names, matrix, strict=True))
    _write(path, ["true class", *class_names], rows)


def write_predictions(path: Path, class_names: Sequence[str], labels: Tensor, probabilities: Tensor) -> None:
    """Write a row for each image of a test set: its number from 0, true class, guess and the guess's probability.

    Args:
        path: File to write.
        class_names: In the order of the labels.
        labels: `(N,)` integers.
        probabilities: `(N, num_classes)` float in [0, 1], the images in the order of the labels.
    """
    values, guesses = probabilities.max(dim=1)
    answers = zip(labels.tolist(), guesses.tolist(), values.tolist(), strict=True)
    rows = ([i, class_names[label], class_names[guess], f"{p:.6f}"] for i, (label, guess, p) in enumerate(answers))
    _write(path, ["image", "true class", "predicted class", "probability"], rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, text.getvalue())
