"""Image galleries: every caption is inside the figure, and long ones stay distinguishable."""

import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minivgg_pl.plots import gallery


@pytest.mark.parametrize(("number", "lines"), [(1, 2), (8, 2), (32, 3)])
def test_no_caption_is_clipped_and_none_loses_its_end(number, lines, monkeypatch):
    drawn = []
    monkeypatch.setattr(gallery, "save_figure", lambda figure, path: drawn.append(figure))
    captions = ["\n".join([f"cat/holiday_photo_of_{image:04}.jpg"] * lines) for image in range(number)]
    gallery.draw_gallery([np.zeros((32, 32, 3), np.uint8)] * number, captions, "it.png")
    (figure,) = drawn
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = [axes.xaxis.label for axes in figure.axes]
    # Half a point of antialiasing.
    assert min(label.get_window_extent(canvas.get_renderer()).y0 for label in labels) > 1.5
    assert len({label.get_text() for label in labels}) == number


@pytest.mark.parametrize("caption", ["\u732b\n\U0001f408", "a\x07b\tc"])
def test_letters_that_the_font_lacks_are_no_warnings(caption, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.draw_gallery([np.zeros((32, 32, 3), np.uint8)], [caption], tmp_path / "it.png", title=caption)
