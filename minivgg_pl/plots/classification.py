"""Numbers in, image out: confusion matrices and reliability diagrams."""

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
# Share from which white text reads better than black on "Blues" drawn so: contrast stays above 4.5 to 1 (WCAG 2 AA).
WHITE_TEXT_ABOVE = 0.51
# Above this many classes the counts would be too small to read: colours only.
MAX_COUNTED_CLASSES = 20


def draw_confusion_matrix(
    matrix: ArrayLike, class_names: Sequence[str], path: str | Path, title: str, shares: bool = False
) -> None:
    """Draw a confusion matrix and write it to `path`.

    Colour is the share of the true class (each row sums to 1); the numbers in the cells, for up to 20 classes, are the
    counts themselves, or the shares in per cent.

    Args:
        matrix: `(C, C)` integer counts, rows true classes, columns predicted; anything numpy can read.
        class_names: The C names in the order of rows and columns.
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above the matrix.
        shares: Whether the cells say the share of the true class in place of the count.

    Raises:
        ValueError: If `matrix` is not `(C, C)` for the C names given.
    """
    counts = np.asarray(matrix)
    if counts.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"matrix has shape {counts.shape} but class_names has {len(class_names)} names: "
            "give one row and one column for each name"
        )
    save_figure(_confusion_figure(counts, class_names, title, shares), Path(path))


def draw_reliability(bins: Sequence[tuple[float, float, int]], path: str | Path, title: str) -> None:
    """Draw accuracy against confidence, and how many images have which confidence, and write it to `path`.

    Args:
        bins: `(mean confidence, accuracy, images)` each, the first two in [0, 1].
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above the chart.

    Raises:
        ValueError: If `bins` is empty.
    """
    if not bins:
        raise ValueError("bins is empty: give at least one to draw")
    save_figure(_reliability_figure(bins, title), Path(path))


def _confusion_figure(counts: np.ndarray, class_names: Sequence[str], title: str, show_shares: bool = False) -> Figure:
    side = 2.0 + 0.58 * min(max(len(counts), 6), MAX_COUNTED_CLASSES)
    figure, axes = new_axes(side + 0.6, side, title)
    axes.spines[:].set_visible(False)
    # A class without a single image has a row of zeros, which stays zeros.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(COLOUR_GAMMA, vmin=0, vmax=1))
    ticks = range(len(class_names))
    labels = [as_text(name) for name in class_names]
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    bar = figure.colorbar(
        image,
        ax=axes,
        fraction=0.046,
        pad=0.03,
        ticks=[0, 0.05, 0.2, 0.5, 1],
        format=PercentFormatter(1.0, decimals=0),
        label="share of the true class",
    )
    bar.outline.set_visible(False)
    if len(counts) <= MAX_COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > WHITE_TEXT_ABOVE else "black"
            text = f"{100 * shares[row, column]:.1f}" if show_shares else f"{count}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    return figure


def _reliability_figure(bins: Sequence[tuple[float, float, int]], title: str) -> Figure:
    figure, axes = new_axes(5.2, 5.2, title)
    confidences, accuracies, counts = (np.array(column) for column in zip(*bins, strict=True))
    axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1.2, label="perfectly calibrated")
    axes.plot(confidences, accuracies, color=ACCURACY_COLOUR, marker="o", linewidth=LINE_WIDTH, label="this network")
    axes.bar(confidences, counts / counts.sum(), width=0.04, color="0.8", zorder=0, label="share of the images")
    axes.set_xlabel("confidence: probability of the guess")
    axes.set_ylabel("accuracy")
    # Room for the points on the border.
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="0.9", linewidth=0.8)
    # Below: a network that is too modest has its curve in the upper left corner, another in the lower right one.
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
