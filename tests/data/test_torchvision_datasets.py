"""torchvision's other small sets, from generated files in torchvision's own formats."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from torchvision import datasets

from minivgg_pl import TorchvisionDataModule
from minivgg_pl.data.torchvision_datasets import CIFAR100_CLASSES
from minivgg_pl.errors import InputError

TRAIN_SIZE, TEST_SIZE = 200, 40


@pytest.fixture
def fashion_root(tmp_path):
    """FashionMNIST's four files with random images, a class each brighter than the one before."""
    folder = tmp_path / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for prefix, size in (("train", TRAIN_SIZE), ("t10k", TEST_SIZE)):
        labels = np.arange(size, dtype=np.uint8) % 10
        images = random.integers(0, 30, (size, 28, 28), dtype=np.uint8) + 20 * labels[:, None, None]
        header = struct.pack(">IIII", 0x803, size, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, size) + labels.tobytes())
    return tmp_path / "data"


def test_grey_images_of_28_get_a_black_border(fashion_root):
    data = TorchvisionDataModule(str(fashion_root), "FashionMNIST", batch_size=20)
    data.prepare_data()
    data.setup("fit")
    images, targets = next(iter(data.val_dataloader()))
    assert images.shape == (20, 1, 32, 32)
    assert targets.shape == (20, 10)
    assert images[:, :, :2].max() == images[:, :, :, -2:].max() == 0
    source = datasets.FashionMNIST(fashion_root, train=False)
    assert torch.equal(images[:, 0, 2:-2, 2:-2], source.data[:20].float() / 255)
    assert data.class_names == datasets.FashionMNIST.classes


def test_cifar100_is_read_in_its_own_format(tmp_path, monkeypatch):
    folder = tmp_path / datasets.CIFAR100.base_folder
    folder.mkdir()
    content = {"train": 200, "test": 100}
    sums = {}
    for name, size in content.items():
        pixels = np.random.default_rng(0).integers(0, 256, (size, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [n % 100 for n in range(size)]}))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CIFAR100_CLASSES)}))
    sums["meta"] = hashlib.md5((folder / "meta").read_bytes()).hexdigest()
    for attribute, name in (("train_list", "train"), ("test_list", "test")):
        monkeypatch.setattr(datasets.CIFAR100, attribute, [[name, sums[name]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": sums["meta"]})
    data = TorchvisionDataModule(str(tmp_path), "CIFAR100", batch_size=50)
    data.prepare_data()
    data.setup("fit")
    images, targets = next(iter(data.val_dataloader()))
    assert images.shape == (50, 3, 32, 32)
    assert targets.argmax(dim=1).tolist() == list(range(50))
    assert len(data.class_names) == 100


def test_svhn_is_read_in_its_own_format(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    for split in ("train", "test"):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
        path = tmp_path / f"{split}_32x32.mat"
        scipy_io.savemat(path, {"X": pixels, "y": np.arange(30)[:, None] % 10 + 1})
        entry = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
        monkeypatch.setitem(datasets.SVHN.split_list, split, entry)
    data = TorchvisionDataModule(str(tmp_path), "SVHN", batch_size=10)
    data.prepare_data()
    data.setup("test")
    images, targets = next(iter(data.test_dataloader()))
    assert torch.equal(images[0], torch.from_numpy(pixels[..., 0]).permute(2, 0, 1) / 255)
    # torchvision makes the label 10 a 0.
    assert targets.argmax(dim=1).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_bad_options_and_missing_data_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="choose CIFAR100, FashionMNIST, MNIST, SVHN"):
        TorchvisionDataModule(dataset="ImageNet")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [(tmp_path / "no").as_uri() + "/"])
    with pytest.raises(InputError, match="MNIST is not in .* and could not be downloaded"):
        TorchvisionDataModule(str(tmp_path), "MNIST").prepare_data()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="SVHN needs a package to read its files: pip install scipy"):
        TorchvisionDataModule(dataset="SVHN")
