"""The measuring scripts, on a handful of images: that they run and say what they measured."""

import importlib.util
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


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
def test_bad_options_of_the_overhead_script_are_one_line(option):
    process = run("loop_overhead.py", option)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: ")


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_the_comparison_says_what_it_needs():
    process = run("compare_with_keras.py")
    assert process.returncode == 2
    assert process.stderr == "error: tensorflow not installed: pip install tensorflow-cpu keras (see --help)\n"
