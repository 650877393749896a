"""The measuring scripts, on a handful of images: that they run and say what they measured."""

import csv
import importlib.util
import subprocess
import sys

import pytest
from PIL import Image

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


def test_finished_runs_are_compared(finished_run, tmp_path):
    process = run("benchmark.py", "--runs", str(finished_run[0]), f"--output={tmp_path}")
    assert process.returncode == 0, process.stderr
    assert "article classic, 4 epochs, seed 0" in process.stdout.splitlines()[1]
    assert (tmp_path / "benchmark.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "nowhere"], "--runs nowhere: no finished run"),
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
