"""More formats of the fuzz tests, read through a whole command: configs in YAML, and images in a folder."""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import yaml
from hypothesis import strategies as st
from PIL import Image

from minivgg_pl import ImageFolderDataModule
from minivgg_pl.cli import command
from minivgg_pl.cli import fit as train
from minivgg_pl.data.images import read_image
from minivgg_pl.data.synthetic import prepare_synthetic
from minivgg_pl.errors import InputError
from tests.robustness.fuzz_formats import NUM_IMAGES, ODD_VALUES, Format
from tests.robustness.fuzzing import damaged

CONFIG = """\
seed_everything: 3
trainer:
  max_epochs: 1
  callbacks:
  - class_path: lightning.pytorch.callbacks.EarlyStopping
    init_args: {monitor: val_acc, patience: 3}
model: &model {variant: classic, dense_units: 2, lr: 0.01, momentum: 0.9, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
data:
  class_path: minivgg_pl.CIFAR10DataModule
  init_args: {dataset: synthetic, root: ROOT, synthetic_size: 50, batch_size: 25, flip: none}
curves: {reference: article}
compile: false
"""
# A list of lists, each nine aliases of the one before: 9 ** 9 values.
BOMB = ", ".join(["&a [x,x,x,x,x,x,x,x,x]", *(f"&{b} [{','.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghi"))])
BOMB = f"[{BOMB}]"
ODD_YAML = ["2020-01-01", "!!timestamp 2020-99-99", "!!set {a, b}", "!!binary aGk=", "!!python/name:os.system ''", "*x"]
ODD_YAML += [
    "&x [*x]",
    "{1: 2}",
    "{? [a] : b}",
    "{<<: *model}",
    "{<<: 5}",
    "1e400",
    "0x" + "f" * 5000,
    "1:2:3:4",
    "~",
    "-",
]
ODD_YAML += [
    BOMB,
    f"'{BOMB}'",
    "[" * 200,
    "[" * 200 + "]" * 200,
    "{a: " * 100 + "1" + "}" * 100,
    "@",
    "`",
    "%TAG",
    "'\\0'",
]


class Configs(Format):
    """A config file, through the command as far as the run's first step."""

    def make(self) -> bytes:
        prepare_synthetic(self.folder, train_size=NUM_IMAGES)
        return CONFIG.replace("ROOT", str(self.folder)).encode()

    def cases(self) -> st.SearchStrategy[bytes]:
        lines = self.valid.splitlines(keepends=True)
        moved = st.permutations(range(len(lines))).map(lambda order: b"".join(lines[number] for number in order))
        run = f"!!python/object/apply:os.system ['touch {self.canary}']"
        values = st.sampled_from([*ODD_YAML, run]) | st.sampled_from(ODD_VALUES).map(_as_yaml)
        return damaged(self.valid) | moved | self._with_values(self.valid.decode(), values)

    @st.composite
    @staticmethod
    def _with_values(draw: Callable, text: str, values: st.SearchStrategy[str]) -> bytes:
        """Draw the config with the value of one or two keys replaced."""
        for _ in range(draw(st.integers(1, 2))):
            places = [at for at in range(len(text)) if text.startswith(": ", at) or text.startswith(":\n", at)]
            at = draw(st.sampled_from(places)) + 1
            # In a flow mapping up to the next comma; of a block, the lines below go with it or become damage.
            ends = [text.find(mark, at) for mark in draw(st.sampled_from([",", "}", "\n", "\nm", "\nd"]))]
            end = max(ends[0], at)
            text = f"{text[:at]} {draw(values)}{text[end:]}"
        return text.encode(errors="surrogatepass")

    def read(self, case: bytes) -> None:
        path = self.folder / "config.yaml"
        path.write_bytes(case)
        error = io.StringIO()
        # Up to where the trainer would start.
        unfitted = mock.patch.object(train, "_fit_and_test", return_value=0)
        # A path can become a relative one.
        with chdir(self.folder), unfitted, redirect_stderr(error), redirect_stdout(io.StringIO()):
            try:
                code = command.main([f"--trainer.default_root_dir={self.folder}", "--gpus=0", f"--config={path}"])
            except SystemExit as exit_:
                code = exit_.code
        lines = [line for line in error.getvalue().splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) in {(0, 0), (2, 1)}, error.getvalue()
        if code:
            raise InputError(lines[0])


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
        exif[0x0112], exif[0x010E] = 6, "a image"
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


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
