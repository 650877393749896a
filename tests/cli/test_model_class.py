"""`--model`: a subclass of LitMiniVGG in a user's file, from the training to the export."""

import json
import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch
from PIL import Image

from minivgg_pl import MiniVGG, read_image
from minivgg_pl.cli import evaluate, export, predict
from minivgg_pl.cli.model_class import search_here
from minivgg_pl.errors import InputError
from tests.cli.test_train import KILLER, assert_same_tensors, checkpoint, metrics, without_times
from tests.conftest import REPOSITORY, run_train

# Twenty lines, as a user writes them.
MY_MODULE = """
import torch
from torch import nn

from minivgg_pl import LitMiniVGG


class MyVGG(LitMiniVGG):
    def __init__(self, alpha: float = 0.2, **options):
        super().__init__(**options)
        layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        self.net = nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(128, self.hparams.num_classes))

    def training_step(self, batch, batch_idx):
        images, targets = batch
        share = torch.distributions.Beta(self.hparams.alpha, self.hparams.alpha).sample()
        other = torch.randperm(len(images))
        images, targets = (share * x + (1 - share) * x[other] for x in (images, targets))
        return super().training_step((images, targets), batch_idx)


class Doubled(LitMiniVGG):
    def forward(self, images):
        return 2 * super().forward(images)


class Logs(LitMiniVGG):
    backbone = None

    def validation_step(self, batch, batch_idx):
        self.log("constant", 0.5)
        return super().validation_step(batch, batch_idx)


class Fixed(LitMiniVGG):
    def __init__(self, **options):
        super().__init__(variant="wide", **options)


class Model(torch.nn.Module):
    pass
"""
MODEL = "--model=my_module.MyVGG"


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """The user's file in the working directory."""
    (tmp_path / "my_module.py").write_text(MY_MODULE + KILLER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_module", raising=False)


def run(name, *options):
    command = [sys.executable, REPOSITORY / "scripts" / name, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)


@pytest.mark.slow
def test_a_class_of_the_users_own_is_trained_killed_resumed_and_evaluated(
    my_module, synthetic_options, tmp_path, train_here
):
    options = [*synthetic_options, MODEL, "--model.alpha=0.4", "--epochs=4"]
    options.append("--trainer.callbacks=my_module.KillInThirdEpoch")
    killed = run_train(*options, cwd=tmp_path, env={"KILL": "1"}, check=False)
    assert killed.returncode == -9
    resumed = tmp_path / "runs" / "myvgg-synthetic" / "1"
    assert len(metrics(resumed)) == 2
    run_train("--resume", resumed, cwd=tmp_path)
    assert "model_class: my_module.MyVGG" in (resumed / "config.resume-1.yaml").read_text()

    assert train_here(*options) == 0
    whole = resumed.with_name("2")
    assert without_times(metrics(resumed)) == without_times(metrics(whole))
    assert_same_tensors(checkpoint(resumed)["state_dict"], checkpoint(whole)["state_dict"])

    run("evaluate.py", resumed, MODEL)
    summary, measured = (
        json.loads((folder / "summary.json").read_text())
        for folder in (resumed, tmp_path / "runs" / "evaluate-myvgg-synthetic" / "1")
    )
    assert measured["accuracy"] == pytest.approx(summary["test_acc"], abs=1e-6)
    assert measured["loss"] == pytest.approx(summary["test_loss"], rel=1e-4)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory, synthetic_options):
    """The run folder of a class with a `forward` of its own, whose weights suit a MiniVGG."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_module.py").write_text(MY_MODULE)
    few = ["--trainer.limit_train_batches=1", "--recipe=modern", "--epochs=1"]
    run_train(*synthetic_options, "--model=my_module.Doubled", *few, cwd=folder)
    return folder / "runs" / "doubled-synthetic" / "1"


def test_a_recipe_is_that_of_the_class_and_says_so(own_run):
    assert (own_run / "config.yaml").read_text().startswith("# Recipe: modern, changed: model my_module.Doubled\n")
    assert checkpoint(own_run)["hyper_parameters"]["optimizer"] == "muon"


def test_its_own_code_answers(own_run, my_module, capsys):
    Image.radial_gradient("L").save("it.png")
    assert predict.main(["it.png", f"--weights={own_run}", "--model=my_module.Doubled", "--output=it.json"]) == 0
    content = checkpoint(own_run)
    net = MiniVGG(**{name: content["hyper_parameters"][name] for name in MiniVGG().options})
    net.load_state_dict({name.removeprefix("net."): value for name, value in content["state_dict"].items()})
    image = torch.from_numpy(read_image("it.png")).permute(2, 0, 1)[None] / 255
    logits = net.eval()(image)
    answer = json.loads(Path("it.json").read_text())[0]["predictions"][0]["probability"]
    assert answer == pytest.approx((2 * logits).softmax(dim=1).max().item(), abs=1e-4)
    assert export.main([str(own_run), "--model=my_module.Doubled", "--to=pt2", "--output=it.pt2"]) == 0
    exported = torch.export.load("it.pt2").module()(image)
    assert torch.allclose(exported, 2 * logits, atol=1e-4)


def test_without_the_class_it_is_not_read_as_something_else(own_run, my_module, tmp_path, capsys):
    line = "trained as my_module.Doubled, and not as LitMiniVGG: evaluate.py, predict.py and export.py read it with --"
    assert evaluate.main([str(own_run)]) == 2
    assert line in capsys.readouterr().err
    with pytest.raises(InputError, match=line):
        MiniVGG.from_pretrained(own_run)
    assert "my_module" not in sys.modules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["wide", "--model=my_module.MyVGG"], "--model MyVGG: wide is no run of it, and no .ckpt: leave it out"),
        (["RUN", "--model=my_module.MyVGG"], "trained as my_module.Doubled, and not as MyVGG"),
        (
            ["RUN", "--model=wide"],
            "--model wide: give the import path of a class, such as my_module.MyVGG for MyVGG in",
        ),
    ],
)
def test_a_class_that_the_weights_are_not_of_is_refused(own_run, my_module, capsys, options, message):
    assert evaluate.main([str(own_run) if word == "RUN" else word for word in options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_only_a_class_path_in_the_command_line_resumes_a_checkpoint_alone(own_run, my_module, train_here, capsys):
    path = os.path.relpath(own_run / "checkpoints" / "last.ckpt")
    os.link(path, "moved.ckpt")
    assert train_here("--resume=moved.ckpt", "--epochs=2", "--gpus=0") == 2
    assert "model_class was my_module.Doubled and cannot become minivgg_pl.LitMiniVGG" in capsys.readouterr().err
    assert "my_module" not in sys.modules
    assert train_here("--resume=moved.ckpt", "--epochs=2", "--gpus=0", "--model=my_module.Doubled") == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("classic", "such as my_module.MyVGG for MyVGG in my_module.py (classic belongs to --variant or --weights)"),
        ("./my_module.py", "--model ./my_module.py: give the import path of a class, such as my_module.MyVGG"),
        ("my_modul.MyVGG", "--model my_modul.MyVGG: there is no module my_modul in "),
        ("my_module.MyVGGG", "my_module has no MyVGGG; give the import path of a class"),
        ("my_module.py", "my_module has no py; give the import path of a class"),
        ("my_module.Model", "no subclass of LitMiniVGG; from Python, RunFolder trains any LightningModule"),
        ("my_module.Fixed", "--model my_module.Fixed: its constructor has no variant: take it, or **options, and hand"),
        ("my_module.MyVGG --model.alph=1", "alph=1 (did you mean --model.alpha?"),
        (
            "my_module.Logs --trainer.callbacks=BackboneFinetuning",
            "BackboneFinetuning: Logs has no `backbone`: give it",
        ),
        ("my_module.MyVGG --model.init_from=classic", "init_from is classic: this network is a Sequential, and no Min"),
    ],
)
def test_a_class_that_cannot_be_trained_is_refused(refuse, tmp_path, monkeypatch, model, message):
    (tmp_path / "my_module.py").write_text(MY_MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    assert message in refuse(*f"--model={model}".split())


def test_a_file_may_be_named_as_one_of_the_scripts(synthetic_options, tmp_path):
    (tmp_path / "train.py").write_text(MY_MODULE)
    run_train(*synthetic_options, "--model=train.MyVGG", "--trainer.fast_dev_run=1", cwd=tmp_path)


def test_a_file_named_as_a_package_does_not_hide_it(my_module, tmp_path):
    (tmp_path / "matplotlib.py").touch()
    search_here()
    assert PathFinder.find_spec("my_module").origin == str(tmp_path / "my_module.py")
    assert PathFinder.find_spec("matplotlib").origin != str(tmp_path / "matplotlib.py")


def test_options_that_a_network_of_ones_own_may_not_use_are_named(my_module, synthetic_options, train_here, caplog):
    assert train_here(*synthetic_options, MODEL, "--variant=wide", "--trainer.fast_dev_run=1") == 0
    line = "MyVGG has a network of its own: --model.variant, --model.dense_units have no effect, unless its constructor"
    assert line in caplog.text


def test_early_stopping_on_a_metric_of_ones_own_says_why_and_when(my_module, synthetic_options, train_here, caplog):
    stopping = "--trainer.callbacks=EarlyStopping --trainer.callbacks.patience=1 --trainer.callbacks.monitor=constant"
    few = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    assert train_here(*synthetic_options, *few, "--model=my_module.Logs", "--epochs=4", *stopping.split()) == 0
    line = (
        "Stopped early, after epoch 2: Monitored metric constant did not improve in the last 1 records. Best score: 0.5"
    )
    assert line in caplog.text


def test_a_metric_that_is_never_logged_is_one_line(my_module, synthetic_options, train_here, capfd):
    options = "--epochs=1 --trainer.limit_train_batches=1 --trainer.callbacks=EarlyStopping"
    options += " --model=my_module.Logs --trainer.callbacks.monitor=val_f1"
    assert train_here(*synthetic_options, *options.split()) == 2
    error = capfd.readouterr().err
    assert "Early stopping conditioned on metric `val_f1` which is not available" in error.splitlines()[-1]
    assert "Traceback" not in error
