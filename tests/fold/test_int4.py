from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dimwise import fold
from dimwise.fold import _onnx
from dimwise.fold._numbers import bias_correction, compensation, int4
from dimwise.fold._steps import parse
from dimwise.fold.quantize import QuantizeConfig, quantize


@pytest.fixture(scope="module")
def wide(digits, graph_of):
    """A dense network of digits, briefly trained; its first layer is large."""
    from dimwise.train import TrainConfig, fit

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    fit(net, digits, config=TrainConfig(epochs=4, precision="fp32", layout="contiguous", threads=1))
    return net.eval(), graph_of(net, digits.normalise, (1, 8, 8))


@pytest.fixture(scope="module")
def four(wide, evidence):
    (step,) = parse("quantize(int4)")
    return quantize(wide[1], step.config, evidence)


def test_the_file_holds_four_bits_a_weight(four, wide):
    made, report = four
    onnx.checker.check_model(made, full_check=True)
    small = [t for t in made.graph.initializer if t.data_type == TensorProto.INT4]
    assert sorted(tuple(t.dims) for t in small) == [(64, 256), (256, 10)]
    assert all(len(t.raw_data) == np.prod(t.dims) / 2 for t in small)
    assert report.cost_after["size_bytes"] == len(made.SerializeToString()) < report.cost_before["size_bytes"] / 5.5
    assert {k: report.cost_after[k] for k in ("params", "macs")} == {
        k: report.cost_before[k] for k in ("params", "macs")
    }
    assert [(row["bits"], row["scales"]) for row in report.layers] == [(4, 2 * 256), (4, 8 * 10)]
    assert report.score_after >= report.score_before - 0.005


def stored(model, shape):
    """The product of integers and scales that the file holds for a weight (K, N)."""
    back = next(
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and constant(model, node, 0).shape == shape
    )
    whole, scale = constant(model, back, 0).astype(np.float32), constant(model, back, 1)
    return whole * np.repeat(scale, 32, axis=0)[: len(whole)]


def constant(model, node, index):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[index]))


def test_integers_chosen_by_the_inputs_cost_less_than_the_nearest(wide, four, evidence, digits):
    empty = replace(digits.train, inputs=digits.train.inputs[:0], targets=digits.train.targets[:0])
    looks = replace(evidence, data=replace(evidence.data, train=empty))
    nearest, _ = quantize(wide[1], QuantizeConfig(mode="weights", bits=4), looks)
    weight = wide[0][1].weight.detach().numpy().T.copy()
    whole, scale = int4.round_blocks(weight, 32)
    np.testing.assert_allclose(stored(nearest, weight.shape), whole * np.repeat(scale, 32, axis=0))
    x = digits.test.inputs.numpy()
    want = _onnx.outputs(wide[1], x)
    errors = [np.square(_onnx.outputs(model, x) - want).mean() for model in (four[0], nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_it_computes_the_network_with_rounded_weights(four, wide, digits):
    net, _ = wide
    rounded = nn.Sequential(*(nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in net))
    for old, new in zip(net, rounded, strict=True):
        if isinstance(old, nn.Linear):
            w = stored(four[0], (old.in_features, old.out_features))
            blocks = w.reshape(-1, 32, w.shape[1])
            limit = np.abs(old.weight.detach().numpy().T.reshape(blocks.shape)).max(1, keepdims=True)
            assert (np.abs(blocks) <= limit + 1e-6).all()
            new.weight.data, new.bias.data = torch.from_numpy(w.T.copy()), old.bias.data
    with torch.no_grad():
        expected = rounded(digits.normalise(digits.test.inputs)).numpy()
    found = _onnx.outputs(four[0], digits.test.inputs.numpy())
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()  # the kernel rounds activations as well


def test_other_layers_take_eight_bits(graph, evidence):
    made, report = quantize(graph, QuantizeConfig(mode="weights", bits=4), evidence)
    bits = {row["name"]: row["bits"] for row in report.layers}
    assert bits["conv3"] == 8
    assert sorted(bits.values()) == [4, 4, 8, 8, 8]  # two products, three convolutions
    assert {TensorProto.INT4, TensorProto.INT8} <= {t.data_type for t in made.graph.initializer}


def test_guilty_layers_go_back_to_eight_bits(evidence, proto):
    """Two products; in the first, 4 bits lose what decides."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(64, 64)).astype(np.float32)
    constants = {"w": first, "v": rng.normal(size=(64, 16)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["h"], "one"),
        helper.make_node("MatMul", ["h", "v"], ["output"], "two"),
    ]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 64]), ["N", 16])

    def score(graph: onnx.ModelProto) -> float:  # wants one product of four bits at most
        return 1.0 - 0.1 * max(sum(t.data_type == TensorProto.INT4 for t in graph.graph.initializer) - 1, 0)

    data = evidence.data
    rows = type(data.train)(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(40).long())
    judge = fold.evidence(
        type(data)("rows", rows, rows, rows, data.labels, data.normalise), example=rows.inputs[:1], score=score
    )
    _, report = quantize(model, QuantizeConfig(mode="weights", bits=4), judge)
    assert report.score_after == 1.0
    assert sorted(row["bits"] for row in report.layers) == [4, 8]
    kept = next(row for row in report.layers if row["bits"] == 8)
    assert "kept at 8 bits by repair" in kept["why"]
    assert [row["what"] for row in report.tried] == [
        "weights, 4 bits",
        "blocks of 16",
        "bias correction",
        "1 guiltiest kept at 8 bits",
    ]


@pytest.mark.parametrize("by_inputs", [False, True])
def test_bias_correction_takes_back_the_shift_of_four_bits(proto, by_inputs):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (200, 70)).astype(np.float32)
    constants = {"w": rng.normal(size=(70, 16)).astype(np.float32), "b": rng.normal(size=16).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["m"], "one"),
        helper.make_node("Add", ["m", "b"], ["output"], "add"),
    ]
    model = onnx.shape_inference.infer_shapes(proto(nodes, constants, (TensorProto.FLOAT, ["N", 70]), ["N", 16]))
    text, few = model.SerializeToString(), {"one"}
    layer = compensation.layer_of(model.graph.node[0], 1, (70, 16))
    assert layer is not None
    moment = compensation.observing(model, [layer], x) if by_inputs else None

    def shift(before: onnx.ModelProto) -> float:
        made = int4.weights(onnx.ModelProto.FromString(before.SerializeToString()), few, block=32, moment=moment)
        (out,) = _onnx.session(made, fuse=False).run(None, {"input": x})
        return float(np.abs((out - _onnx.outputs(model, x)).mean(0)).max())

    rounded = bias_correction.four_bits(model, few, block=32, moment=moment)
    assert {name: weights.shape for name, weights in rounded.items()} == {"one": (70, 16)}
    fixed = bias_correction.corrected(model, few, x, rounded=rounded)
    assert model.SerializeToString() == text
    assert shift(fixed) < 1e-4 < 0.01 * shift(model)
    assert shift(bias_correction.corrected(model, few, x)) > 0.01  # what it would be for int8
    assert bias_correction.four_bits(model, set(), block=32, moment=moment) == {}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from([16, 32]))
def test_rounding_is_never_off_by_more_than_a_step(seed, n_rows, block):
    w = np.random.default_rng(seed).normal(size=(n_rows, 3)).astype(np.float32)
    whole, scale = int4.round_blocks(w, block)
    steps = np.repeat(np.abs(scale), block, axis=0)[:n_rows]
    back = whole * np.repeat(scale, block, axis=0)[:n_rows]
    assert whole.min() >= -8
    assert whole.max() <= 7
    assert (np.abs(w - back) <= 1.0001 * steps).all()  # a whole step only where +8 would be needed
    assert (np.abs(w - back)[whole < 7] <= 0.5001 * steps[whole < 7]).all()


@pytest.mark.parametrize("shape", [(5, 3), (4, 2)])
def test_packing_is_what_onnx_reads(shape):
    whole = np.random.default_rng(0).integers(-8, 8, shape).astype(np.int8)
    tensor = TensorProto(name="t", data_type=TensorProto.INT4, dims=shape, raw_data=int4.pack(whole))
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), whole)


def test_small_products_keep_eight_bits(evidence, proto):
    constants = {"w": np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["input", "w"], ["output"], "tiny")]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 32]), ["N", 4])
    judge = fold.evidence(evidence.data, score=lambda _: 0.0)
    _, report = quantize(model, QuantizeConfig(mode="weights", bits=4), judge)
    assert [row["bits"] for row in report.layers] == [8]
