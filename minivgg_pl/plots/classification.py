"""Confusion matrices and reliability diagrams."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from minivgg_pl.plots.curves import ACCURACY_COLOUR, LINE_WIDTH
from minivgg_pl.plots.figure import as_text, new_axes, save_figure, show_percent

# Colour grows with the square root of the share: mistakes of a few per cent show beside a diagonal of 80.
COLOUR_GAMMA = 0.5
# White text reads better than black above this share; contrast then stays above 4.5 to 1 (WCAG 2 AA).
WHITE_TEXT_ABOVE = 0.51
# With more classes the counts would be too small to read.
MAX_COUNTED_CLASSES = 20


def draw_confusion_matrix(
    matrix: ArrayLike, class_names: Sequence[str], path: str | Path, title: str, shares: bool = False
) -> Figure:
    """Draw a confusion matrix, write it to `path` and return the figure.

    Colour is the share of the true class (each row sums to 1). The cells of up to 20 classes hold the counts, or the
    shares in per cent.

    Args:
        matrix: `(C, C)` integer counts, rows true classes, columns predicted; anything numpy can read.
        class_names: The C names in the order of rows and columns.
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above the matrix.
        shares: Whether the cells hold shares instead of counts.
    """
    counts = np.asarray(matrix)
    side = 2.0 + 0.58 * min(max(len(counts), 6), MAX_COUNTED_CLASSES)
    figure, axes = new_axes(side + 0.6, side, title)
    # Squares narrow the axes, which `constrained` alone does not reckon with: labels would be cut off on the left.
    figure.set_layout_engine("compressed")
    axes.spines[:].set_visible(False)
    # The row of a class without images stays zero.
    row_shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(row_shares, cmap="Blues", norm=PowerNorm(COLOUR_GAMMA, vmin=0, vmax=1))
    ticks = range(len(class_names))
    labels = [as_text(name) for name in class_names]
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 0.05, 0.2, 0.5, 1])
    show_percent(bar.ax.yaxis)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    if len(counts) <= MAX_COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            share = row_shares[row, column]
            colour = "white" if share > WHITE_TEXT_ABOVE else "black"
            text = f"{100 * share:.1f}" if shares else f"{count}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    return save_figure(figure, path)


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
        show_percent(axis)
    axes.grid(color="0.9", linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)
