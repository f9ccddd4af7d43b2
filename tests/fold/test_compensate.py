"""Rounding that looks at the inputs: patches as a convolution sees them, errors that others make up for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dimwise.fold import _onnx
from dimwise.fold._numbers import compensation
from dimwise.fold._numbers.compensation import compensated, layer_of
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.fold.share import ShareConfig, share


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(node: object, index: int, shape: tuple[int, ...]) -> compensation.Layer:
    found = layer_of(node, index, shape)
    assert found is not None
    return found


def rounded(values: np.ndarray, _: int) -> np.ndarray:
    return np.round(values)


# Columns


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((6, 4, 3, 3), {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
        ((6, 2, 3, 2), {"group": 2, "dilations": [2, 1]}),
        ((4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
        ((6, 4, 3), {"pads": [2, 1], "strides": [2], "dilations": [2]}),
    ],
)
def test_a_convolution_is_rows_times_columns(shape, told):
    size = (3, 4, 9, 8) if len(shape) == 4 else (3, 4, 11)
    x, w = normal(*size), normal(*shape, seed=1)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", **told)
    layer = layer_of(node, 1, shape)
    got = layer.rows(w) @ layer.columns(x)  # (G, R, positions)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, shape, w.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (want,) = _onnx.session(model).run(None, {"x": x})
    np.testing.assert_allclose(got.reshape(shape[0], -1), np.moveaxis(want, 1, 0).reshape(shape[0], -1), atol=1e-4)
    np.testing.assert_array_equal(layer.values(layer.rows(w)), w)


@pytest.mark.parametrize(
    ("kind", "index", "told", "shape", "inputs"),
    [
        ("Gemm", 1, {"transB": 1}, (5, 7), (4, 7)),
        ("Gemm", 1, {}, (7, 5), (4, 7)),
        ("MatMul", 1, {}, (7, 5), (2, 4, 7)),
        ("MatMul", 0, {}, (5, 7), (2, 7, 4)),
    ],
)
def test_a_product_is_rows_times_columns(kind, index, told, shape, inputs):
    x, w = normal(*inputs), normal(*shape, seed=1)
    layer = layer_of(helper.make_node(kind, ["a", "b"], ["y"], "it", **told), index, shape)
    got = (layer.rows(w) @ layer.columns(x))[0]
    if index == 0:
        want = np.moveaxis(w @ x, -2, 0).reshape(5, -1)
    else:
        want = (x @ (w.T if told else w)).reshape(-1, 5).T
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(layer.values(layer.rows(w)), w)


@pytest.mark.parametrize(
    ("kind", "index", "told", "shape"),
    [
        ("Conv", 1, {"auto_pad": "SAME_UPPER"}, (4, 4, 3, 3)),
        ("Conv", 1, {}, (4, 4, 3, 3, 3)),
        ("Gemm", 1, {"transA": 1}, (4, 4)),
        ("MatMul", 1, {}, (2, 4, 4)),
        ("LSTM", 1, {}, (1, 16, 4)),
        ("Gather", 0, {}, (9, 4)),
        ("ConvTranspose", 1, {}, (4, 4, 3, 3)),
    ],
)
def test_what_is_not_looked_at_says_so(kind, index, told, shape):
    assert layer_of(helper.make_node(kind, ["a", "b", "c"], ["y"], "it", **told), index, shape) is None


def test_moments_are_those_of_the_layers_inputs(proto):
    """Also of a layer in the middle, and with many more positions than are looked at."""
    first, second = normal(8, 3, 3, 3), normal(5, 8, 3, 3, seed=1)
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["a"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "second"], ["output"], "two"),
    ]
    model = proto(nodes, {"first": first, "second": second}, (TensorProto.FLOAT, ["N", 3, 12, 12]), ["N", 5, 10, 10])
    layers = [layer(nodes[0], 1, first.shape), layer(nodes[2], 1, second.shape)]
    x = normal(70, 3, 12, 12, seed=2)
    got = compensation.moments(model, layers, x)
    hidden = F.relu(F.conv2d(torch.from_numpy(x), torch.from_numpy(first), padding=1))
    for moment, seen, pad in ((got[0], torch.from_numpy(x), 1), (got[1], hidden, 0)):
        columns = F.unfold(seen, 3, padding=pad).transpose(0, 1).flatten(1).double().numpy()
        np.testing.assert_allclose(moment[0], columns @ columns.T / columns.shape[1], atol=0.02 * moment.max())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compensation, "MAX_POSITIONS", 2000)
        few = compensation.moments(model, layers, x)
    assert not np.array_equal(few[0], got[0])
    np.testing.assert_allclose(few[0], got[0], atol=0.1 * got[0].max())


def test_only_so_many_moments_are_held_at_once(monkeypatch):
    layers = [layer(helper.make_node("Conv", ["x", "w"], [f"y{i}"]), 1, (4, 10, 1, 1)) for i in range(5)]
    runs = []

    def observed(_: object, part: list, __: object) -> list[int]:
        runs.append([one.node.output[0] for one in part])
        return [int(name[1:]) for name in runs[-1]]

    monkeypatch.setattr(compensation, "moments", observed)
    for n_bytes, most, expected in (
        (2**20, 9, [["y0", "y1", "y2", "y3", "y4"]]),
        (2**20, 3, [["y0", "y1", "y2"], ["y3", "y4"]]),
        (2 * 100 * 8, 9, [["y0", "y1"], ["y2", "y3"], ["y4"]]),
        (10, 9, [["y0"], ["y1"], ["y2"], ["y3"], ["y4"]]),
    ):
        runs.clear()
        monkeypatch.setattr(compensation, "MAX_BYTES", n_bytes)
        moment = compensation.observing(None, layers, np.zeros(1), most=most)
        assert [moment(one) for one in layers] == [0, 1, 2, 3, 4]
        assert runs == expected


# Rounding


@given(seed=st.integers(0, 1000), n=st.integers(1, 150), mixed=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_outputs_err_no_more_than_with_the_nearest(seed, n, mixed):
    """Whatever the inputs; and much less where they go together."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, mixed)) @ rng.standard_normal((mixed, 400)) + 0.1 * rng.standard_normal((n, 400))
    weights = 3 * rng.standard_normal((8, n))
    made = compensated(weights, x @ x.T / 400, rounded)
    assert (made == np.round(made)).all()

    def error(values: np.ndarray) -> float:
        return float(np.square((values - weights) @ x).sum())

    assert error(made) <= 1.05 * error(np.round(weights))
    if n > 20 * mixed:
        assert error(made) < 0.5 * error(np.round(weights))


def test_inputs_that_have_nothing_in_common_round_to_the_nearest():
    weights = 3 * normal(4, 20).astype(np.float64)
    np.testing.assert_array_equal(compensated(weights, np.diag(np.arange(1.0, 21)), rounded), np.round(weights))


def test_inputs_that_are_always_zero_round_to_the_nearest():
    weights = 3 * normal(4, 20).astype(np.float64)
    np.testing.assert_array_equal(compensated(weights, np.zeros((20, 20)), rounded), np.round(weights))
    x = normal(20, 50).astype(np.float64)
    x[7] = 0
    assert np.isfinite(compensated(weights, x @ x.T, rounded)).all()


def test_zeros_stay():
    weights = 3 * normal(6, 90).astype(np.float64)
    weights[:, ::2] = 0
    x = normal(90, 5).astype(np.float64) @ normal(5, 300, seed=1)
    made = compensated(weights, x @ x.T, rounded, still=weights == 0)
    assert (made[:, ::2] == 0).all()
    assert (compensated(weights, x @ x.T, rounded)[:, ::2] != 0).any()


# In share


@pytest.mark.parametrize("quantized", [False, True])
def test_sixteen_numbers_cost_less_when_the_inputs_are_looked_at(graph, evidence, quantized):
    model = quantize(graph, QuantizeConfig(), evidence)[0] if quantized else graph
    x = evidence.data.valid.inputs.numpy()
    want = _onnx.outputs(model, x)
    size, error = {}, {}
    for n in (0, 256):
        made, _ = share(model, ShareConfig(bits=4, n_calibration=n), evidence)
        size[n], error[n] = len(made.SerializeToString()), float(np.square(_onnx.outputs(made, x) - want).mean())
    assert error[256] < 0.5 * error[0]
    assert size[256] == pytest.approx(size[0], rel=0.02)


def test_what_was_pruned_stays_pruned(proto, evidence):
    w = normal(64, 40)
    w[np.abs(w) < 0.8] = 0
    nodes = [helper.make_node("MatMul", ["input", "w"], ["output"], "one")]
    model = proto(nodes, {"w": w}, (TensorProto.FLOAT, ["N", 64]), ["N", 40])
    rows = torch.from_numpy(normal(50, 4, seed=3) @ normal(4, 64, seed=4))
    train = replace(evidence.data.train, inputs=rows, targets=evidence.data.train.targets[:50])
    looks = replace(evidence, data=replace(evidence.data, train=train), score=lambda _: 1.0)
    made, _ = share(model, ShareConfig(bits=4), looks)
    back = _onnx.session(made).run(None, {"input": np.eye(64, dtype=np.float32)})[0]
    assert (back[w == 0] == 0).all()


def test_without_training_inputs_each_weight_takes_the_nearest(graph, evidence):
    empty = replace(evidence.data.train, inputs=evidence.data.train.inputs[:0], targets=evidence.data.train.targets[:0])
    looks = replace(evidence, data=replace(evidence.data, train=empty))
    one, _ = share(graph, ShareConfig(bits=4), looks)
    other, _ = share(graph, ShareConfig(bits=4, n_calibration=0), evidence)
    assert one.graph == other.graph
