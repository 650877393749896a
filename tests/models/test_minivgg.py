"""The MiniVGG network."""

import pytest
import torch
from torch import nn

from minivgg_pl import MiniVGG
from minivgg_pl.models.architectures import ARCHITECTURES


@pytest.mark.parametrize("variant", sorted(ARCHITECTURES))
def test_logits_have_one_column_a_class_and_every_parameter_gets_a_gradient(variant):
    net = MiniVGG(variant, num_classes=7)
    logits = net(torch.rand(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_layers_are_named_by_block_and_place_with_relu_before_batch_norm():
    names = [name for name, _ in MiniVGG("classic").named_modules()]
    layers = ["conv1", "relu1", "bn1", "conv2", "relu2", "bn2", "pool"]
    assert names[1:9] == ["block1", *(f"block1.{name}" for name in layers)]
    assert names[-6:] == ["flatten", "dense", "dense_relu", "dense_bn", "dense_dropout", "classifier"]


@pytest.mark.parametrize(("variant", "dense_rate"), [("classic", 0.5), ("wide", 0.4)])
def test_dropout_rates_are_the_articles(variant, dense_rate):
    rates = [m.p for m in MiniVGG(variant).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.25, 0.25, dense_rate]


def test_dropout_samples_are_several_masks_of_the_same_images():
    torch.manual_seed(0)
    net = MiniVGG("classic")
    images = torch.rand(2, 3, 32, 32)
    net.dropout_samples = 3
    logits = net(images)
    assert logits.shape == (6, 10)
    passes = logits.split(2)
    assert not torch.equal(passes[0], passes[1])
    # Without dropout all passes are equal, and the images keep their order.
    for dropout in (net.block2.dropout, net.dense_dropout):
        dropout.eval()
    first, *others = net(images).split(2)
    for other in others:
        torch.testing.assert_close(other, first)
    assert net.eval()(images).shape == (2, 10)


def test_one_dropout_sample_is_the_plain_network():
    net = MiniVGG("wide")
    images = torch.rand(4, 3, 32, 32)
    torch.manual_seed(1)
    plain = torch.nn.Sequential(net.block1, net.block2, net.flatten, net.dense, net.dense_relu, net.dense_bn)(images)
    plain = net.classifier(net.dense_dropout(plain))
    torch.manual_seed(1)
    assert torch.equal(net(images), plain)


def test_a_frozen_part_stays_as_it_is_and_its_dropout_is_off():
    net = MiniVGG("classic")
    net.freeze("block1", "dense_bn")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    # What a Trainer calls, or a user.
    net.eval().train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    frozen = ("block1.", "dense_bn.")
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith(frozen)}
    assert not net.block1.dropout.training
    net.freeze()
    assert all(p.requires_grad for p in net.parameters())
    assert net.block1.dropout.training
    with pytest.raises(ValueError, match="freeze is 'block3': give one of block1, block1.conv1"):
        net.freeze("block3")
    with pytest.raises(
        ValueError, match=r"freeze is 'block1,block2': give \[block1,block2\] for several parts, or one"
    ):
        net.freeze("block1,block2")


def test_normalisation_is_part_of_the_network_and_saved_with_its_weights():
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    plain, normalising = MiniVGG().eval(), MiniVGG(mean=mean, std=std).eval()
    normalising.load_state_dict({**plain.state_dict(), "mean": normalising.mean, "std": normalising.std})
    images = torch.rand(2, 3, 32, 32)
    by_hand = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalising(images), plain(by_hand))
    assert {"mean", "std"} <= set(normalising.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "huge"}, "unknown variant 'huge': choose one of classic, wide"),
        ({"num_classes": 1}, "num_classes is 1: give at least 2"),
        ({"image_size": 30}, "image_size is 30: give a multiple of 4"),
        ({"mean": [0.5]}, r"mean is \[0.5\]: give 3 numbers"),
        ({"std": ["a", 0.5, 0.5]}, "std is .*: give 3 numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "must be above 0"),
        ({"batch_norm_momentum": 0}, "batch_norm_momentum is 0: give above 0 to 1"),
        ({"init": "zeros"}, "init is 'zeros': choose glorot or whitened"),
        ({"init": "whitened", "in_channels": 1}, "init is 'whitened' for 1 channels"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MiniVGG(**arguments)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(1, 3, 300, 400), r"shape \(1, 3, 300, 400\): give \(N, 3, 32, 32\)"),
        (torch.rand(3, 32, 32), r"shape \(3, 32, 32\): give"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "images are torch.uint8: give floats"),
    ],
)
def test_images_of_the_wrong_kind_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        MiniVGG().eval()(images)
