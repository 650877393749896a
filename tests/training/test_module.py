"""The system around the network: loss, metrics, optimizer and schedule in a real Trainer."""

import contextlib

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from minivgg_pl import LitMiniVGG
from minivgg_pl.errors import NonFiniteLossError
from minivgg_pl.training.callbacks import StopOnNonFinite


def batches(num_images=20, batch_size=8, num_classes=10, seed=0):
    """Batches of random images and one-hot targets, the last one smaller."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num_images, 3, 32, 32, generator=generator)
    targets = torch.eye(num_classes)[torch.randint(num_classes, (num_images,), generator=generator)]
    return DataLoader(TensorDataset(images, targets), batch_size=batch_size)


def trainer(tmp_path, **options):
    return Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
            **options,
        }
    )


def test_targets_are_probabilities(tmp_path):
    module = LitMiniVGG()
    images = torch.rand(4, 3, 32, 32)
    soft = torch.full((4, 10), 0.1)
    module.eval()
    expected = -(module(images).log_softmax(dim=1) * soft).sum(dim=1).mean()
    torch.testing.assert_close(module.training_step((images, soft), 0), expected)


def test_the_loss_is_the_mean_over_dropout_samples():
    torch.manual_seed(0)
    images, targets = torch.rand(4, 3, 32, 32), torch.eye(10)[:4]
    module = LitMiniVGG(dropout_samples=3)
    torch.manual_seed(1)
    loss = module.training_step((images, targets), 0)
    torch.manual_seed(1)
    losses = [functional.cross_entropy(part, targets) for part in module(images).split(4)]
    torch.testing.assert_close(loss, sum(losses) / 3)
    assert module.epoch_metrics["train"].sums[2] == 12


def test_validation_metrics_are_means_over_images_not_over_batches(tmp_path):
    module = LitMiniVGG()
    metrics = trainer(tmp_path).validate(module, batches(), verbose=False)[0]
    images, targets = (torch.cat(part) for part in zip(*batches(), strict=True))
    with torch.no_grad():
        logits = module.eval()(images)
    assert metrics["val_loss"] == pytest.approx(functional.cross_entropy(logits, targets).item(), rel=1e-5)
    assert metrics["val_acc"] == pytest.approx((logits.argmax(1) == targets.argmax(1)).float().mean().item())


def test_train_metrics_are_running_means_over_the_epochs_images(tmp_path):
    seen = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append((outputs["loss"].item(), len(batch[0])))
            # A look inside the epoch, which must not stay.
            assert module.epoch_metrics["train"].loss.compute() > 0

    fit = trainer(tmp_path, callbacks=[Keep()])
    fit.fit(LitMiniVGG(), batches())
    assert [size for _, size in seen] == [8, 8, 4]
    mean = sum(loss * size for loss, size in seen) / 20
    assert fit.callback_metrics["train_loss"].item() == pytest.approx(mean, rel=1e-5)
    hits = fit.callback_metrics["train_acc"].item() * 20
    assert hits == pytest.approx(round(hits), abs=1e-4)


def test_a_second_epoch_starts_its_means_anew(tmp_path):
    module = LitMiniVGG(lr=1e-12)
    losses = []

    class Keep(Callback):
        def on_validation_epoch_end(self, trainer, module):
            losses.append(module.epoch_metrics["val"].sums[2].item())

    trainer(tmp_path, max_epochs=2, callbacks=[Keep()]).fit(module, batches(), batches())
    assert losses == [20, 20]


def test_the_rate_falls_every_batch(tmp_path):
    rates = []

    class Keep(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer(tmp_path, max_epochs=2, callbacks=[Keep()]).fit(LitMiniVGG(), batches())
    assert rates == pytest.approx([0.01 / (1 + 0.00025 * t) for t in range(6)])


def test_the_optimizer_is_the_articles():
    optimizer = LitMiniVGG().configure_optimizers()["optimizer"]
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.01, 0.9, True, 0)
    assert len(group["params"]) == len(list(LitMiniVGG().parameters()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_loss_that_is_not_finite_names_epoch_and_step(tmp_path, accumulate):
    class Break(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 2:
                batch[0].fill_(float("inf"))

    fit = trainer(tmp_path, max_epochs=3, callbacks=[Break(), StopOnNonFinite()], accumulate_grad_batches=accumulate)
    step = {1: 6, 2: 4}[accumulate]
    with pytest.raises(NonFiniteLossError, match=f"training loss is not finite in epoch 2, step {step}:"):
        fit.fit(LitMiniVGG(), batches())


def test_a_validation_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path):
    class Break(Callback):
        def on_validation_start(self, trainer, module):
            module.net.classifier.bias.data.fill_(float("nan"))

        def on_train_epoch_end(self, trainer, module):
            raise AssertionError("the epoch was finished")

    with pytest.raises(NonFiniteLossError, match="validation loss is not finite in epoch 1, step 3:"):
        trainer(tmp_path, callbacks=[Break(), StopOnNonFinite()]).fit(LitMiniVGG(), batches(), batches())


class Foreign(BoringModel):
    """A module that is not ours, whose parameters or loss become NaN."""

    def __init__(self, breaks, automatic):
        super().__init__()
        self.breaks, self.automatic_optimization = breaks, automatic

    def training_step(self, batch, batch_idx):
        if self.breaks == "weights":
            self.layer.weight.data.fill_(float("nan"))
        loss = super().training_step(batch, batch_idx)["loss"]
        return loss * float("nan") if self.breaks == "loss" else loss if self.automatic_optimization else None


@pytest.mark.parametrize(("breaks", "automatic"), [("loss", True), ("weights", True), ("weights", False), ("", False)])
def test_a_foreign_module_is_stopped_too(breaks, automatic, tmp_path):
    fit = trainer(tmp_path, callbacks=[StopOnNonFinite()], limit_train_batches=3, limit_val_batches=0)
    with pytest.raises(NonFiniteLossError, match="training loss is not fin") if breaks else contextlib.nullcontext():
        fit.fit(Foreign(breaks, automatic))


def test_weights_are_looked_at_where_a_validation_inside_an_epoch_ends_it(tmp_path):
    class Stop(Callback):
        def on_validation_end(self, trainer, module):
            trainer.should_stop = True

    fit = trainer(tmp_path, callbacks=[Stop(), StopOnNonFinite()], limit_train_batches=3, val_check_interval=1)
    with pytest.raises(NonFiniteLossError, match="training loss is not finite in epoch 1, step 0:"):
        fit.fit(Foreign("weights", automatic=False))


def test_sums_are_float32_on_the_batches_device_however_the_module_was_made(tmp_path):
    low = trainer(tmp_path, precision="bf16-true")
    with low.init_module(), torch.device("meta"):
        module = LitMiniVGG()
    module.to_empty(device="cpu").load_state_dict(LitMiniVGG().state_dict())
    hits = low.validate(module, batches(300, 60), verbose=False)[0]["val_acc"] * 300
    assert hits == pytest.approx(round(hits), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"classifier_lr": -1.0}, "classifier_lr is -1.0"),
        ({"freeze": ["block1", "block2", "dense", "dense_bn", "classifier"]}, "freeze leaves nothing to train"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": 0.0}, "nesterov is True: give a momentum above 0"),
        ({"lr_decay": -0.1}, "lr_decay is -0.1"),
        ({"variant": "huge"}, "unknown variant 'huge'"),
    ],
)
def test_bad_hyperparameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LitMiniVGG(**options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_cpus_logits(tmp_path):
    module = LitMiniVGG().eval()
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = module(images)
        torch.testing.assert_close(module.cuda()(images.cuda()).cpu(), expected, atol=1e-3, rtol=1e-3)
