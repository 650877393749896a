"""The schedule of the learning rate."""

import math

import pytest

from minivgg_pl.training.module import LitMiniVGG
from minivgg_pl.training.optim import make_optimizer
from minivgg_pl.training.schedule import make_schedule, triangle


def test_the_triangle_peaks_after_the_warm_up_and_ends_above_zero():
    shares = [triangle(step, peak=2, total=10) for step in range(10)]
    assert shares[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[-1] == pytest.approx(1 / 8)
    assert triangle(10, peak=2, total=10) == triangle(99, peak=2, total=10) == 0


@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_triangle_of_very_few_updates_still_trains(total):
    module = LitMiniVGG(schedule="triangular", warmup=0.9)
    optimizer = make_optimizer(module, module.hparams)
    schedule = make_schedule(optimizer, module.hparams, lambda: total)
    for _ in range(total):
        assert schedule.get_last_lr()[0] > 0
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("total", [math.inf, -1, 0])
def test_a_triangle_needs_an_end(total):
    module = LitMiniVGG(schedule="triangular")
    with pytest.raises(ValueError, match="give max_steps"):
        make_schedule(make_optimizer(module, module.hparams), module.hparams, lambda: total)
