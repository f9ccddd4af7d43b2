from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from dimwise.data import DataConfig, load
from dimwise.errors import DataError

RNG = np.random.default_rng(0)


def paint(folder, names=("cat", "dog"), n=10, shape=(6, 8, 3), suffix=".png"):
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}{suffix}")


def read(tmp_path, **config):
    return load(DataConfig(source="folder", path="pets", **config), tmp_path)


def test_sub_folders_are_classes(tmp_path):
    paint(tmp_path / "pets")
    data = read(tmp_path)
    assert data.labels == ("cat", "dog")
    assert (len(data.train), len(data.valid), len(data.test)) == (14, 2, 4)
    assert data.input_shape == (3, 6, 8)
    assert data.reading == {"kind": "image", "channels": 3, "height": 6, "width": 8}
    assert data.notes == ()


def test_pixels_and_labels_stay_together(tmp_path):
    paint(tmp_path / "pets" / "train")
    paint(tmp_path / "pets" / "test", n=2)
    data = read(tmp_path)
    last = np.asarray(Image.open(tmp_path / "pets" / "test" / "dog" / "001.png"))
    assert torch.equal(data.test.inputs[3], torch.from_numpy(last.transpose(2, 0, 1).copy()))
    assert data.test.targets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("valid", ["valid", "val"])
def test_parts_that_are_there_are_kept(tmp_path, valid):
    for part, n in (("train", 10), (valid, 3), ("test", 2)):
        paint(tmp_path / "pets" / part, n=n)
    data = read(tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 6, 4)


def test_grey_stays_grey_and_one_colour_picture_makes_all_colour(tmp_path):
    paint(tmp_path / "pets", shape=(6, 8))
    assert read(tmp_path).input_shape == (1, 6, 8)
    paint(tmp_path / "pets", names=("cat",), n=1)
    assert read(tmp_path).input_shape == (3, 6, 8)


def test_sizes(tmp_path):
    paint(tmp_path / "pets")
    paint(tmp_path / "pets", names=("fox",), shape=(10, 10, 3), suffix=".jpg")
    data = read(tmp_path)
    assert data.input_shape == (3, 6, 8)
    assert "10 of 30 pictures resized to 6×8" in data.notes
    assert read(tmp_path, image_size=5).input_shape == (3, 5, 5)


def test_one_broken_picture_among_many_is_named(tmp_path):
    paint(tmp_path / "pets")
    bad = tmp_path / "pets" / "dog" / "004.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"dog/004\.png cannot be read .*Remove it, or set data\.skip_corrupt=true\."):
        read(tmp_path)
    data = read(tmp_path, skip_corrupt=True)
    assert len(data.train) + len(data.valid) + len(data.test) == 19
    assert len(data.notes) == 1
    assert "skipped: " in data.notes[0]
    assert "dog/004.png" in data.notes[0]


def test_a_picture_broken_behind_its_head(tmp_path):
    paint(tmp_path / "pets", shape=(40, 40, 3))
    bad = tmp_path / "pets" / "cat" / "007.png"
    bad.write_bytes(bad.read_bytes()[:800])
    with pytest.raises(DataError, match=r"cat/007\.png cannot be read"):
        read(tmp_path)
    data = read(tmp_path, skip_corrupt=True)
    assert len(data.train) + len(data.valid) + len(data.test) == 19
    assert "cat/007.png" in data.notes[0]


def test_nothing_readable(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match="none of the 2 pictures can be read"):
        read(tmp_path, skip_corrupt=True)


def test_other_files_are_left_out_and_counted(tmp_path):
    paint(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "pets" / "cat" / ".hidden.png").write_text("x")
    (tmp_path / "pets" / "README").write_text("x")
    assert read(tmp_path).notes == ("left out in pets, for endings that are no picture's: 1",)


def test_missing_empty_or_flat_folders(tmp_path):
    with pytest.raises(DataError, match=r"pets does not exist, neither here .* nor in the data folder"):
        read(tmp_path)
    (tmp_path / "pets").mkdir()
    with pytest.raises(DataError, match=r"pets has 0 sub-folders with 0 pictures; expected at least two sub-folders"):
        read(tmp_path)
    paint(tmp_path / "pets", names=("cat",))
    with pytest.raises(DataError, match=r"pets has 1 sub-folders with 10 pictures"):
        read(tmp_path)
    (tmp_path / "pets" / "dog").mkdir()
    data = read(tmp_path)
    assert "no training sample of 1 of 2 classes: dog" in data.notes
    with pytest.raises(DataError, match=r"000\.png is a file; expected a folder"):
        load(DataConfig(source="folder", path="pets/cat/000.png"), tmp_path)


def test_a_class_that_training_does_not_have(tmp_path):
    paint(tmp_path / "pets" / "train")
    paint(tmp_path / "pets" / "test", names=("cat", "fox"), n=2)
    with pytest.raises(DataError, match=r"fox is a class that the training folder does not have; .*cat, dog"):
        read(tmp_path)


def test_more_than_fits_into_memory(tmp_path, monkeypatch):
    paint(tmp_path / "pets")
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=1000))
    with pytest.raises(DataError, match=r"20 pictures of 3×6×8 bytes take .* Set a smaller data\.image_size"):
        read(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only here may file names be any bytes")
def test_names_that_are_no_utf8_become_text_that_can_be_written(tmp_path):
    paint(tmp_path / "pets")
    place = os.fsencode(tmp_path / "pets")
    for name in (b"c\xe9t", b"c\xeat"):
        Path(os.fsdecode(place + b"/" + name)).mkdir()
        for i in range(10):
            Path(tmp_path, f"pets/cat/{i:03d}.png").rename(os.fsdecode(place + b"/" + name + b"/%03d.png" % i))
        paint(tmp_path / "pets", names=("cat",))
    Path(os.fsdecode(place + b"/dog/\xff.png")).write_bytes(b"no picture")
    data = read(tmp_path, skip_corrupt=True)
    assert len(set(data.labels)) == 4
    assert data.labels[1:3] == (r"c\xe9t", r"c\xeat")
    assert r"dog/\xff.png cannot be read" in "".join(data.notes)
    "".join((*data.labels, *data.notes)).encode()
