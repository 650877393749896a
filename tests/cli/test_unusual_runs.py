"""Runs that validate seldom, twice, or not at all, or stop in the middle: what the run folder then says."""

import csv
import json
import math
from pathlib import Path

import pytest

from minivgg_pl.cli.train import main
from minivgg_pl.data.cifar10 import CIFAR10DataModule
from minivgg_pl.training import run_folder
from tests.cli.test_train import assert_same_tensors, checkpoint


@pytest.fixture
def rows_of(tmp_path, monkeypatch, synthetic_options, capfd):
    """Run the command in this process with some options, and return its metrics."""

    def rows_of(*options):
        monkeypatch.chdir(tmp_path)
        small = ["--epochs=3", "--data.batch_size=50", "--model.dense_units=8"]
        assert main([*synthetic_options, *small, *options]) == 0
        with open("runs/classic-synthetic/1/metrics.csv", newline="") as file:
            return list(csv.DictReader(file))

    return rows_of


def test_an_epoch_without_validation_does_not_repeat_the_values_of_the_one_before(rows_of):
    rows = rows_of("--trainer.check_val_every_n_epoch=2")
    assert [math.isnan(float(row["val_acc"])) for row in rows] == [True, False, True]


def test_gradients_are_clipped_under_mixed_precision(rows_of):
    # One batch of each: where bfloat16 is not native it takes long.
    few = [f"--trainer.limit_{stage}_batches=1" for stage in ("train", "val", "test")] + ["--data.batch_size=4"]
    rows = rows_of("--trainer.gradient_clip_val=0.1", "--trainer.precision=bf16-mixed", *few)
    assert all(math.isfinite(float(row["train_loss"])) for row in rows)


def test_no_validation_at_all_still_trains_and_tests(rows_of):
    rows = rows_of("--trainer.limit_val_batches=0")
    assert len(rows) == 3
    assert all(math.isfinite(float(row["train_acc"])) for row in rows)
    summary = json.loads(Path("runs/classic-synthetic/1/summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["val_acc"] is None
    assert summary["test_acc"] >= 0


def test_two_validations_an_epoch_are_one_row(rows_of):
    assert [row["epoch"] for row in rows_of("--trainer.val_check_interval=0.5")] == ["1", "2", "3"]


def test_stopping_in_the_middle_of_an_epoch_reports_what_was_trained(rows_of):
    rows = rows_of("--trainer.max_steps=6")
    assert [row["step"] for row in rows] == ["4", "6"]
    assert all(math.isfinite(float(row["train_loss"])) for row in rows)
    assert all(float(row["images_per_second"]) > 0 for row in rows)


def test_an_epoch_stopped_by_a_validation_does_not_repeat_the_training_values_of_the_one_before(rows_of):
    stopping = "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=val_loss --trainer.callbacks.patience=1"
    rows = rows_of(*stopping.split(), "--trainer.callbacks.mode=max", "--trainer.val_check_interval=0.25")
    values = [row["train_loss"] for row in rows if not math.isnan(float(row["train_loss"]))]
    assert len(values) == len(set(values))


def test_a_run_resumes_with_weights_of_half_precision(synthetic_options, train_here, tmp_path, capfd):
    few = [
        "--data.batch_size=4",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1",
        "--trainer.limit_test_batches=1",
    ]
    assert train_here(*synthetic_options, "--epochs=1", "--trainer.precision=bf16-true", *few) == 0
    assert train_here("--resume", tmp_path / "runs" / "classic-synthetic" / "1", "--epochs=2") == 0


def test_a_resumed_run_overfits_the_same_batches_to_the_same_weights(synthetic_options, train_here, tmp_path, capfd):
    options = [*synthetic_options, "--data.batch_size=50", "--trainer.overfit_batches=2"]
    for epochs in (2, 1):
        assert train_here(*options, f"--epochs={epochs}") == 0
    whole, resumed = (tmp_path / "runs" / "classic-synthetic" / number for number in "12")
    assert train_here("--resume", resumed, "--epochs=2") == 0
    assert_same_tensors(checkpoint(resumed)["state_dict"], checkpoint(whole)["state_dict"])


def test_a_run_that_ends_while_it_is_resumed_says_so_in_one_line(copied_run, train_here, monkeypatch, capfd):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(CIFAR10DataModule, "setup", interrupt)
    assert train_here("--resume", copied_run, "--epochs=9") == 130
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: interrupted. ")


def test_a_run_that_ends_before_it_has_a_config_is_not_said_to_go_on(synthetic_options, train_here, monkeypatch, capfd):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "write_atomically", interrupt)
    assert train_here(*synthetic_options, "--epochs=1") == 130
    assert capfd.readouterr().err.splitlines()[-1] == "error: interrupted. Nothing was trained yet"


def test_the_curves_are_drawn_of_a_run_that_was_killed_before_they_were(copied_run, train_here, capfd):
    (copied_run / "curves.png").unlink()
    (copied_run / "summary.json").unlink()
    assert train_here("--resume", copied_run) == 0
    assert (copied_run / "curves.png").stat().st_size > 10_000
