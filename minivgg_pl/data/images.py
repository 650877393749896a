"""Image files of many formats as small square arrays."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from minivgg_pl.errors import InputError

# A file of a few kB can hold an image of many GB. Pillow warns above 89 million pixels, and refuses twice that.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
# Formats that hold pixels. Pillow would also open some that start other programs (EPS) or hold no image (HDF5).
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB"}
# The largest value of 16 bits over that of 8 bits.
SIXTEEN_TO_EIGHT_BITS = 257


def image_formats() -> list[str]:
    """Return those of FORMATS that the installed Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and below, sorted, without hidden ones and linked folders.

    Raises:
        InputError: If a folder cannot be read.
    """
    formats = image_formats()
    endings = tuple(ending for ending, name in Image.registered_extensions().items() if name in formats)
    found = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if name[0] != "." and name.lower().endswith(endings)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def read_image(path: str | Path, size: int = 32, channels: int = 3) -> np.ndarray:
    """Read an image as the network takes it: the largest centred square, averaged down (or enlarged) to `size`.

    Any of FORMATS. An EXIF orientation is obeyed; transparency becomes white; palettes, CMYK and 16 bits a channel are
    converted to 8 bits; of an animation, the first frame counts. An image of `size` is not resampled.

    Args:
        path: Image file.
        size: Height and width of the result in pixels.
        channels: 3 for colour, 1 for grey.

    Returns:
        `(size, size, channels)` uint8 in [0, 255].

    Raises:
        InputError: If the file cannot be read, is no image, is damaged, or has more than MAX_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = Image.open(path, formats=image_formats())
        with image:
            ImageOps.exif_transpose(image, in_place=True)
            square = ImageOps.fit(_flat(image), (size, size), Image.Resampling.BOX)
            pixels = np.array(square.convert(MODES[channels]))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: too large, above {MAX_PIXELS:,} pixels: make it smaller first") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image that Pillow can read") from error
    except Exception as error:  # what Pillow raises for damaged files is not one type
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return pixels.reshape(size, size, channels)


def _flat(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB, with white where it is transparent."""
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) / SIXTEEN_TO_EIGHT_BITS).round().astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("L" if image.mode in ("1", "F") else "RGB")
