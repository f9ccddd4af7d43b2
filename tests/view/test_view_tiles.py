"""Small pictures: exact pixels, colours by sign, sizes within limits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dimwise.view import tiles


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_small_tiles_grow_without_smoothing() -> None:
    tile = np.arange(64, dtype=np.uint8).reshape(8, 8)
    big = opened(tiles.png(tile, side_px=56))
    assert big.shape == (56, 56)
    assert np.array_equal(big[3::7, 3::7], tile)
    assert len(np.unique(big)) == 64


def test_large_tiles_shrink() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    data = tiles.png(tile)
    assert max(opened(data).shape) == 96
    assert len(data) < 30_000


def test_png_is_the_same_each_time() -> None:
    tile = np.eye(5, dtype=np.uint8) * 255
    assert tiles.png(tile) == tiles.png(tile)


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 6)), (2, (4, 6)), (3, (4, 6, 3)), (4, (4, 6))])
def test_photo_of_any_number_of_channels(channels: int, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 4, 6), dtype=np.uint8)
    tile = tiles.photo(image)
    assert tile.shape == shape
    assert np.array_equal(tile if channels != 3 else tile[..., 0], image[0])


def test_float_photos_are_stretched() -> None:
    assert tiles.photo(np.array([[[-1.0, 0.0, 1.0]]])).tolist() == [[0, 128, 255]]
    assert tiles.photo(np.full((1, 2, 2), 7.0)).max() == 0


def test_sign_is_colour_and_size_is_opacity() -> None:
    tile = tiles.signed(np.array([[2.0, -1.0, 0.0, np.nan, np.inf]]), 2.0)[0]
    assert tuple(tile[0, :3]) == tiles.POSITIVE
    assert tuple(tile[1, :3]) == tiles.NEGATIVE
    assert tile[:, 3].tolist() == [255, 128, 0, 0, 255]


def test_filters_in_colour_and_signed() -> None:
    assert [t.shape for t in tiles.filters(np.random.default_rng(0).normal(size=(70, 3, 5, 5)))] == [(5, 5, 3)] * 64
    assert [t.shape for t in tiles.filters(np.ones((2, 16, 3, 3)))] == [(3, 3, 4)] * 2
    assert tiles.filters(np.zeros((1, 1, 3, 3)))[0][..., 3].max() == 0


def test_feature_maps_share_one_scale() -> None:
    loud, quiet = tiles.feature_maps(np.stack([np.full((4, 4), 10.0), np.full((4, 4), 1.0)]))
    assert loud[..., 3].max() == 255
    assert quiet[..., 3].max() == 26
    assert tiles.feature_maps(np.zeros((1, 2, 2)))[0][..., 3].max() == 0


@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=4, max_size=4))
def test_worst_pairs_are_the_largest_mistakes(rows: list[list[int]]) -> None:
    matrix = np.array(rows)
    wrong = sorted((matrix[i, j] for i in range(4) for j in range(4) if i != j and matrix[i, j]), reverse=True)
    pairs = tiles.worst_pairs(matrix, at_most=5)
    assert [count for _, _, count, _ in pairs] == wrong[:5]
    assert all(matrix[t, g] == n and share == pytest.approx(n / matrix[t].sum()) for t, g, n, share in pairs)
