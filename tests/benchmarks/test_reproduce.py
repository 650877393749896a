"""reproduce.py: trains, judges and keeps results; and the README's tables and numbers are what it prints."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from claims import CLAIMS, COLUMNS, name_of, read_results, result_of_run, write_results
from spread import FLOOR, pooled_deviation, seeds_to_separate, t_quantile, tolerance

from tests.conftest import BENCHMARKS, REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def reproduce(*options, cwd=None):
    command = [sys.executable, str(BENCHMARKS / "reproduce.py"), *map(str, options)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_readmes_tables_are_made_from_the_results():
    tables = re.findall(r"<!-- made by reproduce.py --table -->\n(.*?)\n<!-- end -->", README, flags=re.DOTALL)
    assert reproduce("--table").stdout == "\n\n".join(tables) + "\n"


def test_the_readmes_note_on_significance_is_what_is_printed():
    printed = reproduce("--significance").stdout
    deviation, freedom = re.search(r"deviation (\S+) points, (\d+) degrees", printed).groups()
    assert f"s = {deviation} points ({freedom} degrees of freedom)" in README
    for points, number in re.findall(r"^(\S+) points: (\d+) seeds", printed, flags=re.MULTILINE):
        assert re.search(rf"{number}\s+for\s+{points}", README)


def test_every_claim_is_of_the_whole_data_set_and_has_its_weights_hash():
    rows = read_results()
    assert len({(name_of(row), row["seed"]) for row in rows}) == len(rows)
    for row in rows:
        assert (row["dataset"], row["train_images"], row["test_images"]) == ("cifar10", 50_000, 10_000)
        assert re.fullmatch(r"[0-9a-f]{64}", row["weights_sha256"])


def test_results_are_read_back_as_they_were_written(tmp_path):
    write_results(tmp_path / "copy.csv", read_results())
    assert (tmp_path / "copy.csv").read_text() == CLAIMS.read_text()


@pytest.fixture
def claims(finished_run, tmp_path):
    """A results file whose one claim is the small finished run's."""
    empty = tmp_path / "empty.csv"
    write_results(empty, [])
    process = reproduce("--runs", finished_run[0], "--claims", empty, "--output", tmp_path / "claims.csv")
    assert process.returncode == 0, process.stderr
    return tmp_path / "claims.csv"


def test_a_claim_is_repeated_resumed_and_then_only_judged(claims, finished_run, synthetic_options, tmp_path):
    own = tmp_path / "own.csv"
    command = ["classic-article-4", "--claims", claims, "--output", own, "--root-dir", tmp_path, *synthetic_options]
    first = reproduce(*command)
    assert first.returncode == 0, first.stderr
    assert "the claim's weights, bit for bit" in first.stdout
    assert "verdict       pass: test accuracy +0.00 points" in first.stdout
    (row,), (claim,) = read_results(own), read_results(claims)
    assert row | {"minutes": claim["minutes"]} == claim
    # As if it had been killed before its test.
    (summary,) = tmp_path.rglob("summary.json")
    summary.unlink()
    own.unlink()
    second = reproduce(*command)
    assert "--resume" in second.stdout
    assert "bit for bit" in second.stdout
    # Another run's row is seen before any training.
    elsewhere = reproduce(*command, "--root-dir", tmp_path / "elsewhere")
    assert elsewhere.returncode == 2
    assert "own.csv: it has another run's row for classic-article-4, seed 0: remove it" in elsewhere.stderr
    # Far more than seeds can make, and the run that is there is judged, not another one trained.
    write_results(claims, [claim | {"test_acc": claim["test_acc"] + 0.2}])
    third = reproduce(*command)
    assert "train.py" not in third.stdout
    assert third.returncode == 1
    assert "FAIL: test accuracy -20.00 points" in third.stdout


@pytest.mark.slow
def test_sigterm_ends_the_training_too(claims, synthetic_options, tmp_path):
    (claim,) = read_results(claims)
    write_results(claims, [claim | {"epochs": 500}])
    command = [sys.executable, str(BENCHMARKS / "reproduce.py"), "classic-article-500"]
    options = ["--claims", str(claims), "--root-dir", str(tmp_path), *synthetic_options]
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


def test_another_projects_table_is_no_results_file(claims, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text(claims.read_text().replace("classic,article", "classic,mine"))
    process = reproduce("--list", "--claims", path)
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert "not a results file" in process.stderr


def test_an_older_run_gets_its_weights_hash_from_its_checkpoint(finished_run, tmp_path):
    shutil.copytree(finished_run[0], tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    expected = summary.pop("weights_sha256")
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    assert result_of_run(tmp_path / "run")["weights_sha256"] == expected


def test_a_run_on_other_data_is_no_repetition(finished_run):
    process = reproduce("--runs", finished_run[0])
    assert process.returncode == 2
    assert process.stderr.startswith("error: classic-article-4, seed 0: its dataset is synthetic, the claim's cifar10")
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fastest"], "fastest: no result of that name; choose one of classic-article,"),
        (["classic-article", "--seeds", "-1"], "--seeds -1: give a whole number from 0"),
        (["classic-article", "--model.lr=1"], "--model.lr: not an option here"),
        (["classic-article", "--trainer.max_epochs=1"], "--trainer.max_epochs: not an option here"),
        (["--list", "--table"], "give one of NAME"),
        (["--runs", "nowhere"], "nowhere: no finished run"),
        (["--list", "--claims", "nowhere.csv"], "nowhere.csv: No such file"),
        (["--list", "--claims", REPOSITORY / "README.md"], "not a results file"),
        (["classic-article", "--output", "nowhere/own.csv"], "there is no folder"),
    ],
)
def test_bad_options_are_one_line(options, message, tmp_path):
    process = reproduce(*options, cwd=tmp_path)
    assert process.returncode == 2
    assert message in process.stderr
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2: critical values of Student's t.
    [(0.95, 1, 6.314), (0.95, 2, 2.920), (0.975, 2, 4.303), (0.975, 10, 2.228), (0.9, 5, 1.476), (0.975, 100, 1.984)],
)
def test_students_t_is_the_tables(probability, freedom, expected):
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=1e-3)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-expected, abs=1e-3)


def test_the_tolerance_is_the_prediction_interval_of_the_claims_own_spread():
    claimed = [0.78, 0.79, 0.80]
    assert tolerance(2, claimed, []) == pytest.approx(2.920 * 0.01 * math.sqrt(1 / 2 + 1 / 3), rel=1e-3)
    # One seed tells no spread: the others' is taken, and without any a floor.
    assert tolerance(1, [0.8], [claimed, [0.9]]) == pytest.approx(2.920 * 0.01 * math.sqrt(2), rel=1e-3)
    assert tolerance(1, [0.8], [[0.9]]) == pytest.approx(1.645 * FLOOR * math.sqrt(2), rel=1e-3)


def test_the_pooled_deviation_weighs_by_degrees_of_freedom():
    deviation, freedom = pooled_deviation([[0.0, 2.0], [10.0, 10.0, 10.0], [5.0]])
    assert (deviation, freedom) == (pytest.approx(math.sqrt(2 / 3)), 3)


@pytest.mark.parametrize(("effect", "expected"), [(0.5, 64), (0.8, 26)])
def test_the_number_of_seeds_is_cohens(effect, expected):
    """Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, table 2.4.1: n a group, 5 %, power 80 %."""
    assert seeds_to_separate(effect, 1.0) == expected


def test_the_columns_are_the_files_header():
    assert CLAIMS.read_text().splitlines()[0] == ",".join(COLUMNS)
