"""Data modules in the user's own code: transforms, labels, loops without a Trainer, a subclass."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import HalfPrecision
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from minivgg_pl import (
    CIFAR10DataModule,
    ImageDataModule,
    ImageDataset,
    ImageFolderDataModule,
    LitMiniVGG,
    TorchvisionDataModule,
)
from minivgg_pl.data import image_folder
from minivgg_pl.runs.checkpoint import read_checkpoint
from tests.conftest import SYNTHETIC_SIZE
from tests.data.test_image_folder import make_images


class Squares(ImageDataModule):
    """Small and large white squares on black."""

    def __init__(self, number: int = 40, **options):
        super().__init__(
            class_names=["small", "large"],
            image_shape=(1, 32, 32),
            dataset="squares",
            title="white squares",
            train_size=number,
            splits=("train", "test"),
            **options,
        )
        self.prepared = 0

    def prepare_files(self):
        self.prepared += 1

    def load(self, split):
        labels = torch.arange(self.train_size) % 2
        images = torch.zeros(len(labels), 32, 32, 1, dtype=torch.uint8)
        images[:, :8, :8] = 255
        images[labels == 1, :16, :16] = 255
        return ImageDataset(images, labels, num_classes=2)


def synthetic(**options):
    return CIFAR10DataModule("unused", dataset="synthetic", synthetic_size=SYNTHETIC_SIZE, **options)


@pytest.fixture(params=["synthetic", "folder", "large folder", "torchvision"])
def make(request, tmp_path, monkeypatch):
    """Each data module, with 10 images or more to validate on."""
    if request.param == "synthetic":
        return lambda **options: synthetic(val_size=50, **options)
    if request.param == "torchvision":
        monkeypatch.setattr(TorchvisionDataModule, "prepare_files", lambda self: None)
        images = torch.arange(40 * 32 * 32 * 3).reshape(40, 32, 32, 3).to(torch.uint8)
        drawn = ImageDataset(images, torch.arange(40) % 10, 100)
        monkeypatch.setattr(TorchvisionDataModule, "load", lambda self, split: drawn.subset(torch.arange(40)))
        return lambda **options: TorchvisionDataModule(**options)
    if request.param == "large folder":
        monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 0)
    make_images(tmp_path / "images")
    return lambda **options: ImageFolderDataModule(str(tmp_path / "images"), **options)


def read(loader):
    return tuple(torch.cat(part) for part in zip(*loader, strict=True))


def test_each_image_goes_through_the_transform_of_its_set_and_targets_may_be_labels(make):
    plain, changed = make(), make(train_transform=lambda image: image // 2, val_transform=torch.neg, one_hot=False)
    for data in (plain, changed):
        data.shuffle_seed = 3
    for name in ("train", "val", "test"):
        images, one_hot = read(getattr(plain, f"{name}_dataloader")())
        of_changed, labels = read(getattr(changed, f"{name}_dataloader")())
        pixels = (images * 255).round().to(torch.uint8)
        expected = pixels // 2 if name == "train" else pixels.neg()
        assert torch.equal(of_changed, expected / 255)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, one_hot.argmax(dim=1))


def test_a_transform_gets_one_image_of_bytes_and_its_floats_stay_as_they_are():
    seen = []

    def to_thousands(image):
        seen.append((image.shape, image.dtype))
        return image * 1000.0

    data = synthetic(train_transform=v2.Compose([to_thousands]), batch_size=20)
    images, _ = next(iter(data.train_dataloader()))
    assert images.max() > 100_000
    assert seen == 20 * [((3, 32, 32), torch.uint8)]
    image, target = data.train_set[7]
    assert image.shape == (3, 32, 32)
    assert target.shape == (10,)


def test_images_are_float32_where_lightning_changes_torchs_default_type():
    data = ImageDataset(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.arange(2))
    with HalfPrecision("bf16-true").forward_context():
        images, _ = data[torch.arange(2)]
    assert images.dtype == torch.float32


def test_each_image_has_random_numbers_of_its_own_from_torchs_global_generator():
    data = Squares(train_transform=v2.RandomHorizontalFlip(), batch_size=40)
    torch.manual_seed(0)
    first, _ = read(data.train_dataloader())
    is_flipped = first[:, 0, 0, 0] == 0
    assert 5 < is_flipped.sum() < 35
    torch.manual_seed(0)
    # Another order, and the same places in it.
    assert torch.equal(read(data.train_dataloader())[0][:, 0, 0, 0] == 0, is_flipped)


def test_labels_suit_torchmetrics():
    accuracy = MulticlassAccuracy(num_classes=10, average="micro")
    for images, labels in synthetic(one_hot=False).test_dataloader():
        accuracy.update(torch.zeros(len(images), 10).index_fill(1, torch.tensor(3), 1.0), labels)
    assert accuracy.compute() == pytest.approx(0.1)


def test_a_bare_loop_needs_no_preparation_and_each_pass_is_a_new_order():
    data = Squares(batch_size=4)
    loader = data.train_dataloader()
    orders = [tuple(read(loader)[1][:, 0].tolist()) for _ in range(3)]
    orders += [tuple(read(data.train_dataloader())[1][:, 0].tolist()) for _ in range(2)]
    # Left early, as with a break.
    firsts = [tuple(next(iter(loader))[1][:, 0].tolist()) for _ in range(20)]
    assert len(set(orders)) == 5
    assert len(set(firsts)) > 1
    assert all(sum(order) == 20 for order in orders)
    list(data.val_dataloader())
    assert data.prepared == 1


def test_a_bare_loop_after_a_fit_goes_on_to_new_orders():
    data = Squares(batch_size=20)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_epochs=1, **options).fit(LitMiniVGG(num_classes=2, in_channels=1, dense_units=4), data)
    loader = data.train_dataloader()
    assert not torch.equal(read(loader)[1], read(loader)[1])


def test_setup_without_a_stage_loads_everything_and_print_tells_what_there_is():
    data = Squares(val_size=4, batch_size=8)
    assert str(data).splitlines() == [
        "white squares",
        "images: not loaded yet, setup() loads them",
        "2 classes: small, large",
        "each image (1, 32, 32), target one-hot (2,); 8 a batch",
    ]
    data.setup()
    assert "images: train 36, validation (held out) 4, test 40" in str(data)
    assert "target its label" in str(Squares(one_hot=False))


def test_checkpoints_hold_no_transform_and_name_that_of_the_validation(tmp_path):
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    module = LitMiniVGG(dense_units=4)
    transforms = {"train_transform": torch.neg, "val_transform": v2.RandomHorizontalFlip()}
    trainer = Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, **options)
    trainer.fit(module, synthetic(**transforms))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = read_checkpoint(tmp_path / "last.ckpt")
    assert not content["datamodule_hyper_parameters"].keys() & transforms.keys()
    path = "torchvision.transforms.v2._geometry.RandomHorizontalFlip"
    assert content["CIFAR10DataModule"]["val_transform"] == path


def test_a_subclass_with_a_load_of_its_own_trains(tmp_path):
    data = Squares(val_size=10, flip="random")
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    trainer = Trainer(max_epochs=2, **options)
    trainer.fit(LitMiniVGG(num_classes=2, in_channels=1, dense_units=4), data)
    assert trainer.callback_metrics["val_acc"] >= 0.5
    assert data.prepared == 1
