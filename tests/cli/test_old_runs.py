"""A run folder that an earlier version wrote, at revision 7a7cd4f, lives on.

    python scripts/train.py --gpus 0 --data.dataset synthetic --data.synthetic_size 50 --data.batch_size 10 \
        --model.dense_units 4 --epochs 2
"""

import csv
import shutil

import pytest
from PIL import Image

from minivgg_pl import LitMiniVGG, MiniVGG
from minivgg_pl.cli import evaluate, export, predict
from tests.conftest import REPOSITORY

OLD_RUN = REPOSITORY / "tests" / "cli" / "old_run"


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """A copy of the run folder where its config says it is."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(OLD_RUN, "runs/classic-synthetic/1")


def test_it_resumes_to_its_end(old_run, train_here):
    assert train_here("--resume", old_run, "--epochs", 3) == 0
    with open(f"{old_run}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(OLD_RUN / "metrics.csv", newline="") as file:
        assert rows[:2] == list(csv.DictReader(file))
    assert (len(rows), rows[2]["step"]) == (3, "15")


def test_its_checkpoint_alone_resumes_in_a_new_folder(old_run, train_here, tmp_path):
    shutil.copy(f"{old_run}/checkpoints/last.ckpt", "moved.ckpt")
    assert train_here("--resume", "moved.ckpt", "--epochs", 3, "--gpus", 0) == 0
    assert (tmp_path / "runs/classic-synthetic/2/summary.json").exists()


def test_it_is_evaluated_on_its_own_data(old_run, capsys):
    assert evaluate.main([old_run]) == 0
    assert "10 of synthetic data" in capsys.readouterr().out


def test_it_is_exported_and_predicts(old_run, capsys):
    assert export.main([old_run, "--to", "safetensors", "--output", "old.safetensors"]) == 0
    assert MiniVGG.from_pretrained("old.safetensors").class_names[0] == "disc"
    Image.new("RGB", (40, 40)).save("grey.png")
    assert predict.main(["grey.png", "--weights", old_run]) == 0
    assert "grey.png" in capsys.readouterr().out


def test_its_config_repeats_it(old_run, train_here, tmp_path):
    assert train_here("--config", f"{old_run}/config.yaml", "--epochs", 1) == 0
    assert (tmp_path / "runs/classic-synthetic/2/summary.json").exists()


def test_its_module_loads(old_run):
    module = LitMiniVGG.load_from_checkpoint(f"{old_run}/checkpoints/last.ckpt", weights_only=True)
    assert module.hparams.dense_units == 4
