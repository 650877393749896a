"""Trained weights: read from every file that this project writes, damaged ones refused."""

import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from minivgg_pl import LitMiniVGG, MiniVGG
from minivgg_pl.data.cifar10 import CIFAR10_CLASSES
from minivgg_pl.data.synthetic import CLASS_NAMES
from minivgg_pl.errors import InputError
from minivgg_pl.weights.init_from import load_initial_weights
from minivgg_pl.weights.load import PRETRAINED, TrainedNetwork, load_trained, weights_bytes
from tests.conftest import REPOSITORY

IMAGES = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
RUN = REPOSITORY / "tests" / "cli" / "old_run"


@pytest.fixture
def trained():
    torch.manual_seed(1)
    net = MiniVGG("wide", dense_units=32, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]).eval()
    metadata = {"dataset": "cifar10", "recipe": "modern", "seed": 3, "epochs": 20, "test_accuracy": 0.91}
    return TrainedNetwork(net, list(CIFAR10_CLASSES), metadata)


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / "wide.safetensors"
    path.write_bytes(weights_bytes(trained))
    return path


@pytest.mark.parametrize("name", ["classic", "wide"])
def test_the_package_brings_trained_weights(name):
    trained = load_trained(name)
    assert trained.net.options["variant"] == name
    assert trained.class_names == list(CIFAR10_CLASSES)
    assert trained.metadata["test_accuracy"] > 0.78
    assert (PRETRAINED / f"{name}.safetensors").stat().st_size < 5e6
    net = MiniVGG.from_pretrained(name)
    assert not net.training
    assert torch.equal(net(IMAGES), trained.net(IMAGES))


def test_a_safetensors_file_holds_all_that_is_known(trained, file):
    read = load_trained(file)
    assert torch.equal(read.net(IMAGES), trained.net(IMAGES))
    assert read.net.options == trained.net.options
    assert read.class_names == trained.class_names
    assert read.metadata == trained.metadata
    assert not read.net.training


def test_half_precision_halves_the_file_and_hardly_moves_the_probabilities(trained, file, tmp_path):
    half = tmp_path / "half.safetensors"
    half.write_bytes(weights_bytes(trained, half=True))
    assert half.stat().st_size < 0.52 * file.stat().st_size
    read = load_trained(half).net
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    assert torch.equal(read.std, trained.net.std)
    torch.testing.assert_close(read(IMAGES).softmax(1), trained.net(IMAGES).softmax(1), rtol=0, atol=2e-3)


def test_a_run_folder_and_its_checkpoints_are_read(tmp_path):
    of_run = load_trained(RUN)
    checkpoint = RUN / "checkpoints" / "last.ckpt"
    kept = LitMiniVGG.load_from_checkpoint(checkpoint, weights_only=True).net.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in of_run.net.state_dict().items())
    assert of_run.class_names == list(CLASS_NAMES)
    expected = {"dataset": "synthetic", "seed": 0, "epochs": 2, "test_accuracy": 0.0, "test_images": 10}
    assert expected.items() <= of_run.metadata.items()
    assert of_run.metadata["split"].keys() == {"fingerprint", "val_size", "split_seed"}
    # Outside its run folder a checkpoint still knows its classes, and no longer what was measured.
    shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    alone = load_trained(tmp_path / "alone.ckpt")
    assert alone.class_names == list(CLASS_NAMES)
    assert "test_accuracy" not in alone.metadata


def test_a_damaged_summary_does_not_hide_the_weights(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text('{"epochs": ')
    assert "test_accuracy" not in load_trained(tmp_path / "run").metadata


def _edit(path, tensors=None, **metadata):
    with safe_open(path, framework="pt") as opened:
        known = opened.metadata()
    save_file(load_file(path) | (tensors or {}), path, {**known, **metadata})


def _options(path, **changed):
    with safe_open(path, framework="pt") as opened:
        return json.dumps(json.loads(opened.metadata()["network"]) | changed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: os.truncate(path, 1000), "not a readable .safetensors file"),
        (lambda path: os.truncate(path, path.stat().st_size - 1000), "not a readable .safetensors file"),
        (lambda path: torch.save({"a": 1}, path), "not a readable .safetensors file"),
        (lambda path: save_file(load_file(path), path), "lacks the metadata"),
        (lambda path: _edit(path, class_names="[1"), "its metadata are damaged"),
        (lambda path: _edit(path, class_names="[" * 100_000), "its metadata are damaged"),
        (lambda path: _edit(path, class_names='["cat"]'), "does not name its 10 classes, but says"),
        (lambda path: _edit(path, class_names="5"), "does not name its 10 classes, but says 5"),
        (lambda path: _edit(path, {"classifier.weight": torch.zeros(3, 32)}), "size mismatch for classifier.weight"),
        (lambda path: _edit(path, {"extra": torch.zeros(1)}), "Unexpected key.*extra"),
        (lambda path: _edit(path, network=_options(path, variant="huge")), "a network that cannot be"),
        (lambda path: _edit(path, network='{"layers": 3}'), "a network that cannot be"),
        # Terabytes, if the network were built before it is compared.
        (lambda path: _edit(path, network=_options(path, dense_units=10**9)), "size mismatch"),
        (lambda path: _edit(path, network=_options(path, image_size=10**20)), "a network that cannot be"),
        (lambda path: _edit(path, network=_options(path, mean=[[0.5]] * 3)), "a network that cannot be"),
        (lambda path: _edit(path, {"classifier.bias": torch.full((10,), torch.nan)}), "classifier.bias holds values"),
        (lambda path: _edit(path, {"dense_bn.running_var": -torch.ones(32)}), "dense_bn.running_var holds values"),
    ],
)
def test_damaged_weights_are_refused(file, damage, message):
    damage(file)
    with pytest.raises(InputError, match=f"(?s){message}"):
        load_trained(file)


def test_metadata_of_the_wrong_type_are_left_out(file):
    _edit(file, test_accuracy='"high"', seed="[1]", epochs="20", split="7", dataset="null")
    assert load_trained(file).metadata == {"recipe": "modern", "epochs": 20}


def test_weights_of_another_floating_point_type_are_converted(trained, file):
    _edit(file, {"classifier.bias": trained.net.classifier.bias.detach().to(torch.float8_e4m3fn)})
    assert load_trained(file).net.classifier.bias.dtype == torch.float32


@pytest.mark.parametrize("value", [1.0, torch.zeros(1, device="meta"), torch.eye(2).to_sparse()])
def test_a_checkpoint_of_other_things_than_tensors_is_refused(value, tmp_path):
    content = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    content["state_dict"]["net.classifier.bias"] = value
    torch.save(content, tmp_path / "it.ckpt")
    with pytest.raises(InputError, match="it.ckpt: its state_dict holds more than plain tensors"):
        load_trained(tmp_path / "it.ckpt")


def test_what_is_not_there_or_not_a_file_of_this_project_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "it.pth")
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for path, message in (
        ("missing", "there is no such file or folder; give classic, wide, a run folder"),
        ("https://a.org/b", "^https://a.org/b: there is no such file"),
        (
            "it.pth",
            r"it.pth: a zip archive, but no \.keras file \(PyTorch's .pt, .pth and .pt2 are others: give a .safe",
        ),
        ("notes.txt", "not a file that this reads"),
        ("empty", "has no checkpoints/last.ckpt"),
        ("old.ckpt", "not a readable checkpoint"),
    ):
        with pytest.raises(InputError, match=message):
            load_trained(path if "://" in path else tmp_path / path)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["evil.ckpt", "evil.safetensors"])
def test_a_pickle_is_refused_and_its_payload_does_not_run(name, tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "ran"), "hyper_parameters": {}}, tmp_path / name)
    with pytest.raises(InputError, match="not a readable"):
        load_trained(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_folder_does_not_hide_the_weights_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide").mkdir()
    assert load_trained("wide").metadata["dataset"] == "cifar10"
    with pytest.raises(InputError, match="has no checkpoints/last.ckpt"):
        load_trained("./wide")


class TestStartingFromWeights:
    OPTIONS = {"variant": "wide", "dense_units": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}

    def test_all_weights_are_taken(self, trained, file):
        net = MiniVGG(**self.OPTIONS).eval()
        load_initial_weights(net, load_trained(file))
        assert torch.equal(net(IMAGES), trained.net(IMAGES))

    def test_classes_of_the_same_name_keep_their_rows_of_the_classifier(self, trained, file):
        theirs = trained.net.classifier.weight
        net = MiniVGG(**self.OPTIONS, num_classes=3)
        names = [trained.class_names[4].upper(), "sports car", trained.class_names[0]]
        assert load_initial_weights(net, load_trained(file), names) == [
            f"{file} knows {names[0]}, {names[2]}; new classes: sports car"
        ]
        assert torch.equal(net.dense.weight, trained.net.dense.weight)
        assert torch.equal(net.classifier.weight, torch.stack([theirs[4], torch.zeros(32), theirs[0]]))
        # As many classes, and others.
        net = MiniVGG(**self.OPTIONS)
        load_initial_weights(net, load_trained(file), [f"class {number}" for number in range(10)])
        assert not net.classifier.weight.any()

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"mean": None}, r"trained with mean \[0.5, 0.4, 0.3\], std \[0.2"),
            ({"variant": "classic"}, "give --variant wide"),
            (
                {"dense_units": 8},
                r"dense.* has shape .* where this network has .*; give weights of the same image_size",
            ),
        ],
    )
    def test_weights_of_another_network_are_refused(self, file, changed, message):
        with pytest.raises(InputError, match=message):
            load_initial_weights(MiniVGG(**self.OPTIONS | changed), load_trained(file))

    def test_they_are_not_read_again_over_a_checkpoint(self, file):
        module = LitMiniVGG(**self.OPTIONS, init_from=file)
        assert module.hparams.init_from == str(file)
        module.load_state_dict(module.state_dict())
        before = module.net.dense.weight.clone()
        module.load_initial_weights()
        assert torch.equal(module.net.dense.weight, before)

    def test_they_are_read_when_training_starts_without_a_checkpoint(self, trained, file):
        module = LitMiniVGG(**self.OPTIONS, init_from=file)
        module.load_initial_weights()
        assert torch.equal(module.net.dense.weight, trained.net.dense.weight)
