"""What a run keeps to go on from: checkpoints inside epochs, whole files, one process in a folder."""

import os
import shutil

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from minivgg_pl.cli.evaluate import _table
from minivgg_pl.cli.resume import find_resume_point
from minivgg_pl.errors import InputError
from minivgg_pl.evaluation.metrics import evaluate_probabilities
from minivgg_pl.runs.folder import lock_run, remove_parts
from minivgg_pl.training import checkpointing as saving
from minivgg_pl.training.callbacks import RunRecorder
from minivgg_pl.weights.export import model_card
from minivgg_pl.weights.load import load_trained
from tests.cli.test_train import assert_same_tensors, checkpoint, metrics, without_times


class Keep(Callback):
    """Keeps a copy of each checkpoint that is saved inside an epoch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        path, kept = "runs/classic-synthetic/1/checkpoints/last.ckpt", f"{trainer.global_step}.ckpt"
        if os.path.exists(path) and not os.path.exists(kept):
            shutil.copy(path, kept)


# 200 images are 9 updates an epoch; the 7th is an epoch's end only where the run stops there.
@pytest.mark.parametrize(
    ("recipe", "more", "steps"),
    [
        ("article", ["--trainer.limit_train_batches=7"], (4, 7)),
        ("modern", [], (4, 12)),
        # Resumed behind a validation, the epoch's only one.
        ("article", ["--trainer.limit_train_batches=7", "--trainer.val_check_interval=4"], (4,)),
    ],
)
def test_a_checkpoint_resumes_at_the_next_batch_bit_for_bit(
    recipe, more, steps, synthetic_options, train_here, tmp_path, capfd
):
    options = [*synthetic_options, f"--recipe={recipe}", "--epochs=2", "--data.batch_size=24", *more]
    keep = "--trainer.callbacks=tests.training.test_checkpointing.Keep"
    assert train_here(*options, "--checkpoint-every-n-steps=4", keep) == 0
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    whole, rows = checkpoint(run), metrics(run)
    for step in steps:
        resumed = tmp_path / f"resumed-{step}"
        shutil.copytree(run, resumed)
        shutil.copy(tmp_path / f"{step}.ckpt", resumed / "checkpoints" / "last.ckpt")
        (resumed / "summary.json").unlink()
        assert train_here("--resume", resumed) == 0
        assert without_times(metrics(resumed)) == without_times(rows)
        assert_same_tensors(checkpoint(resumed)["state_dict"], whole["state_dict"])


class KeepFirst(Callback):
    """Keeps the checkpoint that there is after the first batch of the second epoch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            shutil.copy("runs/classic-synthetic/1/checkpoints/last.ckpt", "kept.ckpt")


def test_no_checkpoint_is_saved_while_a_gradient_is_accumulated(synthetic_options, train_here, tmp_path, capfd):
    options = [*synthetic_options, "--epochs=2", "--data.batch_size=48", "--trainer.accumulate_grad_batches=2"]
    assert (
        train_here(
            *options, "--checkpoint_every_n_steps=1", "--trainer.callbacks=tests.training.test_checkpointing.KeepFirst"
        )
        == 0
    )
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    epoch = kept["loops"]["fit_loop"]["epoch_progress"]["current"]
    assert (kept["global_step"], epoch["started"], epoch["processed"]) == (3, 1, 1)


def test_weights_that_are_not_finite_do_not_replace_the_last_good_ones(synthetic_options, train_here, tmp_path, capfd):
    options = [*synthetic_options, "--epochs=3", "--data.batch_size=24", "--optimizer=SGD", "--optimizer.lr=1e38"]
    assert train_here(*options, "--checkpoint_every_n_steps=1") == 1
    assert "is not finite" in capfd.readouterr().err
    for path in (tmp_path / "runs").rglob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())


def test_a_trained_run_without_checkpoints_is_not_begun_again(finished_run, train_here, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert train_here("--resume", run) == 2
    assert "it was trained, and has no checkpoints/last.ckpt to go on from" in capfd.readouterr().err
    (run / "summary.json").rename(tmp_path / "summary.json")
    assert train_here("--resume", run) == 2
    (tmp_path / "summary.json").rename(run / "summary.json")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_another_process_has_just_gone_on_with_is_left_alone(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    resume = find_resume_point(run)
    os.utime(run / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match="another process has just trained on there"):
        resume.check_still_there()


def test_weights_from_inside_an_epoch_say_so(synthetic_options, train_here, tmp_path):
    options = [*synthetic_options, "--epochs=1", "--data.batch_size=24", "--checkpoint_every_n_steps=4"]
    assert train_here(*options, "--trainer.callbacks=tests.training.test_checkpointing.Keep") == 0
    place = "saved inside epoch 1, after 4 of its batches"
    trained = load_trained("4.ckpt")
    assert trained.metadata["unfinished"] == place
    assert f"| training not finished | {place} |" in model_card(trained)
    lines = _table(evaluated(trained.metadata), tmp_path).splitlines()
    assert lines[1] == f"training         {place}: not finished"
    finished = load_trained("runs/classic-synthetic/1")
    assert "unfinished" not in finished.metadata
    assert "training not finished" not in model_card(finished)


def evaluated(metadata):
    numbers = evaluate_probabilities(torch.eye(10), torch.arange(10))
    return {"weights": "4.ckpt", "weights_facts": metadata, "variant": "classic", "title": "drawn images"} | numbers


def test_another_batch_size_in_the_middle_of_an_epoch_is_refused(synthetic_options, train_here, tmp_path, capfd):
    options = [*synthetic_options, "--epochs=1", "--data.batch_size=24", "--checkpoint_every_n_steps=4"]
    assert train_here(*options, "--trainer.callbacks=tests.training.test_checkpointing.Keep") == 0
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    shutil.copy(tmp_path / "4.ckpt", run / "checkpoints" / "last.ckpt")
    before = sorted(run.rglob("*"))
    assert train_here("--resume", run, "--data.batch_size=48") == 2
    assert sorted(run.rglob("*")) == before
    assert "inside an epoch, 24 images a batch, devices: 1; until its end" in capfd.readouterr().err


def test_a_run_without_a_checkpoint_begins_again_in_its_folder(finished_run, train_here, tmp_path):
    source, _ = finished_run
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    shutil.copytree(source, run)
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    # A row is written before its checkpoint.
    header, first, *_ = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text(header + first)
    assert train_here("--resume", run) == 0
    assert without_times(metrics(run)) == without_times(metrics(source))
    assert_same_tensors(checkpoint(run)["state_dict"], checkpoint(source)["state_dict"])
    assert os.listdir(run.parent) == ["1"]


def test_one_process_at_a_time_trains_in_a_folder(finished_run, train_here, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    lock = lock_run(run)
    before = sorted(run.rglob("*"))
    assert train_here("--resume", run, "--epochs=5") == 2
    assert "another process is training in this run folder" in capfd.readouterr().err
    assert sorted(run.rglob("*")) == before
    os.close(lock)
    os.close(lock_run(run))


def test_what_kills_left_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".a1.part", "checkpoints/.b2.part", "keep.csv", "half.part"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["checkpoints", "half.part", "keep.csv"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_names_its_path(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer = saving.AtomicCheckpointIO()
    writer.save_checkpoint({"a": torch.ones(2)}, path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be written: No space left on device"):
        writer.save_checkpoint({"a": torch.zeros(2)}, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_the_loader_is_one_that_lightning_can_resume(synthetic_root):
    from minivgg_pl import CIFAR10DataModule

    data = CIFAR10DataModule(synthetic_root, dataset="synthetic", synthetic_size=200, batch_size=64)
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader, DataLoader)
    batches = iter(loader)
    first = [next(batches)[0] for _ in range(2)]
    again = data.train_dataloader()
    again.load_state_dict(loader.state_dict())
    rest = [images for images, _ in again]
    assert [len(images) for images in first + rest] == [64, 64, 64, 8]
    # Once: the next epoch is a whole one.
    assert len([images for images, _ in again]) == 4


def test_a_folder_is_unlocked_when_the_run_is_over(tmp_path):
    recorder = RunRecorder(tmp_path, "classic", "title")
    recorder._lock = lock_run(tmp_path)
    recorder.unlock()
    os.close(lock_run(tmp_path))


def test_a_run_that_stopped_inside_an_epoch_and_counted_it_is_not_taken_for_whole(
    synthetic_options, train_here, tmp_path, capfd
):
    assert train_here(*synthetic_options, "--epochs=2", "--data.batch_size=24", "--trainer.max_steps=4") == 0
    assert train_here("--resume=runs/classic-synthetic/1", "--trainer.max_steps=-1") == 2
    assert "the run stopped inside epoch 1" in capfd.readouterr().err
