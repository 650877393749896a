"""Metrics of a trained network on labelled images, from its class probabilities."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

# Quantile of the standard normal distribution for a 95 % interval.
NORMAL_QUANTILE_95 = 1.959964
# Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, use 15 bins of equal width.
NUM_BINS = 15
TOP = 5
# The logarithm of a smaller float32 probability would be minus infinity.
SMALLEST_PROBABILITY = torch.finfo(torch.float32).tiny


def evaluate_probabilities(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the numbers that evaluate.py writes to summary.json.

    Args:
        probabilities: `(N, num_classes)` float in [0, 1], each row summing to 1.
        labels: `(N,)` int64 in [0, num_classes).

    Returns:
        `accuracy` with `accuracy_95` (lower and upper end of its 95 % interval), `top5_accuracy` (None for five classes
        or fewer), `loss` (mean cross-entropy, natural logarithm), `expected_calibration_error` (all but the loss in
        [0, 1]), and `images`.
    """
    num_images, num_classes = probabilities.shape
    options = {"num_classes": num_classes, "average": "micro"}
    accuracy = multiclass_accuracy(probabilities, labels, **options).item()
    top5_accuracy = None
    if num_classes > TOP:
        top5_accuracy = multiclass_accuracy(probabilities, labels, top_k=TOP, **options).item()
    true = probabilities.gather(1, labels[:, None]).clamp_min(SMALLEST_PROBABILITY)
    calibration_error = multiclass_calibration_error(probabilities, labels, num_classes, n_bins=NUM_BINS, norm="l1")
    return {
        "images": num_images,
        "accuracy": accuracy,
        "accuracy_95": wilson_interval(round(accuracy * num_images), num_images),
        "top5_accuracy": top5_accuracy,
        "loss": -true.log().mean().item(),
        "expected_calibration_error": calibration_error.item(),
    }


def class_metrics(num_classes: int) -> MetricCollection:
    """Return the metrics of each class: `precision`, `recall`, `f1` and `confusion_matrix`.

    They take predicted classes `(N,)`, or probabilities `(N, num_classes)`, and labels `(N,)`. `compute()` returns the
    first three as `(num_classes,)` float in [0, 1], and the matrix as `(num_classes, num_classes)` int64 counts, a row
    for each true class.
    """
    return MetricCollection(
        {
            "precision": MulticlassPrecision(num_classes, average=None),
            "recall": MulticlassRecall(num_classes, average=None),
            "f1": MulticlassF1Score(num_classes, average=None),
            "confusion_matrix": MulticlassConfusionMatrix(num_classes),
        }
    )


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval for the probability of a hit, both in [0, 1]."""
    square = NORMAL_QUANTILE_95**2
    share = hits / total
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = NORMAL_QUANTILE_95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return centre - half, centre + half


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """Return the number that the logits have to be divided by for the least cross-entropy (Guo et al., as above).

    Args:
        probabilities: `(N, num_classes)` float in [0, 1], the softmax of the logits, of images not trained on.
        labels: `(N,)` int64 in [0, num_classes).
    """
    # Up to a constant for each image, which softmax ignores.
    logits = probabilities.clamp_min(SMALLEST_PROBABILITY).log()
    losses = {t: cross_entropy(logits / t, labels).item() for t in torch.arange(0.2, 5, 0.01).tolist()}
    return round(min(losses, key=losses.get), 2)


def reliability(probabilities: Tensor, labels: Tensor) -> list[tuple[float, float, int]]:
    """Return `(mean confidence, accuracy, images)` of each of NUM_BINS bins of confidence that has images.

    Args:
        probabilities: `(N, num_classes)` float in [0, 1].
        labels: `(N,)` int64 in [0, num_classes).
    """
    confidence, guesses = probabilities.max(dim=1)
    hits = guesses.eq(labels).double()
    bins = (confidence * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    members = (bins == number for number in bins.unique())
    return [(confidence[some].mean().item(), hits[some].mean().item(), int(some.sum())) for some in members]


def confident_mistakes(probabilities: Tensor, labels: Tensor, number: int) -> list[tuple[int, int, float]]:
    """Return `(index, guess, confidence)` of the wrong guesses, the most confident first, at most `number`."""
    confidence, guesses = probabilities.max(dim=1)
    wrong = guesses.ne(labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:number].tolist()
    return [(index, int(guesses[index]), confidence[index].item()) for index in order]
