"""Files of strangers that ask for gigabytes, for other files or for code: one line each, and nothing is run."""

import io
import json
import re
import shutil
import tarfile
import tracemalloc
import zipfile
from hashlib import md5

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from minivgg_pl import CIFAR10DataModule, LitMiniVGG, MiniVGG
from minivgg_pl.cli import command
from minivgg_pl.cli.config import MAX_BYTES, read_config
from minivgg_pl.cli.resume import find_resume_point
from minivgg_pl.data.download import prepare_cifar10
from minivgg_pl.data.images import read_image
from minivgg_pl.errors import InputError
from minivgg_pl.weights.init_from import load_initial_weights
from minivgg_pl.weights.load import checked_metadata, load_trained
from tests.robustness.fuzz_commands import BOMB
from tests.robustness.fuzz_formats import CHANGES, Checkpoints, Keras, Safetensors, payloads
from tests.robustness.fuzzing import LIMIT_S, time_limit

# For what the parser alone refuses.
MODEL_SECTION = "no section: give model.OPTION"


@pytest.fixture
def refuse(refuse):
    """Run the command, expect its one line within the time limit and an empty folder, and return the line."""

    def refuse_in_time(*options):
        with time_limit(LIMIT_S):
            return refuse(*options)

    return refuse_in_time


CONFIGS = {
    BOMB: "more than 2,000 values",
    f"model: {{lr: '{BOMB}'}}": "more than 2,000 values",
    f"model: {{mean: ['{BOMB}']}}": "more than 2,000 values",
    "model: &a {lr: *a}": "stands in",
    "model: &a [1]\ndata: &a [*a]": "stands in",
    # "nested deeper than 30"; from PyYAML 6.0.4 on its scanner runs ahead, and stops first: "maximum nesting depth".
    "[" * 5000: "nest",
    "[" * 3000 + "]" * 3000: "nest",
    "model: {variant: wi\0de}": "control characters",
    "model: 5": MODEL_SECTION,
    "model: []": MODEL_SECTION,
    "model: !!set {a}": MODEL_SECTION,
    "trainer: [1]": "no section: give trainer.OPTION",
    "curves: 5": "no section: give curves.OPTION",
    "data: 5": "data",
    "model: {lr: null}": "--model.lr null: give a value, or leave it out for 0.01",
    "data: {class_path: minivgg_pl.CIFAR10DataModule, init_args: {shift: null}}": "--data.shift null: give a value",
    "data: {class_path: 5}": "--data 5: no such class",
    "data: {class_path: minivgg_pl.CIFAR10DataModule, init_args: 5}": "CIFAR10DataModule",
    "- 1": "Unexpected config",
    "1: 2": "Key must be a string",
    "model: {1: 2}": "Key must be a string",
    "seed_everything: {}": "seed_everything",
    "seed_everything: 2020-01-01": "seed_everything",
    "seed_everything: !!timestamp 2020-99-99": "not plain values",
    f"seed_everything: {'9' * 5000}": "not plain values",
    "model: !!python/object/apply:os.system ['touch ran']": "could not determine a constructor",
    "config: other.yaml": "names another config",
    "model: {__path__: 5}": "no option is called __path__",
    'data: {class_path: minivgg_pl.CIFAR10DataModule, init_args: {root: "a\\0b"}}': "cannot hold a NUL",
    'trainer: {default_root_dir: "a\\0b"}': "cannot hold a NUL",
    f"model: {{init_from: {'x' * MAX_BYTES}}}": "larger than any config",
}


@pytest.mark.parametrize(("text", "message"), CONFIGS.items(), ids=[text[:30] for text in CONFIGS])
def test_a_hostile_config_is_refused(refuse, tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert message in refuse("--config", path)


@pytest.mark.parametrize("content", [b"model: {variant: \xe9}", "model: {lr: 1}".encode("utf-16")])
def test_a_config_of_another_encoding_is_refused(refuse, tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert "not UTF-8" in refuse("--config", path)


def test_aliases_and_merge_keys_of_an_honest_config_work(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("x: &x {a: &list [1, 2], b: 1e-3}\ny: {<<: *x, b: 2}\nz: [*list, *list]\n")
    assert read_config(path) == {"x": {"a": [1, 2], "b": "1e-3"}, "y": {"a": [1, 2], "b": 2}, "z": [[1, 2], [1, 2]]}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.dense_units=1000000000", "dense layers have 4,106,000,000,000 weights"),
        ("--data.batch_size=1000000000000", "give 2 to 65,536"),
        ("--model.dropout_samples=1000000000", "to 256"),
        ("--model.image_size=1000000", "the data have 32"),
        ("--model.num_classes=1000000000", "the data have 10"),
        (f"--model.lr={BOMB}", "more than 2,000 values"),
        (f"--optimizer={BOMB}", "more than 2,000 values"),
        ("--data.root=~nobody-here", "no such user"),
        ("--data.root=a\0b", "cannot hold a NUL"),
        ("--trainer.default_root_dir=~nobody-here", "no such user"),
        ("--config=a\0b", "cannot hold a NUL"),
        ("--config=\udcff", "config"),
        ("--resume=a\0b", "there is no such file"),
        ("--config=/dev/zero", "not a file"),
    ],
)
def test_an_absurd_value_is_refused(refuse, option, message):
    assert message in refuse(option)


def test_absurd_sizes_are_refused_in_python_too():
    for options in ({"dense_units": 10**9}, {"image_size": 10**6}, {"num_classes": 10**9}):
        with pytest.raises(ValueError, match="more than 1,073,741,824"):
            MiniVGG(**options)
    with pytest.raises(ValueError, match="num_classes is 1000000: give at most 10,000"):
        LitMiniVGG(num_classes=10**6)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_one_line(error, capsys):
    def fail():
        raise error

    assert command.guarded(fail) == 2
    assert (
        capsys.readouterr().err
        == "error: there is not enough memory for that: give a smaller batch, network or image\n"
    )


def test_what_a_file_brings_into_a_message_commands_no_terminal(capsys):
    command.fail("\x1b[31mred\a\n" + "x" * 10_000, 2)
    error = capsys.readouterr().err
    assert error.startswith(r"error: \x1b[31mred\x07 xxx")
    assert len(error) < 2100


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return Checkpoints(folder, folder / "canary")


def _pickle(checkpoint):
    with zipfile.ZipFile(io.BytesIO(checkpoint.valid)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def _refused(read, case, message, suffix, tmp_path):
    path = tmp_path / f"case{suffix}"
    path.write_bytes(case)
    tracemalloc.start()
    try:
        with time_limit(LIMIT_S), pytest.raises(InputError, match=message):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_packed_checkpoint_is_not_unpacked(checkpoint, tmp_path):
    bomb = checkpoint.rewrite(_pickle(checkpoint) + bytes(100_000_000), zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1e6
    for read in (load_trained, find_resume_point):
        _refused(read, bomb, "its entries are compressed", ".ckpt", tmp_path)


def test_a_checkpoint_whose_entries_overlap_is_refused(checkpoint, tmp_path):
    directory = checkpoint.valid.index(b"PK\1\2")
    case = bytearray(checkpoint.valid)
    case[directory + 20 : directory + 28] = (2**31).to_bytes(4, "little") * 2
    _refused(load_trained, bytes(case), "claim more bytes", ".ckpt", tmp_path)


def test_a_checkpoint_of_the_old_format_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_trained(tmp_path / "old.ckpt")


def test_no_payload_in_a_checkpoint_runs_or_takes_memory(checkpoint, tmp_path):
    for payload in payloads(checkpoint.canary):
        case = checkpoint.rewrite(b"\x80\x02" + payload + b"0" + _pickle(checkpoint)[2:])
        _refused(load_trained, case, "not a readable checkpoint", ".ckpt", tmp_path)
    assert not checkpoint.canary.exists()


def test_a_checkpoint_that_is_endless_is_refused(checkpoint, tmp_path):
    itself = b"\x80\x02]q\0h\0a."
    # Thirty lists, each nine times the one before.
    bomb = b"\x80\x02]q\0" + b"".join(b"](" + (b"h%c" % i) * 9 + b"eq%c" % (i + 1) for i in range(30)) + b"."
    for pickled, message in ((itself, "holds itself"), (bomb, "holds more than 200,000 values")):
        _refused(load_trained, checkpoint.rewrite(pickled), message, ".ckpt", tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", "x"),
        ("datamodule_hyper_parameters", [1]),
        ("CIFAR10DataModule", {"shuffle_seed": "x"}),
        ("CIFAR10DataModule", {"shuffle_seed": 10**30}),
        ("loops", {"fit_loop": {"epoch_loop.batch_progress": {"is_last_batch": True}, "epoch_progress": 5}}),
        ("loops", 5),
    ],
)
def test_a_checkpoint_with_odd_parts_is_refused(checkpoint, tmp_path, key, value):
    content = torch.load(io.BytesIO(checkpoint.valid), weights_only=True)
    content[key] = value
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(InputError):
        find_resume_point(tmp_path / "odd.ckpt")


def test_a_checkpoint_with_odd_hyperparameters_is_refused(checkpoint, tmp_path):
    content = torch.load(io.BytesIO(checkpoint.valid), weights_only=True)
    content["hyper_parameters"]["lr"] = torch.zeros(2)
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match="hyper_parameters"):
        find_resume_point(tmp_path / "odd.ckpt")


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    return Keras(folder, folder / "canary")


HARMLESS = {"double", "half", "gone"}


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - HARMLESS))
@pytest.mark.parametrize("place", ["/layers", "/layers/dense", "/layers/dense/vars", "/layers/dense/vars/1"])
def test_a_keras_file_of_other_things_than_its_own_arrays_is_refused(keras, tmp_path, change, place):
    buffer = io.BytesIO(keras.valid)
    with h5py.File(buffer, "r+") as file:
        shape = getattr(file[place], "shape", (3,))
        group, _, name = place.rpartition("/")
        del file[place]
        CHANGES[change](file[group or "/"], name, shape, str(keras.folder / "secret.h5"), place)
    _refused(
        lambda path: load_initial_weights(MiniVGG(dense_units=2), path), buffer.getvalue(), ".", ".weights.h5", tmp_path
    )


def test_a_safetensors_header_of_megabytes_is_refused(tmp_path):
    valid = Safetensors(tmp_path, tmp_path / "canary").valid
    size = int.from_bytes(valid[:8], "little")
    # The format lets a header end in spaces.
    case = (size + 2**21).to_bytes(8, "little") + valid[8 : 8 + size] + b" " * 2**21 + valid[8 + size :]
    _refused(load_trained, case, "its header is too long", ".safetensors", tmp_path)


@pytest.mark.parametrize("header", [b"\xff" * 7 + b"\x7f", (2**30).to_bytes(8, "little"), bytes(8)])
def test_a_safetensors_file_with_an_absurd_header_is_refused(tmp_path, header):
    valid = Safetensors(tmp_path, tmp_path / "canary").valid
    _refused(load_trained, header + valid[8:], "not a readable .safetensors file", ".safetensors", tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"variant": 5}', "[" * 10_000, "\0", '{"test_acc": null, "seed": "x"}']
)
def test_a_damaged_summary_is_one_line_or_left_out(finished_run, tmp_path, content, script_here, capfd):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    (run / "summary.json").write_text(content)
    assert load_trained(run).net
    assert not find_resume_point(run).is_finished(4)
    assert script_here("race.py", "--runs", run) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: --runs")
    assert error.count("\n") == 1


@pytest.mark.parametrize("damage", [b"\xff", b"\0", b"1,2", b"9" * 5000])
def test_damaged_metrics_are_one_line(finished_run, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    lines = (run / "metrics.csv").read_bytes().splitlines()
    (run / "metrics.csv").write_bytes(b"\n".join([lines[0], damage + lines[1][1:]]))
    point = find_resume_point(run)
    with pytest.raises(InputError, match="metrics.csv is damaged"):
        point.history()


def test_facts_of_a_split_that_cannot_be_are_left_out():
    split = {"fingerprint": "x", "val_size": 5, "split_seed": 0}
    assert checked_metadata({"split": split}) == {"split": split}
    for name, value in (("val_size", None), ("val_size", -1), ("split_seed", 2**64), ("fingerprint", 3)):
        assert checked_metadata({"split": split | {name: value}}) == {}


def test_a_forged_manifest_does_not_run_a_pickle(tmp_path, synthetic_root):
    home = next(synthetic_root.glob("synthetic-*"))
    copy = tmp_path / home.name / "synthetic-cifar-10-batches-py"
    copy.mkdir(parents=True)
    for path in (home / copy.name).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    canary, manifest = tmp_path / "canary", copy / "manifest.json"
    for payload in payloads(canary):
        content = b"\x80\x02" + payload + b"."
        (copy / "data_batch_1").write_bytes(content)
        sums = json.loads(manifest.read_text()) | {"data_batch_1": md5(content).hexdigest()}
        manifest.write_text(json.dumps(sums))
        data = CIFAR10DataModule(tmp_path, dataset="synthetic", synthetic_size=200)
        with pytest.raises(InputError, match="damaged"):
            data.setup("fit")
    assert not canary.exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_an_archive_of_links_is_not_unpacked_even_with_the_right_sum(tmp_path, monkeypatch, kind):
    archive = tmp_path / "root" / CIFAR10.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name in [
            *(name for name, _ in CIFAR10.train_list + CIFAR10.test_list),
            CIFAR10.meta["filename"],
            "../../x",
        ]:
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="lacks some of its files"):
        prepare_cifar10(archive.parent)
    assert list(tmp_path.rglob("*")) == [archive.parent, archive]


def test_images_that_unpack_to_gigabytes_are_refused(tmp_path):
    Image.new("1", (10_000, 9_000)).save(tmp_path / "bomb.png")
    with time_limit(LIMIT_S), pytest.raises(InputError, match="too large"):
        read_image(tmp_path / "bomb.png")
    np.save(tmp_path / "array.png", np.zeros(3))
    with pytest.raises(InputError, match=re.escape("not a image that Pillow can read")):
        read_image(tmp_path / "array.png.npy")
