"""reproduce.py trains, judges and keeps results; the README's tables are what it prints."""

import math
import os
import re
import signal
import subprocess
import sys

import pytest
import reproduce
from claims import CLAIMS, COLUMNS, FLOOR, name_of, pooled_deviation, read_results, tolerance, write_results

from tests.conftest import BENCHMARKS, REPOSITORY

README = (REPOSITORY / "README.md").read_text()


@pytest.fixture
def reproduce_here(capfd):
    """The command in this process; returns its exit code, its output and its errors."""

    def reproduce_here(*options):
        capfd.readouterr()
        try:
            code = reproduce.main([str(option) for option in options])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return reproduce_here


def test_the_readmes_tables_are_made_from_the_results(reproduce_here):
    tables = re.findall(r"<!-- made by reproduce.py --table -->\n(.*?)\n<!-- end -->", README, flags=re.DOTALL)
    assert reproduce_here("--table")[1] == "\n\n".join(tables) + "\n"


def test_every_claim_is_of_the_whole_data_set_and_has_its_weights_hash():
    rows = read_results()
    assert CLAIMS.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert len({(name_of(row), row["seed"]) for row in rows}) == len(rows)
    for row in rows:
        assert (row["dataset"], row["train_images"], row["test_images"]) == ("cifar10", 50_000, 10_000)
        assert re.fullmatch(r"[0-9a-f]{64}", row["weights_sha256"])


def test_results_are_read_back_as_they_were_written(tmp_path):
    write_results(tmp_path / "copy.csv", read_results())
    assert (tmp_path / "copy.csv").read_text() == CLAIMS.read_text()


@pytest.fixture
def data_options(synthetic_options):
    """The options of data and device alone: the claim has the network's own size."""
    return [option for option in synthetic_options if not option.startswith("--model.")]


@pytest.fixture
def claims(finished_run, tmp_path, reproduce_here):
    """A results file whose one claim is the small finished run's."""
    write_results(tmp_path / "claims.csv", [])
    path = tmp_path / "claims.csv"
    code, printed, _ = reproduce_here("--runs", finished_run[0], "--claims", path, "--output", path)
    assert code == 0
    assert "nothing of that name is claimed" in printed
    return path


def test_a_run_is_judged_by_its_claim(claims, finished_run, reproduce_here):
    command = ("--runs", finished_run[0], "--claims", claims)
    code, printed, _ = reproduce_here(*command)
    assert code == 0
    assert "the claim's weights, bit for bit" in printed
    assert "verdict       pass: test accuracy +0.00 points" in printed
    (claim,) = read_results(claims)
    # Far more than seeds can make.
    write_results(claims, [claim | {"test_acc": claim["test_acc"] + 0.2}])
    code, printed, _ = reproduce_here(*command)
    assert code == 1
    assert "FAIL: test accuracy -20.00 points" in printed
    write_results(claims, [claim | {"train_images": 50_000}])
    code, _, error = reproduce_here(*command)
    assert code == 2
    assert error.startswith("error: classic-article-4, seed 0: its train_images is 200, the claim's 50000")


def test_a_run_of_another_width_is_another_result(claims, copied_run, reproduce_here, tmp_path):
    config = copied_run / "config.yaml"
    config.write_text(config.read_text().replace("dense_units: 512", "dense_units: 300"))
    code, printed, _ = reproduce_here("--runs", copied_run, "--claims", claims, "--output", claims)
    assert code == 0
    assert "classic-300-article-4, seed 0: added" in printed
    assert "nothing of that name is claimed" in printed
    assert reproduce_here("--table", "--claims", claims)[1].count("| `classic`, 300 units | 4 | 1 |") == 1


@pytest.mark.slow
def test_a_claim_is_repeated_and_kept(claims, reproduce_here, data_options, tmp_path):
    own = tmp_path / "own.csv"
    options = ["--claims", claims, "--output", own, "--root-dir", tmp_path / "runs", *data_options]
    code, printed, _ = reproduce_here("classic-article-4", *options)
    assert code == 0
    assert "the claim's weights, bit for bit" in printed
    (row,), (claim,) = read_results(own), read_results(claims)
    assert row | {"minutes": claim["minutes"]} == claim


@pytest.mark.slow
def test_sigterm_ends_the_training_too(claims, data_options, tmp_path):
    (claim,) = read_results(claims)
    write_results(claims, [claim | {"epochs": 500}])
    command = [sys.executable, str(BENCHMARKS / "reproduce.py"), "classic-article-500"]
    options = ["--claims", str(claims), "--root-dir", str(tmp_path), *data_options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([*command, *options], **pipes) as process:
        try:
            while not process.stdout.readline().startswith("epoch 1/"):
                assert process.poll() is None
            process.terminate()
            # The training has the same stderr: it is closed once both have ended.
            _, error = process.communicate(timeout=60)
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    assert process.returncode == 143
    assert error.count("error: terminated. To go on: --resume") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fastest"], "fastest: no result of that name; choose one of classic-article,"),
        (["classic-article", "--model.lr=1"], "--model.lr=1: not an option here"),
        (["--list", "--table"], "give one of NAME"),
        (["--runs", "nowhere"], "nowhere: no finished run"),
        (["--list", "--claims", "nowhere.csv"], "nowhere.csv: No such file"),
        (["--list", "--claims", REPOSITORY / "README.md"], "not a results file"),
    ],
)
def test_bad_options_are_one_line(options, message, reproduce_here):
    code, _, error = reproduce_here(*options)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_the_tolerance_is_the_prediction_interval_of_the_claims_own_spread():
    claimed = [0.78, 0.79, 0.80]
    assert tolerance(2, claimed, []) == pytest.approx(2.920 * 0.01 * math.sqrt(1 / 2 + 1 / 3))
    # One seed tells no spread: the others' is taken, and without any a floor.
    assert tolerance(1, [0.8], [claimed, [0.9]]) == pytest.approx(2.920 * 0.01 * math.sqrt(2))
    assert tolerance(1, [0.8], [[0.9]]) == pytest.approx(1.645 * FLOOR * math.sqrt(2))


def test_the_pooled_deviation_weighs_by_degrees_of_freedom():
    deviation, freedom = pooled_deviation([[0.0, 2.0], [10.0, 10.0, 10.0], [5.0]])
    assert (deviation, freedom) == (pytest.approx(math.sqrt(2 / 3)), 3)
