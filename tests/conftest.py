"""What the tests share: the options of a small synthetic data set, and the command as a real process or in this one."""

import contextlib
import io
import os
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# Keras reads it at import; its torch backend needs no TensorFlow.
os.environ["KERAS_BACKEND"] = "torch"
# One thread for each of pytest-xdist's workers and what they start, so that they do not fight over the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).resolve().parents[1]
TRAIN = REPOSITORY / "scripts" / "train.py"
BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"
SYNTHETIC_SIZE = 200
needs_onnx_export = pytest.mark.skipif(
    version("torch").startswith("2.6."), reason="torch 2.6 cannot translate batch norm with onnxscript 0.6 and newer"
)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory):
    """An empty data root: synthetic images need no files."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def synthetic_options(synthetic_root):
    """Options that train on the small set, on the CPU."""
    return [
        "--gpus=0",
        "--data.dataset=synthetic",
        f"--data.root={synthetic_root}",
        f"--data.synthetic_size={SYNTHETIC_SIZE}",
        # Small checkpoints: their writing takes longer than the training.
        "--model.dense_units=32",
    ]


def output_and_imports(*command):
    """Run a Python command as a user does, and return its output and the names of all modules that it imported."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, command)], capture_output=True, text=True, check=True
    )
    return process.stdout, {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}


def run_train(*options, cwd, env=None, check=True):
    """Run scripts/train.py as a user does, in `cwd`, and return the finished process."""
    process = subprocess.run(
        [sys.executable, str(TRAIN), *map(str, options)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert not check or process.returncode == 0, process.stderr
    return process


@pytest.fixture
def train_here(tmp_path, monkeypatch):
    """The command in this process, in `tmp_path`: several times quicker, for what needs no process of its own."""
    from minivgg_pl.cli.train import main

    def train_here(*options):
        monkeypatch.chdir(tmp_path)
        return main([str(option) for option in options])

    return train_here


@pytest.fixture
def refuse(tmp_path, monkeypatch, capfd, synthetic_options):
    """Run the command in an empty folder, expect a refusal, and return its one line."""
    from minivgg_pl.cli.train import main

    def refuse(*options, synthetic=True):
        folder = tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        try:
            code = main([*(synthetic_options if synthetic else []), *map(str, options)])
        except SystemExit as exit_:
            code = exit_.code
        error = capfd.readouterr().err
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error
        assert not list(folder.iterdir())
        return error

    return refuse


@pytest.fixture
def script_here(monkeypatch):
    """A script's main() in this process, several times quicker than a process of its own; returns its exit code."""

    def script_here(name, *options):
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        main = runpy.run_path(str(BENCHMARKS / name), run_name="script")["main"]
        try:
            return main()
        except SystemExit as stop:
            return stop.code

    return script_here


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, synthetic_options):
    """The folder of a run of 4 epochs that nothing interrupted, and what it printed."""
    from minivgg_pl.cli.train import main

    folder, printed = tmp_path_factory.mktemp("finished"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert main([*synthetic_options, "--model.dense_units=512", "--epochs=4"]) == 0
    return folder / "runs" / "classic-synthetic" / "1", printed.getvalue()


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """A copy of the finished run's folder, in the place of the first run of `tmp_path`."""
    return shutil.copytree(finished_run[0], tmp_path / "runs" / "classic-synthetic" / "1")


def pytest_terminal_summary(terminalreporter):
    """Print what the fuzz tests came to."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [value for report in reports for name, value in report.user_properties if name == "fuzz"]
    if lines:
        terminalreporter.section("damaged files")
        terminalreporter.write_line("\n".join(lines))
