"""The six formats of the fuzz tests: a small valid file of each, how it is damaged, and what reads it."""

import hashlib
import io
import json
import pickletools
import shutil
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10

from minivgg_pl import CIFAR10DataModule, LitMiniVGG, MiniVGG
from minivgg_pl.cli.resume import find_resume_point
from minivgg_pl.data.download import prepare_cifar10
from minivgg_pl.data.synthetic import BASE_FOLDER, MANIFEST, prepare_synthetic
from minivgg_pl.weights.init_from import load_initial_weights
from minivgg_pl.weights.keras_h5 import keras_bytes
from minivgg_pl.weights.load import TrainedNetwork, load_trained, weights_bytes
from tests.robustness.fuzzing import damaged

NUM_IMAGES = 50
# Of JSON, YAML and pickles: what nobody expects where a number or a text belongs.
ODD_VALUES = [None, True, -1, 0, 2**31, 10**12, 10**300, 1.5, float("nan"), float("inf"), "", "x", "\0", [], {}, [[]]]
ODD_VALUES += [{"a": {}}, ["cat"] * 10, "1" * 5000, "[" * 500, {"class_path": "os.system"}, {"__path__": 5}]


class Format(ABC):
    """A format: `cases` damages what `valid` holds, `write` puts a case into `folder`, and `read` reads it."""

    def __init__(self, folder: Path, canary: Path) -> None:
        self.folder, self.canary = folder, canary
        self.valid = self.make()

    @abstractmethod
    def make(self) -> bytes:
        """Return a valid file."""

    @abstractmethod
    def cases(self) -> st.SearchStrategy[bytes]:
        """Return the strategy for damaged files."""

    @abstractmethod
    def read(self, case: bytes) -> None:
        """Read a file as the commands do."""


def payloads(canary: Path) -> list[bytes]:
    """Return pieces of pickles that would write `canary`, or ask for gigabytes."""
    command = f"touch {canary}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    path = str(canary).encode()
    name = b"X" + len(path).to_bytes(4, "little") + path
    return [
        b"cposix\nsystem\n" + text + b"\x85R",
        b"cos\nsystem\n" + text + b"\x85R",
        b"c__builtin__\nopen\n" + name + b"X\x01\0\0\0w\x86R",
        b"(" + text + b"iposix\nsystem\n",
        b"\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R",
        b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
        b"ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R",
        b"c_codecs\nencode\nX\x01\0\0\0xX\x03\0\0\0zip\x86R",
    ]


@st.composite
def damaged_pickle(draw: Callable, valid: bytes, canary: Path) -> bytes:
    """Draw a pickle with operations left out, doubled, exchanged or put in, payloads among them."""
    starts = [position for _, _, position in pickletools.genops(valid)] + [len(valid)]
    pieces = [valid[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    new = payloads(canary) + [b"N", b"]", b"}", b")", b"(", b"0", b"a", b"s", b"R", b"b", b"Q", b"K\x05", b"\x85"]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(1, len(pieces) - 2) | st.integers(1, 60))
        kind = draw(st.sampled_from(["drop", "double", "exchange", "insert", "replace"]))
        if kind == "drop":
            del pieces[at]
        elif kind == "double":
            pieces.insert(at, pieces[at])
        elif kind == "exchange":
            other = draw(st.integers(1, len(pieces) - 2))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif kind == "insert":
            pieces.insert(at, draw(st.sampled_from(new)))
        else:
            pieces[at] = draw(st.sampled_from(new))
    return b"".join(pieces)


class Data(Format):
    """Batch files with a manifest, forged or not, and the archive."""

    def make(self) -> bytes:
        prepare_synthetic(self.folder / "valid", train_size=NUM_IMAGES)
        self.home = next((self.folder / "valid").iterdir())
        batches = self.home / BASE_FOLDER
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            for path in sorted(batches.iterdir()):
                tar.add(path, f"{CIFAR10.base_folder}/{path.name}")
        self.archive = buffer.getvalue()
        return (batches / "data_batch_1").read_bytes()

    def cases(self) -> st.SearchStrategy[tuple[str, bytes]]:
        """Return a part and its damaged bytes: a batch, its manifest, or the archive."""
        batch = damaged(self.valid) | damaged_pickle(self.valid, self.canary)
        manifest = damaged((self.home / BASE_FOLDER / MANIFEST).read_bytes()) | st.sampled_from(ODD_VALUES).map(as_json)
        return st.one_of(
            batch.map(lambda content: ("batch", content)),
            batch.map(lambda content: ("forged batch", content)),
            manifest.map(lambda content: ("manifest", content)),
            damaged(self.archive).map(lambda content: ("archive", content)),
            self._hostile_archives().map(lambda content: ("forged archive", content)),
            damaged(self.archive).map(lambda content: ("forged archive", content)),
        )

    @st.composite
    @staticmethod
    def _archives(draw: Callable, valid: bytes, canary: Path) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(valid)) as old, tarfile.open(fileobj=buffer, mode="w:gz") as new:
            members = old.getmembers()
            chosen = draw(st.integers(0, len(members) - 1))
            for number, member in enumerate(members):
                content = old.extractfile(member)
                if number == chosen:
                    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.REGTYPE]
                    member.type = draw(st.sampled_from(kinds))
                    member.linkname = draw(st.sampled_from([str(canary), "../../../x", "/etc/passwd", member.name]))
                    names = [member.name, str(canary), f"../../{canary.name}", f"{CIFAR10.base_folder}/../../x", ""]
                    member.name = draw(st.sampled_from(names))
                    content = content if member.isreg() else None
                new.addfile(member, content)
        return buffer.getvalue()

    def _hostile_archives(self) -> st.SearchStrategy[bytes]:
        return self._archives(self.archive, self.canary)

    def read(self, case: tuple[str, bytes] | bytes) -> None:
        part, content = case if isinstance(case, tuple) else ("forged batch", case)
        root = self.folder / "root"
        shutil.rmtree(root, ignore_errors=True)
        if "archive" in part:
            root.mkdir()
            (root / CIFAR10.filename).write_bytes(content)
            official = CIFAR10.tgz_md5
            # As if MD5 were broken: what unpacks it must hold by itself.
            CIFAR10.tgz_md5 = hashlib.md5(content).hexdigest() if "forged" in part else official
            try:
                prepare_cifar10(root)
            finally:
                CIFAR10.tgz_md5 = official
            return
        batches = root / self.home.name / BASE_FOLDER
        shutil.copytree(self.home / BASE_FOLDER, batches)
        (batches / (MANIFEST if part == "manifest" else "data_batch_1")).write_bytes(content)
        if part == "forged batch":
            sums = json.loads((batches / MANIFEST).read_text())
            sums["data_batch_1"] = hashlib.md5(content).hexdigest()
            (batches / MANIFEST).write_text(json.dumps(sums))
        data = CIFAR10DataModule(root, dataset="synthetic", synthetic_size=NUM_IMAGES, batch_size=25)
        data.prepare_data()
        data.setup("fit")
        next(iter(data.train_dataloader()))


class Checkpoints(Format):
    """A training checkpoint: a zip archive of a pickle and the tensors' bytes."""

    def make(self) -> bytes:
        from lightning.pytorch import Trainer

        from minivgg_pl.training.checkpointing import RandomState

        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = Trainer(
            max_epochs=1, default_root_dir=self.folder, enable_checkpointing=False, callbacks=[RandomState()], **options
        )
        data = CIFAR10DataModule(self.folder, dataset="synthetic", synthetic_size=NUM_IMAGES, batch_size=25)
        trainer.fit(LitMiniVGG(dense_units=2), datamodule=data)
        trainer.save_checkpoint(self.folder / "valid.ckpt")
        return (self.folder / "valid.ckpt").read_bytes()

    def cases(self) -> st.SearchStrategy[bytes]:
        with zipfile.ZipFile(io.BytesIO(self.valid)) as archive:
            pickled = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
        changed = damaged(pickled) | damaged_pickle(pickled, self.canary)
        rewritten = st.tuples(changed, st.sampled_from([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED]))
        whole = damaged(self.valid) | damaged(self.valid, same_size=True)
        return whole | rewritten.map(lambda case: self.rewrite(*case)) | changed

    def rewrite(self, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
        """Return the valid checkpoint with another pickle in it, its sums right."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(self.valid)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
            for name in old.namelist():
                new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
        return buffer.getvalue()

    def read(self, case: bytes) -> None:
        path = self.folder / "case.ckpt"
        path.write_bytes(case)
        load_trained(path)
        point = find_resume_point(path)
        point.history(), point.arguments(), point.is_finished(1)


class Safetensors(Format):
    """A weights file: a header of JSON, then bytes."""

    def make(self) -> bytes:
        metadata = {"dataset": "cifar10", "seed": 3, "epochs": 2, "test_accuracy": 0.5}
        metadata["split"] = {"fingerprint": "x", "val_size": 5, "split_seed": 0}
        net = MiniVGG(dense_units=2, mean=[0.5] * 3, std=[0.2] * 3).eval()
        return weights_bytes(TrainedNetwork(net, list("abcdefghij"), metadata))

    def cases(self) -> st.SearchStrategy[bytes]:
        size = int.from_bytes(self.valid[:8], "little")
        header = json.loads(self.valid[8 : 8 + size])

        def join(changed: bytes) -> bytes:
            return len(changed).to_bytes(8, "little") + changed + self.valid[8 + size :]

        metadata = st.tuples(st.sampled_from(sorted(header["__metadata__"])), odd_json()).map(
            lambda entry: header | {"__metadata__": header["__metadata__"] | {entry[0]: entry[1]}}
        )
        network = st.tuples(st.sampled_from(sorted(MiniVGG().options)), st.sampled_from(ODD_VALUES)).map(
            lambda option: header | {"__metadata__": header["__metadata__"] | {"network": self._network(*option)}}
        )
        entries = st.tuples(st.sampled_from(sorted(header)), st.sampled_from(ODD_VALUES)).map(
            lambda entry: header | {entry[0]: entry[1]}
        )
        fields = st.tuples(
            st.sampled_from(sorted(header.keys() - {"__metadata__"})),
            st.sampled_from(["dtype", "shape", "data_offsets"]),
            st.sampled_from(
                ["I64", "F16", "BF16", "F64", "BOOL", [2**40, 2**40], [0, 2**60], [-1, 4], [0, 0], *ODD_VALUES]
            ),
        ).map(lambda entry: header | {entry[0]: header[entry[0]] | {entry[1]: entry[2]}})
        changed = (metadata | network | entries | fields).map(as_json)
        twice = st.just(
            self.valid[8 : 8 + size].replace(b"}}", b'},"mean":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}')
        )
        return damaged(self.valid) | (changed | damaged(self.valid[8 : 8 + size]) | twice).map(join)

    def _network(self, name: str, value: Any) -> str:
        return json.dumps(MiniVGG(dense_units=2, mean=[0.5] * 3, std=[0.2] * 3).options | {name: value})

    def read(self, case: bytes) -> None:
        path = self.folder / "case.safetensors"
        path.write_bytes(case)
        load_trained(path)


class Keras(Format):
    """A .weights.h5 file: HDF5, with groups, links, attributes and arrays."""

    def make(self) -> bytes:
        (self.folder / "secret.h5").write_bytes(keras_bytes(MiniVGG(dense_units=2)))
        return (self.folder / "secret.h5").read_bytes()

    def cases(self) -> st.SearchStrategy[bytes]:
        return damaged(self.valid) | damaged(self.valid, same_size=True) | self._rebuilt(self)

    @st.composite
    @staticmethod
    def _rebuilt(draw: Callable, own: "Keras") -> bytes:
        import h5py

        buffer = io.BytesIO(own.valid)
        with h5py.File(buffer, "r+") as file:
            places: list[str] = []
            file.visit(places.append)
            place = draw(st.sampled_from(sorted(places)))
            secret = str(own.folder / "secret.h5")
            shape = getattr(file[place], "shape", (3,))
            group, _, name = f"/{place}".rpartition("/")
            parent = file[group or "/"]
            change = draw(st.sampled_from(sorted(CHANGES)))
            del parent[name]
            CHANGES[change](parent, name, shape, secret, f"/{place}")
        return buffer.getvalue()

    def read(self, case: bytes) -> None:
        path = self.folder / "case.weights.h5"
        path.write_bytes(case)
        load_initial_weights(MiniVGG(dense_units=2), path)


def _virtual(parent: Any, name: str, shape: tuple[int, ...], secret: str, place: str) -> None:
    import h5py

    layout = h5py.VirtualLayout(shape=shape, dtype="f4")
    layout[...] = h5py.VirtualSource(secret, place, shape=shape)
    parent.create_virtual_dataset(name, layout)


def _link(kind: str) -> Callable:
    def change(parent: Any, name: str, shape: tuple[int, ...], secret: str, place: str) -> None:
        import h5py

        links = {
            "external": lambda: h5py.ExternalLink(secret, place),
            "soft": lambda: h5py.SoftLink("/layers/dense"),
            "endless": lambda: h5py.SoftLink(place),
            "root": lambda: parent.file["/"],
            "parent": lambda: parent,
        }
        parent[name] = links[kind]()

    return change


def _array(**options: Any) -> Callable:
    def change(parent: Any, name: str, shape: tuple[int, ...], secret: str, place: str) -> None:
        parent.create_dataset(name, **({"shape": shape} | options))

    return change


CHANGES = {
    **{kind: _link(kind) for kind in ("external", "soft", "endless", "root", "parent")},
    "virtual": _virtual,
    "gone": lambda parent, name, *_: None,
    "group": lambda parent, name, *_: parent.create_group(name),
    "outside": lambda parent, name, shape, secret, place: parent.create_dataset(
        name, shape=shape or (1,), dtype="f4", external=[(secret, 0, 2**20)]
    ),
    "huge": _array(shape=(2**20, 2**20), dtype="f4"),
    "text": lambda parent, name, *_: parent.create_dataset(name, data="text"),
    "complex": _array(dtype="c8"),
    "compound": _array(dtype=np.dtype([("a", "f4"), ("b", "i8")])),
    "double": _array(dtype="f8"),
    "half": _array(dtype="f2"),
    "whole": _array(dtype="i4"),
    "nan": _array(dtype="f4", fillvalue=np.nan),
    "packed": _array(dtype="f4", maxshape=None, compression="gzip"),
}


def as_json(value: Any) -> bytes:
    """Return `value` as JSON, NaN and all."""
    return json.dumps(value).encode()


def odd_json() -> st.SearchStrategy[str]:
    """Return texts where a value written as JSON belongs."""
    texts = ["{" * 50_000, "[" * 50_000, "NaN", "1e999", "-" * 9, "9" * 5000, '"\\ud800"', "[1,", "{}", '{"a": 1}']
    return st.sampled_from([*texts, *map(json.dumps, ODD_VALUES)]) | st.text(max_size=20)
