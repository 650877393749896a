"""The evaluate command on a real run."""

import csv
import json

import pytest
import torch
from PIL import Image

from minivgg_pl import MiniVGG
from minivgg_pl.cli.evaluate import _prepare, main, parse_arguments
from minivgg_pl.errors import InputError
from minivgg_pl.weights.load import TrainedNetwork
from tests.conftest import SYNTHETIC_SIZE


@pytest.fixture
def data_options(synthetic_root):
    return [f"--data.root={synthetic_root}", "--data.dataset=synthetic", f"--data.synthetic_size={SYNTHETIC_SIZE}"]


def test_a_run_is_measured_as_its_own_test_measured_it(finished_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr("minivgg_pl.memory.keep_freed_memory", lambda: calls.append("kept"))
    # The run's own data, without being told.
    assert main([str(finished_run[0]), "--tta=flip"]) == 0
    folder = tmp_path / "runs" / "evaluate-classic-synthetic" / "1"
    summary = json.loads((folder / "summary.json").read_text())
    of_run = json.loads((finished_run[0] / "summary.json").read_text())
    assert summary["accuracy"] == pytest.approx(of_run["test_acc"], abs=1e-6)
    assert summary["loss"] == pytest.approx(of_run["test_loss"], rel=1e-4)
    assert summary["weights_facts"]["test_accuracy"] == of_run["test_acc"]
    assert 0 <= summary["with_mirror_images"]["accuracy"] <= 1
    assert (folder / "report.csv").read_text() == (finished_run[0] / "report.csv").read_text()
    with open(folder / "predictions.csv", newline="") as file:
        answers = list(csv.DictReader(file))
    hits = sum(row["true class"] == row["predicted class"] for row in answers)
    assert hits / len(answers) == pytest.approx(summary["accuracy"])
    assert [row["image"] for row in answers] == [str(number) for number in range(SYNTHETIC_SIZE // 5)]
    for row in answers:
        shares = {key[2:-1]: float(p) for key, p in row.items() if key.startswith("p(")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert max(shares.values()) == shares[row["predicted class"]] == float(row["probability"])
    with open(folder / "confusion_matrix.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert sum(int(count) for row in rows[1:] for count in row[1:]) == SYNTHETIC_SIZE // 5
    with open(folder / "confusion_matrix_normalized.csv", newline="") as file:
        shares = list(csv.reader(file))
    assert all(sum(map(float, row[1:])) == pytest.approx(1, abs=1e-4) for row in shares[1:])
    for name in ("confusion_matrix", "confusion_matrix_normalized", "mistakes", "reliability"):
        assert min(Image.open(folder / f"{name}.png").size) > 400
    # Once for the images and once for their mirror images.
    assert calls == ["kept", "kept"]
    out = capfd.readouterr().out
    assert "accuracy" in out
    assert "mirror images" in out
    assert f"folder           {folder.relative_to(tmp_path)}" in out


def test_data_that_stand_in_for_others_are_named(finished_run, data_options, tmp_path, monkeypatch, capfd):
    """A checkpoint outside its run folder, whose data module is somebody's own class, is tested on the data given."""
    content = torch.load(finished_run[0] / "checkpoints" / "last.ckpt", weights_only=True)
    content["datamodule_hyper_parameters"] = {}
    content["CIFAR10DataModule"]["class_path"] = "mine.Data"
    torch.save(content, tmp_path / "it.ckpt")
    monkeypatch.chdir(tmp_path)
    assert main(["it.ckpt", *data_options]) == 0
    assert "trained on       mine.Data, not on these data; --data names others" in capfd.readouterr().out


def prepared(folder, names, folders):
    """What evaluate makes of a folder with images in each of `folders`, for weights with classes called `names`."""
    for name in folders:
        (folder / name).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8)).save(folder / name / f"{number}.png")
    options = ["--data=minivgg_pl.ImageFolderDataModule", f"--data.root={folder}"]
    return _prepare(options, TrainedNetwork(MiniVGG(num_classes=len(names), dense_units=4), names, source="it"))


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["ship", "cat", "dog"], ["cat", "dog", "ship"]),
        (["ship", "sports car", "caf\u00e9"], ["Cafe\u0301", "Ship", "sports_car"]),
        # As written, where only that tells them apart.
        (["b", "A", "a"], ["A", "a", "b"]),
    ],
)
def test_classes_are_matched_by_their_names(tmp_path, names, folders):
    _, images = prepared(tmp_path, names, folders)
    labels = {name.partition("/")[0]: label for name, label in zip(images.names, images.labels.tolist(), strict=True)}
    in_order = sorted(labels, key=labels.get)
    assert sorted(labels.values()) == [0, 1, 2]
    assert [name[0].lower() for name in in_order] == [name[0].lower() for name in names]
    assert names != ["b", "A", "a"] or in_order == names


def test_classes_of_one_side_are_named(tmp_path):
    message = "it: it knows 3 classes, and the data have 2; only it: ship, dog; only the data: frog: give data of its"
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, ["ship", "cat", "dog"], ["Cat", "frog"])


def test_options_of_the_data_may_stand_anywhere():
    args, data = parse_arguments(["--data.dataset", "synthetic", "wide", "--data=M", "--tta", "flip", "--data.root=x"])
    assert (args.weights, args.tta) == ("wide", "flip")
    assert data == ["--data.dataset", "synthetic", "--data=M", "--data.root=x"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing"], "nothing: there is no such file or folder; give classic, wide"),
        (["wide", "--output=."], "--output .: it exists; give a new folder"),
        (["wide", "--tta=crop"], "invalid choice: 'crop'"),
        (["wide", "--speed=3"], "unrecognized arguments: --speed=3 (see --help)"),
        (["wide", "--out=x"], "unrecognized arguments: --out=x (did you mean --output? see --help)"),
        (["--weights", "wide"], "unrecognized arguments: --weights (give WEIGHTS without an option; see --help)"),
        (["wide", "--gpus", "0"], "unrecognized arguments: --gpus 0 (training alone has it: leave it out; see --help)"),
        # jsonargparse 4.39 says "expected", newer ones "accepted".
        (["wide", "--data.size=3"], "size' is not "),
        (["wide", "--data.batchsize=3"], "did you mean --data.batch_size?"),
        (["wide", "--data_dir=x"], "--data_dir=x (--data FOLDER reads your own images, --data.root names the place of"),
        (["wide", "--data=Nope"], "--data Nope: no such class"),
        (["wide", "SYNTHETIC"], "it knows 10 classes, and the data have 10; only it: airplane, automobile, bird, ...;"),
        (["wide", "--classes=a,b"], "--classes: wide names its own classes (airplane, automobile, bird, ...), in its"),
        (["wide", "--classes=a,b,a"], "--classes: a is there twice; give each class its own name"),
        ([], "required: WEIGHTS"),
    ],
)
def test_bad_input_is_one_line(data_options, tmp_path, monkeypatch, capfd, options, message):
    monkeypatch.chdir(tmp_path)
    words = [word for option in options for word in (data_options if option == "SYNTHETIC" else [option])]
    try:
        code = main(words)
    except SystemExit as exit_:
        code = exit_.code
    error = capfd.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_a_runs_transforms_are_not_imported_and_that_of_its_validation_is_named(
    copied_run, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "poison.py").write_text("open('imported', 'w')\nfrom torch import neg\n")
    config = copied_run / "config.yaml"
    config.write_text(config.read_text().replace("train_transform: null", "train_transform: poison.neg"))
    assert "poison" in config.read_text()
    content = torch.load(copied_run / "checkpoints" / "last.ckpt", weights_only=True)
    content["CIFAR10DataModule"]["val_transform"] = "poison.neg"
    torch.save(content, copied_run / "checkpoints" / "last.ckpt")
    assert main([str(copied_run)]) == 0
    error = capfd.readouterr().err
    assert "trained with val_transform poison.neg, which is not applied here" in error
    with pytest.raises(SystemExit):
        main([str(copied_run), "--data.dataset=synthetic", "--data.val_transform=poison.neg"])
    assert "Option 'data.val_transform' is not accepted" in capfd.readouterr().err
    assert not (tmp_path / "imported").exists()
