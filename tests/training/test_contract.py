"""LitMiniVGG in a plain Trainer, as Lightning's users expect any module to behave; most of it for both recipes."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from minivgg_pl import LitMiniVGG
from minivgg_pl.errors import InputError
from tests.conftest import REPOSITORY

MODERN = yaml.safe_load((REPOSITORY / "minivgg_pl" / "recipes" / "modern.yaml").read_text())["model"]
TINY = {"dense_units": 4, "image_size": 4, "num_classes": 3}
recipes = pytest.mark.parametrize("recipe", [{}, {**MODERN, "batch_norm_images": 4}], ids=["article", "modern"])


def data(number=20, batch_size=4, labels=False, seed=0, num_classes=3):
    """Batches of random images of 4 pixels and one-hot targets, or labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(number, 3, 4, 4, generator=generator)
    targets = torch.randint(num_classes, (number,), generator=generator)
    return DataLoader(TensorDataset(images, targets if labels else torch.eye(num_classes)[targets]), batch_size)


def fit(module, tmp_path, loaders=(), callbacks=(), checkpoint=None, **options):
    """Fit, by default two epochs with a validation, and return the trainer."""
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(
        **dict.fromkeys(quiet, False)
        | {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": tmp_path, "callbacks": list(callbacks)}
        | options
    )
    trainer.fit(module, *(loaders or (data(), data(8, seed=1))), ckpt_path=checkpoint)
    return trainer


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@recipes
def test_a_fit_logs_finite_means_and_changes_all_parameters(recipe, tmp_path):
    module = LitMiniVGG(**TINY, **recipe)
    before = dict(module.named_parameters())
    before = {name: value.detach().clone() for name, value in before.items()}
    metrics = fit(module, tmp_path).callback_metrics
    assert metrics.keys() == {"train_loss", "train_acc", "val_loss", "val_acc"}
    assert all(value.isfinite() for value in metrics.values())
    # A bias in front of a batch norm's ReLU may stay where no image reaches it.
    assert all(not torch.equal(before[name], p) for name, p in module.named_parameters() if name.endswith("weight"))


class Mixup(LitMiniVGG):
    """The show of a user's own file: mixup, and a network of the user's own."""

    def __init__(self, alpha: float = 0.2, **options):
        super().__init__(**options)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
        )
        self.net(torch.zeros(1, 3, 4, 4))

    def training_step(self, batch, batch_idx):
        images, targets = batch
        share = torch.distributions.Beta(self.hparams.alpha, self.hparams.alpha).sample()
        order = torch.randperm(len(images))
        images = share * images + (1 - share) * images[order]
        targets = share * targets + (1 - share) * targets[order]
        return super().training_step((images, targets), batch_idx)


@recipes
def test_a_subclass_with_mixup_and_its_own_network_trains_resumes_and_loads(recipe, tmp_path):
    module = Mixup(**TINY, **recipe)
    trainer = fit(module, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Mixup.load_from_checkpoint(tmp_path / "last.ckpt", **TINY, weights_only=True)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items())
    resumed = fit(Mixup(**TINY, **recipe), tmp_path, checkpoint=tmp_path / "last.ckpt", max_epochs=3)
    assert (resumed.current_epoch, resumed.global_step) == (3, 15)
    assert resumed.callback_metrics["train_loss"].isfinite()


@recipes
def test_another_network_and_another_forward_are_used_in_all_steps(recipe, tmp_path):
    class Twice(LitMiniVGG):
        def __init__(self, **options):
            super().__init__(**options)
            self.scale = nn.Parameter(torch.ones(()))
            self.calls = 0

        def forward(self, images):
            self.calls += 1
            return self.scale * self.net(images)

    module = Twice(**TINY, **recipe)
    module.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    trainer = fit(module, tmp_path, num_sanity_val_steps=0, max_epochs=1)
    measured = 1 if recipe else 0
    assert module.calls == 5 + 2 + measured
    # What a subclass adds beside the network trains, too.
    assert module.scale != 1
    trainer.test(module, data(), verbose=False)
    assert trainer.predict(module, data())[0].sum(dim=1).allclose(torch.ones(4))


HOOKS = (
    *("on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end"),
    *("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_validation_end", "on_test_start"),
    *("on_validation_epoch_start", "on_validation_epoch_end", "on_validation_batch_end", "on_test_epoch_start"),
    *("on_save_checkpoint", "on_load_checkpoint", "on_before_optimizer_step", "setup", "teardown"),
)


@recipes
def test_hooks_overridden_without_super_change_nothing(recipe, tmp_path):
    called = set()

    def hook(name):
        return lambda self, *args, **options: called.add(name)

    hooks = {name: hook(name) for name in HOOKS if not name.startswith("on_test")}
    Bare = type("Bare", (LitMiniVGG,), hooks)
    results = []
    for kind in (LitMiniVGG, Bare):
        torch.manual_seed(0)
        module = kind(**TINY, **recipe)
        trainer = fit(module, tmp_path, num_sanity_val_steps=0)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        resumed = fit(kind(**TINY, **recipe), tmp_path, checkpoint=tmp_path / "end.ckpt", max_epochs=3)
        results.append((trainer.callback_metrics, weights(module), resumed.callback_metrics["val_loss"]))
    assert called == set(hooks)
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_step_overridden_without_super_has_its_metrics_untouched(tmp_path):
    class Own(LitMiniVGG):
        def __init__(self, **options):
            super().__init__(**options)
            self.train_acc, self.val_acc = (MulticlassAccuracy(3, average="micro") for _ in range(2))

        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            self.train_acc(logits, batch[1])
            self.log("train_acc", self.train_acc, on_step=True, on_epoch=True)
            self.log("train_loss", 5.0)
            return functional.cross_entropy(logits, batch[1])

        def validation_step(self, batch, batch_idx):
            self.val_acc(self(batch[0]), batch[1])
            self.log("val_acc", self.val_acc)
            self.log("val_score", float(self.current_epoch))

    stop = EarlyStopping("val_score", mode="min", patience=1)
    loaders = data(labels=True), data(8, labels=True)
    module = Own(**TINY)
    trainer = fit(module, tmp_path, loaders, [stop], max_epochs=5)
    assert (trainer.current_epoch, stop.stopped_epoch) == (2, 1)
    metrics = trainer.callback_metrics
    assert (metrics["train_loss"], metrics["val_score"]) == (5, 1)
    images, labels = loaders[1].dataset.tensors
    with torch.no_grad():
        assert metrics["val_acc"] == (module.eval()(images).argmax(1) == labels).float().mean()


def test_metrics_of_ones_own_stand_beside_the_modules(tmp_path):
    class Own(LitMiniVGG):
        def validation_step(self, batch, batch_idx):
            logits = super().validation_step(batch, batch_idx)
            self.log("val_confidence", logits.softmax(dim=1).amax(dim=1).mean(), prog_bar=True)

    trainer = fit(Own(**TINY), tmp_path, callbacks=[EarlyStopping("val_confidence"), EarlyStopping("val_loss")])
    assert 0 < trainer.callback_metrics["val_confidence"] < 1
    assert trainer.callback_metrics["val_loss"].isfinite()


@recipes
@pytest.mark.parametrize("first_left_out", [0, 3])
def test_minus_one_ends_the_epoch_and_keeps_its_means(first_left_out, recipe, tmp_path):
    class Short(LitMiniVGG):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == first_left_out else None

    trainer = fit(Short(**TINY, **recipe), tmp_path, max_epochs=1)
    assert ("train_loss" in trainer.callback_metrics) == (first_left_out > 0)
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


class Interrupt(Callback):
    """Saves inside the second epoch, and then breaks off."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 2):
            trainer.save_checkpoint(f"{trainer.default_root_dir}/inside.ckpt")
            raise RuntimeError("broken off")


def test_means_are_whole_after_an_epoch_that_broke_off_and_after_a_resume_inside_one(tmp_path):
    # Without dropout and with next to no rate, each epoch has the same mean.
    module = LitMiniVGG(**TINY, lr=1e-9)
    for dropout in (module.net.block1.dropout, module.net.block2.dropout, module.net.dense_dropout):
        dropout.p = 0
    expected = fit(module, tmp_path).callback_metrics["train_loss"]
    with pytest.raises(RuntimeError, match="broken off"):
        fit(module, tmp_path, callbacks=[Interrupt()])
    again = fit(module, tmp_path).callback_metrics["train_loss"]
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=0)
    sums = torch.load(tmp_path / "inside.ckpt", weights_only=True)["epoch_so_far"]["sums"]
    assert sums[0, 2] == 12
    # A DataLoader cannot go on where it was: its first two batches come once more.
    resumed = fit(module, tmp_path, checkpoint=tmp_path / "inside.ckpt")
    first = [functional.cross_entropy(module.train()(images), targets) for images, targets in data()][:2]
    whole = (sums[0, 0] + 4 * sum(first)) / 20
    torch.testing.assert_close(resumed.callback_metrics["train_loss"], whole.detach(), rtol=1e-4, atol=0)


@recipes
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.5},
        {"gradient_clip_val": 0.5, "precision": "bf16-mixed"},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        {"fast_dev_run": True},
        {"overfit_batches": 1},
        {"limit_train_batches": 2, "limit_val_batches": 1},
        {"limit_train_batches": 0.5},
        {"limit_val_batches": 0},
        {"val_check_interval": 2},
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"max_steps": 7, "max_epochs": -1},
        {"precision": "64-true"},
        {"detect_anomaly": True},
        {"reload_dataloaders_every_n_epochs": 1},
        {"inference_mode": False},
        {"barebones": True, "default_root_dir": None},
    ],
    ids=str,
)
def test_the_trainers_options(options, recipe, tmp_path):
    precision = options.get("precision")
    loaders = data(), data(8)
    if precision == "64-true":
        loaders = [DataLoader([(x.double(), y.double()) for x, y in loader.dataset], 4) for loader in loaders]
    if "barebones" in options:
        options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar")) | options
        options["enable_model_summary"] = None
    trainer = fit(LitMiniVGG(**TINY, **recipe), tmp_path, loaders, **options)
    assert trainer.global_step > 0
    names = {f"{stage}_{name}" for stage in ("train", "val") for name in ("loss", "acc")}
    if options.get("limit_val_batches") == 0:
        names = {"train_loss", "train_acc"}
    if "barebones" not in options:
        assert trainer.callback_metrics.keys() == names
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


def test_a_logger_gets_the_loss_of_batches_and_the_means_of_epochs(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(LitMiniVGG(**TINY), tmp_path, logger=logger, log_every_n_steps=2)
    logger.save()
    header, *rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    columns = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    assert [row["step"] for row in columns if row["train_loss_step"]] == ["1", "3", "5", "7", "9"]
    assert len([row for row in columns if row["val_loss"]]) == len([row for row in columns if row["train_acc"]]) == 2


@pytest.mark.parametrize("recipe", [{}, {"classifier_lr": 0.1}, MODERN], ids=["article", "two rates", "modern"])
def test_backbone_finetuning(recipe, tmp_path):
    class Watch(Callback):
        def on_train_epoch_end(self, trainer, module):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
            kernels.append(module.net.block1.conv1.weight.detach().clone())

    rates, kernels = [], []
    tune = BackboneFinetuning(1, lambda epoch: 1.0, backbone_initial_ratio_lr=0.1, should_align=False)
    module = LitMiniVGG(**TINY, **recipe)
    start = module.net.block1.conv1.weight.detach().clone()
    fit(module, tmp_path, callbacks=[tune, Watch()], max_epochs=3)
    assert torch.equal(kernels[0], start)
    assert not torch.equal(kernels[1], start)
    assert len(rates[1]) == len(rates[0]) + 1
    assert rates[1][-1] < rates[0][0]


def test_a_module_without_a_backbone_says_so_and_one_of_its_own_is_taken(tmp_path):
    module = LitMiniVGG(**TINY)
    assert module.head is module.net.classifier
    module.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with pytest.raises(AttributeError, match="no attribute 'backbone'"):
        fit(module, tmp_path, callbacks=[BackboneFinetuning(1)])
    module.backbone = nn.Linear(48, 3)
    assert isinstance(module.backbone, nn.Linear)
    assert "backbone.weight" in module.state_dict()


@pytest.mark.parametrize("recipe", [{}, {"classifier_lr": 0.1}, MODERN], ids=["article", "two rates", "modern"])
def test_what_is_unfrozen_later_trains_from_then_on(recipe, tmp_path):
    class Thaw(Callback):
        def on_train_epoch_start(self, trainer, module):
            kernels.append(module.net.block1.conv1.weight.detach().clone())
            if trainer.current_epoch == 1:
                module.net.freeze()

    kernels = []
    module = LitMiniVGG(**TINY, **recipe, freeze=["block1", "dense_bn"])
    fit(module, tmp_path, callbacks=[Thaw()])
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[1], module.net.block1.conv1.weight)


@recipes
def test_lbfgs_and_other_optimizers(recipe, tmp_path):
    class Own(LitMiniVGG):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)

    module = Own(**TINY, **recipe)
    before = weights(module)
    trainer = fit(module, tmp_path, max_epochs=1)
    assert trainer.callback_metrics["train_loss"].isfinite()
    assert not torch.equal(before["net.classifier.weight"], module.net.classifier.weight)


@recipes
def test_pruning(recipe, tmp_path):
    module = LitMiniVGG(**TINY, **recipe)
    fit(module, tmp_path, callbacks=[ModelPruning("l1_unstructured", amount=0.5, use_global_unstructured=True)])
    pruned = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    zeros = sum((part.weight == 0).sum().item() for part in pruned)
    assert zeros > 0.4 * sum(part.weight.numel() for part in pruned)
    assert module.state_dict().keys() == LitMiniVGG(**TINY, **recipe).state_dict().keys()


@recipes
def test_weight_averaging(recipe, tmp_path):
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    trainer = fit(LitMiniVGG(**TINY, **recipe), tmp_path, callbacks=[averaging], max_epochs=3)
    assert trainer.callback_metrics["val_loss"].isfinite()


@recipes
@pytest.mark.parametrize("is_broken_off", [False, True])
def test_parameters_are_a_vector_before_and_after_a_fit(is_broken_off, recipe, tmp_path):
    module = LitMiniVGG(**TINY, **recipe)
    size = parameters_to_vector(module.parameters()).numel()
    if is_broken_off:
        with pytest.raises(RuntimeError, match="broken off"):
            fit(module, tmp_path, callbacks=[Interrupt()])
    else:
        fit(module, tmp_path)
    assert parameters_to_vector(module.parameters()).numel() == size


@recipes
def test_the_tuners_learning_rate_search_passes_non_finite_losses(recipe, tmp_path):
    module = LitMiniVGG(**TINY, **recipe)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=5, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    found = Tuner(trainer).lr_find(
        module, data(), data(8), min_lr=1e-3, max_lr=1e30, num_training=12, early_stop_threshold=None, attr_name="lr"
    )
    assert len(found.results["loss"]) == 12
    assert not torch.tensor(found.results["loss"]).isfinite().all()
    module.hparams.lr = 0.01
    trainer.fit(module, data(), data(8))
    assert trainer.callback_metrics["val_loss"].isfinite()


class Data(LightningDataModule):
    """Labels in place of one-hot targets."""

    def train_dataloader(self):
        return data(labels=True)

    def val_dataloader(self):
        return data(8, labels=True)


@recipes
def test_module_data_module_and_trainer_pickle_after_a_fit(recipe, tmp_path):
    module = LitMiniVGG(**TINY, **recipe)
    trainer = fit(module, tmp_path, [Data()])
    images = torch.rand(2, 3, 4, 4)
    for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(copied.eval()(images), module.eval()(images))
    other = pickle.loads(pickle.dumps(trainer))
    assert other.global_step == trainer.global_step
    fit(pickle.loads(pickle.dumps(module)), tmp_path, [pickle.loads(pickle.dumps(trainer.datamodule))])


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("kind", [*INTEGERS, torch.bool, torch.float16, torch.float64], ids=str)
def test_targets_of_all_types_give_one_loss(kind, tmp_path):
    module = LitMiniVGG(**TINY).eval()
    images, labels = torch.rand(4, 3, 4, 4), torch.tensor([0, 2, 1, 2])
    expected = functional.cross_entropy(module(images), labels)
    targets = [torch.eye(3)[labels].to(kind)]
    targets += [labels.to(kind)] if kind in INTEGERS else []
    for target in targets:
        torch.testing.assert_close(module.training_step((images, target), 0), expected)
        torch.testing.assert_close(module.validation_step((images, target), 0), module(images))


@recipes
def test_indices_and_one_hot_targets_train_alike(recipe, tmp_path):
    results = []
    for labels in (False, True):
        torch.manual_seed(0)
        module = LitMiniVGG(**TINY, **recipe)
        trainer = fit(module, tmp_path, (data(labels=labels), data(8, labels=labels)))
        trainer.test(module, data(8, labels=labels), verbose=False)
        results.append((weights(module), trainer.callback_metrics))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1, 2, 7]), "targets hold the class 7, and the network has classes 0 to 2"),
        (torch.tensor([0, -1, 2, 1]), "targets hold the class -1"),
        (torch.eye(4), r"targets are torch.float32 \(4, 4\), and the network has 3 classes"),
        (torch.zeros(4), r"targets are torch.float32 \(4,\)"),
        (torch.zeros(4, 1, dtype=torch.long), r"give class indices \(N,\) of an integer type, or \(N, 3\) one-hot"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_wrong_number_of_classes_is_named_at_the_start(stage, targets, message, tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    loader = DataLoader(TensorDataset(torch.rand(4, 3, 4, 4), targets), batch_size=4)
    with pytest.raises(InputError, match=message):
        getattr(trainer, stage)(LitMiniVGG(**TINY), loader)


def test_class_weights_are_keras_and_of_the_training_alone(tmp_path):
    images, labels = torch.rand(4, 3, 4, 4), torch.tensor([0, 2, 1, 2])
    class_weights = [1.0, 0.0, 3.0]
    module = LitMiniVGG(**TINY, class_weights=class_weights)
    assert module.state_dict().keys() == LitMiniVGG(**TINY).state_dict().keys()
    logits = module(images)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    expected = (losses * torch.tensor(class_weights)[labels]).mean()
    torch.testing.assert_close(module.compute_loss(logits, torch.eye(3)[labels]), expected)
    torch.testing.assert_close(module.eval().compute_loss(logits, torch.eye(3)[labels]), losses.mean())
    assert fit(module, tmp_path).callback_metrics["train_loss"].isfinite()
    for wrong in ([1.0, 2.0], [1.0, 2.0, -1.0], [1.0, 2.0, float("inf")], [0.0, 0.0, 0.0], []):
        with pytest.raises(ValueError, match="class_weights is .*: give 3 finite numbers of 0 or more"):
            LitMiniVGG(**TINY, class_weights=wrong)


def test_a_loss_of_ones_own_is_that_of_all_steps(tmp_path):
    class Squared(LitMiniVGG):
        def compute_loss(self, logits, targets):
            return (logits.softmax(dim=1) - targets).square().sum(dim=1).mean()

    module = Squared(**TINY)
    trainer = fit(module, tmp_path)
    images, targets = data(8, seed=1).dataset.tensors
    with torch.no_grad():
        expected = module.compute_loss(module.eval()(images), targets)
    torch.testing.assert_close(trainer.callback_metrics["val_loss"], expected)


@recipes
def test_several_validation_sets_have_their_own_means(recipe, tmp_path):
    module = LitMiniVGG(**TINY, **recipe)
    sets = [data(8, seed=1), data(12, seed=2)]
    metrics = fit(module, tmp_path, (data(), sets)).callback_metrics
    for number, loader in enumerate(sets):
        images, targets = loader.dataset.tensors
        with torch.no_grad():
            expected = functional.cross_entropy(module.eval()(images), targets)
        torch.testing.assert_close(metrics["val_loss" if number == 0 else "val_loss/dataloader_idx_1"], expected)


@recipes
def test_a_checkpoint_resumes_and_loads_with_lightnings_own_callbacks(recipe, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_acc", mode="max", save_top_k=-1, save_last=True)
    module = LitMiniVGG(**TINY, **recipe)
    fit(module, tmp_path, callbacks=[checkpoint], enable_checkpointing=True)
    assert checkpoint.best_model_score.isfinite()
    loaded = LitMiniVGG.load_from_checkpoint(checkpoint.last_model_path, weights_only=True)
    torch.testing.assert_close(loaded.state_dict(), module.state_dict())
    resumed = fit(LitMiniVGG(**TINY, **recipe), tmp_path, checkpoint=checkpoint.last_model_path, max_epochs=3)
    assert resumed.global_step == 15


def test_a_bare_loop_without_a_trainer(tmp_path):
    module = LitMiniVGG(**TINY)
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for number, batch in enumerate(data(labels=True)):
        module.training_step(batch, number).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert schedule.last_epoch == 5
