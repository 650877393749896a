"""RunFolder around a module and data of somebody else: what it leaves behind, and that it goes on."""

import io
import json
import math
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import FakeData
from torchvision.models import squeezenet1_1
from torchvision.transforms import ToTensor

from minivgg_pl import CIFAR10DataModule, LitMiniVGG, RunFolder, history, plot_history
from minivgg_pl.errors import InputError
from minivgg_pl.runs.folder import METRIC_COLUMNS, lock_run, read_metrics
from minivgg_pl.training import recorder
from minivgg_pl.training.summary import summary_table
from minivgg_pl.weights.load import load_trained

NUM_CLASSES = 3
SIZE = 33
FILES = {
    "checkpoints",
    "config.yaml",
    "confusion_matrix.png",
    "curves.png",
    "metrics.csv",
    "report.csv",
    "summary.json",
}


class LitSqueezeNet(LightningModule):
    """A small network of torchvision, as a user wraps it: integer labels, and accuracy logged by hand."""

    def __init__(self, lr=0.001):
        super().__init__()
        self.save_hyperparameters()
        self.net = squeezenet1_1(num_classes=NUM_CLASSES)
        self.train_accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        loss = functional.cross_entropy(logits, labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.train_accuracy.update(logits, labels)
        return loss

    def on_train_epoch_end(self):
        self.log("train_acc", self.train_accuracy.compute())
        self.train_accuracy.reset()

    def _evaluate(self, batch, stage):
        images, labels = batch
        logits = self(images)
        hits = (logits.argmax(dim=1) == labels).float().mean()
        self.log_dict({f"{stage}_loss": functional.cross_entropy(logits, labels), f"{stage}_acc": hits})

    def validation_step(self, batch, batch_idx):
        self._evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        self._evaluate(batch, "test")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


def dataset(number):
    data = FakeData(number, (3, SIZE, SIZE), NUM_CLASSES, ToTensor())
    data.classes = ["cat", "dog", "owl"]
    return Subset(data, range(number))


class LitLinear(LitSqueezeNet):
    """A network that trains in no time, whose test returns its logits."""

    def __init__(self, lr=0.001):
        super().__init__(lr)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, NUM_CLASSES))

    def test_step(self, batch, batch_idx):
        return self(batch[0])


class OwlDataModule(LightningDataModule):
    """Somebody's data module: nothing of this package."""

    def __init__(self, batch_size=4):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return DataLoader(dataset(10), self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(dataset(6), self.hparams.batch_size)

    test_dataloader = val_dataloader


def make_trainer(tmp_path, *callbacks, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(**{"max_epochs": 2, "callbacks": list(callbacks), "default_root_dir": tmp_path, **quiet, **options})


def fit(tmp_path, *callbacks, module=None, ckpt_path=None, **options):
    seed_everything(1, verbose=False)
    module, trainer = module or LitLinear(), make_trainer(tmp_path, *callbacks, **options)
    trainer.fit(module, OwlDataModule(), ckpt_path=ckpt_path)
    return trainer, module


@pytest.mark.parametrize("kind", ["data module", "loaders"])
def test_a_foreign_module_leaves_a_complete_folder(kind, tmp_path, capfd):
    run, data = RunFolder(tmp_path / "runs", notes={"idea": "owls"}), OwlDataModule()
    seed_everything(1, verbose=False)
    module, trainer = LitSqueezeNet(), make_trainer(tmp_path, run)
    if kind == "loaders":
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
        untested = json.loads((run.folder / "summary.json").read_text())
        trainer.test(module, data.test_dataloader(), verbose=False)
    else:
        trainer.fit(module, data)
        untested = json.loads((run.folder / "summary.json").read_text())
        trainer.test(module, data, verbose=False)
    suffix = "-owl" * (kind == "data module")
    assert run.folder == tmp_path / "runs" / f"litsqueezenet{suffix}" / "1"
    assert {path.name for path in run.folder.iterdir()} == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    rows = read_metrics(run.folder / "metrics.csv")
    assert all(math.isfinite(row[column]) for row in rows for column in METRIC_COLUMNS)
    assert [(row["epoch"], row["step"], row["lr"]) for row in rows] == [(1, 3, 0.001), (2, 6, 0.001)]
    assert capfd.readouterr().out.count("epoch 2/2  train_loss") == 1
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (untested["epochs"], untested["test_acc"], untested["tested_weights"]) == (2, None, None)
    assert summary["test_acc"] == pytest.approx(summary["val_acc"])
    facts = ("train_images", "test_images", "global_batch_size", "seed", "idea", "tested_weights")
    assert [summary[name] for name in facts] == [10, 6, 4, 1, "owls", "last epoch's weights"]
    header, *classes = (run.folder / "report.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in classes] == ["cat", "dog", "owl"]
    assert sum(int(line.rpartition(",")[2]) for line in classes) == 6
    for name in ("curves.png", "confusion_matrix.png"):
        with Image.open(run.folder / name) as image:
            assert image.width > 600
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["model"] == {"class_path": f"{__name__}.LitSqueezeNet", "init_args": {"lr": 0.001}}
    assert config["trainer"]["max_epochs"] == 2
    assert config["seed_everything"] == 1
    assert ("data" in config) == (kind == "data module")


def test_it_goes_on_bit_for_bit_in_the_same_folder(tmp_path):
    whole = RunFolder(tmp_path, "whole")
    _, expected = fit(tmp_path, whole, max_epochs=3)
    parts = RunFolder(tmp_path, "parts")
    fit(tmp_path, parts, max_epochs=2)
    last = parts.folder / "checkpoints" / "last.ckpt"
    resumed = RunFolder(tmp_path, resume=parts.folder)
    _, module = fit(tmp_path, resumed, ckpt_path=last, max_epochs=3)
    assert resumed.folder == parts.folder
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    for column in ("epoch", "step", "train_loss", "train_acc", "val_loss", "val_acc"):
        assert history(parts.folder)[column] == history(whole.folder)[column]
    assert (parts.folder / "config.resume-1.yaml").exists()


def test_to_go_on_without_its_own_checkpoint_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    fit(tmp_path, run)
    other = RunFolder(tmp_path)
    fit(tmp_path, other)
    for checkpoint in (None, other.folder / "checkpoints" / "last.ckpt"):
        with pytest.raises(InputError, match="give its last checkpoint: .*last.ckpt"):
            fit(tmp_path, RunFolder(tmp_path, resume=run.folder), ckpt_path=checkpoint)


def test_best_is_the_runs_own_and_other_checkpoints_and_loggers_are_beside_it(tmp_path):
    other = ModelCheckpoint(filename="other", monitor="train_acc")
    run = RunFolder(tmp_path / "runs", loggers=[CSVLogger])
    trainer, module = fit(tmp_path, other, run, EarlyStopping("val_loss"))
    names = {path.name for path in (run.folder / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "other.ckpt"}
    assert (run.folder / "lightning_logs" / "version_0" / "metrics.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    trainer.test(module, OwlDataModule(), ckpt_path="best", verbose=False)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["tested_weights"] == "weights of best.ckpt"
    # The state of all other callbacks in it is this epoch's.
    states = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (own,) = (state for key, state in states.items() if key.startswith("ModelCheckpoint"))
    assert own["best_model_score"] == other.best_model_score


def test_without_checkpoints_in_the_trainer_the_run_has_none(tmp_path):
    run = RunFolder(tmp_path)
    fit(tmp_path, run, enable_checkpointing=False)
    assert {path.name for path in run.folder.iterdir()} == FILES - {"checkpoints", "confusion_matrix.png", "report.csv"}


def test_a_fast_dev_run_leaves_nothing(tmp_path):
    trainer, module = fit(tmp_path, RunFolder(tmp_path), fast_dev_run=True)
    trainer.test(module, OwlDataModule(), verbose=False)
    assert not list(tmp_path.iterdir())


def test_the_same_trainer_goes_on_in_its_folder_and_another_one_gets_a_new_one(tmp_path):
    run = RunFolder(tmp_path)
    trainer, module = fit(tmp_path, run)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, OwlDataModule())
    assert (run.folder.name, history(run.folder)["epoch"]) == ("1", [1, 2, 3])
    fit(tmp_path, run, module=module)
    assert (run.folder.name, history(run.folder)["epoch"]) == ("2", [1, 2])


def test_an_epoch_of_an_older_checkpoint_is_the_history_of_a_new_folder(tmp_path):
    run, other = RunFolder(tmp_path), RunFolder(tmp_path)
    fit(tmp_path, run)
    fit(tmp_path, other, ckpt_path=run.folder / "checkpoints" / "last.ckpt", max_epochs=3)
    assert (other.folder.name, history(other.folder)["epoch"]) == ("2", [1, 2, 3])


def test_a_module_that_logs_nothing_trains(tmp_path):
    class Silent(LitLinear):
        def log(self, *args, **options):
            pass

        log_dict = log

    run = RunFolder(tmp_path)
    trainer, module = fit(tmp_path, run, module=Silent())
    trainer.test(module, OwlDataModule(), verbose=False)
    assert all(math.isnan(value) for value in history(run.folder)["val_acc"])
    assert json.loads((run.folder / "summary.json").read_text())["test_acc"] is None
    with pytest.raises(InputError, match="no values of train_loss"):
        plot_history(run)


@pytest.mark.parametrize("is_one_hot", [True, False])
def test_the_report_counts_what_the_network_answered(is_one_hot, tmp_path):
    run = RunFolder(tmp_path)
    trainer, module = fit(tmp_path, run, max_epochs=1)
    data = [dataset(6)[number] for number in range(6)]
    images, labels = torch.stack([image for image, _ in data]), torch.tensor([label for _, label in data])
    targets = functional.one_hot(labels, NUM_CLASSES).float() if is_one_hot else labels
    trainer.test(module, DataLoader(TensorDataset(images, targets), 4), verbose=False)
    with torch.no_grad():
        answers = module(images).argmax(dim=1)
    rows = [line.split(",") for line in (run.folder / "report.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    recalls = [(answers[labels == n] == n).float().mean().nan_to_num(0).item() for n in range(NUM_CLASSES)]
    assert [float(row[2]) for row in rows] == pytest.approx(recalls, abs=1e-4)


def test_a_batch_without_labels_has_no_report(tmp_path):
    run = RunFolder(tmp_path)
    trainer, module = fit(tmp_path, run, max_epochs=1)
    trainer.test(module, DataLoader([(torch.zeros(3, SIZE, SIZE),)] * 4, 2), verbose=False)
    assert not (run.folder / "report.csv").exists()
    assert json.loads((run.folder / "summary.json").read_text())["test_images"] == 0


def test_one_process_at_a_time_trains_in_a_folder_which_is_free_after_the_fit(tmp_path):
    run = RunFolder(tmp_path)
    fit(tmp_path, run)
    last = run.folder / "checkpoints" / "last.ckpt"
    lock = lock_run(run.folder)
    with pytest.raises(InputError, match="another process is training"):
        fit(tmp_path, RunFolder(tmp_path, resume=run.folder), ckpt_path=last, max_epochs=3)
    os.close(lock)
    fit(tmp_path, RunFolder(tmp_path, resume=run.folder), ckpt_path=last, max_epochs=3)


def test_a_history_is_plotted_whatever_it_comes_as(tmp_path):
    run = RunFolder(tmp_path)
    fit(tmp_path, run)
    columns = history(run.folder)
    del columns["train_acc"], columns["epoch"]
    figures = [plot_history(given) for given in (run.folder, str(run.folder), run, run.rows, columns)]
    lines = [[y for axes in figure.axes for line in axes.lines for y in line.get_ydata()] for figure in figures]
    assert lines[0] == lines[1]
    assert lines[2] == lines[3]
    assert lines[0] == pytest.approx(lines[2], rel=1e-4)
    labels = [text.get_text().rpartition(" ")[0] for text in figures[4].legends[0].get_texts()]
    assert labels == ["train loss", "validation loss", "validation accuracy"]
    png, size = figures[0]._repr_png_()
    with Image.open(io.BytesIO(png)) as image:
        assert image.width == 2 * size["width"] == 1800


def test_a_notebook_shows_one_image_that_refreshes(tmp_path, monkeypatch):
    shown = []

    class Display(ModuleType):
        def Image(self, filename, width):
            return filename, width

        def display(self, image, display_id=False):
            shown.append(("display", image))
            return SimpleNamespace(update=lambda image: shown.append(("update", image)))

    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", Display("display"))
    monkeypatch.setattr(recorder, "SECONDS_BETWEEN_DRAWINGS", 0)
    fit(tmp_path, RunFolder(tmp_path))
    assert not shown
    shell.kernel = object()
    run = RunFolder(tmp_path)
    fit(tmp_path, run)
    assert shown == [(how, (str(run.folder / "curves.png"), 750)) for how in ("display", "update")]


def test_what_the_best_weights_achieved_is_not_said_of_the_last(tmp_path, synthetic_root):
    run = RunFolder(tmp_path)
    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=50)
    trainer, module = make_trainer(tmp_path, run, max_epochs=1), LitMiniVGG(dense_units=4)
    trainer.fit(module, data)
    assert "test_accuracy" not in load_trained(run.folder).metadata
    trainer.test(module, data, ckpt_path="best", verbose=False)
    assert "test_accuracy" not in load_trained(run.folder).metadata
    trainer.test(module, data, verbose=False)
    assert load_trained(run.folder).metadata["test_accuracy"] == run.summary["test_acc"]
    assert "test " in summary_table(run.summary)


class Flat(LitMiniVGG):
    def __init__(self):
        super().__init__("wide")
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


def test_the_table_names_a_network_of_ones_own_by_its_class(tmp_path, synthetic_root):
    run = RunFolder(tmp_path)
    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=50)
    make_trainer(tmp_path, run, max_epochs=1).fit(Flat(), data)
    assert "variant      Flat (synthetic data" in summary_table(run.summary)


def test_the_command_repeats_a_run_of_python(tmp_path, synthetic_root, train_here):
    seed_everything(3, verbose=False)
    run = RunFolder(tmp_path / "runs")
    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=50, flip="random")
    make_trainer(tmp_path, run, max_epochs=1).fit(LitMiniVGG(dense_units=4, lr=0.05), data)
    assert train_here("--config", run.folder / "config.yaml") == 0
    repeated = json.loads((run.folder.parent / "2" / "summary.json").read_text())
    assert repeated["weights_sha256"] == run.summary["weights_sha256"]
    # A run that was not tested goes on with its test.
    assert train_here("--resume", run.folder) == 0
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["test_acc"], summary["epochs"]) == (repeated["test_acc"], 1)


def test_config_holds_the_rate_that_the_training_starts_with(tmp_path):
    class Tuned(LitLinear):
        def on_fit_start(self):  # as Tuner.lr_find does, after `setup`
            self.hparams.lr = 0.5

    run = RunFolder(tmp_path)
    fit(tmp_path, run, module=Tuned())
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["model"]["init_args"]["lr"] == 0.5
