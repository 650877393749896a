"""Weight initialization: filters that whiten patches, and convolutions that pass their inputs on."""

import numpy as np
import pytest
import torch

from minivgg_pl import MiniVGG
from minivgg_pl.models.initialization import PATCH_COVARIANCE, whitening_filters


def test_the_filters_whiten_patches_of_the_covariance_they_come_from():
    filters = whitening_filters().flatten(1).double()
    outputs = filters @ torch.from_numpy(np.loadtxt(PATCH_COVARIANCE, delimiter=",")) @ filters.T
    # Equal variances, but for the directions that are nearly never seen; no correlation.
    assert torch.allclose(outputs.diagonal()[:16], torch.tensor(0.09, dtype=torch.float64), rtol=0.06)
    assert (outputs - outputs.diagonal().diag()).abs().max() < 1e-6


def test_what_varies_most_comes_first_and_is_the_patchs_mean_brightness():
    first, second = whitening_filters()[:2]
    assert (first.sign() == first[0, 0, 0].sign()).all()
    # Next an edge: its two sides differ in sign.
    assert second.sum().abs() < 0.1 * second.abs().sum()
    assert whitening_filters()[0].norm() < whitening_filters()[15].norm()


@pytest.mark.parametrize(("variant", "pairs"), [("classic", 16), ("wide", 27)])
def test_the_first_convolution_holds_each_filter_and_its_negative(variant, pairs):
    weight = MiniVGG(variant, init="whitened").block1.conv1.weight.detach()
    assert torch.equal(weight[:pairs], whitening_filters()[:pairs])
    assert torch.equal(weight[pairs : 2 * pairs], -weight[:pairs])
    assert weight[2 * pairs :].abs().sum() > 0 or 2 * pairs == len(weight)


def test_the_other_convolutions_pass_their_inputs_on():
    net = MiniVGG("classic", init="whitened")
    images = torch.rand(2, 32, 8, 8)
    for conv in (net.block1.conv2, net.block2.conv1):
        torch.testing.assert_close(conv(images)[:, :32], images)
    # Outputs beyond the inputs start at random.
    assert net.block2.conv1(images)[:, 32:].std() > 0.01


def test_the_start_depends_on_the_seed_alone():
    torch.manual_seed(0)
    first = MiniVGG(init="whitened").state_dict()
    torch.manual_seed(0)
    second = MiniVGG(init="whitened").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
