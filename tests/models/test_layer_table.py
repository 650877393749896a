"""The table of a network's layers."""

import pytest
import torch
from torch import nn

from minivgg_pl import MiniVGG, summary
from minivgg_pl.models.layer_table import count_parameters


def test_each_layer_has_its_shape_and_its_parameters_in_the_order_of_the_network(capsys):
    summary(MiniVGG("wide", num_classes=7, image_size=64, in_channels=1))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["block1.conv1", "(Conv2d)", "(N,", "64,", "64,", "64)", "640"]
    assert lines[4] == ["block1.bn1", "(BatchNorm2d)", "(N,", "64,", "64,", "64)", "256"]
    assert lines[18] == ["flatten", "(Flatten)", "(N,", "16384)", "0"]
    assert lines[-5] == ["classifier", "(Linear)", "(N,", "7)", "1,799"]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_network_stays_as_it_is_and_frozen_parameters_are_not_trainable(precision, capsys):
    net = MiniVGG("classic").to(precision)
    net.freeze("block1")
    before = {name: (module.training, len(module._forward_hooks)) for name, module in net.named_modules()}
    statistics = net.dense_bn.running_mean.clone()
    summary(net)
    # 10,400 in the first block, and batch norm's 1,408 moving statistics.
    totals = ["Total parameters: 2,171,178", "Trainable parameters: 2,159,498", "Non-trainable parameters: 11,680"]
    assert capsys.readouterr().out.splitlines()[-3:] == totals
    assert before == {name: (m.training, len(m._forward_hooks)) for name, m in net.named_modules()}
    assert torch.equal(net.dense_bn.running_mean, statistics)


def test_another_network_needs_an_image_shape(capsys):
    # A layer that is used twice is one line, and counted once.
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten())
    with pytest.raises(ValueError, match=r"Sequential has no image_shape: give it, such as image_shape=\(3, 32, 32\)"):
        summary(net)
    summary(net, image_shape=(3, 8, 8))
    printed = capsys.readouterr().out
    assert "4 (Flatten)                     (N, 64)                        0" in printed
    assert "1 (ReLU)" in printed
    assert "3 (ReLU)" not in printed
    assert count_parameters(net) == (3 * 9 * 4 + 4 + 4 * 9 * 4 + 4, 0)
