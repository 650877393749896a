"""Real images, opened again, and the text and curves of the figures behind them."""

import errno
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from minivgg_pl.errors import InputError
from minivgg_pl.plots import classification as class_plots
from minivgg_pl.plots import curves as plots
from minivgg_pl.plots import figure as figures
from minivgg_pl.plots.article import article_rows

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NAN = math.nan


def make_rows(num_epochs: int, **last: float) -> list[dict[str, float]]:
    rows = [
        {"epoch": n, "train_loss": 1.5 / n, "train_acc": 1 - 0.5 / n, "val_loss": 1.2 / n, "val_acc": 0.9 - 0.3 / n}
        for n in range(1, num_epochs + 1)
    ]
    rows[-1].update(last)
    return rows


def curves_figure(rows: list, reference: list | tuple = (), val_label: str = "validation") -> Figure:
    return plots._curves_figure(rows, "a title", reference, val_label)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def epoch_ticks(figure: Figure) -> list[float]:
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    return [tick for tick in axes.get_xticks() if low <= tick <= high]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_curves_are_a_png_twice_as_wide_as_a_readme_column_and_alone_in_their_folder(tmp_path: Path) -> None:
    plots.draw_curves(make_rows(3), tmp_path / "curves.png", "a title")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as image:
        assert (image.format, image.size) == ("PNG", (1800, 1152))


def test_reference_changes_the_image_by_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DPI", 80)  # three images: quicker small
    images = []
    # The third reference has the legend and the limits of the second, so that only its curve can differ.
    for reference in (None, make_rows(3), make_rows(3, val_acc=0.5)):
        plots.draw_curves(make_rows(3), tmp_path / "curves.png", "a title", reference)
        images.append(pixels(tmp_path / "curves.png"))
    assert (images[0] != images[1]).any()
    assert (images[1] != images[2]).any()


def test_losses_that_all_lie_above_the_usual_ceiling_are_still_seen(tmp_path: Path) -> None:
    rows = [{"epoch": n, "train_loss": 3e8 / n, "train_acc": 0.1, "val_loss": 7.5, "val_acc": 0.1} for n in (1, 2)]
    bottom, top = curves_figure(rows).axes[0].get_ylim()
    assert bottom == 0
    assert top > 1.5e8
    plots.draw_curves(rows, tmp_path / "curves.png", "a title")


def test_one_epoch_leaves_marks_in_both_colours(tmp_path: Path) -> None:
    plots.draw_curves(make_rows(1), tmp_path / "curves.png", "a title")
    # The legend below the axes holds both colours too, so only the upper part counts.
    upper = pixels(tmp_path / "curves.png")[:850].reshape(-1, 3)
    for colour in (plots.LOSS_COLOUR, plots.ACCURACY_COLOUR):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (upper == rgb).all(axis=1).sum() > 50


@pytest.mark.parametrize(("num_epochs", "expected"), [(1, [1]), (2, [1, 2]), (20, list(range(1, 21)))])
def test_every_epoch_up_to_twenty_has_its_tick(num_epochs: int, expected: list[int]) -> None:
    assert epoch_ticks(curves_figure(make_rows(num_epochs))) == expected


def test_a_hundred_epochs_have_whole_numbered_ticks_without_an_epoch_zero() -> None:
    ticks = epoch_ticks(curves_figure(make_rows(100)))
    assert ticks == [*range(5, 101, 5)]


def test_legend_gives_the_last_values_and_the_name_of_the_validation_set() -> None:
    rows = make_rows(2, train_loss=0.51234, train_acc=0.8, val_loss=0.6, val_acc=0.78)
    figure = curves_figure(rows, val_label="test")
    assert legend_texts(figure) == [
        "train loss 0.5123",
        "test loss 0.6000",
        "train accuracy 0.8000",
        "test accuracy 0.7800",
    ]
    assert figure.legends[0].get_title().get_text() == "after epoch 2:"


def test_article_is_named_in_the_legend_only_when_drawn() -> None:
    assert "article" not in legend_texts(curves_figure(make_rows(2)))
    assert legend_texts(curves_figure(make_rows(2), article_rows("wide")))[-1] == "article"


def test_reference_is_thinner_paler_and_behind_in_the_same_colours() -> None:
    lines = curves_figure(make_rows(2), article_rows("classic")).axes[0].lines
    assert len(lines) == 8
    for theirs, ours in zip(lines[::2], lines[1::2], strict=True):
        assert theirs.get_color() == ours.get_color()
        assert theirs.get_linestyle() == ours.get_linestyle()
        assert theirs.get_linewidth() < ours.get_linewidth()
        assert theirs.get_alpha() < 1
        assert theirs.get_zorder() < ours.get_zorder()


def test_train_is_dashed_and_validation_solid() -> None:
    lines = curves_figure(make_rows(2)).axes[0].lines[1::2]
    assert [line.get_linestyle() for line in lines] == ["--", "-", "--", "-"]


def test_nan_leaves_a_gap_and_the_limits_finite(tmp_path: Path) -> None:
    rows = make_rows(3, train_loss=NAN, val_loss=NAN, val_acc=NAN)
    plots.draw_curves(rows, tmp_path / "curves.png", "a title")
    assert pixels(tmp_path / "curves.png").std() > 0
    figure = curves_figure(rows)
    assert "validation accuracy nan" in legend_texts(figure)
    assert figure.axes[0].get_ylim() == pytest.approx((0, 1.05 * 1.5))


def test_rows_of_nothing_but_nan_are_drawn_empty() -> None:
    figure = curves_figure([dict.fromkeys(make_rows(1)[0], NAN) | {"epoch": 1}])
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylim() == pytest.approx((0, 1.05))


@pytest.mark.parametrize("loss", [40.0, math.inf])
def test_a_loss_above_two_is_cut_off_and_the_axis_says_so(loss: float) -> None:
    calm, wild = curves_figure(make_rows(3)).axes[0], curves_figure(make_rows(3, val_loss=loss)).axes[0]
    assert wild.get_ylim()[1] == pytest.approx(2.1)
    assert wild.get_ylabel() == "loss (cut off above 2) / accuracy"
    assert calm.get_ylabel() == "loss / accuracy"


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        plots.draw_curves([], tmp_path / "curves.png", "a title")


def test_a_failed_write_keeps_the_old_image_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "curves.png").write_bytes(b"old")
    monkeypatch.setattr("minivgg_pl.files.os.replace", fail)
    with pytest.raises(InputError, match="curves.png cannot be written: No space left on device"):
        plots.draw_curves(make_rows(2), tmp_path / "curves.png", "a title")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"curves.png": b"old"}


def test_suffix_names_the_format(tmp_path: Path) -> None:
    plots.draw_curves(make_rows(1), tmp_path / "curves.svg", "a title")
    assert (tmp_path / "curves.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_confusion_matrix_is_written_as_png_for_nested_lists(tmp_path: Path) -> None:
    class_plots.draw_confusion_matrix([[9, 1], [0, 5]], ["cat", "dog"], tmp_path / "matrix.png", "a title")
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.png"]
    assert pixels(tmp_path / "matrix.png").std() > 0


def test_confusion_matrix_puts_true_classes_in_rows_and_counts_in_cells() -> None:
    axes = class_plots._confusion_figure(np.array([[9, 1], [3, 5]]), ["cat", "dog"], "a title").axes[0]
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "9", (0, 1): "1", (1, 0): "3", (1, 1): "5"}
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_confusion_colours_are_shares_of_the_row_and_an_empty_row_stays_zero() -> None:
    figure = class_plots._confusion_figure(np.array([[3, 1], [0, 0]]), ["cat", "dog"], "a title")
    assert figure.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize(("num_classes", "num_numbers"), [(20, 400), (21, 0)])
def test_counts_are_printed_for_up_to_twenty_classes(num_classes: int, num_numbers: int) -> None:
    names = [str(n) for n in range(num_classes)]
    figure = class_plots._confusion_figure(np.eye(num_classes, dtype=int), names, "a title")
    assert len(figure.axes[0].texts) == num_numbers


def test_counts_contrast_with_their_cell_at_every_share() -> None:
    shares = np.linspace(0, 1, 1001)
    rgb = colormaps["Blues"](shares**class_plots.COLOUR_GAMMA)[:, :3]
    # WCAG 2's relative luminance and contrast; 4.5 to 1 is its level AA.
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    contrast = np.where(shares > class_plots.WHITE_TEXT_ABOVE, 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05)
    assert contrast.min() >= 4.5


def test_full_cells_have_white_text_and_empty_ones_black() -> None:
    axes = class_plots._confusion_figure(np.array([[7, 0], [0, 7]]), ["cat", "dog"], "a title").axes[0]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "white"]


def test_neighbouring_counts_and_class_names_do_not_overlap() -> None:
    figure = class_plots._confusion_figure(np.full((10, 10), 1000), CIFAR10, "a title")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(left.overlaps(right) for left, right in zip(boxes[:-1], boxes[1:], strict=True))
    assert all(label.get_window_extent().x0 > 0 for label in axes.get_yticklabels())


@pytest.mark.parametrize("matrix", [[[1, 2, 3], [4, 5, 6]], [[1]], [1, 2]])
def test_a_matrix_that_does_not_fit_its_names_is_refused(matrix: list, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"matrix has shape .* but class_names has 2 names"):
        class_plots.draw_confusion_matrix(matrix, ["cat", "dog"], tmp_path / "matrix.png", "a title")


RACE = {"article": ([60, 120.0], [0.5, 0.8]), "modern": ([90.0, 180.0], [0.7, 0.875])}


def test_a_race_is_drawn_in_minutes_with_each_ones_end_in_the_legend(tmp_path: Path) -> None:
    axes = plots._race_figure(RACE, "a title", ("the article's best", 0.8199)).axes[0]
    texts = legend_texts(axes.figure)
    assert texts == ["article: 80.00% after 2.0 min", "modern: 87.50% after 3.0 min"]
    assert axes.lines[1].get_xydata().tolist() == [[1.5, 0.7], [3.0, 0.875]]
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    assert axes.lines[2].get_ydata()[0] == 0.8199
    assert axes.texts[0].get_text() == "the article's best, 81.99%"
    plots.draw_accuracy_against_time(RACE, tmp_path / "race.png", "a title")
    assert Image.open(tmp_path / "race.png").size[0] == 1800


def test_a_race_without_contenders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one contender"):
        plots.draw_accuracy_against_time({}, tmp_path / "race.png", "a title")


def test_pyplot_is_never_imported() -> None:
    code = "import sys, minivgg_pl.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
