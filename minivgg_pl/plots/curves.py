"""Numbers in, image out: learning curves and races."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, MultipleLocator, NullLocator, PercentFormatter

from minivgg_pl.plots.figure import new_axes, save_figure

Rows = Sequence[Mapping[str, float]]

# Vermillion and blue of Okabe and Ito's palette (jfly.uni-koeln.de/color): told apart with any colour vision.
LOSS_COLOUR, ACCURACY_COLOUR = "#D55E00", "#0072B2"
# The rest of that palette's dark colours, for lines that stand for whole trainings.
CONTENDER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Quantity, column of the rows, colour; in the order of the legend, which fills column by column.
CURVES = (
    ("loss", "train_loss", LOSS_COLOUR),
    ("loss", "val_loss", LOSS_COLOUR),
    ("accuracy", "train_acc", ACCURACY_COLOUR),
    ("accuracy", "val_acc", ACCURACY_COLOUR),
)
LINE_WIDTH = 1.8
# Loss and accuracy share one axis, as in the article: a loss above this is cut off, so that accuracy keeps its room.
LOSS_CEILING = 2.0
# Up to here every epoch shows its marker; beyond, markers shrink to the line's width and show lone points only.
MAX_MARKED_EPOCHS = 30


def draw_curves(
    rows: Rows, path: str | Path, title: str, reference: Rows | None = None, val_label: str = "validation"
) -> None:
    """Draw train and validation loss and accuracy in one chart, 1800 pixels wide as PNG, and write it to `path`.

    Args:
        rows: One mapping per epoch, in order: `epoch` (int from 1), `train_loss`, `val_loss` (0 or more), `train_acc`,
            `val_acc` (in [0, 1]). A value may be nan: its point is left out. The legend gives the last row's values.
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above the chart.
        reference: Rows of the article, as `minivgg_pl.article.article_rows` returns them, drawn pale behind `rows`.
        val_label: What the validation set is called in the legend, `"test"` for instance.

    Raises:
        ValueError: If `rows` is empty.
    """
    if not rows:
        raise ValueError("rows is empty: give at least one epoch to draw")
    save_figure(_curves_figure(rows, title, reference or [], val_label), Path(path))


def draw_accuracy_against_time(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path,
    title: str,
    target: tuple[str, float] | None = None,
) -> None:
    """Draw accuracy against wall time, one line for each contender, and write it to `path`.

    Args:
        curves: By name, in the legend's order: seconds since the start, all above 0 (the axis is logarithmic, in
            minutes), and the accuracy in [0, 1] at each.
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above the chart.
        target: Name and value of an accuracy to mark with a horizontal line.

    Raises:
        ValueError: If `curves` is empty.
    """
    if not curves:
        raise ValueError("curves is empty: give at least one contender to draw")
    save_figure(_race_figure(curves, title, target), Path(path))


def _curves_figure(rows: Rows, title: str, reference: Rows, val_label: str) -> Figure:
    figure, axes = new_axes(7.5, 4.8, title)
    marked = len(rows) <= MAX_MARKED_EPOCHS
    for quantity, key, colour in CURVES:
        train = key.startswith("train")
        style = {"color": colour, "linestyle": "--" if train else "-"}
        axes.plot(*_points(reference, key), **style, linewidth=1.2, alpha=0.4)
        style |= {"marker": "o", "markersize": 4.5 if marked else LINE_WIDTH}
        style |= {"markerfacecolor": "white" if train and marked else colour}
        label = f"{'train' if train else val_label} {quantity} {rows[-1][key]:.4f}"
        axes.plot(*_points(rows, key), **style, linewidth=LINE_WIDTH, label=label, zorder=3)
    handles = axes.get_legend_handles_labels()[0]
    if reference:
        handles.append(Line2D([], [], color="0.6", linewidth=1.2, label="article"))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=(len(handles) + 1) // 2, handlelength=3)
    legend.set_title(f"after epoch {rows[-1]['epoch']:g}:")
    legend.set_frame_on(False)
    _set_curve_axes(axes, [*rows, *reference])
    return figure


def _points(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    return [row["epoch"] for row in rows], [row[key] for row in rows]


def _loss_ceiling(rows: Rows) -> float:
    """Return LOSS_CEILING, or what shows at least the lowest point of each loss where all of one lies above."""
    finite = [[row[key] for row in rows if np.isfinite(row[key])] for key in ("train_loss", "val_loss")]
    return max([LOSS_CEILING, *(np.ceil(min(losses) * 10) / 10 for losses in finite if losses)])


def _set_curve_axes(axes: Axes, rows: Rows) -> None:
    axes.set_xlabel("epoch")
    axes.grid(color="0.9", linewidth=0.8)
    epochs = [row["epoch"] for row in rows]
    # Never more than half an epoch of margin: there is no epoch 0 to show.
    margin = min(0.02 * (max(epochs) - min(epochs)) or 0.5, 0.5)
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    highest = np.nanmax([1.0, *(row[key] for row in rows for key in ("train_loss", "val_loss"))])
    ceiling = _loss_ceiling(rows)
    axes.set_ylim(0, 1.05 * min(highest, ceiling))
    axes.yaxis.set_major_locator(MultipleLocator(0.2) if ceiling <= LOSS_CEILING else MaxNLocator(10))
    cut = f" (cut off above {ceiling:g})" if highest > ceiling else ""
    axes.set_ylabel(f"loss{cut} / accuracy")


def _race_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, target: tuple[str, float] | None
) -> Figure:
    figure, axes = new_axes(7.5, 4.8, title)
    for number, (name, (seconds, accuracies)) in enumerate(curves.items()):
        style = {"color": CONTENDER_COLOURS[number % len(CONTENDER_COLOURS)], "marker": "o", "markersize": 4}
        label = f"{name}: {accuracies[-1]:.2%} after {seconds[-1] / 60:.1f} min"
        axes.plot([s / 60 for s in seconds], accuracies, **style, linewidth=LINE_WIDTH, label=label)
    if target is not None:
        axes.axhline(target[1], color="0.5", linewidth=1.2, linestyle="--")
        axes.annotate(
            f"{target[0]}, {target[1]:.2%}",
            (0.01, target[1]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            color="0.35",
            # Lines may run through it.
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            zorder=4,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("minutes (logarithmic), validation included")
    axes.set_ylabel("accuracy on the test set")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="0.9", linewidth=0.8)
    # Below: in the chart no corner is free of lines for sure.
    figure.legend(loc="outside lower center", frameon=False)
    return figure
