"""Images of every kind, as real files."""

import io
import os
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from minivgg_pl.data.image_files import image_files
from minivgg_pl.data.images import image_formats, read_image
from minivgg_pl.errors import InputError


def as_png(rows, bits, colour, *chunks, size=(64, 64)):
    """A PNG with the `chunks` (name, content) before its pixels; each row starts with a zero."""
    header = b"IHDR", struct.pack(">2I5B", *size, bits, colour, 0, 0, 0)
    chunks = [header, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    sealed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(sealed)


def as_tiff(pixels, bits, photometric=1, sample_format=1, order="<", **other):
    """A TIFF of 64 x 64 pixels; `other` are tags by name."""
    numbers = {"compression": 259, "samples": 277, "extra": 338}
    tags = {256: 64, 257: 64, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 64, 279: len(pixels)}
    tags |= {339: sample_format} | {numbers[name]: value for name, value in other.items()}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = (struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(tags)) + b"".join(entries) + bytes(4) + pixels


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
    return as_png(b"0" * 100, 8, 2, size=(width, height))


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
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg", "/dev/zero"):
        with pytest.raises(InputError, match=f"{path}: cannot be read .it is no regular file"):
            read_image(path)


def test_hidden_files_and_linked_folders_are_no_images_of_a_folder(pixels, tmp_path):
    for name in ("b.png", "more/a.PNG", "more/c.MPO", ".b.png", ".hidden/a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name, format="PNG")
    # In a circle.
    (tmp_path / "more" / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)] == ["b.png", "more/a.PNG", "more/c.MPO"]


# Values 0 to 252 from left to right, mean 126, on 64 x 64 pixels.
RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
EXACT = RAMP.reshape(32, 2, 32, 2).mean(axis=(1, 3))
UNIT = RAMP / np.float32(255)
ALPHA_0 = np.dstack([RAMP, RAMP, RAMP, np.zeros_like(RAMP)])


def saved(image, name, **options):
    """The file that Pillow writes of an image or array."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, name, **options)
    return file.getvalue()


def rows(values):
    """Rows of a PNG, without filter."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def twelve_bits(values):
    """Twelve bits a value, two values in three bytes."""
    a, b = values.reshape(-1, 2).astype(np.uint16).T
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=-1).astype(np.uint8).tobytes()


def oriented(image, name):
    """A file whose EXIF data turn the image back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image.transpose(Image.Transpose.ROTATE_90), name, exif=exif)


def big(dtype, scale=257):
    return (RAMP.astype(np.float64) * scale).astype(dtype)


PALETTE = Image.fromarray(RAMP).convert("P")
RGB = Image.fromarray(RAMP).convert("RGB")
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (64, 64), "red")]}
SHOWN = {
    "PNG of 16 bits": saved(big("uint16"), "PNG"),
    "PNG of 16 bits, colour": as_png(rows(big(">u2").repeat(3, axis=1)), 16, 2),
    "PNG of 16 bits, grey and alpha": as_png(rows(np.dstack([big(">u2"), np.full((64, 64), 65535, ">u2")])), 16, 4),
    "APNG": saved(RGB, "PNG", **FRAMES),
    "PGM up to 4095": b"P5 64 64 4095\n" + big(">u2", 4095 / 255).tobytes(),
    "PGM up to 65535": b"P5 64 64 65535\n" + big(">u2").tobytes(),
    "PPM up to 65535": b"P6 64 64 65535\n" + big(">u2").repeat(3, axis=1).tobytes(),
    "PFM": b"Pf 64 64 -1.0\n" + UNIT.tobytes(),
    "TIFF of floats": as_tiff(UNIT.tobytes(), 32, sample_format=3),
    "TIFF of floats, white 0": as_tiff((1 - UNIT).tobytes(), 32, 0, sample_format=3),
    "TIFF of floats, big-endian": as_tiff(UNIT.astype(">f4").tobytes(), 32, sample_format=3, order=">"),
    "TIFF of 12 bits": as_tiff(twelve_bits(big("uint16", 4095 / 255)), 12),
    "TIFF of 16 bits": as_tiff(big("<u2").tobytes(), 16),
    "TIFF of 16 bits, big-endian": as_tiff(big(">u2").tobytes(), 16, order=">"),
    "TIFF of 16 bits, white 0": as_tiff((65535 - big("<u2")).tobytes(), 16, 0),
    "TIFF of 16 bits, colour": as_tiff(big("<u2").repeat(3, axis=1).tobytes(), 16, 2, samples=3),
    "TIFF of 8 bits, white 0": as_tiff((255 - RAMP).tobytes(), 8, 0),
    "TIFF, premultiplied": as_tiff(
        np.dstack([RAMP] * 3 + [np.full_like(RAMP, 255)]).tobytes(), 8, 2, samples=4, extra=1
    ),
    "TIFF of JPEG": saved(RGB, "TIFF", compression="jpeg", quality=100),
    "TIFF with a tag of no type": as_tiff(zlib.compress(RAMP.tobytes()), 8, compression=8).replace(
        struct.pack("<HH", 278, 4), struct.pack("<HH", 0, 0)
    ),
    "TIFF of CMYK": saved(RGB.convert("CMYK"), "TIFF"),
    "TIFF of Lab": saved(RGB.convert("LAB"), "TIFF"),
    "JPEG of CMYK": saved(RGB.convert("CMYK"), "JPEG", quality=100),
    "JPEG 2000 of 16 bits": saved(big("uint16"), "JPEG2000"),
    "GIF": saved(PALETTE, "GIF"),
    "WebP": saved(RGB, "WEBP", lossless=True, **FRAMES),
    "ICO": saved(RGB, "ICO", sizes=[(16, 16), (64, 64)]),
    "BMP, alpha 0": saved(ALPHA_0, "BMP"),
    "TGA, alpha 0": saved(ALPHA_0, "TGA"),
    "PNG, turned": oriented(RGB, "PNG"),
    "JPEG, turned": oriented(RGB, "JPEG"),
    "TIFF, turned": oriented(RGB, "TIFF"),
    "WebP, turned": oriented(RGB, "WEBP"),
}
if "AVIF" in image_formats():
    SHOWN["AVIF"] = saved(RGB, "AVIF", quality=100)


@pytest.mark.parametrize("kind", SHOWN)
def test_a_grey_ramp_comes_out_as_viewers_show_it(kind, tmp_path, capfd):
    (tmp_path / "ramp").write_bytes(SHOWN[kind])
    lines = []
    for channels in (1, 3):
        ramp = read_image(tmp_path / "ramp", 32, channels, lines.append).astype(int)
        assert ramp.mean() == pytest.approx(126, abs=1)
        assert abs(ramp - EXACT[..., None]).max() <= 2
    assert not lines
    assert capfd.readouterr().err == ""


REFUSED = {
    "TIFF of floats up to 252": (
        as_tiff(RAMP.astype("<f4").tobytes(), 32, sample_format=3),
        "floats run from 0 to 252",
    ),
    "TIFF of no numbers": (as_tiff(np.full((64, 64), np.nan, "<f4").tobytes(), 32, sample_format=3), "from nan to nan"),
    "PFM below 0": (b"Pf 64 64 -1.0\n" + (-UNIT).tobytes(), "floats run from -0.988235 to -?0"),
    "TIFF of 32 bits": (as_tiff(big("<u4").tobytes(), 32), "of 32 bits have no known white"),
    "TIFF of 32 bits with a sign": (as_tiff(big("<i4").tobytes(), 32, sample_format=2), "no known white"),
    "TIFF of 16 bits with a sign": (as_tiff(big("<i2", 128).tobytes(), 16, sample_format=2), "no known white"),
    "TIFF of 8 bits with a sign": (as_tiff(RAMP.tobytes(), 8, sample_format=2), "no known white"),
    "TIFF of float16": (
        as_tiff(UNIT.astype("<f2").tobytes(), 16, sample_format=3),
        "not an image that Pillow can read",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_of_an_unknown_range_are_refused(kind, tmp_path):
    content, message = REFUSED[kind]
    (tmp_path / "ramp").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "ramp")


@pytest.mark.parametrize(
    "content",
    [
        saved(big("uint16", 4095 / 255), "PNG"),
        as_png(rows(big(">u2", 4095 / 255).repeat(3, axis=1)), 16, 2),
        as_tiff(big("<u2", 4095 / 255).tobytes(), 16),
        as_tiff(big("<u2", 4095 / 255).repeat(3, axis=1).tobytes(), 16, 2, samples=3),
    ],
)
def test_twelve_of_sixteen_bits_are_warned_of(content, tmp_path):
    (tmp_path / "dark").write_bytes(content)
    lines = []
    assert read_image(tmp_path / "dark", warn=lines.append).max() < 17
    (line,) = lines
    assert line.startswith(f"{tmp_path / 'dark'}: its 16-bit values end at ")


@pytest.mark.parametrize(
    ("values", "bits", "colour", "clear", "kept"),
    [
        (np.full((64, 16), 0b01_01_10_10, np.uint8), 2, 0, [1], 170),
        (np.full((64, 32), 0x23, np.uint8), 4, 0, [2], 51),
        (np.tile(np.uint8([2, 9]), (64, 32)), 8, 0, [2], 9),
        (np.tile(np.array([700, 9 * 257], ">u2"), (64, 32)), 16, 0, [700], 9),
        (np.tile(np.array([700, 1, 65535, *[9 * 257] * 3], ">u2"), (64, 32)), 16, 2, [700, 1, 65535], 9),
    ],
)
def test_a_transparent_colour_of_a_png_becomes_white(values, bits, colour, clear, kept, tmp_path):
    chunk = b"tRNS", struct.pack(f">{len(clear)}H", *clear)
    (tmp_path / "a.png").write_bytes(as_png(rows(values), bits, colour, chunk))
    image = read_image(tmp_path / "a.png", 64)
    assert set(np.unique(image)) == {kept, 255}
    assert image.mean() == (kept + 255) / 2


def test_a_colour_profile_is_obeyed_and_a_damaged_one_ignored(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Red light for what is called green, and the other way round.
    swapped = re.sub(b"[rg](?=XYZ)", lambda tag: {b"r": b"g", b"g": b"r"}[tag[0]], srgb)
    for profile, expected in [(srgb, [255, 0, 0]), (swapped, [0, 255, 0]), (b"damaged", [255, 0, 0])]:
        Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png", icc_profile=profile)
        assert read_image(tmp_path / "a.png")[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("kept", "floor", "message"),
    [
        (lambda content: content[:-2], 0, "it lacks its end: 100% of its rows were read"),
        # Not taken for rows that lack.
        (lambda content: content[:-2], 8, "it lacks its end: 100% of its rows were read"),
        (lambda content: content[: len(content) * 95 // 100], 0, "it lacks its end: 95% of its rows were read"),
        (
            lambda content: content[: len(content) // 2],
            0,
            "cannot be read (it lacks its end: 50% of its rows are there)",
        ),
    ],
)
def test_a_jpeg_that_lacks_only_its_end_is_read_with_a_warning(pixels, kept, floor, message, tmp_path):
    pixels[32 - floor :] = 255
    content = saved(pixels.repeat(10, axis=0).repeat(10, axis=1), "JPEG", quality=95)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content)
    expected = read_image(path)
    path.write_bytes(kept(content))
    lines = []
    if message.startswith("cannot"):
        with pytest.raises(InputError, match=re.escape(message)):
            read_image(path, warn=lines.append)
        assert not lines
    else:
        assert np.array_equal(read_image(path, warn=lines.append)[:28], expected[:28])
        assert lines == [f"{path}: {message}"]


@pytest.mark.parametrize(
    ("damage", "message"), [(bytes, ""), (np.random.default_rng(0).bytes, "Bad code word at line ")]
)
def test_a_damaged_fax_is_refused_and_prints_nothing(pixels, damage, message, tmp_path, capfd):
    path = tmp_path / "fax.tif"
    page = (pixels[..., 0] > 200).repeat(10, axis=0).repeat(10, axis=1)
    path.write_bytes(saved(page, "TIFF", compression="group3"))
    assert read_image(path).mean() == pytest.approx(page.mean() * 255)
    with Image.open(path) as image:
        start, size = image.tag_v2[273][0], image.tag_v2[279][0]
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(damage(size))
    with pytest.raises(InputError, match=f"fax.tif: cannot be read .*{message}"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_odd_metadata_are_no_python_warnings(pixels, tmp_path):
    # Upside down, and a pointer behind the end.
    entries = struct.pack("<HHII", 0x0112, 3, 1, 3) + struct.pack("<HHII", 0x8769, 4, 1, 99_999)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        read_image(tmp_path / "a.jpg")
    assert not shown
