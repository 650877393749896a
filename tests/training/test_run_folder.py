"""RunFolder around a module and data of somebody else: what it leaves behind, and that it goes on."""

import json
import math

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import FakeData
from torchvision.models import squeezenet1_1
from torchvision.transforms import ToTensor

from minivgg_pl import RunFolder, history
from minivgg_pl.errors import InputError
from minivgg_pl.runs.folder import METRIC_COLUMNS, read_metrics

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
    module, trainer = module or LitSqueezeNet(), make_trainer(tmp_path, *callbacks, **options)
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


def test_to_go_on_without_the_checkpoint_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    fit(tmp_path, run)
    with pytest.raises(InputError, match="give its checkpoint, too: .*last.ckpt"):
        fit(tmp_path, RunFolder(tmp_path, resume=run.folder))
