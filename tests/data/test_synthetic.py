"""The synthetic images: balanced, the same set twice, and one line for a damaged file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from minivgg_pl import CIFAR10DataModule
from minivgg_pl.data.cifar10 import CIFAR10_CLASSES
from minivgg_pl.data.synthetic import CLASS_NAMES, draw_images, prepare_synthetic
from minivgg_pl.errors import InputError

SIZE = 100
# MD5 of what revision 7a7cd4f drew.
EARLIER_MD5 = "4b671d69478e3a2412af2540accf0fbe"


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """The file of a set of SIZE training images."""
    prepare_synthetic(tmp_path, SIZE)
    return tmp_path / f"synthetic-{SIZE}-seed0.npz"


def test_both_parts_are_balanced_shuffled_and_no_image_comes_twice(tmp_path: Path) -> None:
    images, labels = prepare_synthetic(tmp_path, SIZE)
    assert images.shape == (SIZE + SIZE // 5, 32, 32, 3)
    assert images.dtype == np.uint8
    for part, size in ((labels[:SIZE], SIZE), (labels[SIZE:], SIZE // 5)):
        assert np.bincount(part).tolist() == [size // 10] * 10
        assert part.tolist() != sorted(part)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_the_images_are_those_of_earlier_versions(tmp_path: Path) -> None:
    images, labels = prepare_synthetic(tmp_path, SIZE)
    assert hashlib.md5(images.tobytes() + labels.tobytes()).hexdigest() == EARLIER_MD5


def test_the_class_names_are_ten_shapes_and_none_of_cifars() -> None:
    assert len(set(CLASS_NAMES)) == 10
    assert not set(CLASS_NAMES) & set(CIFAR10_CLASSES)


def test_the_classes_cannot_be_told_by_their_mean_colour() -> None:
    labels = np.arange(1000) % 10
    means = draw_images(labels, np.random.default_rng(0)).mean((2, 3))
    centres = np.stack([means[labels == label][::2].mean(0) for label in range(10)])
    # A nearest-centre classifier on the half that the centres have not seen; chance is 10 %.
    held_out = np.concatenate([means[labels == label][1::2] for label in range(10)])
    guesses = np.linalg.norm(held_out[:, None] - centres, axis=2).argmin(1)
    assert (guesses == np.repeat(np.arange(10), 50)).mean() < 0.25


def test_a_set_is_drawn_once_and_other_sizes_and_seeds_live_beside_it(drawn: Path) -> None:
    before = drawn.stat().st_mtime_ns
    sets = [prepare_synthetic(drawn.parent, size, seed)[0] for size, seed in ((SIZE, 0), (SIZE, 1), (50, 0))]
    assert drawn.stat().st_mtime_ns == before
    assert not np.array_equal(sets[0], sets[1])
    assert len(sets[2]) == 60
    assert len(list(drawn.parent.iterdir())) == 3


def _changed_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _changed_pixel,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: np.savez(path, images=np.zeros((120, 32, 32, 3), np.uint8), labels=np.full(120, 10)),
        lambda path: np.savez(path, images=np.zeros((60, 32, 32, 3), np.uint8), labels=np.zeros(60, int)),
        lambda path: np.savez(path, images=np.array([{}]), labels=np.zeros(120, int)),
    ],
)
def test_a_damaged_file_is_one_line_that_says_to_delete_it(drawn: Path, damage: object) -> None:
    damage(drawn)
    with pytest.raises(InputError, match=f"^{drawn} cannot be read .*: delete it and run again$"):
        CIFAR10DataModule(drawn.parent, dataset="synthetic", synthetic_size=SIZE).prepare_data()


@pytest.mark.parametrize("size", [0, -50, 120, 50_050])
def test_a_size_that_does_not_come_out_even_is_refused_and_nothing_written(tmp_path: Path, size: int) -> None:
    for refuse in (
        prepare_synthetic,
        lambda root, size: CIFAR10DataModule(root, dataset="synthetic", synthetic_size=size),
    ):
        with pytest.raises(InputError, match=f"--data.synthetic_size is {size}: give a multiple of 50"):
            refuse(tmp_path / "data", size)
    assert not (tmp_path / "data").exists()


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(InputError, match="cannot read or write .*/data.*name another data folder with --data.root"):
        CIFAR10DataModule(tmp_path / "data", dataset="synthetic").prepare_data()
    assert (tmp_path / "data").read_text() == "mine"
