"""Learning curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LinearLocator, MaxNLocator

from minivgg_pl.plots.figure import new_axes, save_figure, show_percent

Rows = Sequence[Mapping[str, float]]

# Vermillion and blue of Okabe and Ito's palette (jfly.uni-koeln.de/color): told apart with any colour vision.
LOSS_COLOUR, ACCURACY_COLOUR = "#D55E00", "#0072B2"
LINE_WIDTH = 1.8
# Beyond this number of epochs, markers shrink to the width of the line.
MAX_MARKED_EPOCHS = 30
# Ticks at the same heights on both axes: one grid serves both.
NUM_TICKS = 6


def draw_curves(
    rows: Rows, path: str | Path | None, title: str, reference: Rows | None = None, val_label: str = "validation"
) -> Figure:
    """Draw train and validation loss and accuracy in one chart, and return the figure.

    Loss has the left axis, accuracy the right one. As PNG, the chart is 1800 pixels wide.

    Args:
        rows: One mapping for each epoch, at least one: `epoch` (int from 1), `train_loss`, `val_loss` (0 or more),
            `train_acc`, `val_acc` (in [0, 1]). A nan is left out. The legend gives the last row's
            finite values.
        path: Image to write or replace, in an existing folder; its suffix names the format. None: none is written.
        title: Line above the chart.
        reference: Rows of the article, as `minivgg_pl.plots.article.article_rows` returns them, drawn pale behind
            `rows`.
        val_label: Name of the validation set in the legend, `"test"` for instance.
    """
    reference = reference or []
    figure, loss_axes = new_axes(7.5, 4.8, title)
    accuracy_axes = loss_axes.twinx()
    accuracy_axes.spines["top"].set_visible(False)
    last = rows[-1]
    for axes, suffix, colour, quantity, form in (
        (loss_axes, "loss", LOSS_COLOUR, "loss", ".4f"),
        (accuracy_axes, "acc", ACCURACY_COLOUR, "accuracy", ".2%"),
    ):
        for stage, name, line in (("train", "train", "--"), ("val", val_label, "-")):
            key = f"{stage}_{suffix}"
            style = {"color": colour, "linestyle": line}
            axes.plot(*_points(reference, key), **style, linewidth=1.2, alpha=0.4)
            style |= {"marker": "o", "markerfacecolor": "white" if stage == "train" else colour}
            style |= {"markersize": 4.5 if len(rows) <= MAX_MARKED_EPOCHS else LINE_WIDTH}
            if all(math.isnan(row[key]) for row in rows):
                continue
            value = f" {last[key]:{form}}" if math.isfinite(last[key]) else ""
            label = f"{name} {quantity}{value}"
            axes.plot(*_points(rows, key), **style, linewidth=LINE_WIDTH, label=label, zorder=3)
    handles = loss_axes.get_legend_handles_labels()[0] + accuracy_axes.get_legend_handles_labels()[0]
    if reference:
        handles.append(Line2D([], [], color="0.6", linewidth=1.2, label="article"))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=(len(handles) + 1) // 2, handlelength=3)
    legend.set_title(f"after epoch {last['epoch']:g}:")
    legend.set_frame_on(False)
    _set_axes(loss_axes, accuracy_axes, [*rows, *reference])
    return figure if path is None else save_figure(figure, path)


def _points(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    return [row["epoch"] for row in rows], [row[key] for row in rows]


def _set_axes(loss_axes: Axes, accuracy_axes: Axes, rows: Rows) -> None:
    epochs = [row["epoch"] for row in rows]
    loss_axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
    loss_axes.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    losses = [row[key] for row in rows for key in ("train_loss", "val_loss") if math.isfinite(row[key])]
    # Halves: six ticks then have one decimal.
    loss_axes.set_ylim(0, math.ceil(2 * max([*losses, 0.5])) / 2)
    accuracy_axes.set_ylim(0, 1)
    show_percent(accuracy_axes.yaxis)
    for axes, name, colour in ((loss_axes, "loss", LOSS_COLOUR), (accuracy_axes, "accuracy", ACCURACY_COLOUR)):
        axes.set_ylabel(name, color=colour)
        axes.yaxis.set_major_locator(LinearLocator(NUM_TICKS))
    loss_axes.grid(color="0.9", linewidth=0.8)
