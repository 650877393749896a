"""From files to batches."""

import logging

import pytest
import torch
from lightning.pytorch import Trainer

from minivgg_pl import CIFAR10DataModule, LitMiniVGG
from minivgg_pl.data.split import stratified_split
from minivgg_pl.data.synthetic import draw_split
from minivgg_pl.errors import InputError
from tests.conftest import SYNTHETIC_SIZE

TEST_SIZE = SYNTHETIC_SIZE // 5


@pytest.fixture
def make(synthetic_root):
    def make(stage="fit", **options):
        data = CIFAR10DataModule(
            str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE, **{"batch_size": 48, **options}
        )
        data.prepare_data()
        data.setup(stage)
        return data

    return make


def test_batches_are_float_images_in_0_to_1_and_one_hot_targets(make):
    images, targets = next(iter(make().train_dataloader()))
    assert images.shape == (48, 3, 32, 32)
    assert images.dtype == targets.dtype == torch.float32
    assert images.min() >= 0
    assert 0.5 < images.max() <= 1
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert targets.shape == (48, 10)
    assert targets.sum(dim=1).eq(1).all()
    assert set(targets.unique().tolist()) == {0.0, 1.0}


def test_test_images_come_pixel_for_pixel_and_none_is_dropped(make):
    drawn, labels = draw_split(SYNTHETIC_SIZE, train=False)
    batches = list(make("test").test_dataloader())
    images, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    assert len(images) == TEST_SIZE
    assert torch.equal(images, torch.from_numpy(drawn).permute(0, 3, 1, 2) / 255)
    assert targets.argmax(dim=1).tolist() == labels.tolist()


def test_class_names_are_there_at_once_and_in_the_order_of_the_labels(make):
    data = make("test")
    source = data.test_set
    assert data.class_names == CIFAR10DataModule(dataset="synthetic").class_names
    assert len(set(data.class_names)) == len(source.class_targets) == 10
    assert CIFAR10DataModule().class_names[3] == "cat"


def _epoch(data, epoch):
    loader = data.train_dataloader()
    loader.next_epoch = epoch
    return [image.sum().item() for images, _ in loader for image in images]


def test_an_epoch_shows_each_training_image_once_in_an_order_of_its_own(make):
    torch.manual_seed(3)
    data = make()
    first, second = _epoch(data, 0), _epoch(data, 1)
    assert len(first) == SYNTHETIC_SIZE
    assert sorted(first) == sorted(second)
    assert first != second
    assert first == _epoch(data, 0)


def test_the_order_follows_the_global_seed_and_survives_a_checkpoint(make):
    torch.manual_seed(3)
    data = make()
    torch.manual_seed(4)
    other = make()
    assert _epoch(other, 0) != _epoch(data, 0)
    other.load_state_dict(data.state_dict())
    assert _epoch(other, 0) == _epoch(data, 0)


def test_reading_batches_leaves_the_global_generator_alone(make):
    data = make()
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_held_out_images_are_balanced_and_no_training_images(make):
    data = make(val_size=50)
    assert torch.bincount(data.val_set.labels).tolist() == [5] * 10
    assert len(data.train_set) == SYNTHETIC_SIZE - 50
    held_out = {image.numpy().tobytes() for image in data.val_set.images}
    trained_on = {image.numpy().tobytes() for image in data.train_set.images}
    assert len(held_out) == 50
    assert not held_out & trained_on


def test_an_uneven_size_is_spread_over_the_first_classes():
    labels = torch.arange(10).repeat_interleave(20)
    chosen = stratified_split(labels, size=23, seed=0)
    assert torch.bincount(labels[chosen]).tolist() == [3, 3, 3] + [2] * 7


def test_no_class_loses_its_only_image():
    labels = torch.tensor([0] + [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6)
    for size in range(len(labels) - 4):
        chosen = stratified_split(labels, size=size, seed=0)
        assert chosen.sum() == size
        assert torch.bincount(labels[~chosen], minlength=5).min() >= 1


def test_the_split_depends_on_its_own_seed_alone():
    labels = torch.arange(10).repeat(20)
    torch.manual_seed(1)
    first = stratified_split(labels, size=50, seed=0)
    torch.manual_seed(2)
    assert torch.equal(first, stratified_split(labels, size=50, seed=0))
    assert not torch.equal(first, stratified_split(labels, size=50, seed=1))


@pytest.mark.parametrize(
    ("stage", "val_size", "loader", "size"),
    [
        ("validate", 0, "val_dataloader", TEST_SIZE),
        ("validate", 50, "val_dataloader", 50),
        ("test", 50, "test_dataloader", TEST_SIZE),
        ("predict", 0, "predict_dataloader", TEST_SIZE),
        ("fit", 50, "train_dataloader", SYNTHETIC_SIZE - 50),
    ],
)
def test_each_stage_sets_up_what_it_needs(make, stage, val_size, loader, size):
    data = make(stage, val_size=val_size)
    assert sum(len(images) for images, _ in getattr(data, loader)()) == size


def test_validating_on_the_test_set_is_said_once(make, caplog):
    with caplog.at_level(logging.INFO):
        data = make()
        data.setup("fit")
        data.setup("validate")
    assert caplog.text.count("Validation runs on the test set") == 1


def test_held_out_validation_is_no_news(make, caplog):
    with caplog.at_level(logging.INFO):
        make(val_size=50)
    assert "test set" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1: give 2 or more"),
        ({"val_size": -1}, "val_size is -1: give 0 .* to 49990"),
        ({"val_size": 49_991}, "val_size is 49991"),
        ({"dataset": "mnist"}, "choose cifar10 or synthetic"),
        ({"dataset": "synthetic", "synthetic_size": 0}, "synthetic_size is 0: give a multiple of 50"),
        ({"dataset": "synthetic", "synthetic_size": 120}, "synthetic_size is 120"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_read(options, message):
    with pytest.raises(InputError, match=message):
        CIFAR10DataModule("no such folder", **options)


def test_a_loader_of_its_own_predicts_and_is_not_taken_apart_by_lightning(make):
    data = make("test")
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    (probabilities,) = trainer.predict(LitMiniVGG(), data.test_dataloader())
    assert probabilities.shape == (TEST_SIZE, 10)
