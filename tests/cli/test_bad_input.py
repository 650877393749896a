"""Bad input: one line on stderr, exit code 2, nothing written."""

import importlib.util
import shutil

import pytest
import torch

OPTIONS = {
    # The short names.
    "--variant": "--variant needs a value",
    "--gpus two": "--gpus two: give a whole number, 0 or more",
    "--recipe fancy": "--recipe fancy: unknown; choose one of article, modern, speedrun",
    "--recipe modern --resume runs/classic/1": "a run keeps its own recipe; leave --recipe out",
    # The parser.
    "--variant huge": "--model.variant huge: expected classic or wide (",
    "--epochs 1.5": "--trainer.max_epochs 1.5: expected int",
    "--checkpoint_every_n_steps 0": "--checkpoint_every_n_steps 0: expected PositiveInt",
    "--data.batch_size many": "--data.batch_size many: expected int",
    "--data.dataset mnist": "mnist: give --data minivgg_pl.TorchvisionDataModule --data.dataset MNIST (",
    "--data.batchsize 3": "batchsize' is not ",  # jsonargparse 4.39 says "expected", newer ones "accepted"
    "--data nope": "--data nope: no such class; give CIFAR10DataModule",
    "--data none/such": "none/such: there is no such folder; give a folder that has a folder of images",
    "--data.skip_broken": "an option --data.* has no value: give it one, as in --data.skip_broken true (see",
    "--data=": "--data needs a value",
    "--data.train_transform os.nope": "--data.train_transform: module 'os' has no attribute 'nope': give the import",
    "--data.val_transform torchvision.transforms.v2.Normalize": "val_transform: the following arguments are required",
    "--data minivgg_pl.nope": "--data minivgg_pl.nope: module 'minivgg_pl' has no attribute 'nope'",
    "--data minivgg_pl.LitMiniVGG": "--data minivgg_pl.LitMiniVGG: not a data module for this command; give a",
    "--no_such_option 1": "no_such_option 1 (see --help)",
    "fit": "there are no subcommands, it always trains and then tests: leave fit out",
    "validate runs/classic/1": "validate runs/classic/1 (evaluate.py RUN measures a trained network; see --help)",
    "predict cat.jpg": "predict cat.jpg (predict.py IMAGE --weights RUN classifies images; see --help)",
    "--config missing.yaml": "missing.yaml: there is no such file; give a YAML file, such as a run's config.yaml",
    "--config .": ": there is no such file; give a YAML file",
    "--trainer gpu": "--trainer gpu: it is a group of options; give one of them, such as --variant or --trainer.<",
    "--trainer.precision 7": "--trainer.precision 7: expected 64, 32, 16, transformer-engine, ",
    "--optimizer adam": "--optimizer adam: no such class; give Adam (",
    "--optimizer nothing.alike": "--optimizer nothing.alike: ",
    "--model.optimizer adam": "--model.optimizer adam: expected sgd, muon or --optimizer Adam (",
    "--lr_scheduler cosine": "--lr_scheduler cosine: no such class; give CosineAnnealingLR (",
    "--optimizer AdamW --optimizer.learning_rate 1": "did you mean --optimizer.lr? (",
    "--trainer.logger tensorboard": "--trainer.logger tensorboard: no such class; give TensorBoardLogger (",
    "--trainer.callbacks pytorch_lightning.callbacks.EarlyStopping": "give lightning.pytorch.callbacks.EarlyStopping (",
    "--trainer.logger LitLogger": "LitLogger: not a class for this option, or one whose package is not installed (",
    "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_acc --trainer.callbacks.mode up": "error: `mod",
    "--trainer.callbacks LearningRateMonitor": "LearningRateMonitor: there is no logger to write to; give --trainer",
    "--resume missing": "--resume missing: there is no such file or folder",
    # Options that do not suit each other, or the data.
    "--epochs 0": "--epochs 0: give 1 or more",
    "--trainer.val_check_interval 0": "--trainer.val_check_interval 0: give a number above 0",
    "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor loss": "monitors 'loss': give one of train_loss, ",
    "--checkpoint_every_n_steps 5 --trainer.overfit_batches 2": "--trainer.overfit_batches: leave one of them out",
    "--model.image_size 64": "--model.image_size 64: the data have 32; leave it out",
    "--model.warmup 0.3": "warmup 0.3 has no effect with --model.schedule decay",
    "--recipe modern --model.nesterov false": "nesterov False has no effect with --model.optimizer",
    "--optimizer SGD --optimizer.lr 0.1 --optimizer.fused true --trainer.gradient_clip_val 1 --trainer.precision "
    "bf16-mixed": "--optimizer.fused true and --trainer.gradient_clip_val: Lightning does not clip its gradients in b",
    "--recipe modern --trainer.max_epochs -1": "--trainer.max_epochs -1: give a number above 0, the span of --model.s",
    "--recipe modern --trainer.max_steps 0": "--trainer.max_steps 0: give a number above 0, the span of --model.s",
    "--model.dropout_schedule linear --epochs -1": "--trainer.max_epochs -1: give a number above 0, the span of --m",
    "--recipe speedrun --compile": "--compile with --model.dropout_schedule linear: each rate would be compiled anew",
    "--recipe modern --optimizer SGD --model.lr 3": "model.lr 3.0 has no effect with --optimizer",
    "--lr_scheduler StepLR --lr_scheduler.step_size 1": "--lr_scheduler has no effect without --optimizer",
    # Values out of range, by the class that takes them.
    "--seed_everything -1": "--seed_everything -1: give a whole number from 0 to 4294967295",
    "--data.val_size 200": "val_size is 200: give at most 190, since",
    "--model.dense_units 0": "dense_units is 0",
    "--model.std [.nan,1,1]": "every value must be above 0",
    "--model.batch_norm_momentum 0": "batch_norm_momentum is 0.0: give above 0 to 1",
    "--model.label_smoothing 1": "label_smoothing is 1.0: give 0 to below 1",
    "--model.dropout_samples 0": "dropout_samples is 0: give 1 ",
    "--recipe modern --model.adamw_lr 0": "adamw_lr is 0.0: give a finite learning rate",
    "--model.init_from missing": "missing: there is no such file or folder; give classic, wide",
    "--trainer.limit_val_batches -1": "--trainer: ",
    "--trainer.strategy magic": "--trainer: ",
}


# What people type, and what the line tells them to type. No prefix of an option counts as the option.
MEANT = {
    "--lr 0.1": "did you mean --model.lr?",
    "--model.learning_rate 0.1": "did you mean --model.lr?",
    "--batch-size=32": "did you mean --data.batch_size?",
    "--data.batchsize 32": ": did you mean --data.batch_size? (see --help)",
    "--data.val 3": "did you mean --data.val_size?",
    "--epoch 3": "did you mean --epochs?",
    "--gpu 1": "did you mean --gpus?",
    "--device cpu": "(--gpus 0 is the CPU; ",
    "--workers 4": "(there are no workers, ",
    "--dataset cifar10": "--dataset cifar10 (--data FOLDER reads your own images, --data.dataset has cifar10 and syn",
    "--data_dir x": "--data_dir x (--data FOLDER reads your own images, --data.root names the place of CIFAR-10; see",
    "--output x": "did you mean --trainer.default_root_dir?",
    "--weights x": "did you mean --model.init_from?",
    "--image_size 64": "(it belongs to the data: after --data FOLDER, write it with `data.`",
    "--validation_split 0.1": "(did you mean --data.val_size? ",
    "--patience 3": "(--trainer.callbacks EarlyStopping does that; ",
    "--data CIFAR100": "CIFAR100: give --data minivgg_pl.TorchvisionDataModule --data.dataset CIFAR100 (",
    "--data cifar10": "TorchvisionDataModule (a data set's name belongs to --data.dataset), or a folder",
    "--amp": "(--trainer.precision bf16-mixed; ",
    "--weight_decay 0.1": "(--optimizer AdamW has one; ",
    "--model.dropout 0.3": "--model.dropout 0.3 (its rates belong to --variant; ",
    "--model.var wide": "did you mean --model.variant?",
    "--rec modern": "did you mean --recipe?",
    "classic": "did you mean --variant?",
}


@pytest.mark.parametrize(("options", "message"), MEANT.items(), ids=MEANT)
def test_an_option_of_other_programs_is_answered_with_the_one_here(refuse, options, message):
    assert message in refuse(*options.split())


def test_an_option_of_another_data_module_is_not_offered_again(refuse, tmp_path):
    error = refuse(f"--data={tmp_path}", "--data.dataset=synthetic", synthetic=False)
    assert "(it belongs to another data module than --data gives: leave one of them out; see --help)" in error


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_logger_without_its_package_says_what_to_install(refuse):
    error = refuse("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=x")
    assert "TensorBoardLogger needs a package that is not installed: pip install " in error


@pytest.mark.parametrize(("options", "message"), OPTIONS.items(), ids=OPTIONS)
def test_a_bad_option_is_refused(refuse, options, message):
    assert message in refuse(*options.split())


def test_devices_that_make_no_sense_are_refused(refuse):
    assert "--trainer: `devices`" in refuse("--trainer.accelerator=cpu", "--trainer.devices=abc", synthetic=False)


@pytest.mark.parametrize("option", ["--gpus=999", "--trainer.accelerator=gpu --trainer.devices=999"])
def test_gpus_that_are_not_there_are_refused_with_the_way_out(refuse, option):
    available = torch.cuda.device_count()
    error = refuse(*option.split(), synthetic=False)
    assert f"--gpus 999: this machine has {available}" in error
    assert "--gpus 0 runs on the CPU" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: {variant: [classic\n", "config.yaml: not YAML"),
        (b"model: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        (b"just words\n", "config.yaml: holds no options; give a YAML file"),
        (b"", "config.yaml: holds no options; give a YAML file"),
        (b"model: {variant: \xe9}\n", "config.yaml: not YAML (unacceptable character"),
        (
            b"modell: {variant: wide}\n",
            "config.yaml: there is no option modell.variant (did you mean model: {variant: ...}?",
        ),
        (b"variant: wide\n", "config.yaml: there is no option variant (did you mean model: {variant: ...}?"),
        (b"epochs: 3\n", "config.yaml: there is no option epochs (did you mean trainer: {max_epochs: ...}?"),
        (b"recipe: modern\n", "config.yaml: there is no option recipe (give --recipe on the command line;"),
        (b"model:\ndata:\n", "config.yaml: model is empty: give options in it, or remove the line"),
        (b"data: {batchsize: 3}\n", "did you mean --data.batch_size?"),
        (b"data: {class_path: minivgg_pl.CIFAR10DataModule, batch_size: 3}\n", "put the other options below init_args"),
        (
            b"trainer: {callbacks: [{class_path: pytorch_lightning.callbacks.Timer}]}\n",
            "lightning.pytorch.callbacks.Timer",
        ),
        (b"trainer: {max_epochs: soon}\n", "max_epochs"),
    ],
)
def test_a_bad_config_file_is_refused(refuse, tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert message in refuse("--config", path)


def test_damaged_data_are_refused(refuse, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"damaged")
    error = refuse("--gpus=0", f"--data.root={tmp_path}", synthetic=False)
    assert "cifar-10-python.tar.gz is not the official CIFAR-10 file" in error


def test_a_data_root_that_is_a_file_is_refused(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in refuse("--gpus=0", f"--data.root={tmp_path / 'file'}", synthetic=False)


def test_class_folders_in_the_place_of_cifar10_are_not_downloaded_into(refuse, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.jpg").touch()
    error = refuse("--gpus=0", f"--data.root={tmp_path / 'pets'}", "--data.url=http://127.0.0.1:9/x", synthetic=False)
    assert "pets: it holds class folders (cat, dog) and no CIFAR-10: name another folder (root), or train" in error
    assert error.endswith(f"--data {tmp_path / 'pets'}\n")


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
            (["--model.mean=[0.5,0.5,0.5]"], "model.mean was None"),
            (["--data.dataset=cifar10"], "data.dataset was synthetic and cannot become cifar10"),
        ],
    )
    def test_options_that_the_checkpoint_depends_on(self, refuse, checkpoint, options, message):
        assert message in refuse("--gpus=0", f"--resume={checkpoint}", *options, synthetic=False)

    def test_the_length_of_a_run_whose_dropout_falls(self, refuse, checkpoint):
        content = torch.load(checkpoint, weights_only=True)
        content["hyper_parameters"]["dropout_schedule"] = "linear"
        torch.save(content, checkpoint)
        options = ["--gpus=0", f"--resume={checkpoint}", "--data.batch_size=25"]
        assert "data.batch_size was 64 and cannot become 25" in refuse(*options, synthetic=False)

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
