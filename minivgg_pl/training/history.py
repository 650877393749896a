"""The learning curves of a run, a history or a RunFolder as a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from minivgg_pl.errors import InputError
from minivgg_pl.plots.curves import draw_curves
from minivgg_pl.runs.folder import LEARNING_COLUMNS, Row, history


def plot_history(run: Any, title: str | None = None, **options: Any) -> Figure:
    """Return the learning curves as a figure, which a notebook shows.

    Args:
        run: A run folder, a RunFolder, what `history` returned, or rows of `{"epoch": 1, "train_loss": ...}`. A column
            that is missing is left out.
        title: Line above the curves; default: the run folder, if it is one.
        **options: `reference`, such as `article_rows("classic")`, and `val_label`, see `plots.curves.draw_curves`.

    Raises:
        InputError: If there is no epoch in it, or no column that can be drawn.
    """
    title = title if title is not None else str(run) if isinstance(run, str | Path) else ""
    rows = _rows(history(run) if isinstance(run, str | Path) else getattr(run, "rows", run))
    if not any(math.isfinite(row[column]) for row in rows for column in LEARNING_COLUMNS):
        raise InputError(f"there is no epoch to plot: no values of {', '.join(LEARNING_COLUMNS)}")
    return draw_curves(rows, None, title, **options)


def _rows(epochs: Mapping[str, Sequence[float]] | Sequence[Row]) -> list[Row]:
    if isinstance(epochs, Mapping):
        epochs = [dict(zip(epochs, values, strict=True)) for values in zip(*epochs.values(), strict=True)]
    missing = dict.fromkeys(LEARNING_COLUMNS, math.nan)
    return [{**missing, "epoch": number, **row} for number, row in enumerate(epochs, start=1)]
