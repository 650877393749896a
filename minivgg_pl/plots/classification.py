"""Confusion matrices and reliability diagrams."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from minivgg_pl.plots.curves import ACCURACY_COLOUR, LINE_WIDTH
from minivgg_pl.plots.figure import as_text, new_axes, save_figure

# Colour grows with the square root of the share: mistakes of a few per cent show beside a diagonal of 80.
COLOUR_GAMMA = 0.5
# White text reads better than black above this share; contrast then stays above 4.5 to 1 (WCAG 2 AA).
WHITE_TEXT_ABOVE = 0.51
# With more classes the counts would be too small to read.
MAX_COUNTED_CLASSES = 20


def draw_confusion_matrix(
    matrix: ArrayLike, class_names: Sequence[str], path: str | Path, title: str, shares: bool = False
) -> None:
    """Draw a confusion matrix and write it to `path`.

    Colour is the share of the true class (each row sums to 1). The cells of up to 20 classes hold the counts, or the
    shares in per cent.

    Args:
        matrix: `(C, C)` integer counts, rows true classes, columns predicted; anything numpy can read.
        class_names: The C names in the order of rows and columns.
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above the matrix.
        shares: Whether the cells hold shares instead of counts.

    Raises:
        ValueError: If `matrix` is not `(C, C)` for the C names given.
    """
    save_figure(confusion_figure(matrix, class_names, title, shares), Path(path))


def confusion_figure(matrix: ArrayLike, class_names: Sequence[str], title: str, show_shares: bool = False) -> Figure:
    """Return the figure of `draw_confusion_matrix`."""
    counts = np.asarray(matrix)
    if counts.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"matrix has shape {counts.shape} but class_names has {len(class_names)} names: "
            "give one row and one column for each name"
        )
    side = 2.0 + 0.58 * min(max(len(counts), 6), MAX_COUNTED_CLASSES)
    figure, axes = new_axes(side + 0.6, side, title)
    axes.spines[:].set_visible(False)
    # The row of a class without images stays zero.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(COLOUR_GAMMA, vmin=0, vmax=1))
    ticks = range(len(class_names))
    labels = [as_text(name) for name in class_names]
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    percent = PercentFormatter(1.0, decimals=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 0.05, 0.2, 0.5, 1], format=percent)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    if len(counts) <= MAX_COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > WHITE_TEXT_ABOVE else "black"
            text = f"{100 * shares[row, column]:.1f}" if show_shares else f"{count}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    return figure


def draw_reliability(bins: Sequence[tuple[float, float, int]], path: str | Path, title: str) -> None:
    """Draw accuracy and the share of images against confidence, and write the chart to `path`.

    Args:
        bins: One or more `(mean confidence, accuracy, images)`, the first two in [0, 1].
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above the chart.
    """
    figure, axes = new_axes(5.2, 5.2, title)
    confidences, accuracies, counts = (np.array(column) for column in zip(*bins, strict=True))
    axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1.2, label="perfectly calibrated")
    axes.plot(confidences, accuracies, color=ACCURACY_COLOUR, marker="o", linewidth=LINE_WIDTH, label="this network")
    axes.bar(confidences, counts / counts.sum(), width=0.04, color="0.8", zorder=0, label="share of the images")
    axes.set(xlabel="confidence: probability of the guess", ylabel="accuracy")
    # Room for the points on the border.
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="0.9", linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, Path(path))
