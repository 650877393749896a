"""scaling.py: its formula against numbers worked out by hand, and the script on given numbers."""

from argparse import Namespace

import pytest
import scaling
from scaling import fastest, speed_up, step_seconds

from minivgg_pl.models.minivgg import MiniVGG

GIVEN = ["--model-only", "--images-per-second=50000", "--overhead=0.002", "--bandwidth=5e10", "--latency=1e-5"]


@pytest.fixture
def terms(monkeypatch):
    """A network of 8 MB on devices of round numbers."""
    monkeypatch.setattr(scaling, "ARCHITECTURES", {"classic": Namespace(num_trainable=2_000_000)})
    rates = {"images_per_second": 1000, "overhead": 0.01, "bandwidth": 1e9, "latency": 0.001}
    return Namespace(variant="classic", batch_size=64, **rates)


def test_a_step_takes_what_the_formula_says(terms):
    # 10 ms, 64 images of 1 ms, and 6 messages of 2 MB at 1 GB/s, 1 ms each to start.
    assert step_seconds(terms, 4, 64) == pytest.approx(0.010 + 0.064 + 6 * (0.002 + 0.001))
    assert step_seconds(terms, 1, 64) == pytest.approx(0.074)


def test_the_speed_up_counts_the_images_of_all_devices(terms):
    assert speed_up(terms, 4, split=False) == pytest.approx(4 * 74 / 92)
    assert speed_up(terms, 4, split=True) == pytest.approx(74 / (10 + 16 + 18))
    assert speed_up(terms, 1, split=True) == speed_up(terms, 1, split=False) == 1


def test_a_split_batch_is_fastest_where_the_derivative_of_the_time_is_zero(terms):
    # sqrt((64 ms - 2 * 8 ms) / (2 * 1 ms)) = 4.9
    assert fastest(terms) == 5
    terms.batch_size = 15
    assert fastest(terms) == 1  # the gradients take longer than the images


@pytest.mark.parametrize("variant", ["classic", "wide"])
def test_the_gradients_are_those_of_the_network(variant):
    num_bytes = sum(p.numel() * p.element_size() for p in MiniVGG(variant).parameters())
    rates = {"images_per_second": 1000, "overhead": 0, "bandwidth": 1, "latency": 0}
    assert step_seconds(Namespace(variant=variant, **rates), 2, 0) == num_bytes


def test_given_numbers_are_predicted(script_here, capsys):
    assert script_here("scaling.py", *GIVEN) == 0
    printed = capsys.readouterr().out
    assert "not measured" in printed
    assert "64 split       1.00   1.16   1.24" in printed
    assert "fastest on 7" in printed


@pytest.mark.slow
def test_real_runs_are_measured(script_here, capsys):
    assert script_here("scaling.py", "--images=200", "--rounds=1") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [row[:3] for row in rows] == [["1", "64", "split"], ["2", "64", "split"], ["2", "64", "on"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--rounds=0"], "0: give a whole number, 1 or more"), (GIVEN[:-1], "--model-only needs --images-per-second, ")],
)
def test_bad_options_are_one_line(options, message, script_here, capfd):
    assert script_here("scaling.py", *options) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert message in error
