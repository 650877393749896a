"""Image files of many formats as small square arrays."""

import io
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from minivgg_pl.errors import InputError

# A file of a few kB can hold an image of many GB. Pillow warns above 89 million pixels, and refuses twice that.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
# Formats that hold pixels. Pillow would also open some that start other programs (EPS) or hold no image (HDF5).
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB"}
# Programs without transparency leave the alpha channel 0 here. Viewers then ignore it.
UNUSED_ALPHA_FORMATS = ("BMP", "TGA")
# A JPEG with fewer of its rows has lost more than its end.
MIN_SHARE_OF_ROWS = 0.9
JPEG_END_MARKER = b"\xff\xd9"
# Of the pixels of a PNG, by Pillow's raw mode.
GREY_SCALES = {"L;2": 85, "L;4": 17}
FAX_COMPRESSIONS = ("tiff_ccitt", "group3", "group4")
# TIFF's SampleFormat.
SIGNED = 2
MAX_12_BITS, MAX_16_BITS = 2**12 - 1, 2**16 - 1

logger = logging.getLogger(__name__)
# What Pillow logs as an error, it raises too.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_stderr_lock = threading.Lock()

# Takes a line of text for the user.
Warn = Callable[[str], object]


def image_formats() -> list[str]:
    """Return those of FORMATS that the installed Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_image(path: str | Path, size: int = 32, channels: int = 3, warn: Warn = logger.warning) -> np.ndarray:
    """Read an image as the network takes it: the largest centred square, averaged down (or enlarged) to `size`.

    Any of FORMATS, as viewers show it. EXIF orientation and colour profile are obeyed; transparency becomes white;
    palettes, CMYK, 12 or 16 bits a channel, and floats in [0, 1] are converted to 8 bits; of an animation, the first
    frame counts. An image of `size` is not resampled. PNG's gamma is ignored.

    Args:
        path: Image file.
        size: Height and width of the result in pixels.
        channels: 3 for colour, 1 for grey.
        warn: Called with one line for a JPEG that lacks only its end, and for 16 bits with no value above 12 bits.

    Returns:
        `(size, size, channels)` uint8 in [0, 255].

    Raises:
        InputError: If the file cannot be read, is no image, is damaged, has more than MAX_PIXELS pixels, or holds
            values of an unknown range: other floats, integers of 32 bits or with a sign.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            # Opening a named pipe would wait for ever.
            raise ValueError("it is no regular file")
        # Pillow warns of metadata that it cannot read.
        with warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=image_formats()) as file:
                raw_mode = _raw_mode(file)
                image = _decoded(file, path, warn)
                ImageOps.exif_transpose(image, in_place=True)
                flat = _flat(image, raw_mode, lambda text: warn(f"{path}: {text}"))
                square = ImageOps.fit(flat, (size, size), Image.Resampling.BOX)
                pixels = np.array(_srgb(square, image.info.get("icc_profile")).convert(MODES[channels]))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: too large, above {MAX_PIXELS:,} pixels: make it smaller first") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image that Pillow can read") from error
    except Exception as error:  # what Pillow raises for damaged files is not one type
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return pixels.reshape(size, size, channels)


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the pixels' layout in the file, such as `RGB;16B`."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _decoded(image: Image.Image, path: str | Path, warn: Warn) -> Image.Image:
    """Decode an image, or one with the file's end put in its place if a JPEG lacks it."""
    if image.format == "TIFF":
        _load_tiff(image)
        return image
    try:
        image.load()
    except OSError:
        if image.format not in ("JPEG", "MPO"):
            raise
        image = Image.open(io.BytesIO(Path(path).read_bytes() + JPEG_END_MARKER), formats=["JPEG"])
        # The decoder leaves what it lacks at half of each channel's range.
        missing = np.isin(np.asarray(image), (127, 128)).reshape(image.height, -1).all(axis=1)
        share = 1 - missing[::-1].argmin() / image.height if not missing.all() else 0
        if share < MIN_SHARE_OF_ROWS:
            raise ValueError(f"it lacks its end: {share:.0%} of its rows are there") from None
        warn(f"{path}: it lacks its end: {share:.0%} of its rows were read")
    return image


def _load_tiff(image: Image.Image) -> None:
    """Decode a TIFF, and refuse a damaged fax, of which libtiff says at most a line on stderr."""
    failure = None
    with _stderr_lock, tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            image.load()
        except Exception as error:  # see read_image
            failure = error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        printed = file.read().decode(errors="replace").splitlines()
    # libtiff also complains of tags that it does without.
    damage = [line for line in printed if failure or line.startswith("Fax")]
    if failure or damage:
        raise OSError(damage[-1] if damage else str(failure)) from failure
    if image.info.get("compression") in FAX_COMPRESSIONS and len(set(image.getextrema())) == 1:
        raise ValueError("the fax is blank or damaged")


def _flat(image: Image.Image, raw_mode: str, warn: Warn) -> Image.Image:
    """Return the image in mode L, RGB or CMYK, with white where it is transparent."""
    tags = getattr(image, "tag_v2", {})
    if tags and (image.mode == "I" or SIGNED in tags.get(ExifTags.Base.SampleFormat, ())):
        raise ValueError("integers with a sign or of 32 bits have no known white: save it as 8 bits")
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(image, tags, warn)
    if image.format in UNUSED_ALPHA_FORMATS and image.mode[-1] == "A" and not image.getchannel("A").getextrema()[1]:
        image = image.convert(image.mode[:-1])
    # Pillow scales the pixels to 8 bits, and not PNG's transparent colour.
    clear = image.info.get("transparency")
    if clear is not None and raw_mode in GREY_SCALES:
        image.info["transparency"] = clear * GREY_SCALES[raw_mode]
    if raw_mode.startswith(("RGB;16", "RGBA;16", "LA;16")):
        if clear is not None:
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        _warn_if_12_bits(max(high for _, high in image.getextrema()[:3]) << 8, warn)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _grey(image: Image.Image, tags: Mapping[int, Any], warn: Warn) -> Image.Image:
    """Return an image of 12-bit or 16-bit integers or of floats in mode L."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"its floats run from {low:g} to {high:g}, not from black 0 to white 1: save it as 8 bits")
        grey = (255 * values).round().astype(np.uint8)
    else:
        white = 2 ** tags.get(ExifTags.Base.BitsPerSample, (16,))[0] - 1
        if white == MAX_16_BITS:
            _warn_if_12_bits(values.max(), warn)
        grey = (np.arange(MAX_16_BITS + 1) * (255 / white)).round().clip(0, 255).astype(np.uint8)[values]
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        grey = 255 - grey
    clear = image.info.get("transparency")
    return Image.fromarray(grey if clear is None else np.where(values == clear, np.uint8(255), grey))


def _warn_if_12_bits(highest: int, warn: Warn) -> None:
    if highest <= MAX_12_BITS:
        warn(f"its 16-bit values end at {highest}, nearly black; if 12 bits were meant, multiply them by 16")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the image's colours in sRGB, which the network was trained on."""
    if profile:
        # Viewers ignore a profile that is damaged or of another colour space.
        with suppress(Exception):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return image
