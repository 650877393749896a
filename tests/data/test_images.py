"""Images of every kind, as real files."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from minivgg_pl.data.images import image_files, read_image
from minivgg_pl.errors import InputError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_is_not_touched(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


def test_an_enlarged_image_comes_back(pixels, tmp_path):
    Image.fromarray(pixels).resize((320, 320), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


def test_the_largest_centred_square_counts(pixels, tmp_path):
    Image.fromarray(np.pad(pixels, ((0, 0), (7, 7), (0, 0)))).save(tmp_path / "wide.png")
    assert np.array_equal(read_image(tmp_path / "wide.png"), pixels)


def test_an_exif_orientation_is_obeyed(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), pixels[::-1, ::-1])


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), "clear.png", (255, 255, 255)),
        ("LA", (0, 128), "half.png", (127, 127, 127)),
        ("CMYK", (0, 255, 255, 0), "red.tif", (255, 0, 0)),
        ("1", 1, "white.png", (255, 255, 255)),
        ("L", 7, "grey.webp", (7, 7, 7)),
        ("P", 0, "palette.gif", (0, 0, 0)),
        ("I", 65535, "long.tif", (255, 255, 255)),
        ("F", 1e9, "float.tif", (255, 255, 255)),
        ("I;16", 257 * 9, "sixteen.png", (9, 9, 9)),
    ],
)
def test_every_mode_becomes_colour(mode, colour, name, expected, tmp_path):
    Image.new(mode, (40, 50), colour).save(tmp_path / name)
    assert read_image(tmp_path / name)[3, 5].tolist() == list(expected)


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("L", (32, 32), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "film.gif").max() == 0


def test_grey_has_one_channel(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = read_image(tmp_path / "a.png", size=28, channels=1)
    assert grey.shape == (28, 28, 1)
    assert grey.dtype == np.uint8


def test_an_eps_is_not_opened_whatever_its_name(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "cat.jpg")
    with pytest.raises(InputError, match="not an image"):
        read_image(tmp_path / "cat.jpg")


def png_of_size(width, height):
    """A PNG of a few bytes that says it is that large."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_what_is_no_readable_image_is_refused_by_name(pixels, tmp_path):
    Image.fromarray(pixels).resize((320, 320)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    cases = {
        "truncated.png": (whole[: len(whole) // 2], "cannot be read"),
        "text.png": (b"hello", "not an image"),
        "empty.png": (b"", "not an image"),
        "bomb.png": (png_of_size(60_000, 60_000), "too large, above 89,478,485 pixels"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: {message}"):
            read_image(tmp_path / name)
    with pytest.raises(InputError, match="missing.png: cannot be read .No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        read_image(tmp_path)


def test_hidden_files_and_linked_folders_are_no_images_of_a_folder(pixels, tmp_path):
    for name in ("b.png", "more/a.PNG", ".b.png", ".hidden/a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name, format="PNG")
    # In a circle.
    (tmp_path / "more" / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)] == ["b.png", "more/a.PNG"]
