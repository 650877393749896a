"""The synthetic images: balanced, the same each time, and not to be told apart by colour."""

import hashlib

import numpy as np

from minivgg_pl.data.cifar10 import CIFAR10_CLASSES
from minivgg_pl.data.synthetic import CLASS_NAMES, draw_images, draw_split

SIZE = 100
# MD5 of what revision 7a7cd4f drew.
EARLIER_MD5 = "4b671d69478e3a2412af2540accf0fbe"


def test_both_parts_are_balanced_shuffled_and_no_image_comes_twice() -> None:
    parts = [draw_split(SIZE, train=True), draw_split(SIZE, train=False)]
    for (images, labels), size in zip(parts, (SIZE, SIZE // 5), strict=True):
        assert images.shape == (size, 32, 32, 3)
        assert np.bincount(labels).tolist() == [size // 10] * 10
        assert labels.tolist() != sorted(labels)
    together = np.concatenate([images for images, _ in parts])
    assert len(np.unique(together.reshape(len(together), -1), axis=0)) == len(together)


def test_the_images_are_those_of_earlier_versions() -> None:
    images, labels = (
        np.concatenate(part) for part in zip(draw_split(SIZE, train=True), draw_split(SIZE, train=False), strict=True)
    )
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
