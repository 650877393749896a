"""Statistics measured with dropout off."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn

from minivgg_pl import CIFAR10DataModule, LitMiniVGG
from minivgg_pl.training.batch_norm import measure_statistics
from tests.conftest import SYNTHETIC_SIZE
from tests.training.test_module import trainer


def test_statistics_are_those_without_dropout_averaged_over_the_batches():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=0.01))
    batches = [torch.randn(64, 3) * 4 + 1 for _ in range(5)]
    measure_statistics(net, batches)
    torch.testing.assert_close(net[1].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([b.var(0) for b in batches]).mean(0))


def test_mode_momentum_dropout_and_weights_stay():
    no_statistics = nn.BatchNorm1d(3, track_running_stats=False)
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=0.01), no_statistics).train()
    before, count = [p.clone() for p in net.parameters()], net[1].num_batches_tracked
    measure_statistics(net, [torch.randn(8, 3)])
    assert net[1].num_batches_tracked is count
    assert count == 1
    assert all(module.training for module in net.modules())
    assert (net[0].p, net[1].momentum) == (0.5, 0.01)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_an_interruption_leaves_dropout_and_momentum_as_they_were():
    def batches():
        yield torch.randn(8, 3)
        raise KeyboardInterrupt

    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=0.01))
    with pytest.raises(KeyboardInterrupt):
        measure_statistics(net, batches())
    assert (net[0].p, net[1].momentum) == (0.5, 0.01)


def test_a_frozen_batch_norm_keeps_its_statistics():
    net = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3, momentum=0.01))
    measure_statistics(net, [torch.randn(8, 3) + 5])
    assert torch.equal(net[0].running_mean, torch.zeros(3))
    assert net[1].running_mean.min() > 3


def epoch_batches(data, epoch):
    loader = data.train_dataloader()
    loader.epoch = epoch
    return loader.batches()


@pytest.fixture
def fit(synthetic_root, tmp_path):
    def fit(**options):
        seed_everything(0)
        data = CIFAR10DataModule(
            str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE, batch_size=50, flip="random"
        )
        module = LitMiniVGG(dense_units=8, **options)
        trainer(tmp_path, max_epochs=2, limit_train_batches=3, limit_val_batches=0).fit(module, datamodule=data)
        return module, data

    return fit


def test_an_epoch_ends_with_statistics_of_its_own_first_images(fit):
    module, data = fit(batch_norm_images=100)
    images = [batch for batch, _ in epoch_batches(data, 1)][:2]
    first = module.net.block1.relu1(module.net.block1.conv1(torch.cat(images)))
    torch.testing.assert_close(module.net.block1.bn1.running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_measuring_leaves_the_training_as_it_was(fit):
    with_it, without = fit(batch_norm_images=100)[0], fit()[0]
    for (name, measured), plain in zip(with_it.net.named_parameters(), without.net.parameters(), strict=True):
        assert torch.equal(measured, plain), name
    assert not torch.equal(with_it.net.dense_bn.running_var, without.net.dense_bn.running_var)


def test_half_precision_measures_too(synthetic_root, tmp_path):
    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE, batch_size=8)
    module = LitMiniVGG(batch_norm_images=8)
    trainer(tmp_path, precision="bf16-true", limit_train_batches=1, limit_val_batches=0).fit(module, datamodule=data)
    assert module.net.block1.bn1.num_batches_tracked == 1


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="batch_norm_images is -1: give 0"):
        LitMiniVGG(batch_norm_images=-1)
