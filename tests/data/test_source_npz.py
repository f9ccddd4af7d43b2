from __future__ import annotations

import numpy as np
import pytest
import torch

from dimwise.data import DataConfig, load
from dimwise.errors import DataError

RNG = np.random.default_rng(0)


def read(tmp_path, **arrays):
    config = {key: arrays.pop(key) for key in ("task", "valid_frac") if key in arrays}
    np.savez(tmp_path / "mine.npz", **arrays)
    return load(DataConfig(source="npz", path="mine.npz", **config), tmp_path)


def byte_images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


LABELS = np.arange(40) % 4


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((40, 6, 7), (1, 6, 7)),
        ((40, 6, 7, 3), (3, 6, 7)),
        ((40, 3, 6, 7), (3, 6, 7)),
        ((40, 6, 7, 1), (1, 6, 7)),
        ((40, 3, 6, 3), (3, 6, 3)),
        ((40, 4, 4, 1), (1, 4, 4)),
        ((40, 5, 6, 7), (5, 6, 7)),
    ],
)
def test_where_the_channels_are(tmp_path, shape, expected):
    data = read(tmp_path, x=byte_images(*shape), y=LABELS)
    assert data.input_shape == expected
    assert data.train.inputs.dtype == torch.uint8
    assert data.reading == dict(zip(("kind", "channels", "height", "width"), ("image", *expected), strict=True))


def test_channels_last_pixels_go_to_their_places(tmp_path):
    x = byte_images(40, 6, 7, 3)
    data = read(tmp_path, x_train=x, y_train=LABELS, x_test=x[:8], y_test=LABELS[:8])
    assert torch.equal(data.test.inputs, torch.from_numpy(x[:8].transpose(0, 3, 1, 2).copy()))


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_valid", "y_valid", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("inputs_train", "targets_train", "inputs_validation", "targets_validation", "inputs_test", "targets_test"),
    ],
)
def test_official_parts_under_their_usual_names(tmp_path, keys):
    sizes = (40, 40, 12, 12, 8, 8)
    arrays = {
        key: (byte_images(n, 5, 5) if i % 2 == 0 else np.arange(n) % 4)
        for i, (key, n) in enumerate(zip(keys, sizes, strict=True))
    }
    data = read(tmp_path, **arrays)
    assert (len(data.train), len(data.valid), len(data.test)) == (40, 12, 8)


@pytest.mark.parametrize(
    "keys", [("inputs", "targets"), ("x", "y"), ("X", "y"), ("images", "labels"), ("data", "target")]
)
def test_unsplit_arrays_are_split(tmp_path, keys):
    data = read(tmp_path, **dict(zip(keys, (byte_images(40, 5, 5), LABELS), strict=True)))
    assert (len(data.train), len(data.valid), len(data.test)) == (28, 4, 8)


def test_float_arrays_stay_floats(tmp_path):
    data = read(tmp_path, x=RNG.normal(size=(40, 6)), y=LABELS)
    assert data.train.inputs.dtype == torch.float32
    assert data.reading == {"kind": "array", "shape": [6]}
    assert len(data.normalise.factor) == 6


def test_names_and_labels(tmp_path):
    named = read(tmp_path, x=byte_images(40, 5, 5), y=LABELS, class_names=np.array(["a", "b", "c", "d"]))
    assert named.labels == ("a", "b", "c", "d")
    found = read(tmp_path, x=byte_images(40, 5, 5), y=LABELS * 10 + 5)
    assert found.labels == ("5", "15", "25", "35")
    texts = read(tmp_path, x=byte_images(40, 5, 5), y=np.array(["dog", "cat"] * 20))
    assert texts.labels == ("cat", "dog")
    assert texts.task == "classification"


def test_a_column_of_labels_is_flattened(tmp_path):
    data = read(tmp_path, x=byte_images(40, 5, 5), y=LABELS[:, None], task="classification")
    assert data.train.targets.shape == (28,)


def test_regression_and_multilabel(tmp_path):
    x = RNG.normal(size=(40, 3))
    regression = read(tmp_path, x=x, y=x.sum(1))
    assert (regression.task, regression.labels) == ("regression", ("y0",))
    assert regression.train.targets.shape == (28, 1)
    assert "task regression, from targets float64 (40,)" in regression.notes
    many = read(tmp_path, x=x, y=(x > 0).astype(np.int64), label_names=np.array(["p", "q", "r"]))
    assert (many.task, many.labels) == ("multilabel", ("p", "q", "r"))
    assert set(many.train.targets.unique().tolist()) == {0.0, 1.0}


def test_python_objects_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"mine\.npz is not an \.npz of plain arrays"):
        read(tmp_path, x=np.array([{}, []], dtype=object), y=LABELS)


def test_files_that_are_no_npz(tmp_path):
    path = tmp_path / "mine.npz"
    config = DataConfig(source="npz", path="mine.npz")
    path.write_bytes(b"hello")
    with pytest.raises(DataError, match=r"mine\.npz is not an \.npz of plain arrays"):
        load(config, tmp_path)
    np.savez(path, x=byte_images(40, 5, 5), y=LABELS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"mine\.npz (cannot be read|is not an)"):
        load(config, tmp_path)
    with path.open("wb") as file:
        np.save(file, LABELS)
    with pytest.raises(DataError, match=r"mine\.npz is a single array"):
        load(config, tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"mine\.npz cannot be read"):
        load(config, tmp_path)


def test_missing_keys_list_what_is_there(tmp_path):
    with pytest.raises(DataError, match=r"mine\.npz holds a, b; expected x_train and y_train"):
        read(tmp_path, a=LABELS, b=LABELS)
    with pytest.raises(DataError, match=r"holds x_test, y_test; expected x_train"):
        read(tmp_path, x_test=byte_images(4, 5, 5), y_test=LABELS[:4])


def test_nan_is_counted_and_placed(tmp_path):
    x = RNG.normal(size=(40, 3))
    x[7, 1] = np.nan
    x[9, 0] = np.inf
    with pytest.raises(DataError, match=r"mine\.npz x holds 2 values that are NaN or infinite, first in row 7"):
        read(tmp_path, x=x, y=LABELS)
    y = np.linspace(0, 1, 40)
    y[3] = np.nan
    with pytest.raises(DataError, match=r"train targets are NaN or infinite in row 3;"):
        read(tmp_path, x=np.zeros((40, 3)), y=y)


def test_shapes_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match=r"x has shape \(40, 5\) but .*y has \(39,\); expected as many targets"):
        read(tmp_path, x=np.zeros((40, 5)), y=LABELS[:39])
    with pytest.raises(DataError, match=r"x is empty, shape \(0, 5\)"):
        read(tmp_path, x=np.zeros((0, 5)), y=LABELS[:0])
    with pytest.raises(DataError, match=r"different kinds: train uint8 \(N, 1, 5, 5\); test uint8 \(N, 1, 6, 5\)"):
        read(tmp_path, x_train=byte_images(40, 5, 5), y_train=LABELS, x_test=byte_images(4, 6, 5), y_test=LABELS[:4])
    with pytest.raises(DataError, match="x has type <U1; expected numbers"):
        read(tmp_path, x=np.array(["a"] * 40), y=LABELS)
    with pytest.raises(DataError, match=r"train targets have shape \(40, 2\); expected \(N,\)"):
        read(tmp_path, x=np.zeros((40, 5)), y=np.zeros((40, 2)), task="classification")
    with pytest.raises(DataError, match=r"has 3 target columns; expected 2, as many as names"):
        read(tmp_path, x=np.zeros((40, 5)), y=RNG.normal(size=(40, 3)), names=np.array(["a", "b"]))


def test_labels_without_a_name(tmp_path):
    with pytest.raises(DataError, match=r"train targets are int64 from 0 to 3; expected whole numbers from 0 to 1"):
        read(tmp_path, x=byte_images(40, 5, 5), y=LABELS, class_names=np.array(["a", "b"]))


def test_one_class_only(tmp_path):
    with pytest.raises(DataError, match="has the single class 0"):
        read(tmp_path, x=byte_images(40, 5, 5), y=LABELS * 0)
