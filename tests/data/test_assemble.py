from __future__ import annotations

import numpy as np
import pytest
import torch

from dimwise.data.assemble import Raw, assemble, named_path, require_task, shorten, standardise, statistics
from dimwise.data.config import DataConfig
from dimwise.errors import DataError


def images(n=60, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, channels, 4, 5), dtype=np.uint8), np.arange(n) % 3


def test_byte_statistics_equal_numpy():
    x, _ = images()
    scale, mean, std = statistics(torch.from_numpy(x))
    expected = x.astype(np.float64) / 255
    assert scale == 1 / 255
    assert mean == pytest.approx(expected.mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx(expected.std((0, 2, 3)), abs=1e-12)


@pytest.mark.parametrize("shape", [(3000, 4), (2500, 2, 3, 3)])
def test_float_statistics_equal_numpy_over_several_chunks(shape):
    x = np.random.default_rng(1).normal(5, 3, shape).astype(np.float32)
    scale, mean, std = statistics(torch.from_numpy(x))
    axes = (0, *range(2, len(shape)))
    assert scale == 1.0
    assert mean == pytest.approx(x.mean(axes, dtype=np.float64), abs=1e-9)
    assert std == pytest.approx(x.astype(np.float64).std(axes), abs=1e-9)


def test_a_channel_that_does_not_vary_gets_std_one():
    x = torch.full((10, 2, 3, 3), 7, dtype=torch.uint8)
    assert statistics(x)[2] == (1.0, 1.0)
    assert statistics(torch.full((10, 1), 0.1))[2] == (1.0,)


def test_statistics_see_the_training_split_alone():
    x, y = images(90)
    train_x, train_y = np.zeros_like(x), y
    train_x[::2] = 255
    raw = Raw("toy", (train_x, train_y), ["a", "b", "c"], valid=(x, y), test=(x, y))
    data = assemble(raw, DataConfig())
    # half of the training pixels are 0, half 255: mean and deviation are exactly one half
    assert data.normalise.factor.tolist() == pytest.approx([2 / 255] * 3)
    assert data.normalise.offset.tolist() == pytest.approx([-1.0] * 3)
    assert len(data.train.inputs) == len(data.train) == 90


def test_official_parts_are_kept_and_the_missing_ones_cut():
    x, y = images(60)
    both = assemble(Raw("t", (x, y), "abc", valid=(x[:9], y[:9]), test=(x[:6], y[:6])), DataConfig())
    assert (len(both.train), len(both.valid), len(both.test)) == (60, 9, 6)
    only_test = assemble(Raw("t", (x, y), "abc", test=(x[:6], y[:6])), DataConfig(valid_frac=0.2))
    assert (len(only_test.train), len(only_test.valid), len(only_test.test)) == (48, 12, 6)
    only_valid = assemble(Raw("t", (x, y), "abc", valid=(x[:6], y[:6])), DataConfig(test_frac=0.3))
    assert (len(only_valid.train), len(only_valid.valid), len(only_valid.test)) == (42, 6, 18)


def test_types_of_the_result():
    x, y = images()
    data = assemble(Raw("t", (x, y), ["a", "b", "c"]), DataConfig())
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.targets.dtype == torch.int64
    assert data.train.inputs.is_contiguous()
    assert (data.input_shape, data.n_outputs) == ((3, 4, 5), 3)


def test_read_only_arrays_are_copied():
    x, y = images()
    x.setflags(write=False)
    data = assemble(Raw("t", (x, y), "abc", test=(x, y)), DataConfig())
    data.test.inputs[0] = 0
    assert x[0].any()


def test_train_limit_is_noted_and_leaves_the_held_out_parts_alone():
    x, y = images(90)
    whole = assemble(Raw("t", (x, y), "abc"), DataConfig())
    cut = assemble(Raw("t", (x, y), "abc"), DataConfig(train_limit=12))
    assert torch.bincount(cut.train.targets).tolist() == [4, 4, 4]
    assert torch.equal(cut.test.inputs, whole.test.inputs)
    assert cut.notes == ("training split limited to 12 by data.train_limit",)


def test_regression_targets_are_standardised_and_the_way_back_is_kept():
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    y = np.stack([x[:, 0] * 1000 + 5000, x[:, 1]], axis=1)
    data = assemble(Raw("t", (x, y), ["price", "b"], "regression"), DataConfig())
    target = data.reading["target"]
    assert data.train.targets.dtype == torch.float32
    assert data.train.targets.mean(0).tolist() == pytest.approx([0, 0], abs=1e-6)
    back = data.test.targets.double() * torch.tensor(target["std"]) + torch.tensor(target["mean"])
    assert torch.allclose(back[:, 0], data.test.inputs[:, 0].double() * 1000 + 5000, atol=1e-2)
    assert standardise(np.array([[3.0]]), {"mean": [1.0], "std": [2.0]}).tolist() == [[1.0]]


def test_centred_features_only_are_standardised():
    x = np.stack([np.arange(40.0), np.arange(40) % 2], axis=1).astype(np.float32)
    data = assemble(Raw("t", (x, np.arange(40) % 2), "ab"), DataConfig(), centred=np.array([True, False]))
    normalised = data.normalise(data.train.inputs)
    assert normalised[:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert set(normalised[:, 1].tolist()) == {0.0, 1.0}


def test_an_absent_class_is_noted():
    x, y = images(60)
    y = y.copy()
    y[y == 2] = 0
    y[0] = 2
    data = assemble(Raw("t", (x, y), ["a", "b", "rare"]), DataConfig())
    assert "no test sample of 1 of 3 classes: rare" in data.notes


def test_the_path_is_looked_up_here_and_in_the_data_folder(tmp_path):
    (tmp_path / "mine.npz").touch()
    assert named_path(DataConfig(source="npz", path="mine.npz"), tmp_path) == tmp_path / "mine.npz"
    with pytest.raises(DataError, match=r"data\.path is empty but data\.source is 'npz'"):
        named_path(DataConfig(source="npz"), tmp_path)
    with pytest.raises(DataError, match=r"yours\.npz does not exist.*" + str(tmp_path)):
        named_path(DataConfig(source="npz", path="yours.npz"), tmp_path)


def test_a_task_that_the_source_cannot_serve():
    with pytest.raises(DataError, match=r"data\.task is 'regression' but source 'digits'.*auto or classification"):
        require_task(DataConfig(task="regression"), "classification")


def test_shorten():
    assert shorten(["a", "b"]) == "a, b"
    assert shorten(range(9)) == "0, 1, 2, 3, 4, … (9 in all)"
