"""scripts/predict.py on real files, as a process and in this one."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minivgg_pl import MiniVGG
from minivgg_pl.cli.predict import DEFAULT, as_lines, main
from minivgg_pl.data.cifar10 import CIFAR10_CLASSES
from minivgg_pl.evaluation.inference import class_probabilities
from tests.conftest import REPOSITORY, output_and_imports


@pytest.fixture
def images(tmp_path):
    """A folder with three images, one of them in a folder below, a text file and a damaged image."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("b.png", "a.jpg", "more/c.webp"):
        Image.fromarray(random.integers(0, 256, (60, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_an_image_is_answered_as_the_network_answers_it(tmp_path, capfd):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "it.png")
    assert main([str(tmp_path / "it.png"), "--top=10"]) == 0
    file, *cells = capfd.readouterr().out.rstrip("\n").split("\t")
    probabilities = class_probabilities(MiniVGG.from_pretrained(DEFAULT), pixels[None])[0]
    assert file == str(tmp_path / "it.png")
    assert cells[0::2] == [CIFAR10_CLASSES[index] for index in probabilities.argsort(descending=True)]
    assert [float(p) for p in cells[1::2]] == pytest.approx(sorted(probabilities.tolist(), reverse=True), abs=1e-5)


def test_the_memory_of_a_batch_is_kept_for_the_next(images, monkeypatch):
    calls = []
    monkeypatch.setattr("minivgg_pl.memory.keep_freed_memory", lambda: calls.append("kept"))
    assert main([str(images / "b.png")]) == 0
    assert calls == ["kept"]


def test_a_folder_is_answered_in_order_and_an_unreadable_file_is_named(images, capfd):
    assert main([str(images), "--top=1"]) == 1
    out, error = capfd.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(images / name) for name in ("a.jpg", "b.png", "more/c.webp")
    ]
    skipped = f"skipped: {images / 'broken.png'}: not an image that Pillow can read\n"
    assert error == skipped
    assert main([str(images / "broken.png")] * 2) == 2
    assert capfd.readouterr().err == 2 * skipped + "error: none of the images could be read\n"


def test_a_warning_and_a_refusal_are_one_line_each_whatever_the_name(images, capfd):
    (images / "cut\n\x1b.jpg").write_bytes((images / "a.jpg").read_bytes()[:-2])
    assert main([str(images), f"--grid={images / 'grid.png'}", "--top=1"]) == 1
    skipped, cut, wrote = capfd.readouterr().err.splitlines()
    assert skipped.startswith("skipped: ")
    assert cut == f"{images}/cut \\x1b.jpg: it lacks its end: 100% of its rows were read"
    assert wrote.startswith("wrote ")


def test_answers_go_to_csv_and_json_and_a_grid(images, tmp_path, capfd):
    for name in ("out.csv", "out.json"):
        assert main([str(images / "a.jpg"), f"--output={tmp_path / name}", f"--grid={tmp_path / name}.png"]) == 0
        assert Image.open(tmp_path / f"{name}.png").size[0] > 200
    printed = capfd.readouterr()
    assert printed.out == "".join(f"wrote {tmp_path / n}: 1 images\n" for n in ("out.csv", "out.json"))
    assert printed.err == "".join(f"wrote {tmp_path / n}.png: 1 images\n" for n in ("out.csv", "out.json"))
    with open(tmp_path / "out.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    (answer,) = json.loads((tmp_path / "out.json").read_text())
    assert row["file"] == answer["file"] == str(images / "a.jpg")
    assert row["class_3"] == answer["predictions"][2]["class"]
    assert float(row["probability_1"]) == pytest.approx(answer["predictions"][0]["probability"], abs=1e-6)


def test_columns_are_aligned_on_a_terminal():
    lines = as_lines([("a.png", [("cat", 0.5)]), ("longer.png", [("automobile", 1.0)])], aligned=True).split("\n")
    assert lines == ["a.png        cat         50 %", "longer.png   automobile 100 %"]


def test_a_class_name_stays_in_its_cell():
    assert as_lines([("a.png", [("c\ta\nt", 0.5)])], aligned=False) == "a.png\tc\\ta\\nt\t0.500000"


def test_a_grey_network_gets_grey_images(images, tmp_path, capfd):
    from minivgg_pl.weights.load import TrainedNetwork, weights_bytes

    net = MiniVGG(num_classes=2, image_size=28, in_channels=1).eval()
    (tmp_path / "grey.safetensors").write_bytes(weights_bytes(TrainedNetwork(net, ["no", "yes"])))
    assert main([str(images / "a.jpg"), f"--weights={tmp_path / 'grey.safetensors'}"]) == 0
    assert set(capfd.readouterr().out.split("\t")[1::2]) == {"no", "yes"}


def test_a_phones_photos_in_a_folder_are_named(images, capfd):
    (images / "broken.png").rename(images / "c.HEIC")
    assert main([str(images)]) == 1
    assert capfd.readouterr().err.startswith(f"skipped: {images / 'c.HEIC'}: not an image that Pillow can read")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.png"], "missing.png: there is no such file or folder"),
        (["https://a.org/cat.jpg"], "error: https://a.org/cat.jpg: there is no such file or folder"),
        (["images/broken.png"], "error: images/broken.png: not an image that Pillow can read"),
        (["empty"], "empty: the folder has no images"),
        (["phone"], "phone: the folder has no images, but 1 of formats that are not read (IMG_1.HEIC): convert"),
        (["images", "--top=0"], "--top 0: give 1 or more"),
        (["images", "--weights=nothing"], "nothing: there is no such file or folder; give classic, wide"),
        (["images", "--output=out.txt"], "--output out.txt: give a name that ends in .csv or .json"),
        (["images", "--output=old.csv"], "--output old.csv: the file exists; give another name, or --overwrite"),
        (["images", "--output=nowhere/out.csv"], "there is no folder"),
        (["images", "--grid=grid"], "--grid grid: give a name that ends in .png"),
        (["images", "--size=3"], "unrecognized arguments: --size=3"),
        (["images", "--out=x.csv"], "unrecognized arguments: --out=x.csv (did you mean --output? see --help)"),
        (["images", "--model=wide"], "MyVGG in my_module.py (wide belongs to --variant or --weights)"),
        ([], "required: IMAGE|FOLDER"),
        ([f"{'x' * 300}.png"], "x.png: File name too long"),
    ],
)
def test_bad_input_is_one_line(images, tmp_path, monkeypatch, capfd, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.HEIC").touch()
    (tmp_path / "old.csv").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main(options)
    except SystemExit as exit_:
        code = exit_.code
    error = capfd.readouterr().err
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old.csv").read_text() == "mine"


def test_line_breaks_in_a_name_are_escaped(tmp_path, capfd):
    Image.new("RGB", (8, 8)).save(tmp_path / "a\nb\t.png")
    assert main([str(tmp_path / "a\nb\t.png")]) == 0
    assert capfd.readouterr().out.startswith(f"{tmp_path}/a\\nb\\t.png\t")


def test_overwrite_replaces_a_file(images, tmp_path):
    (tmp_path / "old.csv").write_text("mine")
    assert main([str(images / "a.jpg"), f"--output={tmp_path / 'old.csv'}", "--overwrite"]) == 0
    assert (tmp_path / "old.csv").read_text().startswith("file,class_1,probability_1,")


def test_a_full_disk_behind_stdout_is_one_line(images):
    command = [sys.executable, str(REPOSITORY / "scripts" / "predict.py"), str(images / "a.jpg")]
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == "error: the output: No space left on device\n"


def test_help_needs_no_torch():
    code = """if True:
        import sys
        from minivgg_pl.cli import evaluate, export, predict
        print(sorted({"torch", "matplotlib", "onnx"} & sys.modules.keys()))
    """
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=REPOSITORY) == "[]\n"


def test_an_answer_needs_no_lightning(images):
    _, imported = output_and_imports(REPOSITORY / "scripts" / "predict.py", images / "a.jpg")
    assert "torch" in imported
    assert imported.isdisjoint({"lightning", "torchmetrics", "torchvision", "matplotlib", "pandas", "onnx"})
