"""Rows of small images with captions."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minivgg_pl.plots.figure import as_text, draw_title, new_figure, save_figure, title_lines

MAX_COLUMNS = 8
# Room for a title.
MIN_COLUMNS = 3
CELL_INCHES = 1.15
# Longer lines would run into the next image. They keep more of their end, which tells file names apart.
MAX_CAPTION_LETTERS = 18
FIRST_LETTERS = 6


def draw_gallery(
    images: Sequence[np.ndarray], captions: Sequence[str], path: str | Path, title: str | None = None
) -> None:
    """Draw images in rows, each above its caption, and write them to `path`.

    Args:
        images: One or more, `(H, W, 3)` or `(H, W, 1)` uint8 each.
        captions: One for each image; a line break starts a second line.
        path: Image to write or replace, in an existing folder; its suffix names the format, `.png` for instance.
        title: Line above all, or None.
    """
    columns = min(len(images), MAX_COLUMNS)
    rows = math.ceil(len(images) / columns)
    caption_lines = max(caption.count("\n") for caption in captions) + 1
    width = max(columns, MIN_COLUMNS) * CELL_INCHES
    # A line of the title takes 0.2 inches.
    title_height = len(title_lines(width, title)) * 0.2 + 0.1 if title else 0
    figure = new_figure(width, rows * (CELL_INCHES + 0.05 + 0.17 * caption_lines) + title_height)
    if title:
        draw_title(figure, title)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_xlabel(as_text("\n".join(map(_cut, caption.split("\n")))), fontsize=7.5, labelpad=3)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    save_figure(figure, path)


def _cut(line: str) -> str:
    last_letters = MAX_CAPTION_LETTERS - 1 - FIRST_LETTERS
    return line if len(line) <= MAX_CAPTION_LETTERS else f"{line[:FIRST_LETTERS]}…{line[-last_letters:]}"
