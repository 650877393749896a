"""The user's own images: real files in folders, through the data module and through the command."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from minivgg_pl import ImageFolderDataModule
from minivgg_pl.data import image_cache, image_folder
from minivgg_pl.errors import InputError

SHADES = {"dark": 40, "light": 200, "middle": 120}
PER_CLASS = 20


def make_images(folder, per_class=PER_CLASS, shades=SHADES):
    random = np.random.default_rng(0)
    for name, shade in shades.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = random.integers(shade - 20, shade + 20, (48, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path / "images")


def load(root, stage="fit", **options):
    data = ImageFolderDataModule(str(root), **{"batch_size": 8, **options})
    data.prepare_data()
    data.setup(stage)
    return data


def test_classes_are_the_folders_and_a_fifth_of_each_is_held_out(images):
    data = load(images)
    assert data.class_names == ["dark", "light", "middle"]
    assert torch.bincount(data.val_set.labels).tolist() == [4, 4, 4]
    assert torch.bincount(data.train_set.labels).tolist() == [16, 16, 16]
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 32, 32)
    assert targets.shape == (8, 3)
    means = torch.tensor(list(SHADES.values())) / 255
    assert torch.allclose(images.mean(dim=(1, 2, 3)), means[targets.argmax(dim=1)], atol=0.03)


@pytest.mark.parametrize("in_memory", [True, False])
def test_held_out_images_keep_their_files_names_in_the_order_of_the_folder(images, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 0)
    data = load(images, image_size=48, split_seed=3)
    both = data.train_set.names + data.val_set.names
    assert data.val_set.names == sorted(data.val_set.names)
    assert sorted(both) == sorted(str(path.relative_to(images)) for path in images.glob("*/*.png"))
    for number, name in enumerate(data.val_set.names):
        original = np.asarray(Image.open(images / name))[4:44]  # the central square
        shown = np.asarray(Image.fromarray(original).resize((48, 48), Image.Resampling.BOX), dtype=float)
        assert abs(data.val_set.bytes_at(number).numpy() - shown).mean() < 10
        assert data.class_names[data.val_set.labels[number]] == name.partition("/")[0]


def test_train_val_and_test_folders_are_what_they_say(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        make_images(tmp_path / split, per_class=4 + number)
    data = load(tmp_path)
    data.setup("test")
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [12, 15, 18]
    with pytest.raises(InputError, match="val_size is 5 beside a val folder"):
        ImageFolderDataModule(str(tmp_path), val_size=5)


def test_without_a_test_folder_the_held_out_images_are_tested_on(images, caplog):
    with caplog.at_level("INFO"):
        data = load(images, "test")
    assert len(data.test_set) == 12
    assert "There is no test set" in caplog.text


@pytest.mark.parametrize(("val_size", "held_out"), [(9, 9), (0.5, 30)])
def test_val_size_is_a_number_or_a_share(images, val_size, held_out):
    assert len(load(images, val_size=val_size).val_set) == held_out


def test_size_and_channels_are_chosen(images):
    images, _ = next(iter(load(images, image_size=16, in_channels=1).val_dataloader()))
    assert images.shape[1:] == (1, 16, 16)


def test_one_image_at_least_is_held_out_but_beside_a_val_folder(tmp_path):
    shades = {"dark": 40, "light": 200}
    make_images(tmp_path / "both", per_class=2, shades=shades)
    assert ImageFolderDataModule(tmp_path / "both").val_size == 1
    for split in ("train", "val"):
        make_images(tmp_path / "split" / split, per_class=1, shades=shades)
    assert ImageFolderDataModule(tmp_path / "split").val_size == 0


def test_a_training_says_once_what_it_trains_on(images, caplog):
    (images / "notes.txt").touch()
    with caplog.at_level("INFO"):
        data = load(images)
        data.prepare_data()
        data.setup("validate")
        data.setup("test")
    line = "images: 60 images of 3 classes (dark 20, light 20, middle 20); 12 held out for validation; "
    assert caplog.text.count(line + "left out, not images in a class folder: 1 (notes.txt)") == 1
    assert caplog.text.count("60 images") == 1


def test_a_wrapping_folder_is_looked_through_and_named(images, tmp_path, caplog):
    images.rename(tmp_path / "moved")
    (tmp_path / "images").mkdir()
    (tmp_path / "moved").rename(tmp_path / "images" / "inner")
    with caplog.at_level("INFO"):
        data = load(images)
    assert "images/inner: 60 images of 3 classes" in caplog.text
    assert data.dataset == "images"
    # The same images, named otherwise.
    assert data.fingerprint == ImageFolderDataModule(images / "inner").fingerprint


@pytest.fixture
def decoded(monkeypatch):
    """The paths of the images that were decoded."""
    paths = []
    read = image_cache.read_image
    monkeypatch.setattr(image_cache, "read_image", lambda path, *rest: paths.append(path) or read(path, *rest))
    return paths


def test_images_are_decoded_once_and_those_that_change_again(images, decoded):
    load(images)
    assert len(decoded) == 60
    load(images)
    assert len(decoded) == 60
    changed = images / "dark" / "00.png"
    Image.new("RGB", (32, 32), (255, 255, 255)).save(changed)
    assert load(images, val_size=4).train_set.images.max() == 255
    (images / "dark" / "01.png").unlink()
    assert len(load(images).train_set) == 47
    assert decoded[60:] == [str(changed)]
    assert len(list(images.glob(".minivgg_cache-*"))) == 1
    # torchvision takes every folder for a class, hidden ones too.
    assert ImageFolder(images).classes == load(images).class_names


@pytest.mark.parametrize("exchange", [os.replace, shutil.copy2])
def test_images_of_equal_size_and_time_that_exchange_their_names_are_decoded_again(tmp_path, exchange):
    for name, shade in {"dark": 40, "light": 200}.items():
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (32, 32), (shade,) * 3).save(tmp_path / name / f"{number}.bmp")
            os.utime(tmp_path / name / f"{number}.bmp", (0, 0))
    before = load(tmp_path, batch_size=2)
    dark, light, other = tmp_path / "dark" / "0.bmp", tmp_path / "light" / "0.bmp", tmp_path / "other"
    for source, target in ((dark, other), (light, dark), (other, light)):
        exchange(source, target)
    after = load(tmp_path, batch_size=2)
    assert before.fingerprint == after.fingerprint
    pixels = [image for part in (after.train_set, after.val_set) for image in part.images[:, 0, 0, 0].tolist()]
    names = [*after.train_set.names, *after.val_set.names]
    shades = {"dark/0.bmp": 200, "dark/1.bmp": 40, "light/0.bmp": 40, "light/1.bmp": 200}
    assert dict(zip(names, pixels, strict=True)) == shades


def _break(images, *names):
    for name in names:
        (images / name).write_bytes(b"no image")


BROKEN = ("dark/03.png", "light/05.png", "middle/19.png")


def test_all_broken_images_are_named_at_once_and_the_others_are_kept(images, decoded):
    _break(images, *BROKEN)
    (images / "dark" / "gone.png").symlink_to("nowhere")
    with pytest.raises(InputError, match="images: 4 of the images cannot be read .*skip_broken true") as caught:
        load(images)
    assert all(f"{name}: not an image" in str(caught.value) for name in BROKEN)
    assert "dark/gone.png: cannot be read (No such file or directory)" in str(caught.value)
    for name in (*BROKEN, "dark/gone.png"):
        (images / name).unlink()
    del decoded[:]
    load(images)
    assert not decoded


def test_no_more_than_ten_broken_images_are_named_and_all_are_counted(images):
    _break(images, *(f"light/{number:02}.png" for number in range(12)))
    with pytest.raises(InputError, match=r"12 of the images cannot be read .*; light/09.png: [^;]*$"):
        load(images)


@pytest.mark.parametrize("limit", [2**30, 1000])
def test_broken_images_are_left_out_with_their_labels(images, decoded, monkeypatch, caplog, limit):
    monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", limit)
    _break(images, *BROKEN)
    with caplog.at_level("INFO"):
        data = load(images, skip_broken=True, val_size=12)
        data.prepare_data()
        data.setup("test")
    assert sorted(decoded) == sorted(set(decoded))
    assert [line.partition(":")[0] for line in data.skipped] == [str(images / name) for name in BROKEN]
    assert caplog.text.count("3 of the images left out as unreadable: dark/03.png: not an image") == 1
    assert torch.bincount(torch.cat([data.train_set.labels, data.val_set.labels])).tolist() == [19, 19, 19]
    means = torch.tensor(list(SHADES.values())) / 255
    for images_, targets in (*data.train_dataloader(), *data.val_dataloader()):
        assert torch.allclose(images_.mean(dim=(1, 2, 3)), means[targets.argmax(dim=1)], atol=0.03)
    assert [path for path, _ in data.samples["train"]] == sorted(set(decoded) - {str(images / name) for name in BROKEN})
    # The same images are held out where the run is resumed or evaluated.
    again = load(images, skip_broken=True, val_size=12)
    assert torch.equal(again.val_set.bytes_at(torch.arange(12)), data.val_set.bytes_at(torch.arange(12)))


def test_a_class_without_readable_images_is_refused(images):
    _break(images, *(f"light/{number:02}.png" for number in range(PER_CLASS)))
    with pytest.raises(InputError, match="images: too few images that can be read: light 0; give each class 2 or more"):
        load(images, skip_broken=True)


def test_an_image_is_tried_again_since_its_permission_may_have_changed(images, decoded, monkeypatch):
    real = image_cache.read_image

    def refuse(path, *rest):
        if path.endswith("dark/03.png"):
            raise InputError(f"{path}: cannot be read (Permission denied)")
        return real(path, *rest)

    monkeypatch.setattr(image_cache, "read_image", refuse)
    with pytest.raises(InputError, match="1 of the images cannot be read .*Permission denied"):
        load(images)
    monkeypatch.setattr(image_cache, "read_image", real)
    del decoded[:]
    assert len(load(images).train_set) == 48
    assert set(decoded) == {str(images / "dark" / "03.png")}


def test_warnings_of_images_come_in_one_line(tmp_path, caplog):
    for name, shade in {"dark": 40, "light": 200}.items():
        (tmp_path / "cut" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(shade - 20, shade + 20, (256, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "cut" / name / f"{number}.jpg")
        cut = tmp_path / "cut" / name / "0.jpg"
        cut.write_bytes(cut.read_bytes()[:-100])
    with caplog.at_level("INFO"):
        assert len(load(tmp_path / "cut", batch_size=2).train_set) == 3
    (line,) = (record.getMessage() for record in caplog.records if "lacks its end" in record.getMessage())
    assert "cut: 2 of the images read with a warning: dark/0.jpg: it lacks its end: " in line
    assert "; light/0.jpg: it lacks its end: " in line


def test_a_set_larger_than_memory_is_read_from_the_cache_and_gives_the_same_batches(images, monkeypatch):
    def epoch(data):
        data.shuffle_seed = 3
        loader = data.train_dataloader()
        loader.next_epoch = 1
        return [torch.cat(part) for part in zip(*loader, strict=True)]

    in_memory = load(images, flip="random", shift=2)
    monkeypatch.setattr(image_folder, "MAX_BYTES_IN_MEMORY", 1000)
    mapped = load(images, flip="random", shift=2)
    assert mapped.train_set.images.data_ptr() == mapped.val_set.images.data_ptr()
    for ours, theirs in zip(epoch(mapped), epoch(in_memory), strict=True):
        assert torch.equal(ours, theirs)


def test_the_cache_may_lie_elsewhere(images, tmp_path):
    load(images, cache_dir=str(tmp_path / "cache"))
    assert not list(images.glob(".*"))
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": float("nan")}, "val_size is nan"),
        ({"val_size": 0}, "val_size is 0: without a val or test set, give 1 or more"),
        ({"val_size": -1}, "val_size is -1: without a val or test set, give 1 or more"),
        ({"val_size": 58}, "val_size is 58: give at most 57, since each class keeps an image to train on"),
        ({"val_size": 2.5}, "a whole number of images, or a share below 1"),
        ({"image_size": 30}, "image_size is 30: give a multiple of 4"),
        ({"in_channels": 2}, "in_channels is 2: give 3 for colour or 1 for grey"),
        ({"shift": 32}, "shift is 32: give 0 to 31 pixels"),
    ],
)
def test_bad_options_are_refused_before_anything_is_decoded(images, options, message):
    with pytest.raises(InputError, match=message):
        ImageFolderDataModule(str(images), **options)
    assert not list(images.glob(".*"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b"x" + path.read_bytes()),
    ],
)
def test_a_damaged_cache_is_completed(images, damage):
    expected = load(images).train_set.images
    (cache,) = images.glob(".minivgg_cache-*")
    damage(cache)
    assert torch.equal(load(images).train_set.images, expected)
    assert cache.stat().st_size % (8 + 32 * 32 * 3) == 0


def test_a_folder_in_place_of_the_cache_is_one_line(images):
    (images / ".minivgg_cache-images-32x32x3.rows").mkdir()
    with pytest.raises(InputError, match="rows cannot be used: Is a directory; name another place"):
        load(images)


def test_a_full_disk_under_the_cache_is_one_line(images, monkeypatch, tmp_path):
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r", **how: real(Path("/dev/full"), mode, **how))
    with pytest.raises(InputError, match="rows cannot be used: .*name another place .cache_dir."):
        load(images, cache_dir=str(tmp_path / "full"))


def test_names_that_look_like_mathematics_are_drawn_as_they_are(tmp_path, train_here):
    make_images(tmp_path / "$x^$", shades={"$\\frac$": 40, "b": 200})
    options = ["--data=minivgg_pl.ImageFolderDataModule", f"--data.root={tmp_path / '$x^$'}", "--gpus=0", "--epochs=1"]
    assert train_here(*options) == 0
    assert (tmp_path / "runs" / "classic-$x^$" / "1" / "confusion_matrix.png").exists()


def test_folders_may_share_a_cache(images, tmp_path):
    other = make_images(tmp_path / "other")
    first = ImageFolderDataModule(str(images), batch_size=8, cache_dir=str(tmp_path / "cache"))
    first.prepare_data()
    load(other, cache_dir=str(tmp_path / "cache"))
    first.setup("fit")
    assert len(first.train_set) == 48


def test_an_image_that_goes_away_while_training_does_not_matter(images):
    data = load(images)
    before = data.integrity
    (images / "dark" / "03.png").unlink()
    data.prepare_data()
    assert data.integrity == before


def test_paths_may_be_path_objects_and_checkpoints_hold_none(images):
    data = ImageFolderDataModule(images, cache_dir=images.parent / "cache")
    assert {type(value) for value in data.hparams.values()} <= {str, int, float, bool, type(None)}


def test_a_folder_of_another_name_is_evaluated_whole_and_its_own_only_where_it_was_held_out(images, tmp_path):
    from minivgg_pl.cli.evaluate import _images_to_test
    from minivgg_pl.weights.load import TrainedNetwork

    trained_on = load(images, val_size=0.1, split_seed=7)
    metadata = {"split": trained_on.state_dict()["split"], "dataset": "images"}
    network = TrainedNetwork(None, [], metadata)
    seen = {image.numpy().tobytes() for image in trained_on.train_set.images}
    tested = _images_to_test(ImageFolderDataModule(str(images)), network)
    assert len(tested) == 6
    assert not seen & {tested.bytes_at(index).numpy().tobytes() for index in range(6)}
    other = ImageFolderDataModule(str(make_images(tmp_path / "other")))
    other.prepare_data()
    assert len(_images_to_test(other, TrainedNetwork(None, [], {}))) == 60
    (images / "dark" / "00.png").unlink()
    with pytest.raises(InputError, match="have changed since"):
        _images_to_test(ImageFolderDataModule(str(images)), network)


def test_the_command_trains_on_a_folder_and_its_classes_reach_everything(images, tmp_path, train_here, capfd, caplog):
    from minivgg_pl.cli.evaluate import main as evaluate
    from minivgg_pl.cli.predict import main as predict

    options = ["--data=images", "--data.skip_broken=true"]
    (images / "dark" / "zz.png").write_bytes(b"no image")
    more = ["--data.image_size=16", "--data.in_channels=1"]
    assert train_here(*options, *more, "--data.batch_size=8", "--gpus=0", "--epochs=3") == 0
    run = tmp_path / "runs" / "classic-images" / "1"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["dataset"] == "images"
    assert summary["validation"] == summary["tested_on"] == "12 training images held out"
    assert summary["num_parameters"] < 2_171_178
    assert (run / "skipped_images.txt").read_text() == "images/dark/zz.png: not an image that Pillow can read\n"
    assert "12 training images held out" in capfd.readouterr().out
    assert caplog.text.count("images: 60 images of 3 classes") == 1
    assert [line.split(",")[0] for line in (run / "report.csv").read_text().splitlines()[1:]] == list(SHADES)
    assert predict([str(tmp_path / "images" / "dark" / "00.png"), f"--weights={run}", "--top=9"]) == 0
    assert set(capfd.readouterr().out.rstrip("\n").split("\t")[1::2]) == set(SHADES)
    assert evaluate([str(run), *options, *more]) == 0
    assert f"{summary['test_acc']:.2%}" in capfd.readouterr().out


def test_a_run_on_a_folder_is_repeated_by_its_config_and_resumed_from_a_bare_checkpoint(
    images, tmp_path, train_here, capfd
):
    options = ["--data=minivgg_pl.ImageFolderDataModule", "--data.root=images", "--data.batch_size=8"]
    assert train_here(*options, "--gpus=0", "--epochs=2") == 0
    folder = tmp_path / "runs" / "classic-images"
    assert train_here("--config=runs/classic-images/1/config.yaml", "--epochs=1") == 0
    assert json.loads((folder / "2" / "summary.json").read_text())["dataset"] == "images"
    (folder / "1" / "checkpoints" / "last.ckpt").rename(tmp_path / "alone.ckpt")
    extra = tmp_path / "images" / "dark" / "extra.png"
    extra.write_bytes((tmp_path / "images" / "dark" / "00.png").read_bytes())
    capfd.readouterr()
    assert train_here("--resume=alone.ckpt", "--epochs=4", "--gpus=0") == 2
    assert "they differ from those of the run: some were added or removed" in capfd.readouterr().err
    assert not (folder / "3").exists()
    extra.unlink()
    assert train_here("--resume=alone.ckpt", "--epochs=4", "--gpus=0") == 0
    assert json.loads((folder / "3" / "summary.json").read_text())["epochs"] == 4
