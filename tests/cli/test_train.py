"""The command from end to end, as a real process on a small synthetic set: the run folder, repeating and resuming."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import Profiler
from PIL import Image

from minivgg_pl import CIFAR10DataModule, LitMiniVGG, RunFolder
from minivgg_pl.runs.folder import METRIC_COLUMNS
from minivgg_pl.training import recorder
from tests.conftest import SYNTHETIC_SIZE, TRAIN, run_train

MEASURED = ("seconds", "images_per_second")


def metrics(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(rows):
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_run_folder_holds_what_the_readme_says(finished_run):
    run, _ = finished_run
    assert sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) == [
        "checkpoints",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "confusion_matrix.png",
        "curves.png",
        "metrics.csv",
        "report.csv",
        "summary.json",
    ]


def test_metrics_have_one_full_row_an_epoch(finished_run):
    run, _ = finished_run
    rows = metrics(run)
    assert tuple(rows[0]) == METRIC_COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    batches = math.ceil(SYNTHETIC_SIZE / 64)
    assert [int(row["step"]) for row in rows] == [batches * epoch for epoch in (1, 2, 3, 4)]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    for row in rows:
        assert float(row["lr"]) == pytest.approx(0.01 / (1 + 0.00025 * int(row["step"])), rel=1e-5)


def test_the_last_checkpoint_is_the_last_epochs_and_the_best_the_most_accurate(finished_run):
    run, _ = finished_run
    rows = metrics(run)
    best = max(rows, key=lambda row: float(row["val_acc"]))
    assert checkpoint(run)["global_step"] == int(rows[-1]["step"])
    assert checkpoint(run, "best")["global_step"] == int(best["step"])


def test_the_summary_says_what_was_run_and_that_it_is_synthetic(finished_run):
    run, printed = finished_run
    summary = json.loads((run / "summary.json").read_text())
    last = metrics(run)[-1]
    for name in ("train_loss", "train_acc", "val_loss", "val_acc"):
        assert summary[name] == pytest.approx(float(last[name]), rel=1e-4)
    # The test set is also what this run validates on.
    assert summary["test_acc"] == pytest.approx(summary["val_acc"])
    assert summary["epochs"] == 4
    assert summary["seed"] == 0
    assert summary["num_parameters"] == 2_171_178
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
    assert summary["train_images"] == SYNTHETIC_SIZE
    assert summary["test_images"] == SYNTHETIC_SIZE // 5
    assert summary["dataset"] == "synthetic"
    assert "official" not in summary["dataset_md5"]
    assert "synthetic" in str(run)
    assert "synthetic" in printed


def test_the_table_ends_with_the_run_folder(finished_run):
    lines = finished_run[1].splitlines()
    assert [line for line in lines if line.startswith("epoch ")][-1].startswith("epoch 4/4")
    assert "parameters   2,171,178 (2,169,770 trainable)" in lines
    assert lines[-1] == "run folder   runs/classic-synthetic/1"


def test_the_report_agrees_with_the_summary(finished_run):
    run, _ = finished_run
    with (run / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    supports = [int(row["support"]) for row in rows]
    recalls = [float(row["recall"]) for row in rows]
    assert sum(supports) == SYNTHETIC_SIZE // 5
    hits = sum(recall * support for recall, support in zip(recalls, supports, strict=True))
    accuracy = json.loads((run / "summary.json").read_text())["test_acc"]
    assert hits / sum(supports) == pytest.approx(accuracy, abs=1e-3)


@pytest.mark.parametrize("name", ["curves.png", "confusion_matrix.png"])
def test_the_images_are_images(finished_run, name):
    run, _ = finished_run
    with Image.open(run / name) as image:
        assert image.width > 600
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 50


def test_the_checkpoint_loads_in_plain_python(finished_run):
    run, _ = finished_run
    content = checkpoint(run, "best")
    assert all(isinstance(v, str | int | float | bool | list | None) for v in content["hyper_parameters"].values())
    module = LitMiniVGG.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert module.hparams.variant == "classic"
    assert_same_tensors(dict(module.state_dict()), content["state_dict"])


def test_its_config_repeats_the_run(finished_run, tmp_path, train_here, capfd):
    run, _ = finished_run
    assert train_here("--config", run / "config.yaml") == 0
    repeated = tmp_path / "runs" / "classic-synthetic" / "1"
    assert without_times(metrics(repeated)) == without_times(metrics(run))
    assert_same_tensors(checkpoint(repeated)["state_dict"], checkpoint(run)["state_dict"])
    assert (repeated / "config.yaml").read_text() == (run / "config.yaml").read_text()


KILLER = """
import os, signal
from lightning.pytorch import Callback

class KillInThirdEpoch(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if "KILL" in os.environ and trainer.current_epoch == 2 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_resumes_bit_for_bit(finished_run, synthetic_options, tmp_path, monkeypatch, train_here, capfd):
    uninterrupted, _ = finished_run
    (tmp_path / "killer.py").write_text(textwrap.dedent(KILLER))
    path = {"PYTHONPATH": str(tmp_path)}
    options = [*synthetic_options, "--model.dense_units=512", "--epochs=4"]
    options.append("--trainer.callbacks=killer.KillInThirdEpoch")
    killed = run_train(*options, cwd=tmp_path, env={**path, "KILL": "1"}, check=False)
    assert killed.returncode == -9
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    assert [row["epoch"] for row in metrics(run)] == ["1", "2"]
    # As if the kill had come between the third row and the third checkpoint.
    with (run / "metrics.csv").open("a") as file:
        file.write("3,12,0.01,1,1,1,1,1,1\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    assert train_here("--resume", run) == 0
    assert without_times(metrics(run)) == without_times(metrics(uninterrupted))
    assert_same_tensors(checkpoint(run)["state_dict"], checkpoint(uninterrupted)["state_dict"])
    momentum, expected = (
        {str(key): state["momentum_buffer"] for key, state in checkpoint(r)["optimizer_states"][0]["state"].items()}
        for r in (run, uninterrupted)
    )
    assert_same_tensors(momentum, expected)
    assert sorted(p.name for p in run.parent.iterdir()) == ["1"]
    assert (run / "config.resume-1.yaml").exists()

    assert train_here("--resume", run) == 0
    printed = capfd.readouterr().out
    assert "already has its 4 epochs" in printed
    assert "--epochs" in printed


def test_a_moved_run_goes_on_keeps_its_best_checkpoint_and_is_tested_again(finished_run, copied_run, train_here, capfd):
    source, run = finished_run[0], copied_run
    # No epoch to come can be better.
    content = checkpoint(run)
    for name, state in content["callbacks"].items():
        if name.startswith("RunCheckpoint") and state["monitor"]:
            state["best_model_score"] = state["kth_value"] = torch.tensor(2.0)
            state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(2.0))
    torch.save(content, run / "checkpoints" / "last.ckpt")
    best = (run / "checkpoints" / "best.ckpt").read_bytes()
    # As if the run had been extended to 5 epochs before, and killed in its test.
    assert train_here("--resume", run, "--epochs=5") == 0
    assert (run / "checkpoints" / "best.ckpt").read_bytes() == best
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert json.loads((run / "summary.json").read_text())["epochs"] == 5
    shutil.copy(source / "summary.json", run)
    assert train_here("--resume", run) == 0
    assert json.loads((run / "summary.json").read_text())["epochs"] == 5


class Interrupt(Callback):
    """Sends this process what Ctrl-C sends, in the second epoch."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_with_the_way_to_go_on(synthetic_options, train_here, tmp_path, capfd):
    # A shell's background job has it ignored.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert train_here(*synthetic_options, "--epochs=3", f"--trainer.callbacks={__name__}.Interrupt") == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capfd.readouterr().err.splitlines()[-1] == "error: interrupted. To go on: --resume runs/classic-synthetic/1"
    assert (tmp_path / "runs" / "classic-synthetic" / "1" / "curves.png").exists()


def test_sigterm_ends_with_the_way_to_go_on(synthetic_options, tmp_path):
    process = subprocess.Popen(
        [sys.executable, TRAIN, *synthetic_options, "--epochs=500"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        process.terminate()
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143
    assert error.splitlines()[-1] == "error: terminated. To go on: --resume runs/classic-synthetic/1"
    assert "Traceback" not in error
    assert (tmp_path / "runs" / "classic-synthetic" / "1" / "curves.png").exists()


@pytest.mark.parametrize(("seconds", "drawn"), [(math.inf, [3]), (0, [1, 2, 3])])
def test_the_curves_are_drawn_again_after_the_seconds_between_two_drawings(
    seconds, drawn, synthetic_root, tmp_path, monkeypatch
):
    lengths = []
    monkeypatch.setattr(recorder, "SECONDS_BETWEEN_DRAWINGS", seconds)
    monkeypatch.setattr(recorder, "draw_curves", lambda rows, *_, **__: lengths.append(len(rows)))
    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE)
    run = RunFolder(tmp_path)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "callbacks": run}
    Trainer(max_epochs=3, limit_train_batches=1, limit_val_batches=0, **options).fit(LitMiniVGG(dense_units=4), data)
    assert lengths == drawn


def test_a_batch_costs_no_more_hooks_than_are_used(synthetic_options, train_here, monkeypatch):
    entered = set()
    profile = Profiler.profile
    monkeypatch.setattr(Profiler, "profile", lambda self, action: entered.add(action) or profile(self, action))
    assert train_here(*synthetic_options, "--epochs=1", "--trainer.enable_model_summary=false") == 0
    hooks = ("on_train_batch_start", "on_train_batch_end", "zero_grad", "backward", "optimizer_step")
    assert {action for action in entered if action.startswith("[Callback]") and action.endswith(hooks)} == {
        "[Callback]StopOnNonFinite.on_train_batch_end",
        # Not on a terminal, which has a bar.
        "[Callback]ProgressLines.on_train_batch_end",
        "[Callback]RunRecorder.on_train_batch_end",
    }


def test_an_older_checkpoint_continues_in_a_new_folder_with_its_history(finished_run, tmp_path, train_here, capfd):
    source, _ = finished_run
    before = (source / "metrics.csv").read_text()
    best = source / "checkpoints" / "best.ckpt"
    epoch = int(checkpoint(source, "best")["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    assert train_here("--resume", best, "--epochs=5") == 0
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    assert [int(row["epoch"]) for row in metrics(run)] == [1, 2, 3, 4, 5]
    assert metrics(run)[:epoch] == metrics(source)[:epoch]
    assert (source / "metrics.csv").read_text() == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    synthetic_options, tmp_path, monkeypatch, train_here, capfd
):
    (tmp_path / "breaker.py").write_text(
        textwrap.dedent("""
        from lightning.pytorch import Callback

        class BreakSecondEpoch(Callback):
            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                if trainer.current_epoch == 1 and batch_idx == 2:
                    module.net.classifier.bias.data.fill_(float("nan"))
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert train_here(*synthetic_options, "--epochs=3", "--trainer.callbacks=breaker.BreakSecondEpoch") == 1
    error = capfd.readouterr().err
    assert "not finite in epoch 2, step 7" in error
    assert "Traceback" not in error
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    assert [row["epoch"] for row in metrics(run)] == ["1"]
    assert (run / "curves.png").exists()
    assert all(value.isfinite().all() for value in checkpoint(run)["state_dict"].values())
    assert not (run / "summary.json").exists()


def test_lightnings_own_options_work_beside_ours(synthetic_options, tmp_path, train_here, capfd):
    code = train_here(
        *synthetic_options,
        "--variant=wide",
        "--epochs=1",
        "--model.dense_units=300",
        "--data.val_size=50",
        "--trainer.limit_train_batches=2",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir=logs",
        "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping",
        "--trainer.callbacks.monitor=val_loss",
        "--optimizer=Adam",
        "--optimizer.lr=0.002",
    )
    assert code == 0
    run = tmp_path / "runs" / "wide-synthetic" / "1"
    assert "50 training images held out" in capfd.readouterr().out
    assert metrics(run)[0]["lr"] == "0.002"
    assert checkpoint(run)["state_dict"]["net.dense.weight"].shape == (300, 4096)
    assert (tmp_path / "logs" / "lightning_logs" / "version_0" / "metrics.csv").exists()


def test_loggers_and_checkpoints_of_lightning_write_into_the_run_folder(synthetic_options, tmp_path, train_here):
    few = ["--epochs=1", "--data.batch_size=50", "--trainer.enable_model_summary=false"]
    own = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"name": "mine"}}
    (tmp_path / "own.yaml").write_text(json.dumps({"trainer": {"logger": [own]}}))
    added = ["--config=own.yaml", "--trainer.logger+", "CSVLogger"]
    added += ["--trainer.callbacks=LearningRateMonitor", "--trainer.callbacks+=ModelCheckpoint"]
    assert train_here(*synthetic_options, *few, *added, "--trainer.callbacks.filename=own") == 0
    assert train_here("--resume=runs/classic-synthetic/1", "--epochs=2") == 0
    (tmp_path / "own.yaml").unlink()
    assert train_here(*synthetic_options, *few, "--trainer.logger=true") == 0
    first, second = (tmp_path / "runs" / "classic-synthetic" / number for number in "12")
    logs = {path.parent.relative_to(first).as_posix() for path in first.rglob("hparams.yaml")}
    assert logs == {f"{name}/version_{start}" for name in ("mine", "lightning_logs") for start in (0, 1)}
    assert {"best.ckpt", "last.ckpt", "own.ckpt"} <= {path.name for path in (first / "checkpoints").iterdir()}
    assert (second / "lightning_logs" / "version_0").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["classic-synthetic"]


def test_a_callback_whose_defaults_yaml_cannot_hold_trains_and_resumes(synthetic_options, tmp_path, train_here):
    swa = ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
    assert train_here(*synthetic_options, *swa, "--epochs=1", "--trainer.limit_train_batches=2") == 0
    assert train_here("--resume=runs/classic-synthetic/1", "--epochs=2") == 0
    assert len(metrics(tmp_path / "runs" / "classic-synthetic" / "1")) == 2


def test_print_config_can_be_given_back(synthetic_options, tmp_path, train_here, capfd):
    def printed_by(*options):
        with pytest.raises(SystemExit) as stop:
            train_here(*options, "--print_config")
        assert not stop.value.code
        return capfd.readouterr().out

    printed = printed_by(*synthetic_options, "--variant=wide")
    assert "variant: wide" in printed
    (tmp_path / "printed.yaml").write_text(printed)
    assert printed_by("--config=printed.yaml") == printed
    assert not (tmp_path / "runs").exists()


def test_the_module_trains_in_a_plain_trainer(synthetic_root, tmp_path):
    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE, val_size=50)
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    trainer.fit(LitMiniVGG("wide"), datamodule=data)
    assert {"train_loss", "train_acc", "val_loss", "val_acc"} <= set(trainer.callback_metrics)
    probabilities = torch.cat(trainer.predict(datamodule=data, ckpt_path=None))
    assert probabilities.shape == (SYNTHETIC_SIZE // 5, 10)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(SYNTHETIC_SIZE // 5))
    assert os.listdir(tmp_path) == ["checkpoints"]
