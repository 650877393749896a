"""ByteDropout does what nn.Dropout does."""

import pytest
import torch
from torch import nn

from minivgg_pl import MiniVGG
from minivgg_pl.models.dropout import ByteDropout


def ones(dtype=torch.float32):
    return torch.ones(64, 32, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("p", [1 / 256, 0.25, 0.5, 0.4])  # 0.4 is not a multiple of 1/256
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_p_is_zero_and_the_rest_is_scaled_as_in_torch(p, dtype):
    torch.manual_seed(0)
    dropped = ByteDropout(p)(ones(dtype))
    assert dropped.dtype == dtype
    assert dropped.is_contiguous(memory_format=torch.channels_last)
    # Five standard deviations of the share among half a million values.
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / 2**19) ** 0.5)
    assert dropped.unique().tolist() == nn.Dropout(p)(ones(dtype)).unique().tolist()


def test_every_value_is_drawn_independently():
    """One draw gives eight bytes: each of them must be as random, and independent of its neighbours."""
    torch.manual_seed(0)
    kept = (ByteDropout(0.5)(torch.ones(8, 8192)) != 0).double()
    for byte in range(8):
        assert kept[:, byte::8].mean().item() == pytest.approx(0.5, abs=0.03)
    assert (kept.flatten()[1:] * kept.flatten()[:-1]).mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.corrcoef(kept).fill_diagonal_(0).abs().max() < 0.06


def test_the_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    values = torch.rand(3, 5, 7, requires_grad=True)  # not a multiple of eight values
    dropped = ByteDropout(0.25)(values)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, (dropped != 0) / 0.75)


def test_torchs_seed_repeats_it_and_each_call_differs():
    torch.manual_seed(3)
    layer = ByteDropout(0.5)
    first, second = layer(torch.ones(999)), layer(torch.ones(999))
    torch.manual_seed(3)
    assert torch.equal(layer(torch.ones(999)), first)
    assert not torch.equal(first, second)


def test_a_view_with_gaps_is_dropped_too():
    values = torch.ones(6, 8)[:, ::2]
    torch.manual_seed(0)
    assert set(ByteDropout(0.5)(values).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(values, torch.ones(6, 4))


def test_the_ends_of_the_range_and_evaluation_mode_are_torchs():
    values = torch.rand(4, 4)
    assert torch.equal(ByteDropout(0.0)(values), values)
    assert torch.equal(ByteDropout(1.0)(values), torch.zeros(4, 4))
    assert torch.equal(ByteDropout(0.5).eval()(values), values)


def test_a_network_with_several_of_them_can_be_compiled():
    """Several, because torch.compile could trace the bytes of one, but read those of another size out of bounds."""
    net = MiniVGG("classic").to(memory_format=torch.channels_last)
    net.compile(backend="aot_eager")  # all but the code generation, which takes most of the time
    net(torch.rand(64, 3, 32, 32)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
