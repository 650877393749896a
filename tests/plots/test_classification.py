"""Confusion matrices: what their cells and colours say, and that it can be read."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from minivgg_pl.plots import classification
from minivgg_pl.plots.classification import draw_confusion_matrix

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def draw(monkeypatch):
    """`draw_confusion_matrix` without writing the file, which takes most of the time."""
    monkeypatch.setattr(classification, "save_figure", lambda figure, path: figure)
    return lambda matrix, names: draw_confusion_matrix(matrix, names, "matrix.png", "a title")


def test_a_confusion_matrix_is_written_as_png_for_nested_lists(tmp_path):
    draw_confusion_matrix([[9, 1], [0, 5]], ["cat", "dog"], tmp_path / "matrix.png", "a title")
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.png"]
    assert Image.open(tmp_path / "matrix.png").format == "PNG"


def test_true_classes_are_rows_and_counts_stand_in_the_cells(draw):
    axes = draw([[9, 1], [0, 5]], ["cat", "dog"]).axes[0]
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "9", (0, 1): "1", (1, 0): "0", (1, 1): "5"}
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "white"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_colours_are_shares_of_the_row_and_an_empty_row_stays_zero(draw):
    figure = draw([[3, 1], [0, 0]], ["cat", "dog"])
    assert figure.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize(("num_classes", "num_numbers"), [(20, 400), (21, 0)])
def test_counts_are_printed_for_up_to_twenty_classes(num_classes, num_numbers, draw):
    names = [str(n) for n in range(num_classes)]
    figure = draw(np.eye(num_classes, dtype=int), names)
    assert len(figure.axes[0].texts) == num_numbers


def test_counts_contrast_with_their_cell_at_every_share():
    shares = np.linspace(0, 1, 1001)
    rgb = colormaps["Blues"](shares**classification.COLOUR_GAMMA)[:, :3]
    # WCAG 2's relative luminance and contrast; 4.5 to 1 is its level AA.
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    is_white = shares > classification.WHITE_TEXT_ABOVE
    assert np.where(is_white, 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05).min() >= 4.5


def test_neighbouring_counts_and_class_names_do_not_overlap(draw):
    figure = draw(np.full((10, 10), 1000), CIFAR10)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(left.overlaps(right) for left, right in zip(boxes[:-1], boxes[1:], strict=True))
    assert all(label.get_window_extent().x0 > 0 for label in axes.get_yticklabels())


@pytest.mark.parametrize("length", [8, 14])
def test_labels_stay_inside_the_figure(draw, length):
    figure = draw(np.eye(2, dtype=int), ["x" * length] * 2)
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0
