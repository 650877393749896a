"""Learning curves and accuracy against time: the images as files, and the lines, axes and legends behind them."""

import errno
import math
import subprocess
import sys

import pytest
from PIL import Image

from minivgg_pl.errors import InputError
from minivgg_pl.plots import curves
from minivgg_pl.plots.article import article_rows
from minivgg_pl.plots.curves import draw_curves

NAN = math.nan


def make_rows(num_epochs, **last):
    rows = [
        {"epoch": n, "train_loss": 1.4 / n, "train_acc": 1 - 0.5 / n, "val_loss": 1.2 / n, "val_acc": 0.9 - 0.3 / n}
        for n in range(1, num_epochs + 1)
    ]
    rows[-1].update(last)
    return rows


@pytest.fixture
def draw(monkeypatch):
    """`draw_curves` without writing the file, which takes most of the time."""
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: figure)
    return lambda rows, *args, **options: draw_curves(rows, "curves.png", "a title", *args, **options)


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_are_a_png_twice_as_wide_as_a_readme_column_and_alone_in_their_folder(tmp_path):
    draw_curves(make_rows(3), tmp_path / "curves.png", "a title", article_rows("classic"))
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as image:
        assert (image.format, image.size) == ("PNG", (1800, 1152))


def test_loss_and_accuracy_have_an_axis_each(draw):
    loss_axes, accuracy_axes = draw(make_rows(2)).axes
    assert (loss_axes.get_ylabel(), accuracy_axes.get_ylabel()) == ("loss", "accuracy")
    assert (loss_axes.get_ylim(), accuracy_axes.get_ylim()) == ((0, 1.5), (0, 1))
    assert [line.get_ydata().tolist() for line in loss_axes.lines[1::2]] == [[1.4, 0.7], [1.2, 0.6]]
    assert accuracy_axes.lines[1].get_ydata().tolist() == [0.5, 0.75]
    assert accuracy_axes.lines[3].get_ydata() == pytest.approx([0.6, 0.75])


@pytest.mark.parametrize(
    ("num_epochs", "expected"), [(1, [1]), (20, list(range(1, 21))), (100, list(range(5, 101, 5)))]
)
def test_epochs_have_whole_numbered_ticks_without_an_epoch_zero(num_epochs, expected, draw):
    axes = draw(make_rows(num_epochs)).axes[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == expected


def test_the_legend_gives_the_last_values_and_the_name_of_the_validation_set(draw):
    rows = make_rows(2, train_loss=0.51234, train_acc=0.8, val_loss=0.6, val_acc=0.7812)
    figure = draw(rows, val_label="test")
    expected = ["train loss 0.5123", "test loss 0.6000", "train accuracy 80.00%", "test accuracy 78.12%"]
    assert legend_texts(figure) == expected
    assert figure.legends[0].get_title().get_text() == "after epoch 2:"


def test_the_article_is_paler_behind_in_the_same_colours_and_named_in_the_legend(draw):
    figure = draw(make_rows(2), article_rows("classic"))
    assert legend_texts(figure)[-1] == "article"
    for axes in figure.axes:
        assert [line.get_linestyle() for line in axes.lines] == ["--", "--", "-", "-"]
        for theirs, ours in zip(axes.lines[::2], axes.lines[1::2], strict=True):
            assert theirs.get_color() == ours.get_color()
            assert len(theirs.get_xdata()) == 10
            assert theirs.get_alpha() < 1
            assert theirs.get_zorder() < ours.get_zorder()


@pytest.mark.parametrize("loss", [NAN, math.inf])
def test_a_loss_that_is_not_finite_leaves_a_gap_and_the_limits_finite(loss, tmp_path):
    rows = make_rows(3, train_loss=loss, val_loss=loss, val_acc=NAN)
    figure = draw_curves(rows, tmp_path / "curves.png", "a title")
    assert "validation accuracy" in legend_texts(figure)
    assert figure.axes[0].get_ylim() == (0, 1.5)


def test_a_failed_write_keeps_the_old_image_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "curves.png").write_bytes(b"old")
    monkeypatch.setattr("minivgg_pl.files.os.replace", fail)
    with pytest.raises(InputError, match="curves.png cannot be written: No space left on device"):
        draw_curves(make_rows(2), tmp_path / "curves.png", "a title")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"curves.png": b"old"}


def test_the_suffix_names_the_format(tmp_path):
    draw_curves(make_rows(1), tmp_path / "curves.svg", "a title")
    assert (tmp_path / "curves.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_pyplot_is_never_imported():
    code = "import sys, minivgg_pl.plots.classification; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_first_picture_loads_no_compiled_module(tmp_path):
    """Ctrl-C inside its import would break off the run's last picture: it cannot be imported a second time."""
    code = (
        "import sys\n"
        "from minivgg_pl.plots.curves import draw_curves\n"
        "before = set(sys.modules)\n"
        "row = {'epoch': 1, 'train_loss': 1.0, 'train_acc': 0.5, 'val_loss': 1.0, 'val_acc': 0.5}\n"
        "draw_curves([row], sys.argv[1], 'title')\n"
        "files = [str(getattr(sys.modules[name], '__file__', '')) for name in set(sys.modules) - before]\n"
        "print([file for file in files if not file.endswith('.py')])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "curves.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
