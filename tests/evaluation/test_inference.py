"""Class probabilities of images."""

import numpy as np
import torch
from PIL import Image

import minivgg_pl
from minivgg_pl import MiniVGG, class_probabilities, read_image


def test_probabilities_are_those_of_the_network_whatever_the_batch_size():
    net = MiniVGG(dense_units=2).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected = net(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).softmax(dim=1)
    for batch_size in (2, 256):
        torch.testing.assert_close(class_probabilities(net, images, batch_size), expected)


def test_an_image_file_is_answered_with_the_public_names_alone(tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    probabilities = class_probabilities(MiniVGG.from_pretrained("classic"), read_image(tmp_path / "red.png")[None])
    assert probabilities.shape == (1, 10)
    assert all(getattr(minivgg_pl, name).__name__ == name for name in minivgg_pl.__all__)
