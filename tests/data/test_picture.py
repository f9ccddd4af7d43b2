from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dimwise.data.picture import look, read_picture
from dimwise.errors import DataError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0]


def save(tmp_path, array, name="a.png", mode=None, **options):
    path = tmp_path / name
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_colour_pixels_arrive_channels_first(tmp_path):
    path = save(tmp_path, COLOUR)
    assert look(path) == (3, 6, 9)
    pixels = read_picture(path, channels=3, height=6, width=9)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, COLOUR.transpose(2, 0, 1))


def test_grey_pixels(tmp_path):
    path = save(tmp_path, GREY)
    assert look(path) == (1, 6, 9)
    assert np.array_equal(read_picture(path, channels=1, height=6, width=9), GREY[None])
    assert read_picture(path, channels=3, height=6, width=9).shape == (3, 6, 9)


def test_colour_read_as_grey(tmp_path):
    path = save(tmp_path, COLOUR)
    expected = np.asarray(Image.fromarray(COLOUR).convert("L"))
    assert np.array_equal(read_picture(path, channels=1, height=6, width=9)[0], expected)


def test_sixteen_bit_grey_keeps_its_upper_half(tmp_path):
    deep = (GREY.astype(np.uint16) << 8) + 77
    path = save(tmp_path, deep)
    assert look(path)[0] == 1
    assert np.array_equal(read_picture(path, channels=1, height=6, width=9)[0], GREY)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_other_modes_count_as_colour(tmp_path, mode):
    path = save(tmp_path, COLOUR, "a.tif", mode)
    assert look(path)[0] == 3
    assert read_picture(path, channels=3, height=6, width=9).shape == (3, 6, 9)


def test_one_bit_is_grey(tmp_path):
    path = save(tmp_path, GREY, mode="1")
    assert look(path)[0] == 1
    assert set(np.unique(read_picture(path, channels=1, height=6, width=9))) <= {0, 255}


def test_resizing_is_bilinear(tmp_path):
    path = save(tmp_path, COLOUR)
    expected = np.asarray(Image.fromarray(COLOUR).resize((4, 3), Image.Resampling.BILINEAR))
    assert np.array_equal(read_picture(path, channels=3, height=3, width=4), expected.transpose(2, 0, 1))


def test_exif_turns_the_picture(tmp_path):
    turned = Image.fromarray(COLOUR)
    exif = turned.getexif()
    exif[274] = 6  # show it turned by 90 degrees
    path = tmp_path / "a.png"
    turned.save(path, exif=exif)
    assert look(path) == (3, 9, 6)
    expected = np.rot90(COLOUR, -1).transpose(2, 0, 1)
    assert np.array_equal(read_picture(path, channels=3, height=9, width=6), expected)


def test_files_that_are_no_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"hello")
    for read in (look, lambda p: read_picture(p, channels=1, height=2, width=2)):
        with pytest.raises(DataError, match=r"a\.png cannot be read \(it is not a picture\)"):
            read(path)
    with pytest.raises(DataError, match=r"b\.png cannot be read \(.*No such file"):
        look(tmp_path / "b.png")


def test_a_picture_that_ends_too_early(tmp_path):
    big = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        path = save(tmp_path, big, name)
        path.write_bytes(path.read_bytes()[:900])
        with pytest.raises(DataError, match=rf"{name} cannot be read \(.+\); expected a whole picture file"):
            read_picture(path, channels=3, height=64, width=64)
