"""Flips and shifts: each image its own, whole pixels only, and the same again after a resume."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from minivgg_pl import CIFAR10DataModule, LitMiniVGG
from minivgg_pl.data.augmentation import Augmentation, flip_and_shift
from minivgg_pl.errors import InputError
from tests.conftest import SYNTHETIC_SIZE


def images(number=4, size=8):
    return torch.arange(number * size * size * 3).reshape(number, size, size, 3) % 251


def apply(source, flip=False, down=0, right=0, index=0):
    return flip_and_shift(source, torch.tensor([index]), torch.tensor([flip]), torch.tensor([[down, right]]))[0]


def test_a_flip_mirrors_left_and_right():
    assert torch.equal(apply(images(), flip=True), images()[0].flip(1))


def test_a_shift_moves_down_and_right_and_mirrors_the_border():
    source, shifted = images()[0], apply(images(), down=2, right=1)
    assert torch.equal(shifted[2:, 1:], source[:-2, :-1])
    # The border row and column themselves are not repeated: what enters is rows 2, 1 and column 1.
    assert torch.equal(shifted[:2, 1:], source[[2, 1], :-1])
    assert torch.equal(shifted[2:, 0], source[:-2, 1])


def test_a_shift_up_and_left_mirrors_the_other_border():
    source, shifted = images()[0], apply(images(), down=-1, right=-2)
    assert torch.equal(shifted[:-1, :-2], source[1:, 2:])
    assert torch.equal(shifted[-1, :-2], source[-2, 2:])


def test_each_image_of_a_batch_has_its_own_draw():
    source = images()
    batch = flip_and_shift(source, torch.tensor([1, 3]), torch.tensor([True, False]), torch.tensor([[0, 0], [1, 0]]))
    assert torch.equal(batch[0], source[1].flip(1))
    assert torch.equal(batch[1], apply(source, down=1, index=3))


def draw(augmentation, epoch, size=1000, seed=5):
    return augmentation.draw(size, seed, epoch, torch.Generator().manual_seed(epoch))


def test_alternating_flips_show_the_other_side_in_the_next_epoch():
    augmentation = Augmentation("alternating")
    first, second, third = (draw(augmentation, epoch)[0] for epoch in range(3))
    assert 400 < first.sum() < 600
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)


def test_random_flips_are_drawn_anew():
    augmentation = Augmentation("random")
    first, second = draw(augmentation, 0)[0], draw(augmentation, 1)[0]
    assert 400 < first.sum() < 600
    assert 400 < (first ^ second).sum() < 600


def test_shifts_are_uniform_in_both_directions():
    _, shifts = draw(Augmentation(shift=2), 0)
    assert shifts.unique().tolist() == [-2, -1, 0, 1, 2]
    assert not torch.equal(shifts[:, 0], shifts[:, 1])
    assert not Augmentation()


@pytest.fixture
def make(synthetic_root):
    def make(**options):
        torch.manual_seed(3)
        data = CIFAR10DataModule(
            str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE, batch_size=50, **options
        )
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def epoch_of(data, epoch):
    loader = data.train_dataloader()
    loader.next_epoch = epoch
    return torch.cat([batch for batch, _ in loader])


def test_only_training_images_are_augmented(make):
    plain, augmented = make(), make(flip="alternating", shift=2)
    assert torch.equal(
        torch.cat([batch for batch, _ in plain.val_dataloader()]),
        torch.cat([batch for batch, _ in augmented.val_dataloader()]),
    )
    assert not torch.equal(epoch_of(plain, 0), epoch_of(augmented, 0))


def test_an_epochs_images_depend_on_seed_and_epoch_alone(make):
    data = make(flip="random", shift=2)
    third = epoch_of(data, 3)
    epoch_of(data, 4)
    torch.rand(100)
    assert torch.equal(third, epoch_of(data, 3))
    assert torch.equal(third, epoch_of(make(flip="random", shift=2), 3))


def test_augmented_batches_stay_channels_last_floats(make):
    batch, _ = next(iter(make(flip="random", shift=4).train_dataloader()))
    assert batch.shape == (50, 3, 32, 32)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"flip": "up"}, "flip is 'up'"), ({"shift": -1}, "shift is -1: give 0 to 31"), ({"shift": 32}, "shift is 32")],
)
def test_bad_augmentation_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        CIFAR10DataModule("no such folder", **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_images_live_there_and_no_step_waits_for_it(synthetic_root, tmp_path):
    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            assert batch[0].is_cuda
            if batch_idx == 2:
                torch.cuda.set_sync_debug_mode("error")

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 6:
                torch.cuda.set_sync_debug_mode("default")

    options = {"dataset": "synthetic", "synthetic_size": SYNTHETIC_SIZE, "batch_size": 20, "flip": "random", "shift": 2}
    data = CIFAR10DataModule(str(synthetic_root), **options)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="gpu", devices=1, callbacks=Watch(), default_root_dir=tmp_path, **quiet)
    trainer.fit(LitMiniVGG(optimizer="muon", schedule="triangular"), datamodule=data)
    assert data.train_set.images.is_cuda
