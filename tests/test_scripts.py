"""The measuring scripts, on a handful of images: that they run and say what they measured."""

import copy
import csv
import importlib.util
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from PIL import Image
from torch.nn import functional

from minivgg_pl import CIFAR10DataModule, LitMiniVGG
from tests.conftest import REPOSITORY, SYNTHETIC_SIZE


def run(script, *options):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / script), *options], capture_output=True, text=True, check=False
    )


def test_the_loops_overhead_is_measured_against_a_bare_loop():
    process = run("loop_overhead.py", "--images=130", "--rounds=1")
    assert process.returncode == 0, process.stderr
    assert "130 random images, 3 steps" in process.stdout
    assert "overhead" in process.stdout
    assert "us a step" in process.stdout


@pytest.mark.parametrize("option", ["--images=65"])
def test_bad_options_of_the_overhead_script_are_one_line(option, script_here, capfd):
    assert script_here("loop_overhead.py", option) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")


def test_the_race_prints_a_row_each_and_keeps_csv_and_picture(tmp_path, synthetic_root):
    options = f"--contenders bare modern tutorial --images {SYNTHETIC_SIZE} --rounds 1 --epochs 2"
    process = run("benchmark.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}")
    assert process.returncode == 0, process.stderr
    assert "158 MFLOP an image" in process.stdout
    assert "drawn pictures, not CIFAR-10" in process.stdout
    assert "matrix rate: float32" in process.stdout
    rows = process.stdout.splitlines()[-3:]
    assert [row.split()[0] for row in rows] == ["bare", "modern", "tutorial"]
    assert [row.split()[3] for row in rows][0] == "1.00"
    with open(tmp_path / "benchmark.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["contender"], row["epoch"]) for row in table][:3] == [("bare", "1"), ("bare", "2"), ("modern", "1")]
    assert all(0 < float(row["train_seconds"]) < float(row["seconds"]) for row in table)
    assert Image.open(tmp_path / "benchmark.png").size[0] >= 1800


RACES = """contender,variant,round,epoch,train_seconds,seconds,val_acc,peak_mb
keras,wide,1,1,50.000,60.000,0.5000,900
keras,wide,1,2,50.000,120.000,0.8250,900
keras,wide,2,1,55.000,65.000,0.5100,900
tutorial,wide,1,1,70.000,90.000,0.5500,900
"""


def test_finished_runs_and_earlier_races_are_compared(finished_run, tmp_path, script_here, capsys):
    (tmp_path / "races.csv").write_text(RACES)
    assert script_here("benchmark.py", "--runs", finished_run[0], tmp_path / "races.csv", f"--output={tmp_path}") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["article", "classic,"], ["keras", "wide,"], ["tutorial", "wide,"]]
    assert [row[-4:] for row in rows[1:]] == [["2", "2.0", "2.0", "0.8250"], ["1", "1.5", "-", "0.5500"]]
    assert (tmp_path / "benchmark.png").exists()


def test_the_profile_shows_where_an_updates_time_goes(synthetic_root):
    options = f"--contenders speedrun --images {SYNTHETIC_SIZE} --batch-size 20 --rounds 1 --profile"
    process = run("benchmark.py", *options.split(), f"--root={synthetic_root}")
    assert process.returncode == 0, process.stderr
    assert "where an update of speedrun spends its time" in process.stdout
    assert "aten::convolution_backward" in process.stdout
    assert "5 updates, " in process.stdout


def test_what_the_cuda_graph_repeats_is_the_article_recipes_update(monkeypatch, synthetic_root):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    from bare_loops import GraphUpdate

    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE)
    data.setup("fit")
    torch.manual_seed(0)
    lit = LitMiniVGG()
    net = copy.deepcopy(lit.net)
    update = GraphUpdate(net, data.train_set, nullcontext())
    configured = lit.configure_optimizers()
    for number, index in enumerate(torch.arange(SYNTHETIC_SIZE).split(16)[:4]):
        images, targets = data.train_set[index]
        torch.manual_seed(number)
        functional.cross_entropy(lit.net(images), targets).backward()
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
        configured["optimizer"].zero_grad()
        torch.manual_seed(number)
        update.set_rate()
        update(index)
    for ours, theirs in zip(net.state_dict().values(), lit.net.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_cuda_graph_learns_as_the_bare_loop_does(synthetic_root, tmp_path):
    options = f"--gpus 1 --contenders bare graph --images {SYNTHETIC_SIZE} --batch-size 48 --rounds 1 --epochs 20"
    process = run("benchmark.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}")
    assert process.returncode == 0, process.stderr
    with open(tmp_path / "benchmark.csv", newline="") as file:
        accuracies = {row["contender"]: float(row["val_acc"]) for row in csv.DictReader(file) if row["epoch"] == "20"}
    assert accuracies["graph"] == pytest.approx(accuracies["bare"], abs=0.15)
    assert accuracies["graph"] > 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "nowhere"], "--runs nowhere: neither a run's folder nor a benchmark.csv"),
        (["--runs", __file__], "neither a run's folder nor a benchmark.csv"),
        (["--runs", str(REPOSITORY)], "no finished run; give folders with metrics.csv"),
        (["--contenders=graph"], "graph is a CUDA graph: give --gpus 1"),
        (["--images=0"], "--images 0: give 1 or more"),
        (["--images=77"], "synthetic_size is 77"),
        (["--epochs=-1"], "--epochs -1: give 1 or more, or 0"),
        (["--grow", "--dataset=cifar10", "--root=nowhere"], "--grow draws its own pictures"),
        (["--dataset=cifar10"], "--dataset cifar10 needs --root"),
        (["--contenders=fastest"], "invalid choice: 'fastest'"),
    ],
)
def test_bad_options_of_the_race_are_one_line(options, message, script_here, capfd):
    assert script_here("benchmark.py", *options) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_the_race_says_what_keras_needs():
    process = run("benchmark.py", "--contenders=keras")
    assert process.returncode == 2
    assert "pip install tensorflow-cpu keras" in process.stderr
