"""The run folder."""

import threading
from pathlib import Path

import pytest

from minivgg_pl.errors import InputError
from minivgg_pl.runs import folder as runs

ROW = {
    "epoch": 1,
    "step": 782,
    "lr": 0.00836,
    "train_loss": 1.6196,
    "train_acc": 0.4592,
    "val_loss": 1.4083,
    "val_acc": 0.5159,
    "seconds": 30.5,
    "images_per_second": 1800.0,
}


def test_folders_count_up_and_ignore_other_names(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    assert runs.claim_run_folder(tmp_path).name == "8"
    assert runs.claim_run_folder(tmp_path).name == "9"


def test_runs_that_start_together_get_different_folders(tmp_path):
    claimed = []
    threads = [threading.Thread(target=lambda: claimed.append(runs.claim_run_folder(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(folder.name) for folder in claimed) == list(range(1, 9))


def test_a_base_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="give another: --output"):
        runs.check_base(tmp_path / "runs" / "classic", "--output")


def test_a_folder_that_turns_out_unusable_is_one_line():
    with pytest.raises(InputError, match="run folders cannot be made in /proc/none: .*; give another folder$"):
        runs.claim_run_folder(Path("/proc/none"))


def test_checking_a_base_writes_nothing(tmp_path):
    runs.check_base(tmp_path / "not" / "there", "--output")
    assert not list(tmp_path.iterdir())


def test_metrics_come_back_as_written(tmp_path):
    path = tmp_path / "metrics.csv"
    runs.write_metrics(path, [ROW, {**ROW, "epoch": 2}])
    assert path.read_text().splitlines()[0] == ",".join(runs.METRIC_COLUMNS)
    assert runs.read_metrics(path) == [ROW, {**ROW, "epoch": 2}]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_missing_value_is_nan_and_no_blank(tmp_path):
    path = tmp_path / "metrics.csv"
    runs.write_metrics(path, [{"epoch": 1, "step": 2}])
    assert path.read_text().splitlines()[1] == "1,2" + ",nan" * 7


def test_configs_of_resumed_starts_are_numbered_and_the_newest_counts(tmp_path):
    assert runs.newest_config(tmp_path) is None
    for name in ("config.yaml", "config.resume-1.yaml", "config.resume-2.yaml"):
        assert runs.next_config(tmp_path).name == name
        (tmp_path / name).write_text("")
        assert runs.newest_config(tmp_path).name == name
    (tmp_path / "config.resume-10.yaml").write_text("")
    assert runs.next_config(tmp_path).name == "config.resume-11.yaml"
