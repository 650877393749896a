"""Progress inside epochs: what the bar and the lines show."""

import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from minivgg_pl import EpochProgressBar, LitMiniVGG
from minivgg_pl.training import progress
from tests.training.test_contract import TINY, fit


def test_the_bar_shows_the_epoch_and_its_means_so_far(tmp_path, capsys):
    fit(LitMiniVGG(**TINY), tmp_path, callbacks=[EpochProgressBar(refresh_rate=1)], enable_progress_bar=True)
    bars = re.findall(
        r"epoch (\d)/2:[^\r]* (\d)/5 \[[^\r]* train_loss=([\d.]+), train_acc=([\d.]+)", capsys.readouterr().out
    )
    assert {(epoch, batch) for epoch, batch, *_ in bars} >= {("1", "2"), ("1", "5"), ("2", "3")}
    assert len({(loss, acc) for epoch, _, loss, acc in bars if epoch == "1"}) > 2


@pytest.mark.parametrize("kind", [LitMiniVGG, BoringModel])
def test_without_a_terminal_a_line_comes_every_minute_of_any_module(kind, tmp_path, capsys, monkeypatch):
    fits = {} if kind is LitMiniVGG else {"limit_train_batches": 5, "limit_val_batches": 2}
    loaders = () if kind is LitMiniVGG else [BoringModel().train_dataloader(), BoringModel().val_dataloader()]
    module = kind(**TINY) if kind is LitMiniVGG else kind()
    lines = progress.ProgressLines()
    fit(module, tmp_path, loaders, [lines], num_sanity_val_steps=0, max_epochs=1, **fits)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    fit(module, tmp_path, loaders, [lines], num_sanity_val_steps=0, max_epochs=1, **fits)
    printed = capsys.readouterr().out.splitlines()
    means = r"  train_loss [\d.]+  train_acc [\d.]+" if kind is LitMiniVGG else ""
    assert re.fullmatch(rf"epoch 1/1  batch 2/5{means}  \d+ images/s", printed[1])
    assert printed[5:] == ["epoch 1/1  validation batch 1", "epoch 1/1  validation batch 2"]


@pytest.mark.parametrize(
    ("device", "given", "rate"), [("cpu", None, 5), ("cuda", None, 50), ("mps", None, 50), ("cuda", 7, 7)]
)
def test_the_bar_makes_the_gpu_that_is_used_wait_seldom(device, given, rate, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    bar, strategy = EpochProgressBar(given), SimpleNamespace(root_device=torch.device(device))
    # Lightning asks when a module prints before the bar is set up.
    assert bar.refresh_rate == (given or 5)
    bar.setup(SimpleNamespace(strategy=strategy, is_global_zero=True), None, "fit")
    assert bar.refresh_rate == rate
