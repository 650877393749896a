"""Confusion matrices: what their cells and colours say, and that it can be read."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from minivgg_pl.plots import classification
from minivgg_pl.plots.classification import confusion_figure, draw_confusion_matrix

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_a_confusion_matrix_is_written_as_png_for_nested_lists(tmp_path):
    draw_confusion_matrix([[9, 1], [0, 5]], ["cat", "dog"], tmp_path / "matrix.png", "a title")
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.png"]
    assert Image.open(tmp_path / "matrix.png").format == "PNG"


def test_true_classes_are_rows_and_counts_stand_in_the_cells():
    axes = confusion_figure([[9, 1], [0, 5]], ["cat", "dog"], "a title").axes[0]
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "9", (0, 1): "1", (1, 0): "0", (1, 1): "5"}
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "white"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_colours_are_shares_of_the_row_and_an_empty_row_stays_zero():
    figure = confusion_figure([[3, 1], [0, 0]], ["cat", "dog"], "a title")
    assert figure.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize(("num_classes", "num_numbers"), [(20, 400), (21, 0)])
def test_counts_are_printed_for_up_to_twenty_classes(num_classes, num_numbers):
    names = [str(n) for n in range(num_classes)]
    figure = confusion_figure(np.eye(num_classes, dtype=int), names, "a title")
    assert len(figure.axes[0].texts) == num_numbers


def test_counts_contrast_with_their_cell_at_every_share():
    shares = np.linspace(0, 1, 1001)
    rgb = colormaps["Blues"](shares**classification.COLOUR_GAMMA)[:, :3]
    # WCAG 2's relative luminance and contrast; 4.5 to 1 is its level AA.
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    is_white = shares > classification.WHITE_TEXT_ABOVE
    assert np.where(is_white, 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05).min() >= 4.5


def test_neighbouring_counts_and_class_names_do_not_overlap():
    figure = confusion_figure(np.full((10, 10), 1000), CIFAR10, "a title")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(left.overlaps(right) for left, right in zip(boxes[:-1], boxes[1:], strict=True))
    assert all(label.get_window_extent().x0 > 0 for label in axes.get_yticklabels())


def test_a_matrix_that_does_not_fit_its_names_is_refused():
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\) but class_names has 2 names"):
        confusion_figure([[1, 2, 3], [4, 5, 6]], ["cat", "dog"], "a title")
