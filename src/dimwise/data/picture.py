"""A picture file to the bytes a network takes: the same code at training and at prediction, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dimwise.errors import DataError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm"))
_GREY = ("1", "L", "I", "F")  # and I;16 in its spellings
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def look(path: Path) -> tuple[int, int, int]:
    """(channels, height, width) from the head of a picture file; 1 channel for grey, 3 for colour.

    Raises:
        DataError: not a picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(274) in _TURNED:
                width, height = height, width
            return (1 if image.mode.split(";")[0] in _GREY else 3), height, width
    except _broken() as error:
        raise _unreadable(path, error) from None


def read_picture(path: Path, *, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture file as (channels, height, width) uint8.

    It is turned as its EXIF says, made grey or colour, and resized bilinearly (with the support of the filter grown
    when shrinking, so that nothing aliases); proportions are not kept. 16-bit grey loses its lower 8 bits.

    Args:
        path: the file.
        channels: 1 (grey) or 3 (red, green, blue).
        height: pixels.
        width: pixels.

    Raises:
        DataError: not a picture, or a damaged one.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
    except _broken() as error:
        raise _unreadable(path, error) from None
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def _broken() -> tuple[type[Exception], ...]:
    """Everything that Pillow's readers raise on files that are not what they seem."""
    import struct

    from PIL import Image

    return (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def _unreadable(path: Path, error: Exception) -> DataError:
    why = "it is not a picture" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    return DataError(f"{path} cannot be read ({why})", expected="a whole picture file")
