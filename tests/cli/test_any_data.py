"""`--data` with a LightningDataModule that is not of this package."""

import json
import sys

import pytest

from minivgg_pl.cli import evaluate
from tests.cli.test_train import checkpoint, metrics

MY_DATA = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset
from minivgg_pl import ImageDataModule, ImageDataset


class Squares(LightningDataModule):
    classes = ["dark", "grey", "light"]

    def __init__(self, as_bytes: bool = False, num_labels: int = 3, scale: float = 1.0):
        super().__init__()
        self.as_bytes, self.num_labels, self.scale = as_bytes, num_labels, scale

    def loader(self):
        labels = torch.arange(24) % self.num_labels
        images = (labels / 3).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
        images = images.mul(255).byte() if self.as_bytes else images * self.scale
        return DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)

    train_dataloader = val_dataloader = test_dataloader = loader


class Untested(LightningDataModule):
    classes = Squares.classes

    def train_dataloader(self):
        return Squares().loader()

    val_dataloader = train_dataloader


class TwoSets(Squares):
    def val_dataloader(self):
        return [self.loader(), Squares(scale=0.5).loader()]

    test_dataloader = val_dataloader


class Dicts(Squares):
    def train_dataloader(self):
        images = [{"image": image, "label": label} for image, label in self.loader().dataset]
        return DataLoader(images, batch_size=8)


class Stream(Squares):
    def train_dataloader(self):
        return (batch for batch in self.loader())


class Own(ImageDataModule):
    def __init__(self, **options):
        super().__init__(class_names=["dark", "light"], image_shape=(3, 32, 32), dataset="own", **options)

    def load(self, split):
        labels = torch.arange(24) % 2
        return ImageDataset((labels * 200).byte().view(-1, 1, 1, 1).expand(-1, 32, 32, 3), labels, 2)


def as_float(image):
    return image.float()
"""
OPTIONS = ["--gpus=0", "--data=my_data.Squares", "--model.dense_units=4", "--epochs=1"]


@pytest.fixture
def my_data(tmp_path, monkeypatch):
    """The user's file in the working directory."""
    (tmp_path / "my_data.py").write_text(MY_DATA)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_data", raising=False)


@pytest.mark.parametrize(
    ("scale", "line"), [(1, ""), (255, "The first images have values from 0 to 170. The commands")]
)
def test_images_that_are_not_in_0_to_1_are_named(scale, line, my_data, train_here, caplog):
    assert train_here(*OPTIONS, f"--data.scale={scale}") == 0
    assert line in caplog.text if line else "values from" not in caplog.text


def test_a_transform_that_leaves_the_range_is_named(synthetic_options, my_data, train_here, caplog):
    assert train_here(*synthetic_options, "--epochs=1", "--data.train_transform=my_data.as_float") == 0
    assert "The first images have values from 0 to 255. The commands" in caplog.text


def test_the_run_follows_the_first_of_two_validation_and_test_sets(my_data, tmp_path, train_here):
    stopping = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    assert train_here(*OPTIONS, *stopping, "--data=my_data.TwoSets") == 0
    run = tmp_path / "runs" / "classic-twosets" / "1"
    assert (run / "checkpoints" / "best.ckpt").exists()
    summary = json.loads((run / "summary.json").read_text())
    assert float(metrics(run)[0]["val_loss"]) == pytest.approx(summary["val_loss"], rel=1e-5)
    assert summary["test_images"] == 24
    assert summary["test_acc"] is not None


def test_it_leaves_a_run_folder_that_resumes(my_data, tmp_path, train_here, capfd):
    assert train_here(*OPTIONS, "--recipe=modern") == 0
    run = tmp_path / "runs" / "classic-squares" / "1"
    assert checkpoint(run)["hyper_parameters"]["num_classes"] == 3
    assert (run / "report.csv").read_text().splitlines()[1].startswith("dark,")
    assert train_here("--resume", run, "--epochs=2") == 0
    assert [row["epoch"] for row in metrics(run)] == ["1", "2"]
    # What the data module cannot do is not claimed.
    assert json.loads((run / "summary.json").read_text())["recipe"].startswith("modern, changed: ")
    assert "flip null" in (run / "config.yaml").read_text().splitlines()[0]


def test_a_run_is_evaluated_on_the_users_own_data(my_data, tmp_path, train_here, monkeypatch, capfd):
    assert train_here(*OPTIONS, "--data=my_data.Own", "--data.batch_size=8") == 0
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    sys.modules.pop("my_data")
    run = "runs/classic-own/1"
    assert evaluate.main([run]) == 2
    assert (
        f"error: {run}: it was trained on my_data.Own: give --data, such as --data my_data.Own"
        in capfd.readouterr().err
    )
    assert evaluate.main([run, "--data", "my_data.Own"]) == 0
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([run, "--data", "my_data.Squares"])
    assert "my_data.Squares: not a data module for this command; give an Image" in capfd.readouterr().err


def test_an_epoch_without_validation_shows_no_nan(my_data, train_here, capfd):
    assert train_here(*OPTIONS, "--trainer.limit_val_batches=0") == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("epoch 1/1  train")]
    assert "nan" not in line


def test_without_a_test_set_the_run_ends_after_its_epochs(my_data, tmp_path, train_here, caplog):
    assert train_here(*OPTIONS, "--data=my_data.Untested", "--model.num_classes=3") == 0
    assert "No test: Untested has no test_dataloader" in caplog.text
    run = tmp_path / "runs" / "classic-untested" / "1"
    assert json.loads((run / "summary.json").read_text())["test_acc"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.as_bytes=true"], "error: images are torch.uint8: give floats in [0, 1]"),
        (["--model.num_classes=5"], "--model.num_classes 5: the data have 3; leave it out"),
        (["--data.num_labels=4"], "error: targets hold the class 3, and the network has classes 0 to 2"),
        (["--data.nothing=4"], "nothing' is not "),
        (["--data=my_data.Dicts"], "error: a batch is a dict of 2: give (images, targets)"),
        (["--data=my_data.Stream", "--recipe=modern"], "number of updates: give max_steps (--trainer.max_steps)"),
        (["--data=my_data.Nothing"], "--data my_data.Nothing: "),
    ],
)
def test_what_does_not_fit_is_one_line(my_data, train_here, capfd, options, message):
    try:
        code = train_here(*OPTIONS, *options)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capfd.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
