"""Figures without pyplot: no global state, no display, any thread."""

import io
import textwrap
import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from minivgg_pl.files import write_atomically

# Twice the width of a README column, so that text stays crisp on a high-density screen.
DPI = 240
# In Matplotlib's own font; measured, with some to spare.
TITLE_LETTERS_PER_INCH = 10


class ShownFigure(Figure):
    """A figure that a notebook shows, though no pyplot made it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = io.BytesIO()
        self.savefig(content, format="png")
        # At half the pixels, sharp on a high-density screen.
        return content.getvalue(), {"width": int(self.get_figwidth() * self.dpi / 2)}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches with a constrained layout."""
    figure = ShownFigure(figsize=(width, height), dpi=DPI, layout="constrained")
    # Else the first savefig imports it: once Ctrl-C broke that off, it could not be imported again.
    FigureCanvasAgg(figure)
    return figure


def title_lines(width: float, title: str) -> list[str]:
    """Return the lines that a title takes above a figure of `width` inches."""
    return textwrap.wrap(title, int(width * TITLE_LETTERS_PER_INCH))


def draw_title(figure: Figure, title: str) -> None:
    """Write the title above all parts of the figure, wrapped to its width."""
    figure.suptitle(as_text("\n".join(title_lines(figure.get_figwidth(), title))), fontsize=12)


def as_text(text: str) -> str:
    """Return `text` with dollars escaped (mathtext) and undecodable bytes of file names replaced."""
    return text.encode(errors="replace").decode().replace("$", r"\$")


def new_axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes under a title, without spines at the top and on the right."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    draw_title(figure, title)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def show_percent(axis: Axis) -> None:
    """Label the ticks of shares in [0, 1] in per cent."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def save_figure(figure: Figure, path: str | Path) -> Figure:
    """Write the figure to `path`, whose suffix names the format, and return it."""
    path, content = Path(path), io.BytesIO()
    with warnings.catch_warnings():
        # A box stands for a letter that the font lacks.
        warnings.filterwarnings("ignore", "Glyph ")
        figure.savefig(content, format=path.suffix[1:] or "png")
    write_atomically(path, content.getvalue())
    return figure
