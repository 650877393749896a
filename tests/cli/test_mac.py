"""A Mac's GPU: the default and `--gpus 1` both take it, in float32."""

import pytest
import torch
from lightning.fabric.accelerators import MPSAccelerator

from minivgg_pl.cli.lightning_cli import MiniVGGCLI
from minivgg_pl.cli.short_names import expand_short_names
from minivgg_pl.runs import environment


@pytest.fixture(autouse=True)
def mac(monkeypatch):
    # Of Lightning's two classes, the one that the other asks.
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))


@pytest.mark.parametrize(("gpus", "device"), [([], "mps:0"), (["--gpus=1"], "mps:0"), (["--gpus=0"], "cpu")])
def test_the_gpu_is_taken_by_default_and_by_gpus_1(gpus, device, tmp_path, monkeypatch):
    monkeypatch.setattr("minivgg_pl.training.hardware.computes_bf16", lambda kind: True)
    options = ["--recipe=modern", "--data.dataset=synthetic", f"--data.root={tmp_path}", *gpus]
    trainer = MiniVGGCLI(expand_short_names(options)[0]).trainer
    assert str(trainer.strategy.root_device) == device
    assert trainer.precision == ("bf16-mixed" if device == "cpu" else "32-true")


@pytest.mark.parametrize("option", ["--gpus=2", "--trainer.accelerator=gpu --trainer.devices=2"])
def test_a_second_gpu_is_refused(option, refuse):
    assert "--gpus 2: this machine has 1; --gpus 0 runs on the CPU" in refuse(*option.split(), synthetic=False)


def test_the_device_is_called_by_the_chips_name(monkeypatch):
    monkeypatch.setattr(environment, "_cpu_info", dict)
    monkeypatch.setattr(environment, "_output", lambda command: ["Apple M3"])
    assert environment.device_name(torch.device("mps", 0)) == "Apple M3 GPU"
