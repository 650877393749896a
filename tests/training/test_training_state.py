"""What a checkpoint holds to go on from may come from anyone: it is looked at before anything is put into place."""

import math
import shutil

import pytest
import torch
from lightning.pytorch import Trainer

from minivgg_pl import LitMiniVGG
from minivgg_pl.errors import InputError
from minivgg_pl.training.checkpointing import AtomicCheckpointIO
from minivgg_pl.training.training_state import check_training_state
from tests.cli.test_train import checkpoint
from tests.conftest import run_train


def optimizer(content):
    return content["optimizer_states"][0]


def group(content):
    return optimizer(content)["param_groups"][0]


def momentum(content, number=0):
    return optimizer(content)["state"][number]


def generators(content):
    return content["callbacks"]["RandomState"]


OPTIMIZERS = {
    "none": lambda c: c.update(optimizer_states=[]),
    "two": lambda c: c["optimizer_states"].append(optimizer(c)),
    "empty": lambda c: c.update(optimizer_states=[{}]),
    "no list": lambda c: c.update(optimizer_states={}),
    "no groups": lambda c: optimizer(c).update(param_groups=[]),
    "fewer parameters": lambda c: group(c).update(params=[0, 1]),
    "no momentum": lambda c: group(c).pop("momentum"),
    "lr as text": lambda c: group(c).update(lr="x"),
    "lr none": lambda c: group(c).update(lr=None),
    "lr as tensor": lambda c: group(c).update(lr=torch.zeros(3)),
    "lr NaN": lambda c: group(c).update(lr=math.nan),
    "shape": lambda c: momentum(c).update(momentum_buffer=torch.zeros(2)),
    "one value everywhere": lambda c: momentum(c).update(momentum_buffer=torch.zeros(1).expand(32, 3, 3, 3)),
    "order in memory": lambda c: momentum(c, 4).update(momentum_buffer=momentum(c, 4)["momentum_buffer"].contiguous()),
    "meta": lambda c: momentum(c).update(momentum_buffer=torch.zeros(32, 3, 3, 3, device="meta")),
    "whole numbers": lambda c: momentum(c).update(momentum_buffer=torch.zeros(32, 3, 3, 3, dtype=torch.int64)),
    "number": lambda c: momentum(c).update(momentum_buffer=3),
    "no state": lambda c: optimizer(c).update(state={}),
    "state as text": lambda c: optimizer(c).update(state="x"),
    "entry as text": lambda c: optimizer(c)["state"].update({0: "x"}),
    "no schedule": lambda c: c.update(lr_schedulers=[]),
    "no schedules": lambda c: c.pop("lr_schedulers"),
    "empty schedule": lambda c: c.update(lr_schedulers=[{}]),
    "last_epoch as text": lambda c: c["lr_schedulers"][0].update(last_epoch="x"),
    "last_epoch below 0": lambda c: c["lr_schedulers"][0].update(last_epoch=-4002),
    "base_lrs": lambda c: c["lr_schedulers"][0].update(base_lrs=[]),
    "lr_lambdas": lambda c: c["lr_schedulers"][0].update(lr_lambdas=[{"a": 1}]),
    "a method": lambda c: c["lr_schedulers"][0].update(step=1),
    "an attribute": lambda c: c["lr_schedulers"][0].update(optimizer=1),
}
GENERATORS = {
    "none": lambda c: c["callbacks"].pop("RandomState"),
    "empty": lambda c: generators(c).clear(),
    "torch short": lambda c: generators(c).update(torch=torch.zeros(3, dtype=torch.uint8)),
    "torch zeros": lambda c: generators(c).update(torch=torch.zeros_like(generators(c)["torch"])),
    "numpy short": lambda c: generators(c).update(numpy=["MT19937", [1, 2], 0, 0, 0.0]),
    "python none": lambda c: generators(c).update(python=None),
    "cuda none": lambda c: generators(c).update(cuda=None),
    "other ranks": lambda c: generators(c).update(other_ranks=["x"]),
}


LOOPS = {
    "count as text": lambda c: progress(c)["current"].update(ready="x"),
    "count none": lambda c: progress(c)["current"].update(processed=None),
    "count below 0": lambda c: progress(c)["total"].update(ready=-1),
    "count not whole": lambda c: progress(c)["total"].update(started=0.5),
    "no counts": lambda c: progress(c).pop("total"),
    "optimizer empty": lambda c: loop(c).update({"epoch_loop.automatic_optimization.optim_progress": {}}),
    "validation as text": lambda c: loop(c).update({"epoch_loop.val_loop.batch_progress": "x"}),
    "loader none": lambda c: loop(c).update(state_dict={"combined_loader": [None]}),
    "state none": lambda c: loop(c).update(state_dict=None),
    "steps": lambda c: loop(c)["epoch_loop.state_dict"].clear(),
    "another loop": lambda c: loop(c).update(other={}),
}
NETWORKS = {
    "kernel gone": lambda c: c["state_dict"].pop("net.block1.conv1.weight"),
    "kernel none": lambda c: c["state_dict"].update({"net.block1.conv1.weight": None}),
    "kernel small": lambda c: c["state_dict"].update({"net.block1.conv1.weight": torch.zeros(2)}),
    "one more": lambda c: c["state_dict"].update({"net.other": torch.zeros(2)}),
}


def loop(content):
    return content["loops"]["fit_loop"]


def progress(content):
    return loop(content)["epoch_loop.batch_progress"]


def check(path, module, is_own_run):
    check_training_state(path, Trainer(accelerator="cpu", logger=False), module, is_own_run)


@pytest.fixture
def damaged(finished_run, tmp_path):
    """Save the finished run's last checkpoint with a change, and return its path."""

    def damaged(change):
        content = torch.load(finished_run[0] / "checkpoints" / "last.ckpt", weights_only=True)
        change(content)
        torch.save(content, tmp_path / "damaged.ckpt")
        return tmp_path / "damaged.ckpt"

    return damaged


@pytest.mark.parametrize("change", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_or_schedule_that_no_run_writes_is_refused(damaged, change):
    with pytest.raises(InputError, match="damaged checkpoint: its optimizer or schedule is not what such a run writes"):
        check(damaged(change), LitMiniVGG(), is_own_run=True)


@pytest.mark.parametrize("change", GENERATORS.values(), ids=GENERATORS)
def test_generators_that_no_run_writes_are_refused(damaged, change):
    with pytest.raises(InputError, match="its state of the random generators is not"):
        check(damaged(change), LitMiniVGG(), is_own_run=True)


@pytest.mark.parametrize("change", LOOPS.values(), ids=LOOPS)
def test_a_training_loop_that_no_run_writes_is_refused(damaged, change):
    with pytest.raises(InputError, match="its state of the training loop is not"):
        check(damaged(change), LitMiniVGG(), is_own_run=True)


@pytest.mark.parametrize("change", NETWORKS.values(), ids=NETWORKS)
def test_a_network_without_all_its_weights_is_refused(damaged, change):
    with pytest.raises(InputError, match="its network is not"):
        check(damaged(change), LitMiniVGG(), is_own_run=True)


@pytest.mark.parametrize("version", [None, 5, "x", "1.9.0", "2.6.6.6.6", f"2.{'9' * 5000}"])
def test_a_version_that_no_run_writes_is_refused(damaged, version):
    with pytest.raises(InputError, match="its version of Lightning is not"):
        check(damaged(lambda c: c.update({"pytorch-lightning_version": version})), LitMiniVGG(), is_own_run=True)


def test_sums_of_an_epoch_that_are_not_finite_are_refused(damaged):
    sums = {"sums": torch.full((1, 4), math.nan), "first_step": 0}
    with pytest.raises(InputError, match="its epoch_so_far is not"):
        check(damaged(lambda c: c.update(epoch_so_far=sums)), LitMiniVGG(), is_own_run=True)


def test_callbacks_and_scores_that_no_run_writes_are_refused(damaged, finished_run):
    with pytest.raises(InputError, match="its list of callbacks is not"):
        check(damaged(lambda c: c.update(callbacks="x")), LitMiniVGG(), is_own_run=True)

    def change(content):
        next(v for k, v in content["callbacks"].items() if "val_acc" in k).update(best_model_score="x")

    with pytest.raises(InputError, match="its best score is not"):
        check(damaged(change), LitMiniVGG(), is_own_run=True)
    name = next(name for name in checkpoint(finished_run[0])["callbacks"] if "val_acc" in name)
    with pytest.raises(InputError, match="its best score is not"):
        check(damaged(lambda c: c["callbacks"].update({name: "x"})), LitMiniVGG(), is_own_run=True)
    # What a callback of the user's keeps is the user's affair.
    check(damaged(lambda c: c["callbacks"].update(Mine=[3])), LitMiniVGG(), is_own_run=True)


@pytest.mark.parametrize("options", [{}, {"optimizer": "muon", "schedule": "triangular"}], ids=["sgd", "muon"])
def test_what_a_trainer_of_ones_own_wrote_is_taken(options, synthetic_root, tmp_path):
    from minivgg_pl import CIFAR10DataModule
    from tests.conftest import SYNTHETIC_SIZE

    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, limit_train_batches=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(LitMiniVGG(**options), datamodule=data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    check(tmp_path / "own.ckpt", LitMiniVGG(**options), is_own_run=False)
    with pytest.raises(InputError, match="state of the random generators"):
        check(tmp_path / "own.ckpt", LitMiniVGG(**options), is_own_run=True)


def test_a_refused_checkpoint_leaves_the_run_as_it_was(finished_run, train_here, tmp_path, capfd):
    run = shutil.copytree(finished_run[0], tmp_path / "runs" / "classic-synthetic" / "1")
    content = checkpoint(run)
    content["optimizer_states"] = [{}]
    torch.save(content, run / "checkpoints" / "last.ckpt")
    before = sorted(path.name for path in run.rglob("*"))
    assert train_here("--resume", run, "--epochs=5") == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: --resume {run / 'checkpoints' / 'last.ckpt'}: a damaged checkpoint")
    assert error.count("\n") == 1
    assert sorted(path.name for path in run.rglob("*")) == before


def test_another_optimizers_state_is_tried(synthetic_options, train_here, tmp_path, capfd):
    own = ["--optimizer=AdamW", "--optimizer.lr=0.001", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"]
    assert train_here(*synthetic_options, *own, "--epochs=1") == 0
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    assert train_here("--resume", run, "--epochs=2") == 0
    content = checkpoint(run)
    content["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(2)
    torch.save(content, run / "checkpoints" / "last.ckpt")
    capfd.readouterr()
    assert train_here("--resume", run, "--epochs=3") == 2
    assert "its optimizer or schedule is not what such a run writes" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("path", "is_in_run_folder"),
    [("local://{victim}", True), ("..", True), ("{run}/checkpoints/../../../../../victim", False)],
)
def test_no_path_in_a_checkpoint_is_ever_deleted(path, is_in_run_folder, finished_run, train_here, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept.txt").write_text("kept")
    run = shutil.copytree(finished_run[0], tmp_path / "runs" / "classic-synthetic" / "1")
    content = checkpoint(run)
    states = [state for name, state in content["callbacks"].items() if name.startswith("RunCheckpoint{")]
    assert len(states) == 2
    evil = path.format(victim=victim, run=run)
    for state in states:
        state["best_model_path"] = state["kth_best_model_path"] = state["last_model_path"] = evil
        state["best_k_models"] = {evil: torch.tensor(0.0)}
    place = run / "checkpoints" / "last.ckpt" if is_in_run_folder else tmp_path / "evil.ckpt"
    torch.save(content, place)
    assert train_here("--resume", run if is_in_run_folder else place, "--epochs=5") == 0
    assert (victim / "kept.txt").read_text() == "kept"
    assert (run / "config.yaml").exists()


def test_only_a_checkpoint_file_is_ever_removed(tmp_path):
    folder = tmp_path / "folder.ckpt"
    folder.mkdir()
    other = tmp_path / "other.txt"
    other.write_text("kept")
    own = tmp_path / "own.ckpt"
    own.write_bytes(b"")
    for path in (folder, other, own, f"local://{folder}"):
        AtomicCheckpointIO().remove_checkpoint(path)
    assert (folder.exists(), other.exists(), own.exists()) == (True, True, False)


def test_the_best_checkpoint_is_known_again_where_the_run_was_moved(finished_run, train_here, tmp_path):
    run = shutil.copytree(finished_run[0], tmp_path / "runs" / "classic-synthetic" / "1")
    assert train_here("--resume", run, "--epochs=5") == 0
    (state,) = [s for name, s in checkpoint(run)["callbacks"].items() if "val_acc" in name and "RunCheckpoint" in name]
    before = checkpoint(finished_run[0])["callbacks"]
    (first,) = [s for name, s in before.items() if "val_acc" in name and "RunCheckpoint" in name]
    assert state["best_model_score"] >= first["best_model_score"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_checkpoint_does_not_choose_what_is_imported(damaged, tmp_path):
    (tmp_path / "poison.py").write_text("open('imported', 'w')\nfrom minivgg_pl import CIFAR10DataModule as Data\n")

    def change(content):
        content["CIFAR10DataModule"]["class_path"] = "poison.Data"

    env = {"PYTHONPATH": str(tmp_path)}
    process = run_train("--resume", damaged(change), "--epochs=5", "--gpus=0", cwd=tmp_path, env=env, check=False)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "trained on data of poison.Data, which is imported only if typed" in process.stderr
    assert not (tmp_path / "imported").exists()
