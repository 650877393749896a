"""The recipes: what they set, what overrides them, and that they train and resume."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from minivgg_pl.cli.lightning_cli import MiniVGGCLI
from minivgg_pl.cli.recipes import FOLDER, RECIPES, recipe_of, recipe_options
from minivgg_pl.cli.short_names import expand_short_names
from minivgg_pl.cli.validation import check_options, take_normalization
from minivgg_pl.data.cifar10 import CIFAR10_CLASSES
from minivgg_pl.models.minivgg import MiniVGG
from minivgg_pl.training.module import LitMiniVGG
from minivgg_pl.weights.load import NO_NORMALIZATION, TrainedNetwork, load_trained, weights_bytes
from tests.cli.test_train import KILLER, assert_same_tensors, checkpoint, metrics, without_times
from tests.conftest import run_train

MODERN = ["--recipe=modern", "--data.batch_size=40"]


class ParserOnly(MiniVGGCLI):
    """Parses, and builds nothing."""

    def before_instantiate_classes(self):
        pass

    def instantiate_classes(self):
        pass


def parse(*words):
    return ParserOnly(expand_short_names(["--data.dataset=synthetic", *words])[0])


class ChecksOnly(MiniVGGCLI):
    """Parses and checks, and builds nothing but the data module."""

    def instantiate_classes(self):
        pass


def check(*words):
    return ChecksOnly(expand_short_names(["--data.dataset=synthetic", "--data.synthetic_size=200", *words])[0])


def test_every_recipe_is_in_the_folder():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_recognised(name):
    assert parse("--recipe", name).recipe() == name


@pytest.mark.parametrize("name", ["modern", "speedrun"])
def test_a_recipe_holds_only_differences(name):
    defaults = parse().default_options()
    for option, value in recipe_options(name).items():
        assert defaults[option] != value, option


def test_speedrun_is_modern_with_less_and_less_dropout_in_fewer_epochs():
    speedrun = dict(recipe_options("speedrun"))
    assert speedrun.pop("trainer.max_epochs") < 10
    assert speedrun.pop("model.dropout_schedule") == "linear"
    assert speedrun == recipe_options("modern")


def test_modern_gives_each_lines_reason():
    lines = (FOLDER / "modern.yaml").read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"\s*\w+: \S", line)]
    assert len(settings) == len(recipe_options("modern"))
    for number in settings:
        assert "#" in lines[number] or lines[number - 1].lstrip().startswith("#"), lines[number]


def test_the_article_recipe_is_the_default():
    defaults = parse().default_options()
    assert recipe_options("article").items() <= defaults.items()
    assert recipe_of(defaults, defaults) == "article"


def test_typed_options_win_over_the_recipe_wherever_they_stand():
    for words in (["--recipe", "modern", "--model.lr=0.07"], ["--model.lr=0.07", "--recipe", "modern"]):
        cli = parse(*words)
        assert cli.config.model.lr == 0.07
        assert cli.config.model.optimizer == "muon"
        assert cli.recipe() == "modern, changed: lr 0.07"


def test_epochs_device_and_precision_make_no_other_recipe():
    assert parse("--recipe=modern", "--epochs=4", "--gpus=0", "--trainer.precision=32-true").recipe() == "modern"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--recipe=speedrun", ""),
        ("--recipe=modern --epochs=2 --model.dropout_schedule=linear", "--recipe modern: other options win"),
    ],
)
def test_a_recipe_that_options_make_into_another_is_named(options, line, caplog):
    check(*options.split())
    assert line in caplog.text if line else "other options win" not in caplog.text


def test_the_articles_optimizer_can_replace_the_recipes():
    cli = parse("--recipe=modern", "--model.optimizer=sgd", "--model.lr=0.01")
    defaults = cli.default_options()
    check_options(cli.config, defaults, defaults)
    assert cli.recipe() == "modern, changed: optimizer sgd, lr 0.01"


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ("--model.nesterov=false", "article, changed: nesterov false"),
        ("--model.lr_decay=0 --data.shift=1 --data.root=x", "article, changed: lr_decay 0.0, shift 1"),
        ("--optimizer=AdamW --optimizer.lr=0.001", "article, changed: optimizer AdamW"),
        (
            "--data.train_transform=torchvision.transforms.v2.RandAugment",
            "article, changed: train_transform RandAugment",
        ),
        ("--recipe=speedrun --data.batch_size=32", "speedrun, changed: batch_size 32"),
        ("--recipe=modern --model.mean=null --model.std=null", "modern, changed: mean null, std null"),
    ],
)
def test_the_nearest_recipe_is_named_with_what_differs(options, recipe):
    assert parse(*options.split()).recipe() == recipe


def test_batches_that_lightning_takes_in_its_own_order_stay_plain(synthetic_options, train_here, capfd):
    assert train_here(*synthetic_options, "--recipe=modern", "--epochs=1", "--trainer.overfit_batches=1") == 0


def test_weights_to_start_from_bring_their_normalisation_and_leave_the_recipe_its_name(
    synthetic_options, tmp_path, train_here, capfd, monkeypatch
):
    # The command has read them, and the module need not.
    monkeypatch.setattr("minivgg_pl.training.module.load_trained", None)
    start = MiniVGG("wide", num_classes=10, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]).eval()
    (tmp_path / "start.safetensors").write_bytes(weights_bytes(TrainedNetwork(start, list(CIFAR10_CLASSES))))
    options = ["--recipe=modern", "--variant=wide", "--epochs=1", "--model.init_from=start.safetensors"]
    assert train_here(*synthetic_options, *options, "--model.dense_units=256") == 0
    folder = tmp_path / "runs" / "wide-synthetic" / "1"
    assert json.loads((folder / "summary.json").read_text())["recipe"] == "modern"
    assert "recipe       modern, from start.safetensors" in capfd.readouterr().out
    assert load_trained(folder).net.options["mean"] == [0.5, 0.4, 0.3]


def test_keras_weights_are_taken_as_assumed_without_the_normalisation_of_the_recipe():
    keras = TrainedNetwork(MiniVGG("classic"), list(CIFAR10_CLASSES), assumed=(NO_NORMALIZATION,))
    cli = parse("--recipe=modern")
    take_normalization(cli.config.model, keras, cli.default_options())
    assert (cli.config.model.mean, cli.config.model.std) == (None, None)
    typed = parse("--recipe=modern", "--model.mean=[0.5,0.5,0.5]")
    take_normalization(typed.config.model, keras, cli.default_options())
    assert typed.config.model.mean == [0.5, 0.5, 0.5]


def test_finetune_trains_on_from_weights_as_long_as_few_images_need(tmp_path, train_here, capfd, caplog):
    start = MiniVGG("wide", num_classes=10, dense_units=8).eval()
    torch.nn.init.normal_(start.dense_bn.running_mean)
    (tmp_path / "start.safetensors").write_bytes(weights_bytes(TrainedNetwork(start, list(CIFAR10_CLASSES))))
    for name, brightness in (("Cat", 50), ("sports car", 200)):
        for split in ("train", "val"):
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (32, 32), (brightness + number,) * 3).save(folder / f"{number}.png")
    options = ["--gpus=0", "--data", "mine", "--recipe", "finetune", "--variant", "wide", "--model.dense_units=8"]
    # Two updates an epoch.
    options += ["--data.batch_size=4", "--min_updates=44"]
    assert train_here(*options) == 2
    assert "--recipe finetune trains on from weights: give --model.init_from" in capfd.readouterr().err
    assert train_here(*options, "--model.init_from=start.safetensors") == 0
    assert "start.safetensors knows Cat; new classes: sports car" in caplog.text
    run = tmp_path / "runs" / "wide-mine" / "1"
    assert len(metrics(run)) == 22
    assert "22 epochs, for 44 updates or more; --epochs gives another number" in caplog.text
    assert json.loads((run / "summary.json").read_text())["recipe"] == "finetune, changed: batch_size 4"
    net = load_trained(run).net
    assert torch.equal(net.dense_bn.running_mean, start.dense_bn.running_mean)
    assert not torch.equal(net.dense.weight, start.dense.weight)


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ([], 11),
        (["--trainer.devices=2"], 22),
        (["--trainer.devices=2", "--trainer.num_nodes=2"], 44),
        (["--trainer.devices=2", "--data.split_batches=true"], 11),
        (["--min_updates=40"], 10),
    ],
)
def test_updates_are_counted_over_all_devices_and_more_epochs_are_said(options, epochs, caplog):
    with caplog.at_level("INFO"):
        cli = check("--data.batch_size=50", "--min_updates=44", *options)
    assert cli.config.trainer.max_epochs == epochs
    assert ("epochs, for 44 updates or more; --epochs gives another number" in caplog.text) == (epochs > 10)


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--model.freeze=[block1,block2]", "--model.freeze: the frozen parts stay random; --model.init_from gives"),
        ("--epochs=-1", "--epochs -1: it trains until Ctrl-C or a callback ends it"),
    ],
)
def test_what_few_people_mean_is_said(option, line, caplog):
    with caplog.at_level("INFO"):
        check(option)
        check("--model.freeze=block1", "--model.init_from=classic", "--epochs=-1", "--trainer.max_steps=9")
    assert caplog.text.count(line) == 1


def test_another_optimizer_replaces_the_recipes(synthetic_options, tmp_path, train_here, capfd):
    changed = "modern, changed: optimizer AdamW"
    assert train_here(*synthetic_options, "--recipe=modern", "--optimizer=AdamW", "--epochs=1") == 0
    assert json.loads((tmp_path / "runs/classic-synthetic/1/summary.json").read_text())["recipe"] == changed
    assert f"recipe       {changed}" in capfd.readouterr().out
    # A start with the run's options knows it too, and a person who reads them.
    config = tmp_path / "runs/classic-synthetic/1/config.yaml"
    assert config.read_text().startswith(f"# Recipe: {changed}\n")
    assert parse(f"--config={config}").recipe() == changed


def test_modern_runs_in_bf16_where_it_is_native_and_keeps_its_number_of_updates(
    synthetic_options, tmp_path, train_here, monkeypatch, capfd
):
    told = []
    monkeypatch.setattr("minivgg_pl.cli.fit.rank_zero_info", told.append)
    assert train_here(*synthetic_options, *MODERN, "--epochs=1") == 0
    folder = tmp_path / "runs" / "classic-synthetic" / "1"
    flags = Path("/proc/cpuinfo").read_text().split()
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    assert json.loads((folder / "summary.json").read_text())["precision"] == ("bf16-mixed" if native else "32-true")
    assert told == ([] if native else ["Training in float32: bfloat16 is not known to be native on this device."])
    assert train_here("--resume", folder, "--epochs=5", "--data.batch_size=50") == 2
    assert "data.batch_size was 40 and cannot become 50" in capfd.readouterr().err


@pytest.mark.slow
def test_a_killed_modern_run_goes_on_bit_for_bit(synthetic_options, tmp_path):
    """Restores the state of Muon and AdamW, the flips and shifts, and the schedule."""
    (tmp_path / "killer.py").write_text(KILLER)
    path = {"PYTHONPATH": str(tmp_path)}
    options = [*synthetic_options, *MODERN, "--epochs=3", "--trainer.callbacks=killer.KillInThirdEpoch"]
    run_train(*options, cwd=tmp_path, env=path)
    killed = run_train(*options, cwd=tmp_path, env={**path, "KILL": "1"}, check=False)
    assert killed.returncode == -9
    uninterrupted, run = (tmp_path / "runs" / "classic-synthetic" / number for number in "12")
    run_train("--resume", run, cwd=tmp_path, env=path)
    assert without_times(metrics(run)) == without_times(metrics(uninterrupted))
    resumed, whole = checkpoint(run), checkpoint(uninterrupted)
    assert_same_tensors(resumed["state_dict"], whole["state_dict"])
    kernels = [number for number, state in whole["optimizer_states"][0]["state"].items() if "momentum_buffer" in state]
    assert len(kernels) == 5
    for number, state in whole["optimizer_states"][0]["state"].items():
        assert_same_tensors(resumed["optimizer_states"][0]["state"][number], state)


@pytest.mark.slow
def test_a_compiled_network_keeps_its_names(synthetic_options, tmp_path):
    run_train(*synthetic_options, "--compile", "--epochs=1", cwd=tmp_path)
    run = tmp_path / "runs" / "classic-synthetic" / "1"
    module = LitMiniVGG.load_from_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any("_orig_mod" in name for name in module.state_dict())
