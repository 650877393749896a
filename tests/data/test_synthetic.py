"""The drawn images: CIFAR-10's file format, the same set twice, and errors that say what to do."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from minivgg_pl.data.synthetic import CLASS_NAMES, SyntheticCIFAR10, draw_images, prepare_synthetic
from minivgg_pl.errors import InputError

SIZE = 100
BATCHES = "synthetic-cifar-10-batches-py"


def _folder(root: Path, size: int = SIZE, seed: int = 0) -> Path:
    return root / f"synthetic-{size}-seed{seed}" / BATCHES


def _state(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def _error(root: Path, size: int = SIZE, seed: int = 0) -> str:
    with pytest.raises(InputError) as caught:
        prepare_synthetic(root, size, seed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare_synthetic(tmp_path, SIZE)
    return tmp_path


@pytest.mark.parametrize(("train", "size"), [(True, SIZE), (False, SIZE // 5)])
def test_the_dataset_reads_as_cifar10_does(root: Path, train: bool, size: int) -> None:
    dataset = SyntheticCIFAR10(root, train, train_size=SIZE)
    assert isinstance(dataset, CIFAR10)
    assert dataset.data.shape == (size, 32, 32, 3)
    assert dataset.data.dtype == np.uint8
    assert np.bincount(dataset.targets).tolist() == [size // 10] * 10
    assert dataset.targets != sorted(dataset.targets)
    assert dataset.classes == list(CLASS_NAMES)
    assert dataset[0][0].size == (32, 32)


def test_the_batches_have_the_keys_and_types_of_the_official_ones(root: Path) -> None:
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        batch = pickle.loads((_folder(root) / name).read_bytes(), encoding="latin1")
        assert set(batch) == {"batch_label", "labels", "data", "filenames"}
        assert batch["data"].shape == (SIZE // 5, 3072)
        assert batch["data"].dtype == np.uint8
        assert {type(label) for label in batch["labels"]} == {int}
        assert [CLASS_NAMES[label] for label in batch["labels"]] == [n.rsplit("_", 1)[0] for n in batch["filenames"]]
    assert batch["batch_label"] == "testing batch 1 of 1"
    meta = pickle.loads((_folder(root) / "batches.meta").read_bytes(), encoding="latin1")
    assert meta == {"num_cases_per_batch": SIZE // 5, "label_names": list(CLASS_NAMES), "num_vis": 3072}


def test_the_class_names_are_ten_shapes_and_none_of_cifars() -> None:
    cifar = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
    assert len(set(CLASS_NAMES)) == 10
    assert not set(CLASS_NAMES) & cifar


def test_no_image_comes_twice(root: Path) -> None:
    images = np.concatenate([SyntheticCIFAR10(root, train, train_size=SIZE).data for train in (True, False)])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == SIZE + SIZE // 5


def test_the_classes_cannot_be_told_by_their_mean_colour() -> None:
    labels = np.arange(1000) % 10
    means = draw_images(labels, np.random.default_rng(0)).mean((2, 3))
    centres = np.stack([means[labels == label][::2].mean(0) for label in range(10)])
    # A nearest-centre classifier on the half that the centres have not seen; chance is 10 %.
    held_out = np.concatenate([means[labels == label][1::2] for label in range(10)])
    guesses = np.linalg.norm(held_out[:, None] - centres, axis=2).argmin(1)
    assert (guesses == np.repeat(np.arange(10), 50)).mean() < 0.25


def test_an_existing_set_is_left_untouched(root: Path) -> None:
    before = _state(root)
    prepare_synthetic(root, SIZE)
    assert _state(root) == before


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(root: Path, tmp_path: Path) -> None:
    prepare_synthetic(tmp_path / "again", SIZE)
    prepare_synthetic(tmp_path / "again", SIZE, seed=1)
    first = (_folder(root) / "data_batch_1").read_bytes()
    assert (_folder(tmp_path / "again") / "data_batch_1").read_bytes() == first
    assert (_folder(tmp_path / "again", seed=1) / "data_batch_1").read_bytes() != first


def test_two_sizes_live_side_by_side(root: Path) -> None:
    before = _state(root)
    prepare_synthetic(root, 50)
    assert len(SyntheticCIFAR10(root, train_size=50)) == 50
    assert _state(root).items() >= before.items()


@pytest.mark.parametrize("name", ["data_batch_4", "batches.meta", "manifest.json"])
def test_an_incomplete_set_is_drawn_afresh(root: Path, name: str) -> None:
    content = (_folder(root) / name).read_bytes()
    (_folder(root) / name).unlink()
    with pytest.raises(InputError, match="no drawn images"):
        SyntheticCIFAR10(root, train_size=SIZE)
    prepare_synthetic(root, SIZE)
    assert (_folder(root) / name).read_bytes() == content
    assert [path.name for path in _folder(root).parent.iterdir()] == [BATCHES]


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_damaged_file_is_named_and_never_unpickled(root: Path, name: str) -> None:
    path = _folder(root) / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    message = _error(root)
    for part in (name, str(path.parent), "delete that folder and run again"):
        assert part in message
    with pytest.raises(InputError, match=f"{name} in .* is damaged"):
        SyntheticCIFAR10(root, train_size=SIZE)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"data_batch_1": "0"}', b"\xff"])
def test_a_damaged_manifest_is_named(root: Path, content: bytes) -> None:
    (_folder(root) / "manifest.json").write_bytes(content)
    assert "manifest.json" in _error(root)


def test_the_manifest_lists_every_file(root: Path) -> None:
    manifest = json.loads((_folder(root) / "manifest.json").read_text())
    assert {*manifest, "manifest.json"} == {path.name for path in _folder(root).iterdir()}


@pytest.mark.parametrize("size", [0, -50, 49, 120, 50_050])
def test_a_size_that_does_not_come_out_even_is_refused_and_nothing_written(tmp_path: Path, size: int) -> None:
    assert f"--data.synthetic_size is {size}" in _error(tmp_path / "data", size)
    assert not (tmp_path / "data").exists()


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    assert "seed of the drawn images is -1" in _error(tmp_path, seed=-1)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    assert str(tmp_path / "data") in _error(tmp_path / "data")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_set_that_was_never_drawn_is_an_error_until_download_draws_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no drawn images"):
        SyntheticCIFAR10(tmp_path, train_size=50)
    assert len(SyntheticCIFAR10(tmp_path, train=False, download=True, train_size=50)) == 10
