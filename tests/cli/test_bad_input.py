"""Bad input: one line on stderr, exit code 2, nothing written."""

import re
import shutil

import pytest
import torch

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variant", "huge"], "--variant huge: unknown; choose one of classic, wide"),
        (["--model.variant", "huge"], "model.variant"),
        (["--variant"], "--variant needs a value"),
        (["--gpus", "-1"], "--gpus -1: give a whole number, 0 or more"),
        (["--gpus", "two"], "--gpus two: give a whole number"),
        (["--epochs", "0"], "--epochs 0: give a whole number, 1 or more"),
        (["--epochs", "-3"], "--epochs -3"),
        (["--epochs", "1.5"], "--epochs 1.5"),
        (["--trainer.max_epochs", "0"], "max_epochs 0: give 1 or more"),
        (["--trainer.val_check_interval", "0"], "--trainer.val_check_interval 0: give a number of batches"),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "loss"],
            "EarlyStopping monitors 'loss': give one of train_loss, ",
        ),
        (
            ["--checkpoint_every_n_steps", "5", "--trainer.overfit_batches", "2"],
            "--checkpoint_every_n_steps 5: no epoch can be resumed inside with --trainer.overfit_batches",
        ),
        (["--data.batch_size", "0"], "batch_size is 0"),
        (["--data.batch_size", "-5"], "batch_size is -5"),
        (["--data.batch_size", "many"], "data.batch_size"),
        (["--data.val_size", "-1"], "val_size is -1"),
        (["--data.val_size", "200"], "val_size is 200: give 0 .* to 190"),
        (["--data.dataset", "mnist"], "data.dataset"),
        (["--data", "nope"], "--data minivgg_pl.nope: no such class"),
        (["--data", "minivgg_pl.LitMiniVGG"], "not a data module of images; give minivgg_pl.CIFAR10DataModule"),
        (["--data.batchsize", "3"], "batchsize' is not "),  # jsonargparse 4.39 says "expected", newer ones "accepted"
        (["--model.init_from", "missing"], "missing: there is no such file or folder; give classic, wide"),
        (
            ["--model.init_from", "wide"],
            "wide: weights of a wide network, .*: give --variant wide",
        ),
        (["fit"], "unrecognized arguments: fit .there are no subcommands, .*leave fit out"),
        (["--model.init_from", "x.weights.h5"], "x.weights.h5: not a readable .weights.h5 file"),
        (["--model.image_size", "64"], "--model.image_size 64: the data have 32; leave it out"),
        (["--recipe", "fancy"], "--recipe fancy: unknown; choose one of article, modern, speedrun"),
        (["--recipe"], "--recipe needs a value"),
        (["--model.optimizer", "adam"], "model.optimizer"),
        (["--model.schedule", "cosine"], "model.schedule"),
        (["--model.label_smoothing", "1"], "label_smoothing is 1.0: give 0 to below 1"),
        (["--model.dropout_samples", "0"], "dropout_samples is 0: give 1 "),
        (["--model.warmup", "0.3"], "warmup 0.3 has no effect with --model.schedule decay"),
        (["--model.adamw_lr", "0.1"], "adamw_lr 0.1 has no effect with --model.optimizer sgd"),
        (["--recipe", "modern", "--model.adamw_lr", "0"], "adamw_lr is 0.0: give a finite learning rate"),
        (
            ["--recipe", "modern", "--model.nesterov", "false"],
            "nesterov False has no effect with --model.optimizer",
        ),
        (
            ["--recipe", "modern", "--model.lr_decay", "0.1"],
            "lr_decay 0.1 has no effect with --model.schedule",
        ),
        (["--recipe", "modern", "--trainer.max_epochs", "-1"], "the triangular schedule needs the run's end"),
        (["--recipe", "modern", "--optimizer", "SGD", "--model.lr", "3"], "model.lr 3.0 has no effect beside --opt"),
        (["--recipe", "modern", "--trainer.max_steps", "0"], "max_steps 0: the triangular schedule needs at least one"),
        (["--recipe", "modern", "--trainer.limit_train_batches", "0"], "limit_train_batches 0: the triangular"),
        (["--recipe", "modern", "--recipe", "article"], "--recipe modern and --recipe article: give one"),
        (["--recipe", "modern", "--resume", "runs/classic/1"], "a run keeps its own recipe; leave --recipe out"),
        (["--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "1"], "--lr_scheduler has no effect without"),
        (["--model.std", "[.nan,1,1]"], "std is .*: every value must be above 0"),
        (["--model.lr", ".inf"], "lr is inf: give a finite learning rate"),
        (["--model.batch_norm_images", "-1"], "batch_norm_images is -1"),
        (["--model.batch_norm_momentum", "0"], "batch_norm_momentum is 0.0: give above 0 to 1"),
        (["--seed_everything", "-1"], "--seed_everything -1: give a whole number from 0 to 4294967295"),
        (["--config", "."], r"\.: not a file; give a YAML file"),
        (["--data.flip", "up"], "data.flip"),
        (["--data.shift", "32"], "shift is 32: give 0 to 31"),
        (["--native_bf16", "perhaps"], "native_bf16"),
        (["--compile=perhaps"], "compile"),
        (["--model.lr", "0"], "lr is 0.0"),
        (["--model.momentum", "1"], "momentum is 1.0"),
        (["--model.momentum", "0"], "nesterov needs momentum"),
        (["--model.lr_decay", "-1"], "lr_decay is -1"),
        (["--model.dense_units", "0"], "dense_units is 0"),
        (["--model.num_classes", "5"], "num_classes 5: the data have 10"),
        (["--optimizer", "AdamW", "--model.lr", "5"], "model.lr 5.0 has no effect beside --optimizer"),
        (["--curves.reference", "book"], "curves.reference"),
        (["--data.synthetic_size", "0"], "synthetic_size is 0"),
        (["--data.split_seed", "-1"], "split_seed is -1"),
        (["--trainer.accumulate_grad_batches", "0"], "accumulate_grad_batches 0"),
        (["--trainer.devices", "abc"], "contradict"),
        (["--trainer.precision", "17"], "precision"),
        (["--trainer.limit_val_batches", "-1"], "--trainer: .*limit_val_batches"),
        (["--trainer.strategy", "magic"], "--trainer: .*magic"),
        (["--no_such_option", "1"], r"no_such_option 1 \(see --help\)"),
        (["--lr", "0.1"], r"--lr could match .* \(did you mean --model.lr\? see --help\)"),
        (["--batch-size=32"], r"--batch-size=32 \(did you mean --data.batch_size\?"),
        (["--epoch", "3"], r"--epoch 3 \(did you mean --epochs\?"),
        (["--config", "missing.yaml"], "File does not exist.*missing.yaml"),
        (["--resume", "missing"], "--resume missing: there is no such file or folder"),
    ],
)
def test_a_bad_option_is_refused(refuse, options, message):
    assert re.search(message, refuse(*options))


def test_devices_that_make_no_sense_are_refused(refuse):
    assert "--trainer: `devices`" in refuse("--trainer.accelerator=cpu", "--trainer.devices=abc", synthetic=False)


@no_gpu
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out(refuse):
    assert "--gpus 0 runs on the CPU" in refuse("--gpus=1", synthetic=False)
    assert "--gpus 0 runs on the CPU" in refuse("--trainer.accelerator=gpu", synthetic=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_more_gpus_than_there_are_are_refused(refuse):
    available = torch.cuda.device_count()
    assert f"this machine has {available}" in refuse(f"--gpus={available + 1}", synthetic=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {variant: [classic\n", "Problems parsing config"),
        ("just words\n", "Unexpected config"),
        ("modell: {variant: wide}\n", "modell"),
        ("model: {variants: wide}\n", "variants"),
        ("trainer: {max_epochs: soon}\n", "max_epochs"),
        ("model: null\ntrainer: {max_epochs: 2}\n", "variant null"),
        ("model: {variant: null}\n", "variant null"),
        ("", "holds no options; give a YAML file"),
    ],
)
def test_a_bad_config_file_is_refused(refuse, tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert message in refuse("--config", path)


def _copy(synthetic_root, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(synthetic_root, root)
    return root


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"\x00" + data[1:]])
def test_damaged_data_are_refused(refuse, synthetic_root, tmp_path, damage):
    root = _copy(synthetic_root, tmp_path)
    path = next(root.rglob("data_batch_1"))
    path.write_bytes(damage(path.read_bytes()))
    error = refuse(f"--data.root={root}")
    assert "data_batch_1" in error


def test_a_data_root_that_is_a_file_is_refused(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refuse(f"--data.root={tmp_path / 'file'}")
    assert "is a file" in refuse("--gpus=0", f"--data.root={tmp_path / 'file'}", synthetic=False)


def test_no_data_and_no_network_name_the_folder_the_file_and_the_way_out(refuse, tmp_path):
    error = refuse("--gpus=0", f"--data.root={tmp_path / 'none'}", "--data.url=http://127.0.0.1:9/x", synthetic=False)
    for part in (str(tmp_path / "none"), "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "synthetic"):
        assert part in error
    assert not (tmp_path / "none").exists()


def test_a_run_folder_that_cannot_be_made_is_refused(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    assert "run folders cannot be made" in refuse(f"--trainer.default_root_dir={tmp_path / 'file'}")


class TestResume:
    """Checkpoints that cannot be continued."""

    @pytest.fixture
    def checkpoint(self, finished_run, tmp_path):
        run, _ = finished_run
        path = tmp_path / "copy.ckpt"
        shutil.copy(run / "checkpoints" / "last.ckpt", path)
        return path

    def test_a_truncated_checkpoint(self, refuse, checkpoint):
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
        assert "not a readable checkpoint" in refuse(f"--resume={checkpoint}")

    def test_no_checkpoint_at_all(self, refuse, tmp_path):
        path = tmp_path / "notes.ckpt"
        path.write_text("hello")
        assert "not a readable checkpoint" in refuse(f"--resume={path}")

    def test_bare_weights(self, refuse, tmp_path):
        path = tmp_path / "weights.ckpt"
        torch.save({"block1.conv1.weight": torch.zeros(1)}, path)
        assert "not a checkpoint that Lightning wrote" in refuse(f"--resume={path}")

    def test_pickled_code_is_not_run(self, refuse, tmp_path):
        path = tmp_path / "evil.ckpt"
        torch.save({"state_dict": _Evil(str(tmp_path / "ran"))}, path)
        assert "not a readable checkpoint" in refuse(f"--resume={path}")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--variant=wide"], "model.variant was classic and cannot become wide"),
            (["--model.lr=0.1"], "model.lr was 0.01 and cannot become 0.1"),
            (["--model.mean=[0.5,0.5,0.5]"], "model.mean was None"),
            (["--data.val_size=50"], "data.val_size was 0 and cannot become 50"),
            (["--data.dataset=cifar10"], "data.dataset was synthetic and cannot become cifar10"),
        ],
    )
    def test_options_that_the_checkpoint_depends_on(self, refuse, checkpoint, options, message):
        assert message in refuse("--gpus=0", f"--resume={checkpoint}", *options, synthetic=False)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--seed_everything=9"], "seed_everything was 0 and cannot become 9"),
            (["--optimizer=AdamW"], "optimizer"),
        ],
    )
    def test_options_that_only_the_runs_config_knows(self, refuse, finished_run, options, message):
        run, _ = finished_run
        before = sorted(run.iterdir())
        assert message in refuse(f"--resume={run}", "--epochs=9", *options, synthetic=False)
        assert sorted(run.iterdir()) == before

    def test_a_checkpoint_from_inside_an_epoch(self, refuse, checkpoint):
        content = torch.load(checkpoint, weights_only=True)
        # As a ModelCheckpoint saves it after the epoch's last batch, before the validation.
        content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] -= 1
        torch.save(content, checkpoint)
        assert "saved inside epoch" in refuse(f"--resume={checkpoint}")

    def test_a_checkpoint_without_loops(self, refuse, checkpoint):
        content = torch.load(checkpoint, weights_only=True)
        torch.save({**content, "loops": {}}, checkpoint)
        assert "without the state of the training loop" in refuse(f"--resume={checkpoint}")

    def test_damaged_metrics(self, refuse, finished_run, tmp_path):
        run, _ = finished_run
        copy = tmp_path / "run"
        shutil.copytree(run, copy)
        (copy / "metrics.csv").write_text("hello,world\n1,2\n")
        assert "metrics.csv is damaged" in refuse(f"--resume={copy}", "--epochs=9", synthetic=False)

    def test_a_folder_without_a_checkpoint(self, refuse, tmp_path):
        (tmp_path / "folder").mkdir()
        assert "has no checkpoints/last.ckpt" in refuse(f"--resume={tmp_path / 'folder'}")


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")
