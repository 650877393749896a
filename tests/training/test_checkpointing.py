"""Checkpoints: inside epochs, whole files, read once, and the state to go on from; one process in a folder."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from minivgg_pl import LitMiniVGG
from minivgg_pl.cli.evaluate import _table
from minivgg_pl.cli.train import main
from minivgg_pl.errors import InputError
from minivgg_pl.evaluation.metrics import evaluate_probabilities
from minivgg_pl.runs.folder import lock_run, remove_parts
from minivgg_pl.training.checkpointing import AtomicCheckpointIO, RandomState, check_training_state
from minivgg_pl.weights.export import model_card
from minivgg_pl.weights.load import load_trained
from tests.cli.test_train import assert_same_tensors, checkpoint, metrics, without_times

KEEP = f"--trainer.callbacks={__name__}.Keep"


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
        # Random numbers beside those of dropout.
        ("modern", ["--data.train_transform=torchvision.transforms.v2.RandAugment"], (4, 12)),
        # Resumed behind a validation, the epoch's only one.
        ("article", ["--trainer.limit_train_batches=7", "--trainer.val_check_interval=4"], (4,)),
    ],
)
def test_a_checkpoint_resumes_at_the_next_batch_bit_for_bit(
    recipe, more, steps, synthetic_options, train_here, tmp_path, capfd
):
    options = [*synthetic_options, f"--recipe={recipe}", "--epochs=2", "--data.batch_size=24", *more]
    assert train_here(*options, "--checkpoint_every_n_steps=4", KEEP) == 0
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
    options += ["--checkpoint_every_n_steps=1", f"--trainer.callbacks={__name__}.KeepFirst"]
    assert train_here(*options) == 0
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


def test_a_resumed_run_reads_its_checkpoint_once(copied_run, train_here, monkeypatch, capfd):
    read = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: read.append(path) or load(path, **options))
    assert train_here("--resume", copied_run, "--epochs=5") == 0
    assert read == [copied_run / "checkpoints" / "last.ckpt"]


def test_a_content_that_was_read_is_handed_out_once(tmp_path):
    path = tmp_path / "last.ckpt"
    files = AtomicCheckpointIO({path: {"a": 1}})
    files.save_checkpoint({"a": 2}, path)
    assert [files.load_checkpoint(path) for _ in range(2)] == [{"a": 1}, {"a": 2}]


def test_a_trained_run_without_checkpoints_is_not_begun_again(copied_run, train_here, tmp_path, capfd):
    shutil.rmtree(copied_run / "checkpoints")
    before = {path: path.read_bytes() for path in copied_run.rglob("*") if path.is_file()}
    assert train_here("--resume", copied_run) == 2
    assert "it was trained, and has no checkpoints/last.ckpt to go on from" in capfd.readouterr().err
    (copied_run / "summary.json").rename(tmp_path / "summary.json")
    assert train_here("--resume", copied_run) == 2
    (tmp_path / "summary.json").rename(copied_run / "summary.json")
    assert {path: path.read_bytes() for path in copied_run.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def stopped_run(synthetic_options, tmp_path_factory):
    """The folder of a finished run, and a checkpoint from inside its epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = [*synthetic_options, "--epochs=1", "--data.batch_size=24", "--checkpoint_every_n_steps=4"]
        assert main([*options, KEEP]) == 0
    return folder / "runs" / "classic-synthetic" / "1", folder / "4.ckpt"


def test_weights_from_inside_an_epoch_say_so(stopped_run, tmp_path):
    run, inside = stopped_run
    place = "saved inside epoch 1, after 4 of its batches"
    trained = load_trained(inside)
    assert trained.metadata["unfinished"] == place
    assert f"| training not finished | {place} |" in model_card(trained)
    lines = _table(evaluated(trained.metadata), tmp_path).splitlines()
    assert lines[1] == f"training         {place}: not finished"
    finished = load_trained(run)
    assert "unfinished" not in finished.metadata
    assert "training not finished" not in model_card(finished)


def evaluated(metadata):
    numbers = evaluate_probabilities(torch.eye(10), torch.arange(10))
    names = {"weights": "4.ckpt", "variant": "classic", "dataset": "synthetic", "title": "synthetic images"}
    return {**names, "weights_facts": metadata, **numbers}


def test_another_batch_size_in_the_middle_of_an_epoch_is_refused(stopped_run, train_here, tmp_path, capfd):
    run = shutil.copytree(stopped_run[0], tmp_path / "run")
    shutil.copy(stopped_run[1], run / "checkpoints" / "last.ckpt")
    before = sorted(run.rglob("*"))
    assert train_here("--resume", run, "--data.batch_size=48") == 2
    assert sorted(run.rglob("*")) == before
    assert "inside an epoch, 24 images a batch, devices: 1; until its end" in capfd.readouterr().err


def test_a_run_without_a_checkpoint_begins_again_in_its_folder(finished_run, copied_run, train_here):
    source, _ = finished_run
    shutil.rmtree(copied_run / "checkpoints")
    (copied_run / "summary.json").unlink()
    # A row is written before its checkpoint.
    header, first, *_ = (copied_run / "metrics.csv").read_text().splitlines(keepends=True)
    (copied_run / "metrics.csv").write_text(header + first)
    assert train_here("--resume", copied_run) == 0
    assert without_times(metrics(copied_run)) == without_times(metrics(source))
    assert_same_tensors(checkpoint(copied_run)["state_dict"], checkpoint(source)["state_dict"])
    assert os.listdir(copied_run.parent) == ["1"]
    # The run is over, and its folder unlocked.
    os.close(lock_run(copied_run))


def test_one_process_at_a_time_trains_in_a_folder(copied_run, train_here, capfd):
    lock = lock_run(copied_run)
    before = sorted(copied_run.rglob("*"))
    assert train_here("--resume", copied_run, "--epochs=5") == 2
    assert "another process is training in this run folder" in capfd.readouterr().err
    assert sorted(copied_run.rglob("*")) == before
    os.close(lock)
    os.close(lock_run(copied_run))


def test_what_kills_left_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".a1.part", "checkpoints/.b2.part", "keep.csv", "half.part"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["checkpoints", "half.part", "keep.csv"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_names_its_path(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"a": torch.ones(2)}, path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be written: No space left on device"):
        writer.save_checkpoint({"a": torch.zeros(2)}, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_only_a_checkpoint_file_is_ever_removed(tmp_path):
    folder, other, own = tmp_path / "folder.ckpt", tmp_path / "other.txt", tmp_path / "own.ckpt"
    folder.mkdir()
    other.write_text("kept")
    own.write_bytes(b"")
    for path in (folder, other, own, f"local://{folder}"):
        AtomicCheckpointIO().remove_checkpoint(path)
    assert (folder.exists(), other.exists(), own.exists()) == (True, True, False)


def test_a_run_that_stopped_inside_an_epoch_and_counted_it_is_not_taken_for_whole(
    synthetic_options, train_here, tmp_path, capfd
):
    assert train_here(*synthetic_options, "--epochs=2", "--data.batch_size=24", "--trainer.max_steps=4") == 0
    assert train_here("--resume=runs/classic-synthetic/1", "--trainer.max_steps=-1") == 2
    assert "it was saved inside epoch 1, or stopped there" in capfd.readouterr().err


def trained(**options):
    """Return a module after one update, and what a checkpoint of it holds of the weights and the optimizer."""
    module = LitMiniVGG(dense_units=4, **options)
    optimizer = module.configure_optimizers()["optimizer"]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return module, {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}


def state(content):
    return content["optimizer_states"][0]["state"]


KERNEL = "net.block1.conv1.weight"
DAMAGES = {
    "no optimizer": lambda c: c.update(optimizer_states=[]),
    "an empty optimizer": lambda c: c.update(optimizer_states=[{}]),
    "fewer parameters": lambda c: c["optimizer_states"][0]["param_groups"][0].update(params=[0, 1]),
    "momentum of another shape": lambda c: state(c)[0].update(momentum_buffer=torch.zeros(2)),
    "momentum that is no tensor": lambda c: state(c)[0].update(momentum_buffer="x"),
    "a kernel is gone": lambda c: c["state_dict"].pop(KERNEL),
    "a kernel of another shape": lambda c: c["state_dict"].update({KERNEL: torch.zeros(2)}),
    "one kernel more": lambda c: c["state_dict"].update({"net.other": torch.zeros(2)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_weights_and_optimizer_state_of_another_layout_are_refused(damage):
    module, content = trained()
    check_training_state(content, module, "--resume x")
    damage(content)
    with pytest.raises(InputError, match="--resume x: a damaged checkpoint, or one of another model"):
        check_training_state(content, module, "--resume x")


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_an_optimizers_state_of_another_order_in_memory_is_brought_into_its_own(optimizer):
    module, content = trained(optimizer=optimizer)
    values = {number: dict(entry) for number, entry in state(content).items()}
    for entry in state(content).values():
        # As on a Mac's GPU.
        entry.update({name: value.contiguous() for name, value in entry.items()})
    check_training_state(content, module, "--resume x")
    loaded = module.configure_optimizers()["optimizer"]
    loaded.load_state_dict(content["optimizer_states"][0])
    orders = set()
    for parameter, entry in zip(values, loaded.state_dict()["state"].values(), strict=True):
        for name, value in entry.items():
            assert torch.equal(value, values[parameter][name])
            assert value.stride() == values[parameter][name].stride()
            orders.add(value.is_contiguous())
    assert orders == {True, False}


@pytest.mark.parametrize("options", [{"optimizer": "muon"}, {"momentum": 0.0, "nesterov": False}, {"in_channels": 1}])
def test_every_optimizers_own_state_is_taken(options):
    module, content = trained(**options)
    check_training_state(content, module, "--resume x")


def test_a_subclass_may_have_an_optimizer_of_its_own():
    class Own(LitMiniVGG):
        def configure_optimizers(self):
            return {"optimizer": torch.optim.Adam(self.parameters())}

    module = Own(dense_units=4)
    optimizer = module.configure_optimizers()["optimizer"]
    module(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    content = {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    check_training_state(content, module, "--resume x")


def test_a_refused_checkpoint_leaves_the_run_as_it_was(copied_run, train_here, capfd):
    content = checkpoint(copied_run)
    content["optimizer_states"] = [{}]
    torch.save(content, copied_run / "checkpoints" / "last.ckpt")
    before = sorted(path.name for path in copied_run.rglob("*"))
    assert train_here("--resume", copied_run, "--epochs=5") == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: --resume {copied_run / 'checkpoints' / 'last.ckpt'}: a damaged checkpoint")
    assert error.count("\n") == 1
    assert sorted(path.name for path in copied_run.rglob("*")) == before


def test_a_run_with_another_optimizer_resumes(synthetic_options, train_here, tmp_path, capfd):
    own = ["--optimizer=AdamW", "--optimizer.lr=0.001", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"]
    assert train_here(*synthetic_options, *own, "--epochs=1") == 0
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    assert train_here("--resume", run, "--epochs=2") == 0
    assert [float(row["lr"]) for row in metrics(run)] == pytest.approx([1e-4, 1e-5])


@pytest.mark.parametrize("is_in_run_folder", [True, False])
def test_no_path_in_a_checkpoint_is_ever_deleted(is_in_run_folder, copied_run, train_here, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept.txt").write_text("kept")
    content = checkpoint(copied_run)
    states = [state for name, state in content["callbacks"].items() if name.startswith("RunCheckpoint{")]
    assert len(states) == 2
    for kept in states:
        kept["best_model_path"] = kept["kth_best_model_path"] = kept["last_model_path"] = f"local://{victim}"
        kept["best_k_models"] = {f"local://{victim}": torch.tensor(0.0)}
    place = copied_run / "checkpoints" / "last.ckpt" if is_in_run_folder else tmp_path / "evil.ckpt"
    torch.save(content, place)
    assert train_here("--resume", copied_run if is_in_run_folder else place, "--epochs=5") == 0
    assert (victim / "kept.txt").read_text() == "kept"
    assert (copied_run / "config.yaml").exists()


def test_a_checkpoint_does_not_choose_what_is_imported(finished_run, train_here, tmp_path, monkeypatch, capfd):
    (tmp_path / "poison.py").write_text("open('imported', 'w')\nfrom minivgg_pl import CIFAR10DataModule as Data\n")
    monkeypatch.syspath_prepend(tmp_path)
    content = checkpoint(finished_run[0])
    content["datamodule_hyper_parameters"]["train_transform"] = "poison.Data"
    torch.save(content, tmp_path / "strange.ckpt")
    assert train_here("--resume", tmp_path / "strange.ckpt", "--epochs=5", "--gpus=0") == 0
    capfd.readouterr()
    content["CIFAR10DataModule"]["class_path"] = "poison.Data"
    torch.save(content, tmp_path / "damaged.ckpt")
    assert train_here("--resume", tmp_path / "damaged.ckpt", "--epochs=5", "--gpus=0") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "data.class_path was poison.Data and cannot become minivgg_pl.CIFAR10DataModule" in error
    assert not (tmp_path / "imported").exists()


def test_a_run_on_the_cpu_leaves_gpus_alone(monkeypatch):
    for name in ("get_rng_state", "get_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, lambda: pytest.fail("CUDA is initialised"))
    assert RandomState().state_dict()["cuda"] == []


@pytest.mark.parametrize(
    ("number", "device", "restored", "line"),
    [
        (1, "cuda:0", 0, None),
        (1, "cuda:1", 0, None),
        (4, "cuda:2", 2, None),
        (1, "cuda", 0, None),
        (1, "mps:0", 0, None),
        (1, "cpu", None, "has a GPU's random state, and this run is on cpu: dropout may draw other numbers"),
        (0, "cuda:0", None, "has no GPU's random state, and this run is on cuda:0: dropout may draw other numbers"),
        (0, "mps:0", None, "has no GPU's random state, and this run is on mps:0: dropout may draw other numbers"),
        (0, "cpu", None, None),
    ],
)
def test_a_gpus_random_state_is_restored_or_a_line_says_why_not(number, device, restored, line, monkeypatch, caplog):
    given = []
    for module in (torch.cuda, torch.mps):
        monkeypatch.setattr(module, "set_rng_state", lambda state, device: given.append((state, str(device))))
    state = RandomState()
    state.load_state_dict(state.state_dict() | {"mps" if "mps" in device else "cuda": list(range(number))})
    strategy = SimpleNamespace(root_device=torch.device(device))
    with caplog.at_level("INFO"):
        state.on_fit_start(SimpleNamespace(global_rank=0, strategy=strategy), None)
    assert given == ([] if restored is None else [(restored, device)])
    assert line in caplog.text if line else not caplog.text
