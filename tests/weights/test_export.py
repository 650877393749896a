"""Exports, read back by the programs that they are for."""

import json
import sys

import numpy as np
import pytest
import torch

from minivgg_pl import MiniVGG
from minivgg_pl.cli.export import main
from minivgg_pl.data.cifar10 import CIFAR10_CLASSES
from minivgg_pl.errors import InputError
from minivgg_pl.weights.export import check_onnx, model_card, name_of
from minivgg_pl.weights.init_from import load_initial_weights, normalization_of
from minivgg_pl.weights.keras_h5 import keras_bytes
from minivgg_pl.weights.load import TrainedNetwork, load_trained, weights_bytes
from tests.conftest import needs_onnx_export

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

from tests.models.test_keras_parity import article_model  # noqa: E402 (Keras' backend is chosen there)

IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
# Keras turns its tensors into NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
both_variants = pytest.mark.parametrize("variant", ["classic", "wide"])


@pytest.fixture
def source(tmp_path):
    """A weights file of a network with a normalisation of its own and batch norm far from its start."""
    torch.manual_seed(0)
    net = MiniVGG("wide", num_classes=4, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    for _ in range(2):
        net(torch.rand(16, 3, 32, 32))
    metadata = {"recipe": "modern", "seed": 1, "test_accuracy": 0.9, "test_images": 1000}
    path = tmp_path / "source.safetensors"
    path.write_bytes(weights_bytes(TrainedNetwork(net, ["ant", "bee", "cow", "dog"], metadata)))
    return path


@pytest.fixture
def export(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *options: main([str(source), *options])


@needs_onnx_export
def test_onnx_agrees_with_torch_at_any_batch_size(export, source, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export("--to=onnx") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.onnx", "source.safetensors"]
    session = onnxruntime.InferenceSession(tmp_path / "source.onnx", providers=["CPUExecutionProvider"])
    net = load_trained(source).net
    for images in (IMAGES[:1], IMAGES):
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images.numpy()})
        assert np.allclose(logits, net(images).detach().numpy(), atol=1e-4)
        assert np.allclose(probabilities, net(images).softmax(1).detach().numpy(), atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == ["ant", "bee", "cow", "dog"]
    with torch.no_grad():
        net.classifier.bias[0] += 1
    with pytest.raises(InputError, match="the ONNX model disagrees with the network by .*: not written"):
        check_onnx((tmp_path / "source.onnx").read_bytes(), net)


def test_a_missing_package_is_one_line(export, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert export("--to=keras") == 2
    assert capfd.readouterr().err == "error: import of h5py halted; None in sys.modules: pip install h5py\n"


def test_a_program_runs_without_this_package(export, source, monkeypatch):
    assert export("--to=pt2", "--output=it.pt2") == 0
    net = load_trained(source).net
    monkeypatch.setitem(sys.modules, "minivgg_pl", None)  # an import would fail
    program = torch.export.load("it.pt2").module()
    for images in (IMAGES, IMAGES[:1]):
        torch.testing.assert_close(program(images), net(images))


def test_safetensors_are_what_they_were(export, source, tmp_path):
    assert export("--to=safetensors", "--output=again.safetensors") == 0
    written, read = load_trained(tmp_path / "again.safetensors"), load_trained(source)
    assert torch.equal(written.net(IMAGES), read.net(IMAGES))
    assert written.metadata == read.metadata


def test_the_model_card_says_what_is_known(export, tmp_path):
    assert export("--to=model-card") == 0
    card = (tmp_path / "source.md").read_text()
    assert str(tmp_path) not in card
    assert 'from_pretrained("source.safetensors")' in card
    for words in ("ant, bee, cow, dog", "modern", "90.00% of 1,000 images", "float32 (N, 3, 32, 32)", "## Limits"):
        assert words in card
    assert "epochs" not in card
    assert "normalised inside" in card
    plain = TrainedNetwork(MiniVGG("wide").eval(), list(CIFAR10_CLASSES))
    assert "normalised" not in model_card(plain)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("classic", "classic"),
        ("./classic.safetensors", "classic"),
        ("runs/classic-my_images/12", "classic-my_images-12"),
        ("runs/classic/1/checkpoints/last.ckpt", "classic-1"),
        ("runs/classic/1/checkpoints/best.ckpt", "classic-1-best"),
        ("kept/the good one", "the good one"),
        ("keras/mine.weights.h5", "mine"),
    ],
)
def test_the_name_of_weights(source, name):
    assert name_of(source) == name


@both_variants
def test_weights_survive_the_way_to_keras_and_back_bit_for_bit_and_keras_computes_the_same(variant, tmp_path):
    torch.manual_seed(2)
    net = MiniVGG(variant)
    net(torch.rand(8, 3, 32, 32))
    net.eval()
    (tmp_path / "out.weights.h5").write_bytes(keras_bytes(net))
    model = article_model(variant)
    model.load_weights(tmp_path / "out.weights.h5")
    theirs = model.predict(IMAGES.permute(0, 2, 3, 1).numpy(), verbose=0)
    assert np.allclose(theirs, net(IMAGES).softmax(1).detach().numpy(), atol=1e-5)
    model.compile(optimizer="sgd")
    model.save_weights(tmp_path / "back.weights.h5")
    assert normalization_of(load_trained(tmp_path / "back.weights.h5")) == {}
    tensors = load_trained(tmp_path / "back.weights.h5").net.state_dict()
    assert tensors.keys() == net.state_dict().keys()
    assert all(torch.equal(tensors[name], net.state_dict()[name]) for name in tensors if "num_batches" not in name)


def test_a_normalised_network_says_what_keras_must_put_in_front(export, source, capfd):
    assert export("--to=keras") == 0
    code = capfd.readouterr().out.splitlines()[-1].partition("layers: ")[2]
    model = keras.Sequential([keras.Input((32, 32, 3)), eval(code), *article_model("wide").layers[:-1]])
    model.add(keras.layers.Dense(4, activation="softmax"))
    model.layers[0].trainable = False
    body = keras.Sequential([keras.Input((32, 32, 3)), *model.layers[1:]])
    body.load_weights("source.weights.h5")
    theirs = model.predict(IMAGES.permute(0, 2, 3, 1).numpy(), verbose=0)
    ours = load_trained(source).net(IMAGES).softmax(1).detach().numpy()
    assert np.allclose(theirs, ours, atol=1e-4)


def test_training_starts_from_weights_and_normalisation_of_a_keras_file(
    export, source, tmp_path, synthetic_options, train_here
):
    assert export("--to=keras") == 0
    assert normalization_of(load_trained("source.weights.h5")) == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    options = ["--variant=wide", "--model.init_from=source.weights.h5", "--trainer.max_steps=1", "--model.lr=1e-30"]
    assert train_here(*synthetic_options, *options, "--model.dense_units=256") == 0
    trained = load_trained(tmp_path / "runs" / "wide-synthetic" / "1").net.state_dict()
    expected = load_trained(source).net.state_dict()
    names = {"mean", "std"} | {name for name in expected if name.endswith("weight") and "classifier" not in name}
    assert len(names) == 12
    assert all(torch.allclose(trained[name], expected[name]) for name in names)


def test_another_normalisation_than_a_keras_file_was_trained_with_is_refused(export, source):
    assert export("--to=keras") == 0
    with pytest.raises(InputError, match=r"source.weights.h5: its network was trained with mean \[0.5, 0.4, 0.3\]"):
        load_initial_weights(MiniVGG("wide"), load_trained("source.weights.h5"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("layers/dense/vars/1"), r"its layer dense has weights of shapes \(4096, 2\), "),
        (lambda file: file.__delitem__("layers"), "its layers and their widths are none; the article's model has"),
        # Wrong normalisations: too long, no numbers, and one number.
        (lambda file: file.attrs.create("minivgg_pl.mean", np.zeros(2**12)), "give 3 numbers, one for each channel"),
        (lambda file: file.attrs.create("minivgg_pl.mean", "words"), "not a readable Keras file"),
        (lambda file: file.attrs.create("minivgg_pl.mean", 1.0), "not a readable Keras file"),
    ],
)
def test_keras_files_of_another_architecture_are_refused(change, message, tmp_path):
    path = tmp_path / "it.weights.h5"
    path.write_bytes(keras_bytes(MiniVGG("classic", dense_units=2)))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message):
        load_trained(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to=caffe"], "invalid choice: 'caffe'"),
        ([], "required: --to"),
        (["--to=onnx", "--output=it.pb"], "--output it.pb: give a name that ends in .onnx"),
        (["--to=onnx", "--over"], "unrecognized arguments: --over (did you mean --overwrite? see --help)"),
        (["--to=onnx", "--half"], "--half has no effect with --to onnx"),
        (["--to=pt2", "--output=nowhere/it.pt2"], "there is no folder"),
        (["--to=model-card"], "the file exists; give another name, or --overwrite"),
    ],
)
def test_bad_input_is_one_line(export, tmp_path, capfd, options, message):
    (tmp_path / "source.md").write_text("mine")
    try:
        code = export(*options)
    except SystemExit as exit_:
        code = exit_.code
    error = capfd.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.md", "source.safetensors"]


def test_a_temperature_divides_the_logits_of_what_is_written_and_is_kept_with_them(export, source, tmp_path, capsys):
    before = load_trained(source)
    assert export("--to=safetensors", "--temperature=0.5", "--half", "--output=calibrated.safetensors") == 0
    after = load_trained(tmp_path / "calibrated.safetensors")
    # The kernels are rounded to half precision, and the classifier is not.
    torch.testing.assert_close(after.net.classifier.weight, before.net.classifier.weight * 2, rtol=0, atol=0)
    assert after.metadata == {**before.metadata, "temperature": 0.5}
    assert "| calibration | logits divided by 0.5" in model_card(after)
    with pytest.raises(SystemExit):
        export("--to=onnx", "--temperature=0")
    assert "--temperature 0.0: give a number from 0.01 to 100" in capsys.readouterr().err
