"""The formats of the fuzz tests: a small valid file of each, how it is damaged, and what reads it."""

import hashlib
import io
import json
import pickletools
import shutil
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from minivgg_pl import ImageFolderDataModule, MiniVGG
from minivgg_pl.data.download import prepare_cifar10
from minivgg_pl.data.images import read_image
from minivgg_pl.weights.init_from import load_initial_weights
from minivgg_pl.weights.keras_h5 import keras_bytes
from minivgg_pl.weights.load import TrainedNetwork, load_trained, weights_bytes
from tests.conftest import REPOSITORY
from tests.robustness.fuzzing import damaged

# Values for JSON that nobody expects in place of a number or a text.
ODD_VALUES = [None, True, -1, 0, 2**31, 10**12, 10**300, 1.5, float("nan"), float("inf"), "", "x", "\0", [], {}, [[]]]
ODD_VALUES += [{"a": {}}, ["cat"] * 10, "1" * 5000, "[" * 500, {"class_path": "os.system"}]


class Format(ABC):
    """A format: `valid` is the content of a file, `cases` damages it, and `read` reads a case in `folder`."""

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
    """Return pieces of pickles that would write `canary` if they were run."""
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


class Archives(Format):
    """CIFAR-10's archive, as if its MD5 could be forged: what unpacks it must be safe by itself."""

    def make(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name in [*(name for name, _ in CIFAR10.train_list + CIFAR10.test_list), CIFAR10.meta["filename"]]:
                member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
                member.size = 500
                tar.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(500)))
        return buffer.getvalue()

    def cases(self) -> st.SearchStrategy[bytes]:
        return damaged(self.valid) | self._with_another_member(self.valid, self.canary)

    @st.composite
    @staticmethod
    def _with_another_member(draw: Callable, valid: bytes, canary: Path) -> bytes:
        """Draw an archive in which one file has another name, or is a link, a pipe or a folder."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(valid)) as old, tarfile.open(fileobj=buffer, mode="w:gz") as new:
            members = old.getmembers()
            chosen = draw(st.sampled_from(members))
            for member in members:
                content = old.extractfile(member)
                if member is chosen:
                    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.REGTYPE]
                    member.type = draw(st.sampled_from(kinds))
                    member.linkname = draw(st.sampled_from([str(canary), "../../../x", "/etc/passwd", member.name]))
                    names = [member.name, str(canary), f"../../{canary.name}", f"{CIFAR10.base_folder}/../../x", ""]
                    member.name = draw(st.sampled_from(names))
                new.addfile(member, content if member.isreg() else None)
        return buffer.getvalue()

    def read(self, case: bytes) -> None:
        root = self.folder / "root"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        (root / CIFAR10.filename).write_bytes(case)
        with mock.patch.object(CIFAR10, "tgz_md5", hashlib.md5(case).hexdigest()):
            prepare_cifar10(root)


class Checkpoints(Format):
    """A checkpoint with weights: a zip archive of a pickle and the tensors' bytes."""

    def make(self) -> bytes:
        return (REPOSITORY / "tests" / "cli" / "old_run" / "checkpoints" / "last.ckpt").read_bytes()

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
        load_initial_weights(MiniVGG(dense_units=2), load_trained(path))


def _virtual(parent: Any, name: str, shape: tuple[int, ...], secret: str, place: str) -> None:
    layout = h5py.VirtualLayout(shape=shape, dtype="f4")
    layout[...] = h5py.VirtualSource(secret, place, shape=shape)
    parent.create_virtual_dataset(name, layout)


def _link(kind: str) -> Callable:
    def change(parent: Any, name: str, shape: tuple[int, ...], secret: str, place: str) -> None:
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


# Kilobytes of zeros that were up to 64 MB.
BOMBS = [zlib.compress(bytes(size)) for size in (10, 2**20 + 1, 2**26)]
PNG_CHUNKS = [b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"PLTE", b"tRNS"]


class Images(Format):
    """Images of many formats, alone and in a folder of classes."""

    KINDS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "TGA", "JPEG2000", "PCX", "AVIF", "QOI", "MPO")

    def make(self) -> bytes:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
        first, second = map(Image.fromarray, pixels)
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "an image"
        self.by_kind = {}
        for kind in self.KINDS:
            buffer = io.BytesIO()
            options = {"save_all": True, "append_images": [second]} if kind in ("GIF", "WEBP", "TIFF", "MPO") else {}
            options |= {"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}
            first.save(buffer, kind, **options)
            self.by_kind[kind] = buffer.getvalue()
        classes = self.folder / "images"
        for name in ("cat", "dog"):
            (classes / name).mkdir(parents=True)
            first.save(classes / name / "a.png")
            first.save(classes / name / "c.png")
        return self.by_kind["PNG"]

    def cases(self) -> st.SearchStrategy[bytes]:
        any_kind = st.sampled_from(self.KINDS).flatmap(lambda kind: damaged(self.by_kind[kind]))
        return any_kind | self._chunks(self.valid)

    @st.composite
    @staticmethod
    def _chunks(draw: Callable, valid: bytes) -> bytes:
        """Draw a PNG with another header or with chunks put in, their sums right."""
        chunks, at = [], 8
        while at < len(valid):
            (size,) = struct.unpack(">I", valid[at : at + 4])
            chunks.append((valid[at + 4 : at + 8], valid[at + 8 : at + 8 + size]))
            at += size + 12
        for _ in range(draw(st.integers(1, 2))):
            kind = draw(st.sampled_from(PNG_CHUNKS))
            bomb = draw(st.sampled_from(BOMBS))
            exif = b"MM\0*\0\0\0\x08" + b"\xff" * 40
            content = draw(st.sampled_from([b"a\0\0" + bomb, b"a\0\1\0\0\0" + bomb, exif]) | st.binary(max_size=40))
            if kind == b"IHDR":
                sides = st.sampled_from([0, 1, 33, 9000, 9500, 2**15, 2**31 - 1, 2**32 - 1])
                depth, colour = draw(st.sampled_from([1, 8, 16])), draw(st.sampled_from([0, 2, 3, 4, 6, 7]))
                interlaced = draw(st.integers(0, 1))
                chunks[0] = kind, struct.pack(">IIBBBBB", draw(sides), draw(sides), depth, colour, 0, 0, interlaced)
            else:
                chunks.insert(draw(st.integers(1, len(chunks) - 1)), (kind, content))
        sealed = (kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
        return valid[:8] + b"".join(struct.pack(">I", len(chunk) - 8) + chunk for chunk in sealed)

    def read(self, case: bytes) -> None:
        path = self.folder / "images" / "cat" / "b.png"
        path.write_bytes(case)
        read_image(path)
        data = ImageFolderDataModule(self.folder / "images", val_size=1, batch_size=2)
        data.prepare_data()


def as_json(value: Any) -> bytes:
    """Return `value` as JSON, NaN and all."""
    return json.dumps(value).encode()


def odd_json() -> st.SearchStrategy[str]:
    """Return texts where a value written as JSON belongs."""
    texts = ["{" * 50_000, "[" * 50_000, "NaN", "1e999", "-" * 9, "9" * 5000, '"\\ud800"', "[1,", "{}", '{"a": 1}']
    return st.sampled_from([*texts, *map(json.dumps, ODD_VALUES)]) | st.text(max_size=20)
