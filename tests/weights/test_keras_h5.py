"""Files that Keras 3 writes here, and files in the layouts that Keras 2 wrote, are read; other models are refused."""

import io
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from minivgg_pl import MiniVGG
from minivgg_pl.cli.evaluate import main as evaluate
from minivgg_pl.cli.export import main as export
from minivgg_pl.cli.predict import main as predict
from minivgg_pl.data.cifar10 import CIFAR10_CLASSES
from minivgg_pl.errors import InputError
from minivgg_pl.weights.init_from import load_initial_weights, normalization_of
from minivgg_pl.weights.keras_h5 import keras_bytes
from minivgg_pl.weights.load import load_trained

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

from tests.models.test_keras_parity import article_model, randomize  # noqa: E402 (Keras' backend is chosen there)

layers = keras.layers
IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
# Keras turns its tensors into NumPy in a way that NumPy 2 deprecates, and advises against `.h5`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def models():
    """Both networks with logits, batch norm far from its start, and layer numbers that do not start at nothing."""
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    built = {variant: article_model(variant, dense_units=8, head="linear") for variant in ("classic", "wide")}
    for model in built.values():
        randomize(model)
    return built


# Of class probabilities: float32 sums in another order, 7e-7 at most over 40 seeds. A weight in the wrong place changes
# them by thousandths.
TOLERANCE = 1e-6


def largest_difference(model, path):
    theirs = model(IMAGES.permute(0, 2, 3, 1), training=False)
    assert theirs.std() > 0.1
    with torch.inference_mode():
        return (load_trained(path).net(IMAGES).softmax(dim=1) - theirs.softmax(dim=1)).abs().max().item()


@pytest.mark.parametrize("name", ["it.weights.h5", "IT.H5", "it.keras"])
@pytest.mark.parametrize("variant", ["classic", "wide"])
def test_what_keras_3_saves_computes_the_same(models, variant, name, tmp_path):
    # A momentum of the optimizer has the shape of a weight.
    models[variant].compile(keras.optimizers.SGD(0.0, momentum=0.9), "mse")
    models[variant].optimizer.build(models[variant].trainable_variables)
    path = tmp_path / name.lower()
    (models[variant].save_weights if "weights" in name else models[variant].save)(path)
    path = path.rename(tmp_path / f"renamed-{name}")
    assert largest_difference(models[variant], path) < TOLERANCE
    assert load_trained(path).net.options["variant"] == variant


def of_keras_2(file, model, root="", nested=""):
    """Write what Keras 2's `save_weights("it.h5")` writes, here with names of the user's own."""
    group = file.require_group(f"/{root}")
    names = []
    for number, layer in enumerate(model.layers):
        names.append(f"My.{'ZYX'[number % 3]}{number}".encode())
        own = group.create_group(names[-1].decode())
        places = []
        for variable in layer.weights:
            places.append(f"{nested}{names[-1].decode()}/{variable.name}:0".encode())
            own[places[-1].decode()] = variable.numpy()
        own.attrs["weight_names"] = places
    group.attrs["layer_names"] = names


def numbered(file, model, folder="_layer_checkpoint_dependencies/", step=2):
    """Write what Keras 2.12's `save_weights("it.weights.h5")` writes: every other number, since it counted twice."""
    counts = Counter()
    for layer in model.layers:
        kind = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}.get(type(layer).__name__)
        kind = kind or type(layer).__name__.lower()
        name = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += step
        for number, variable in enumerate(layer.weights):
            file[f"{folder}{name}/vars/{number}"] = variable.numpy()
    file["optimizer/vars/1"] = model.layers[0].weights[0].numpy()


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (of_keras_2, {}),
        (of_keras_2, {"root": "model_weights"}),
        (of_keras_2, {"nested": "sequential_7/"}),
        (numbered, {}),
        (numbered, {"folder": "layers/", "step": 1}),
        # As written on Windows.
        (numbered, {"folder": "_layer_checkpoint_dependencies\\"}),
        # As of eleven convolutions and more: conv2d_10 is after conv2d_9.
        (numbered, {"step": 5}),
        (numbered, {"folder": "layers/functional_1/layers/"}),
    ],
)
def test_each_layout_of_keras_2_is_read(models, write, options, tmp_path):
    with h5py.File(tmp_path / "weights.hdf5", "w") as file:
        write(file, models["classic"], **options)
    assert largest_difference(models["classic"], tmp_path / "weights.hdf5") < TOLERANCE


def test_a_normalization_is_read_from_a_whole_model_and_missed_elsewhere(models, tmp_path):
    head = [keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), layers.RandomFlip()]
    normalization = layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.04, 0.09, 0.16])
    model = keras.Sequential([*head, normalization, *models["wide"].layers])
    for name in ("it.keras", "it.h5"):
        model.save(tmp_path / name)
        options = load_trained(tmp_path / name).net.options
        assert options["mean"] == [0.5, 0.4, 0.3]
        assert options["std"] == pytest.approx([0.2, 0.3, 0.4])
    model.save_weights(tmp_path / "it.weights.h5")
    with pytest.raises(InputError, match="its Normalization layer is known from a whole model alone"):
        load_trained(tmp_path / "it.weights.h5")


def test_what_the_file_does_not_say_is_told(models, tmp_path, capfd):
    models["wide"].save_weights(tmp_path / "it.weights.h5")
    Image.new("RGB", (40, 40)).save(tmp_path / "it.png")
    own_names = tmp_path / "names.txt"
    own_names.write_text("\ufeff" + "\n".join(f"class {number}, own" for number in range(10)) + "\n", encoding="utf-8")
    command = [str(tmp_path / "it.png"), f"--weights={tmp_path / 'it.weights.h5'}", "--top=10"]
    for classes, names in (
        ([], set(CIFAR10_CLASSES)),
        (["--classes=a,b, c,d,e,f,g,h,i,j"], set("abcdefghij")),
        ([f"--classes={own_names}"], {f"class {number}, own" for number in range(10)}),
    ):
        assert predict([*command, *classes]) == 0
        out, error = capfd.readouterr()
        assert set(out.rstrip("\n").split("\t")[1::2]) == names
        assert "assumed, since Keras does not say it: images of 32 pixels a side in [0, 1], no normalization" in error
        assert ("CIFAR-10's classes (--classes gives others)" in error) == (not classes)
    weights = str(tmp_path / "it.weights.h5")
    for main, options in ((predict, command), (evaluate, [weights]), (export, [weights, "--to=onnx"])):
        assert main([*options, "--classes=cat,dog"]) == 2
        assert "--classes: 2 names (cat, ...), and" in capfd.readouterr().err
    assert normalization_of(load_trained(tmp_path / "it.weights.h5")) == {}


def test_a_network_of_other_sizes_is_told_from_the_shapes(tmp_path):
    sizes = {"num_classes": 3, "dense_units": 5, "image_size": 28, "in_channels": 1}
    net = MiniVGG("wide", **sizes).eval()
    (tmp_path / "it.h5").write_bytes(keras_bytes(net))
    read = load_trained(tmp_path / "it.h5")
    assert sizes.items() <= read.net.options.items()
    assert read.class_names == ["0", "1", "2"]
    assert torch.equal(read.net(IMAGES[:, :1, :28, :28]), net(IMAGES[:, :1, :28, :28]))
    with pytest.raises(InputError, match="give --variant wide"):
        load_initial_weights(MiniVGG("classic"), read)


def changed(change):
    """Return the classic network's layers after a change, as a Keras model."""
    own = [layers.Conv2D(width, 3, padding="same") for width in (32, 32, 64, 64)]
    blocks = [[c, layers.ReLU(), layers.BatchNormalization()] for c in own]
    end = [layers.Flatten(), layers.Dense(4), layers.Activation("relu"), layers.BatchNormalization(), layers.Dense(2)]
    pools = [layers.MaxPooling2D(), layers.MaxPooling2D()]
    parts = [*blocks[0], *blocks[1], pools[0], *blocks[2], *blocks[3], pools[1], *end]
    change(parts)
    return keras.Sequential([keras.Input((32, 32, 3)), *parts])


def _exchange(parts):
    parts[1], parts[2] = parts[2], parts[1]


def _set(index, layer):
    return lambda parts: parts.__setitem__(index, layer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_exchange, r"has relu where this one has BatchNormalization \(layer batch_normalization"),
        (_set(1, layers.LeakyReLU(name="leaky")), r"has relu where this one has LeakyReLU \(layer leaky\)"),
        (_set(0, layers.Conv2D(32, 3, name="valid")), "its layer valid has padding valid, and the article's"),
        (_set(2, layers.BatchNormalization(epsilon=1e-5, name="bn")), "its layer bn has epsilon 1e-05"),
        (_set(-5, layers.GlobalAveragePooling2D(name="gap")), r"has Flatten where this one has Glob.* \(layer gap\)"),
        (lambda parts: parts.append(layers.Dense(2, name="more")), r"has the end where this one has Dense \(layer m"),
        (lambda parts: parts.pop(), "has Dense where this one has the end"),
        (lambda parts: parts.insert(0, layers.Rescaling(1 / 127.5, -1, name="scale")), "its layer scale has scale"),
    ],
)
def test_a_whole_model_of_another_architecture_is_refused_with_the_layer(change, message, tmp_path):
    changed(change).save(tmp_path / "it.keras")
    with pytest.raises(InputError, match=f"it.keras: .*{message}"):
        load_trained(tmp_path / "it.keras")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.append(layers.Dense(2)), "layers and their widths are conv2d 32, .*, dense_2 2; the"),
        (_set(0, layers.Conv2D(16, 3)), r"widths are conv2d 16, .* convolutions of \(32, 32, 64, 64\) or \(64,"),
        (_set(0, layers.Conv2D(32, 5)), r"its layer conv2d has shape \(5, 5, 3, 32\) where block1.conv1.weight of"),
        (_set(3, layers.Conv2D(32, 3, use_bias=False)), r"its layer conv2d_1 has weights of shapes"),
        (_set(2, layers.LayerNormalization()), r"its layer layer_normalization has weights of shapes \(32,\) and"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_the_layer(change, message, tmp_path):
    changed(change).save_weights(tmp_path / "it.weights.h5")
    with pytest.raises(InputError, match=f"it.weights.h5: .*{message}"):
        load_trained(tmp_path / "it.weights.h5")


def _archive(compression, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_archive(zipfile.ZIP_STORED, config_json="{}"), r"a zip archive, but no \.keras file \(PyTorch's .pt"),
        (_archive(zipfile.ZIP_DEFLATED, model_weights_h5=bytes(10**6)), "its entries are compressed"),
        (_archive(zipfile.ZIP_STORED, model_weights_h5="x", config_json="{}"), "not a readable Keras file"),
        (_archive(zipfile.ZIP_STORED, config_json="{}")[:30], "not a readable Keras file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(1000), "not a readable Keras file"),
    ],
    # Archives hold the time, and every process of the suite must find the same names.
    ids=["zip", "compressed", "no-hdf5-inside", "cut", "no-hdf5"],
)
def test_what_no_keras_wrote_is_refused(content, message, tmp_path):
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_trained(tmp_path / "it")


def test_a_small_file_that_describes_gigabytes_is_refused(tmp_path):
    (tmp_path / "it.h5").write_bytes(keras_bytes(MiniVGG("classic", dense_units=2)))
    with h5py.File(tmp_path / "it.h5", "r+") as file:
        del file["layers/dense"]
        file.create_dataset("layers/dense/vars/0", (4096, 10**9), np.float32)
        file.create_dataset("layers/dense/vars/1", (10**9,), np.float32)
    with pytest.raises(InputError, match="its layer dense is not made of plain arrays in the file"):
        load_trained(tmp_path / "it.h5")


@pytest.mark.parametrize("place", ["model_weights", "model_weights/My.X2", "model_weights/My.X2/My.X2/kernel:0"])
def test_links_of_keras_2_files_are_not_followed(models, place, tmp_path):
    for name in ("it.h5", "secret.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            of_keras_2(file, models["classic"], root="model_weights")
    with h5py.File(tmp_path / "it.h5", "r+") as file:
        del file[place]
        file[place] = h5py.ExternalLink(tmp_path / "secret.h5", place)
    with pytest.raises(InputError, match="it.h5: "):
        load_trained(tmp_path / "it.h5")


def test_the_formats_of_tensorflow_get_a_hint(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").touch()
    (tmp_path / "cp.ckpt.index").touch()
    for name in ("model", "cp.ckpt"):
        with pytest.raises(InputError, match="a format of TensorFlow, not read here; save the Keras model to a .h5"):
            load_trained(tmp_path / name)
