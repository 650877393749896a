"""Kinds of folders that people have: what is found in each, or the line that refuses it. The images are empty files."""

import pytest

from minivgg_pl.data.class_folders import find_class_folders
from minivgg_pl.errors import InputError

PETS = ("cat/1.jpg", "cat/2.jpg", "dog/1.png", "dog/2.PNG")


def make(root, *files):
    """Make empty files, and folders where a name ends in a slash."""
    for file in files:
        path = root / file
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.touch()
    return root


def below(folder, files=PETS):
    return [f"{folder}/{file}" for file in files]


@pytest.mark.parametrize(
    ("files", "places"),
    [
        (PETS, {"train": "."}),
        ([*below("train"), *below("val"), *below("test")], {"train": "train", "val": "val", "test": "test"}),
        (
            [*below("Training"), *below("VALID"), *below("test_set")],
            {"train": "Training", "val": "VALID", "test": "test_set"},
        ),
        ([*below("training_set"), *below("dev")], {"train": "training_set", "val": "dev"}),
        (
            [*below("train-set"), *below("Validation"), *below("testing")],
            {"train": "train-set", "val": "Validation", "test": "testing"},
        ),
        # What others put beside the splits: runs with their charts, a folder of a manual.
        ([*below("train"), "runs/a/1/curves.png", "runs/b/1/curves.png", "docs/images/1.jpg"], {"train": "train"}),
        # Images of a test that has no classes.
        ([*below("train"), "test/1.jpg"], {"train": "train"}),
        # One folder around all, as an archive leaves it.
        ([*below("pets"), "__MACOSX/pets/._1.jpg", "readme.txt"], {"train": "pets"}),
        ([*below("pets/Train"), *below("pets/Test")], {"train": "pets/Train", "test": "pets/Test"}),
        # In the folder of each class, as in Tiny ImageNet.
        (["cat/images/1.jpg", "cat/images/2.jpg", "dog/images/1.jpg", "dog/images/a/2.jpg"], {"train": "."}),
        # Systems' own, some with images in them.
        ([*PETS, "@eaDir/1.jpg", "cat/@eaDir/1.jpg/THUMB.jpg", "$RECYCLE.BIN/1.jpg", "lost+found/"], {"train": "."}),
        ([*PETS, "dog/__MACOSX/1.jpg", "cat/__pycache__/1.jpg", ".ipynb_checkpoints/1.jpg"], {"train": "."}),
    ],
)
def test_splits_and_classes_are_found(tmp_path, files, places):
    found = find_class_folders(make(tmp_path, *files))
    assert found.class_names == ["cat", "dog"]
    assert [label for _, label in found.samples["train"]] == [0, 0, 1, 1]
    assert found.places == {split: tmp_path / place for split, place in places.items()}


def test_a_folder_called_train_is_a_class_if_it_holds_no_folders(tmp_path):
    # Numbered alone, they are no splits.
    assert find_class_folders(make(tmp_path / "x", "dev1/1.jpg", "dev2/1.jpg")).class_names == ["dev1", "dev2"]
    found = find_class_folders(make(tmp_path / "y", "bus/1.jpg", "bus/2.jpg", "train/1.jpg", "train/2.jpg"))
    assert found.class_names == ["bus", "train"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([*below("train"), *below("training")], "of train and training, two are for the same split: keep one"),
        ([*below("train"), *below("val"), *below("dev")], "of dev and train and val, two are for the same split"),
        ([*below("valid"), *below("test")], "it has test and valid but no train folder"),
        # Splits of unknown names.
        ([*below("a"), *below("b")], r"/a, .*/b hold the same folders \(cat, dog\): .* name the outer ones train, val"),
        ([*below("a"), *below("b"), "docs/1.jpg"], r"/a, .*/b hold the same folders \(cat, dog\)"),
        ([*below("in/a"), *below("in/b")], "in/a, .*in/b hold the same folders"),
        ([*below("train/a"), *below("train/b")], "train/a, .*train/b hold the same folders"),
        # Class folders that would not be used, or be a class.
        ([*below("train"), *below("holdout")], r"/train, .*/holdout hold the same folders \(cat, dog\)"),
        ([*below("train"), *below("test"), "eval/cat/1.jpg", "eval/dog/1.jpg"], "/train, .*/eval hold the same"),
        ([*PETS, *below("holdout")], r"/holdout hold the same folders \(cat, dog\)"),
        ([*below("train"), "extra/bird/1.jpg", "extra/fox/1.jpg"], r"extra: its class folders \(bird, fox\) would not"),
        (
            ["train/steam/1.jpg", "train/diesel/1.jpg", "car/suv/1.jpg", "car/van/1.jpg"],
            r"/car: its .* \(suv, van\) would not be used, only those of train \(diesel, steam\): if car and train are",
        ),
        # Splits without classes, as in a contest's archive.
        (["train/cat.1.jpg", "train/dog.1.jpg", "test/1.jpg"], "test, train have no class folders: sort"),
        (["train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg"], "test1, train have no class folders: sort"),
        (["cat/1.jpg"], r"one class folder \(cat\); give a folder with one folder of images"),
        (below("a/b/c"), r"/a: it has one class folder \(b, which holds c\)"),
        (["1.jpg", "2.jpg"], "no class folders"),
        ([*below("train"), "val/cat/1.jpg", "val/bird/1.jpg"], "train lacks bird, val lacks dog: give train and val"),
        ([*below("train"), "val/cat/1.jpg"], "[^,]: val lacks dog: give train and val the same"),
        (["train/Cat/1.jpg", "train/dog/1.jpg", *below("val")], "train lacks cat, val lacks Cat"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        find_class_folders(make(tmp_path, *files))


@pytest.mark.parametrize(
    ("files", "val_size", "message"),
    [
        (
            [*PETS, "empty/", "labels/1.xml"],
            0,
            "empty 0, labels 0, .*; give each class 1 or more, or remove its folder",
        ),
        (
            [*PETS, *(f"a/IMG_{number}.HEIC" for number in range(4))],
            0,
            r"a 0, but 4 of formats that are not read \(IMG_0.HEIC, IMG_1.HEIC, IMG_2.HEIC, ...\): convert images ",
        ),
        ([*PETS, "one/1.jpg"], 1, "one 1; give each class 2 or more, since one is held out for validation"),
        ([*below("train"), *below("val"), "train/one/1.jpg", "val/one/1.txt"], 0, "val: too few .*: one 0, .*; give"),
    ],
)
def test_a_class_needs_an_image_in_each_split_and_one_to_hold_out(tmp_path, files, val_size, message):
    found = find_class_folders(make(tmp_path, *files))
    with pytest.raises(InputError, match=message):
        found.check_sizes(val_size)


def test_no_folder_a_file_and_a_circle_of_links_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        find_class_folders(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"1\.jpg: it is a file; give a folder"):
        find_class_folders(make(tmp_path, *PETS) / "cat" / "1.jpg")
    (tmp_path / "round").symlink_to(tmp_path)
    with pytest.raises(InputError, match="/round hold the same folders"):
        find_class_folders(tmp_path)


@pytest.mark.parametrize(
    ("files", "val_size", "line"),
    [
        (
            [*below("train"), *below("Valid"), *below("test"), "test/a.txt", "holdout/1.jpg", "train/cat/film.mpg"],
            0,
            "4 images of 2 classes (cat 2, dog 2); val: 4 in Valid; test: 4 in test; left out, not images in "
            "a class folder: 3 (holdout/1.jpg, test/a.txt, train/cat/film.mpg)",
        ),
        (
            [*below("pets"), *(f"pets/{n}.jpg" for n in range(5)), "__MACOSX/x.jpg"],
            1,
            "4 images of 2 classes (cat 2, dog 2); 1 held out for validation, without 1 of the classes (dog): a larger "
            "val_size has more; left out, not images in a class folder: 5 (pets/0.jpg, pets/1.jpg, pets/2.jpg, ...)",
        ),
        (
            [*(f"{n:03}/{image}.jpg" for n in range(200) for image in range(2)), "007/2.jpg"],
            80,
            "401 images of 200 classes (007 3, 000 2, 001 2, ..., 199 2); 80 held out for validation, without 120 of "
            "the classes (080, 081, 082, ...): a larger val_size has more",
        ),
        (
            [*PETS, "cat /1.jpg"],
            0,
            "5 images of 3 classes (cat 2, dog 2, 'cat ' 1)",
        ),
    ],
)
def test_a_line_says_what_was_found_and_what_was_left_out(tmp_path, files, val_size, line):
    found = find_class_folders(make(tmp_path, *files))
    assert found.describe(val_size) == f"{found.folder}: {line}"


def test_classes_are_the_same_in_either_form_of_unicode(tmp_path):
    found = find_class_folders(
        make(tmp_path, *below("train"), "train/\u00e9/1.jpg", *below("val"), "val/e\u0301/1.jpg")
    )
    found.check_sizes(0)
    assert found.samples["val"][-1] == (str(tmp_path / "val/e\u0301/1.jpg"), 2)
    assert found.left_out == []


def test_linked_class_folders_are_read_and_linked_folders_in_them_are_named(tmp_path):
    make(tmp_path, *below("in"))
    (tmp_path / "out").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "in" / name)
    (tmp_path / "in" / "cat" / "more").symlink_to(tmp_path / "in" / "dog")
    assert find_class_folders(tmp_path / "in").left_out == ["cat/more"]
    assert find_class_folders(tmp_path / "out").left_out == []
