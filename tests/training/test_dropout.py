"""Dropout that falls while a network trains."""

import pytest
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from minivgg_pl import LitMiniVGG
from minivgg_pl.training.dropout import DropoutRates
from tests.training.test_module import batches, trainer


class Rates(Callback):
    """Keeps the rates and the number of masks of each training batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        net = pl_module.net
        self.seen.append((net.block1.dropout.p, net.dense_dropout.p, net.dropout_samples))


def test_linear_dropout_and_its_masks_fall_to_nothing_and_are_whole_again_after_the_fit(tmp_path):
    rates = Rates()
    module = LitMiniVGG(dense_units=8, dropout_samples=8, dropout_schedule="linear", batch_norm_images=8)
    trainer(tmp_path, max_epochs=2, limit_train_batches=2, limit_val_batches=0, callbacks=[rates]).fit(
        module, batches(16)
    )
    assert rates.seen == [(0.25, 0.5, 8), (0.1875, 0.375, 6), (0.125, 0.25, 4), (0.0625, 0.125, 2)]
    net = module.net
    assert (net.block2.dropout.p, net.dense_dropout.p, net.dropout_samples) == (0.25, 0.5, 8)


def test_rates_are_the_same_after_a_resume(tmp_path):
    whole, rest = Rates(), Rates()
    options = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 0}
    first = trainer(tmp_path, **options | {"max_epochs": 1})

    def module():
        return LitMiniVGG(dense_units=8, dropout_samples=4, dropout_schedule="linear")

    trainer(tmp_path, **options, callbacks=[whole]).fit(module(), batches(16))
    first.fit(module(), batches(16))
    first.save_checkpoint(tmp_path / "epoch.ckpt")
    trainer(tmp_path, **options, callbacks=[rest]).fit(module(), batches(16), ckpt_path=tmp_path / "epoch.ckpt")
    assert rest.seen == whole.seen[2:]


def test_dropout_of_every_kind_falls():
    net = nn.Sequential(nn.Dropout2d(0.5), nn.AlphaDropout(0.25))
    DropoutRates(net).scale(0.5)
    assert [layer.p for layer in net] == [0.25, 0.125]


class Stream(IterableDataset):
    """Images without a length."""

    def __iter__(self):
        yield from batches(16)


@pytest.mark.parametrize(("data", "epochs"), [(batches(16), -1), (DataLoader(Stream(), batch_size=None), 1)])
def test_linear_dropout_needs_an_end(data, epochs, tmp_path):
    with pytest.raises(ValueError, match="dropout_schedule linear needs the number of updates"):
        trainer(tmp_path, max_epochs=epochs).fit(LitMiniVGG(dense_units=8, dropout_schedule="linear"), data)
