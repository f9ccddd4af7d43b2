from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from dimwise.data import DataConfig, load
from dimwise.data.sets import Normalise
from dimwise.data.sources.idx import find, read_idx
from dimwise.errors import DataError


def idx_bytes(array, magic=None):
    head = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def write_set(folder: Path, *, n_train=40, n_test=20, first=(1, 2, 3), mark="-", end=".gz", n_labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", n_train), ("t10k", n_test)):
        labels = np.arange(n if n_labels is None else n_labels) % 10
        labels[: len(first)] = first
        images = rng.integers(0, 256, (n, 4, 5))
        for kind, array in (("images", images), ("labels", labels)):
            content = idx_bytes(array)
            name = f"{part}-{kind}{mark}idx{array.ndim}-ubyte{end}"
            (folder / name).write_bytes(gzip.compress(content) if end else content)


LAYOUTS = ["mnist", "MNIST/raw", "mnist/raw", "."]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("mark", "end"), [("-", ".gz"), ("-", ""), (".", ""), (".", ".gz")])
def test_every_usual_layout_and_spelling(tmp_path, layout, mark, end):
    write_set(tmp_path / layout, mark=mark, end=end)
    data = load(DataConfig(source="mnist", valid_frac=0.25), tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (30, 10, 20)
    assert data.input_shape == (1, 4, 5)
    assert data.reading == {"kind": "image", "channels": 1, "height": 4, "width": 5}


@pytest.mark.parametrize("layout", ["fashion_mnist", "FashionMNIST/raw", "fashion", "."])
def test_fashion_layouts(tmp_path, layout):
    write_set(tmp_path / layout)
    data = load(DataConfig(source="fashion"), tmp_path)
    assert data.labels[9] == "Ankle boot"


def test_pixels_and_labels_stay_together(tmp_path):
    write_set(tmp_path / "mnist")
    images = read_idx(tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz", 3)
    data = load(DataConfig(source="mnist"), tmp_path)
    assert torch.equal(data.test.inputs[:, 0], torch.from_numpy(images.copy()))
    assert data.test.targets[:5].tolist() == [1, 2, 3, 3, 4]


def test_an_incomplete_folder_does_not_count(tmp_path):
    write_set(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert find("mnist", tmp_path) is None


def test_wrong_magic_names_the_bytes(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"<html><body>not found")
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte begins with the bytes 3c 68 74 6d; expected 00 00 08 03, an idx file"
    ):
        read_idx(path, 3)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"begins with the bytes \(none\)"):
        read_idx(path, 3)


def test_labels_given_as_images(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.zeros(5)))
    with pytest.raises(DataError, match="00 00 08 01; expected 00 00 08 03"):
        read_idx(path, 3)


@pytest.mark.parametrize("n_lost", [1, 100, 390])
def test_truncated_names_found_and_expected_bytes(tmp_path, n_lost):
    whole = idx_bytes(np.zeros((20, 4, 5)))
    path = tmp_path / "images"
    path.write_bytes(whole[:-n_lost])
    with pytest.raises(
        DataError, match=rf"images holds {len(whole) - n_lost} bytes; expected {len(whole)} for the shape 20×4×5"
    ):
        read_idx(path, 3)


def test_truncated_header_and_trailing_bytes(tmp_path):
    whole = idx_bytes(np.zeros((20, 4, 5)))
    path = tmp_path / "images"
    path.write_bytes(whole[:10])
    with pytest.raises(DataError, match=r"images holds 10 bytes"):
        read_idx(path, 3)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match=rf"images holds at least {len(whole) + 1} bytes"):
        read_idx(path, 3)


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"no gzip at all", lambda b: b[:40] + b"\xff" * 60])
def test_a_damaged_gzip(tmp_path, damage):
    path = tmp_path / "images.gz"
    rng = np.random.default_rng(0)
    path.write_bytes(damage(gzip.compress(idx_bytes(rng.integers(0, 256, (20, 4, 5))))))
    with pytest.raises(DataError, match=r"images\.gz is not a whole gzip file .*Delete it and fetch it again\."):
        read_idx(path, 3)


def test_counts_that_do_not_match(tmp_path):
    write_set(tmp_path / "mnist", n_labels=39)
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte\.gz holds 40 images but train-labels.* holds 39 labels"
    ):
        load(DataConfig(source="mnist"), tmp_path)


def test_a_label_out_of_range(tmp_path):
    write_set(tmp_path / "mnist", first=(77,))
    with pytest.raises(DataError, match=r"holds the label 77; expected labels below 10"):
        load(DataConfig(source="mnist"), tmp_path)


def test_the_other_set_under_the_same_file_names(tmp_path):
    write_set(tmp_path, first=(5, 0, 4, 1, 9, 2, 1, 3))
    with pytest.raises(DataError, match=r"holds mnist, not fashion"):
        load(DataConfig(source="fashion"), tmp_path)


def test_a_set_that_is_not_there_is_fetched_first(tmp_path, monkeypatch):
    asked = []

    def bring(name, data_dir, *, progress):
        asked.append(name)
        write_set(data_dir / "fashion_mnist")
        return data_dir / "fashion_mnist"

    monkeypatch.setattr("dimwise.data.fetch.fetch", bring)
    assert len(load(DataConfig(source="fashion"), tmp_path).test) == 20
    load(DataConfig(source="fashion"), tmp_path)
    assert asked == ["fashion"]


@pytest.mark.real
def test_real_mnist(data_dir):
    data = load(DataConfig(source="mnist", valid_frac=0.1), data_dir)
    assert (len(data.train), len(data.valid), len(data.test)) == (54000, 6000, 10000)
    assert data.test.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert isinstance(data.normalise, Normalise)
    mean = -(data.normalise.offset / data.normalise.factor) / 255
    assert mean.item() == pytest.approx(0.1307, abs=5e-4)
    assert torch.bincount(data.valid.targets).tolist() == pytest.approx([600] * 10, abs=90)
