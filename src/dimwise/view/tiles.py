"""Small pictures from arrays: inputs, filters, feature maps; colours that hold on light and dark paper.

Shapes: H, W height and width; C channels; F filters.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POSITIVE = (26, 154, 143)
"""Red, green, blue of what is above zero: the accent, in a tone between its light and its dark one."""
NEGATIVE = (217, 84, 74)
"""Red, green, blue of what is below zero."""

Tile = NDArray[np.uint8]
"""(H, W) grey, (H, W, 3) colour or (H, W, 4) colour with opacity."""


def png(tile: Tile, *, side_px: int = 56, largest_px: int = 96) -> bytes:
    """A tile as a PNG file.

    Args:
        tile: see :data:`Tile`.
        side_px: smaller tiles are enlarged by a whole factor, without smoothing, to at least about this.
        largest_px: larger tiles are shrunk to this, to keep the page small.
    """
    from PIL import Image

    factor = max(1, round(side_px / max(tile.shape[:2])))
    enlarged = np.ascontiguousarray(tile.repeat(factor, axis=0).repeat(factor, axis=1))
    image = Image.fromarray(enlarged)
    image.thumbnail((largest_px, largest_px))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(tile: Tile, *, side_px: int = 56, largest_px: int = 96) -> str:
    """A tile as an address that holds the whole picture.

    Example:
        >>> data_uri(np.zeros((2, 2), np.uint8))[:22]
        'data:image/png;base64,'
    """
    return "data:image/png;base64," + base64.b64encode(png(tile, side_px=side_px, largest_px=largest_px)).decode()


def photo(image_CHW: NDArray[np.generic]) -> Tile:
    """A raw input as a tile: grey for one channel, colour for three, the first channel for other numbers.

    Args:
        image_CHW: (C, H, W) uint8, or floats, which are stretched to 0..255.
    """
    image = image_CHW if image_CHW.dtype == np.uint8 else _stretched(image_CHW)
    if image.shape[0] == 3:
        return np.ascontiguousarray(np.moveaxis(image, 0, -1)).astype(np.uint8)
    return image[0].astype(np.uint8)


def signed(values_HW: NDArray[np.floating], largest: float) -> Tile:
    """Signed numbers as colour with opacity: clear at 0, full at ±largest.

    Example:
        >>> signed(np.array([[1.0, 0.0, -1.0]]), 1.0)[0, :, 3].tolist()
        [255, 0, 255]
    """
    values = np.nan_to_num(np.asarray(values_HW, np.float64), posinf=largest, neginf=-largest)
    opacity = np.clip(np.abs(values) / (largest or 1.0), 0, 1)
    colours = np.where((values >= 0)[..., None], np.array(POSITIVE), np.array(NEGATIVE))
    return np.concatenate([colours, np.rint(255 * opacity)[..., None]], axis=-1).astype(np.uint8)


def filters(weights_FCHW: NDArray[np.floating], *, at_most: int = 64) -> list[Tile]:
    """Kernels of a first convolution: as colour pictures for three channels, else the mean over channels, signed.

    Args:
        weights_FCHW: (F, C, H, W).
        at_most: how many of the F are drawn.
    """
    weights = np.nan_to_num(np.asarray(weights_FCHW, np.float64), posinf=0.0, neginf=0.0)[:at_most]
    largest = float(np.abs(weights).max()) or 1.0
    if weights.shape[1] == 3:
        return [np.rint(127.5 + 127.5 * np.moveaxis(w, 0, -1) / largest).astype(np.uint8) for w in weights]
    means = weights.mean(axis=1)
    return [signed(mean, float(np.abs(means).max()) or 1.0) for mean in means]


def feature_maps(maps_FHW: NDArray[np.floating], *, at_most: int = 32) -> list[Tile]:
    """What one layer answers to one input, all maps on one scale, so that silent ones look silent.

    Args:
        maps_FHW: (F, H, W).
        at_most: how many of the F are drawn.
    """
    maps = np.nan_to_num(np.asarray(maps_FHW, np.float64), posinf=0.0, neginf=0.0)
    largest = float(np.quantile(np.abs(maps), 0.995)) or float(np.abs(maps).max())  # one hot pixel dims no map
    return [signed(one, largest) for one in maps[:at_most]]


def _stretched(image: NDArray[np.generic]) -> Tile:
    values = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    return np.rint(255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)


def worst_pairs(confusion: NDArray[np.integer], *, at_most: int = 8) -> Sequence[tuple[int, int, int, float]]:
    """The commonest mistakes: (truth, guess, how often, share of the inputs of that truth).

    Args:
        confusion: (K, K) counts, a row per truth, a column per guess.
        at_most: how many pairs.

    Example:
        >>> worst_pairs(np.array([[5, 1], [3, 9]]))
        [(1, 0, 3, 0.25), (0, 1, 1, 0.16666666666666666)]
    """
    wrong = np.array(confusion, dtype=np.int64)
    totals = wrong.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:at_most]
    pairs = [divmod(int(flat), wrong.shape[1]) for flat in order]
    return [(t, g, int(wrong[t, g]), float(wrong[t, g] / totals[t])) for t, g in pairs if wrong[t, g] > 0]
