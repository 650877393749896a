"""Muon and its state."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from minivgg_pl.training.module import LitMiniVGG
from minivgg_pl.training.optim import MuonAdamW, make_optimizer, newton_schulz


def orthogonalize(matrix, steps=3):
    x = (matrix / matrix.norm())[None]
    return (newton_schulz(x @ x.mT, steps) @ x)[0]


@pytest.mark.parametrize("shape", [(20, 50), (16, 16)])
def test_orthogonalized_singular_values_are_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape) * 1e-4, steps=6))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon yet")
def test_it_is_torchs_own_newton_schulz():
    """torch.optim.Muon iterates on the matrix itself, in bfloat16: the same up to that rounding."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(24, 40))
    weight.grad = torch.randn(24, 40)
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    torch.testing.assert_close(orthogonalize(weight.grad, steps=5), -weight.detach(), atol=0.02, rtol=0)


def conv(memory_format=torch.contiguous_format):
    torch.manual_seed(1)
    layer = nn.Conv2d(4, 6, 3).to(memory_format=memory_format)
    layer.weight.grad = torch.randn(6, 4, 3, 3).to(memory_format=memory_format)
    layer.bias.grad = torch.randn(6)
    return layer


def test_a_kernels_update_is_the_orthogonal_matrix_times_the_rate_from_a_fixed_norm():
    layer = conv()
    before, gradient = layer.weight.detach().clone(), layer.weight.grad.clone()
    MuonAdamW([layer.weight], [layer.bias], lr=0.1, momentum=0.5).step()
    scaled = before * math.sqrt(6) / before.norm()
    # The first Nesterov direction is (1 + momentum) times the gradient, and its scale does not matter.
    expected = scaled.flatten(1) - 0.1 * orthogonalize(gradient.flatten(1))
    torch.testing.assert_close(layer.weight.detach().flatten(1), expected)


def test_a_tall_kernel_gets_the_orthogonal_matrix_too():
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.zeros(50, 20)), nn.Parameter(torch.zeros(1))
    weight.grad = torch.randn(50, 20)
    MuonAdamW([weight], [bias], lr=1.0).step()
    values = torch.linalg.svdvals(weight.detach())
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_channels_last_kernels_get_the_same_update():
    plain, other = conv(), conv(torch.channels_last)
    for layer in (plain, other):
        MuonAdamW([layer.weight], [layer.bias]).step()
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other.weight, plain.weight)


def test_in_bfloat16_an_update_is_the_same_up_to_its_rounding():
    plain, other = conv(), conv()
    MuonAdamW([plain.weight], [plain.bias], lr=0.1).step()
    MuonAdamW([other.weight], [other.bias], lr=0.1, dtype=torch.bfloat16).step()
    torch.testing.assert_close(other.weight, plain.weight, atol=0.1 * 0.02, rtol=0)
    assert not torch.equal(other.weight, plain.weight)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", None)])
def test_it_multiplies_in_the_precision_of_the_training(precision, dtype):
    module = LitMiniVGG(optimizer="muon")
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False)
    assert make_optimizer(module, module.hparams, trainer).dtype == dtype


@pytest.mark.parametrize("image_size", [4, 8])
def test_kernels_updated_together_are_updated_as_one_at_a_time(image_size):
    """Of 64 outputs: four convolutions of 27 and 576 inputs, and a dense kernel of 64 or 256."""
    torch.manual_seed(0)
    module = LitMiniVGG("wide", optimizer="muon", dense_units=64, image_size=image_size)
    optimizer = make_optimizer(module, module.hparams)
    options = {name: optimizer.param_groups[0][name] for name in ("lr", "momentum")}
    kernels = optimizer.param_groups[0]["params"]
    twins = [nn.Parameter(kernel.detach().clone()) for kernel in kernels]
    ones = [MuonAdamW([twin], [nn.Parameter(torch.zeros(1))], **options) for twin in twins]
    for _ in range(3):
        for p, q in zip(kernels, twins, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for each in (optimizer, *ones):
            each.step()
    for p, q in zip(kernels, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_the_other_parameters_get_torchs_adamw():
    layer, twin = conv(), conv()
    ours = MuonAdamW([layer.weight], [layer.bias], adamw_lr=0.01)
    theirs = torch.optim.AdamW([twin.bias], lr=0.01, weight_decay=0.0, fused=True)
    for optimizer in (ours, theirs) * 3:
        optimizer.step()
    assert torch.equal(layer.bias, twin.bias)


def test_a_schedule_moves_both_rates():
    layer = conv()
    optimizer = MuonAdamW([layer.weight], [layer.bias], lr=0.1, adamw_lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    optimizer.step()
    schedule.step()
    after = layer.bias.detach().clone()
    optimizer.step()
    assert torch.equal(layer.bias, after)


def test_its_state_goes_on_where_it_was_saved():
    def steps(optimizer, number):
        for _ in range(number):
            optimizer.step()

    whole, first, second = conv(), conv(), conv()
    steps(MuonAdamW([whole.weight], [whole.bias]), 4)
    optimizer = MuonAdamW([first.weight], [first.bias])
    steps(optimizer, 2)
    second.load_state_dict(first.state_dict())
    resumed = MuonAdamW([second.weight], [second.bias], lr=9.0, adamw_lr=9.0)
    resumed.load_state_dict(optimizer.state_dict())
    steps(resumed, 2)
    assert torch.equal(whole.weight, second.weight)
    assert torch.equal(whole.bias, second.bias)


def test_muon_takes_the_hidden_kernels_and_adamw_everything_else():
    module = LitMiniVGG(optimizer="muon", nesterov=True)
    names = {id(p): name for name, p in module.net.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in make_optimizer(module, module.hparams).param_groups]
    assert groups[0] == [f"block{b}.conv{c}.weight" for b in (1, 2) for c in (1, 2)] + ["dense.weight"]
    assert sorted(groups[0] + groups[1]) == sorted(names.values())


def test_the_classifier_may_have_a_rate_of_its_own_and_what_is_frozen_may_be_unfrozen():
    module = LitMiniVGG(dense_units=8, lr=0.001, classifier_lr=0.1, freeze=["block1"])
    body, classifier = make_optimizer(module, module.hparams).param_groups
    assert (body["lr"], classifier["lr"]) == (0.001, 0.1)
    assert {id(p) for p in classifier["params"]} == {id(p) for p in module.net.classifier.parameters()}
    assert len(body["params"]) == 20
