"""Files of strangers that ask for gigabytes, for other files or for code: one line each, and nothing is run."""

import io
import tarfile
import tracemalloc
import zipfile
from hashlib import md5

import h5py
import pytest
import torch
from torchvision.datasets import CIFAR10

from minivgg_pl.cli.command import fail, guarded
from minivgg_pl.data.download import prepare_cifar10
from minivgg_pl.errors import InputError
from minivgg_pl.weights.load import load_trained
from tests.robustness.fuzz_formats import CHANGES, Checkpoints, Keras, Safetensors, payloads
from tests.robustness.fuzzing import LIMIT_S, time_limit


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_one_line(error, capsys):
    def command():
        raise error

    assert guarded(command) == 2
    message = "error: there is not enough memory for that: give a smaller batch, network or image\n"
    assert capsys.readouterr().err == message


def test_control_characters_of_a_file_do_not_reach_the_terminal(capsys):
    fail("\x1b[31mred\a\n" + "x" * 10_000, 2)
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


def test_a_compressed_checkpoint_is_not_unpacked(checkpoint, tmp_path):
    bomb = checkpoint.rewrite(_pickle(checkpoint) + bytes(100_000_000), zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1e6
    _refused(load_trained, bomb, "its entries are compressed", ".ckpt", tmp_path)


def test_a_checkpoint_whose_entries_overlap_is_refused(checkpoint, tmp_path):
    directory = checkpoint.valid.index(b"PK\1\2")
    case = bytearray(checkpoint.valid)
    case[directory + 20 : directory + 28] = (2**31).to_bytes(4, "little") * 2
    _refused(load_trained, bytes(case), "claim more bytes", ".ckpt", tmp_path)


def test_no_payload_in_a_checkpoint_runs(checkpoint, tmp_path):
    for payload in payloads(checkpoint.canary):
        case = checkpoint.rewrite(b"\x80\x02" + payload + b"0" + _pickle(checkpoint)[2:])
        _refused(load_trained, case, "not a readable checkpoint", ".ckpt", tmp_path)
    assert not checkpoint.canary.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", "x", "damaged checkpoint: its epoch"),
        ("datamodule_hyper_parameters", [1], "damaged checkpoint: its datamodule_hyper_parameters"),
        ("CIFAR10DataModule", {"shuffle_seed": 0, "position": 3}, "damaged checkpoint: its position"),
        ("state_dict", [], "not a checkpoint that Lightning wrote"),
        ("hyper_parameters", {"lr": 1}, "a checkpoint of another model"),
    ],
)
def test_a_checkpoint_with_odd_parts_is_refused(checkpoint, tmp_path, key, value, message):
    content = torch.load(io.BytesIO(checkpoint.valid), weights_only=True)
    content[key] = value
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match=message):
        load_trained(tmp_path / "odd.ckpt")


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
    _refused(load_trained, buffer.getvalue(), "case", ".weights.h5", tmp_path)


@pytest.mark.parametrize("size", [2**63, 2**30, 2**21, 0])
def test_a_safetensors_file_with_an_absurd_header_is_refused(tmp_path, size):
    valid = Safetensors(tmp_path, tmp_path / "canary").valid
    case = size.to_bytes(8, "little") + valid[8:] + b" " * 2**21
    _refused(load_trained, case, "not a readable .safetensors file", ".safetensors", tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_an_archive_of_links_is_not_unpacked_even_with_the_right_sum(tmp_path, monkeypatch, kind):
    archive = tmp_path / "root" / CIFAR10.filename
    archive.parent.mkdir()
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    with tarfile.open(archive, "w:gz") as tar:
        for name in [*names, CIFAR10.meta["filename"], "../../x"]:
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="lacks some of its files"):
        prepare_cifar10(archive.parent)
    assert list(tmp_path.rglob("*")) == [archive.parent, archive]
