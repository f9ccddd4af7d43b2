"""Weights in 16 bits: the bits NumPy would store, the outputs of before, half of the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dimwise import fold
from dimwise.errors import ModelError, UserError
from dimwise.fold import _onnx
from dimwise.fold._steps import parse
from dimwise.fold.cast import CastConfig, cast
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.ort import ARITHMETIC


@pytest.mark.parametrize(
    ("word", "kind", "bits"), [("fp16", TensorProto.FLOAT16, 11), ("bf16", TensorProto.BFLOAT16, 8)]
)
def test_weights_are_the_nearest_16_bit_numbers(word, kind, bits, graph, network, evidence, digits):
    (step,) = parse(f"cast({word})")
    made, report = cast(graph, step.config, evidence)
    stored = {tuple(t.dims): numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == kind}
    weight = network[7].weight.detach().numpy()
    got = stored[weight.shape].astype(np.float32)
    assert (np.abs(got - weight) <= 2.0**-bits * np.abs(weight) + 1e-7).all()
    assert np.abs(got - weight).max() > 0
    if kind == TensorProto.FLOAT16:
        np.testing.assert_array_equal(stored[weight.shape], weight.astype(np.float16))
    inputs = digits.test.inputs.numpy()
    before, after = _onnx.outputs(graph, inputs), _onnx.outputs(made, inputs)
    assert 0 < np.abs(after - before).max() < 2.0 ** (2 - bits) * np.abs(before).max()
    assert report.score_after == pytest.approx(report.score_before, abs=0.004)


def test_the_file_is_half_as_large_and_counts_the_same(evidence, proto):
    constants = {"w": np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["input", "w"], ["output"], "product")]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 64]), ["N", 512])
    text = model.SerializeToString()
    judge = fold.evidence(evidence.data, score=lambda _: 1.0)
    made, report = cast(model, CastConfig(), judge)
    onnx.checker.check_model(made, full_check=True)
    assert model.SerializeToString() == text
    assert report.cost_after["size_bytes"] == len(made.SerializeToString()) < 0.51 * len(text)
    assert {k: report.cost_after[k] for k in ("params", "macs")} == {
        k: report.cost_before[k] for k in ("params", "macs")
    }
    assert report.layers == [{"name": "product", "op": "MatMul", "bits": 16, "weights": [64, 512]}]


def test_what_runs_is_the_float_graph(graph, evidence, tmp_path):
    """The casts are gone once the graph is loaded."""
    made, _ = cast(graph, CastConfig(), evidence)
    assert sum(node.op_type == "Cast" for node in made.graph.node) > 1
    _onnx.session(made, save_to=tmp_path / "loaded.onnx")
    loaded = onnx.load(tmp_path / "loaded.onnx")
    assert [node.op_type for node in loaded.graph.node if node.op_type == "Cast"] == ["Cast"]  # of the raw input


def test_what_quantize_left_float_is_cast_after_it(graph, evidence):
    eight, before = quantize(graph, QuantizeConfig(skip=("gemm7",), repair=False), evidence)
    _, report = cast(eight, CastConfig(), evidence)
    assert [row["name"] for row in report.layers] == ["gemm7"]
    assert report.cost_after["size_bytes"] < before.cost_after["size_bytes"] - 8000  # two bytes less for 8192 weights
    assert report.score_after == pytest.approx(before.score_after, abs=0.004)
    weights, _ = quantize(graph, QuantizeConfig(mode="weights"), evidence)
    with pytest.raises(ModelError, match=r"no weights to cast \(.*its weights are not float32.* Keep the graph"):
        cast(weights, CastConfig(), evidence)


def test_scales_of_integers_are_no_weights(evidence, proto):
    """Of a graph wholly in int8 only scales are float, many as they may be: they stay."""
    constants = {"w": np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["input", "w"], ["output"], "product")]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 64]), ["N", 128])
    data = evidence.data
    rows = type(data.train)(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(40).long())
    judge = fold.evidence(
        type(data)("rows", rows, rows, rows, data.labels, data.normalise), example=rows.inputs[:1], score=lambda _: 1.0
    )
    eight, _ = quantize(model, QuantizeConfig(), judge)
    with pytest.raises(ModelError, match="the graph holds no weights to cast"):
        cast(eight, CastConfig(), judge)


def test_arithmetic_in_half_keeps_its_borders(graph, evidence, digits):
    made, report = cast(graph, CastConfig(arithmetic=True), evidence)
    assert {t.data_type for t in made.graph.initializer if len(t.dims) > 1} == {TensorProto.FLOAT16}
    assert _onnx.input_of(made)[1] == np.uint8
    inputs = digits.test.inputs.numpy()
    before, after = _onnx.outputs(graph, inputs), _onnx.outputs(made, inputs)
    assert after.dtype == np.float32
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()
    assert report.score_after == pytest.approx(report.score_before, abs=0.006)


def test_arithmetic_in_bf16_is_a_wish_that_onnxruntime_does_not_grant(graph, evidence, digits):
    made, report = cast(graph, CastConfig(dtype="bf16", arithmetic=True), evidence)
    stored, _ = cast(graph, CastConfig(dtype="bf16"), evidence)
    assert {p.key: p.value for p in made.metadata_props}[ARITHMETIC] == "bf16"
    assert ARITHMETIC not in {p.key for p in (*stored.metadata_props, *graph.metadata_props)}
    inputs = digits.test.inputs.numpy()
    np.testing.assert_array_equal(_onnx.outputs(made, inputs), _onnx.outputs(stored, inputs))
    assert [note for note in report.notes if "OpenVINO" in note]


def test_numbers_too_large_for_fp16_stay(evidence, proto):
    wide = np.ones((16, 16), np.float32)
    constants = {"w": wide.copy(), "v": wide}
    constants["w"][0, 0] = 1e6
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["h"], "large"),
        helper.make_node("MatMul", ["h", "v"], ["output"], "small"),
    ]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 16]), ["N", 16])
    judge = fold.evidence(evidence.data, score=lambda _: 1.0)
    _, report = cast(model, CastConfig(), judge)
    assert report.untouched == {"large": "a number of it is beyond 65504, the largest of fp16"}
    assert [row["name"] for row in report.layers] == ["small"]
    _, report = cast(model, CastConfig(dtype="bf16"), judge)
    assert report.untouched == {}


def test_what_stays_float_is_computed_in_float(evidence, proto):
    """In half arithmetic too: a number beyond 65504 is not cut off there."""
    rng = np.random.default_rng(0)
    constants = {name: rng.normal(size=(16, 16)).astype(np.float32) for name in ("u", "w", "v")}
    constants |= {"b": np.ones(64, np.float32), "w": rng.normal(size=(16, 64)).astype(np.float32)}
    constants["v"] = rng.normal(size=(64, 8)).astype(np.float32)
    constants["w"][0, 0] = 2e5
    nodes = [
        helper.make_node("MatMul", ["input", "u"], ["h"], "before"),
        helper.make_node("Gemm", ["h", "w", "b"], ["k"]),  # without a name
        helper.make_node("MatMul", ["k", "v"], ["output"], "after"),
    ]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 16]), ["N", 8])
    judge = fold.evidence(evidence.data, score=lambda _: 1.0)
    made, report = cast(model, CastConfig(arithmetic=True), judge)
    assert report.untouched == {"Gemm_1": "a number of it is beyond 65504, the largest of fp16"}
    assert [row["name"] for row in report.layers] == ["before", "after"]
    whole = [tuple(t.dims) for t in made.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert sorted(whole) == [(16, 64), (64,)]
    x = 0.01 * rng.normal(size=(20, 16)).astype(np.float32)
    want = _onnx.outputs(model, x)
    assert np.abs(_onnx.outputs(made, x) - want).max() < 0.01 * np.abs(want).max()


@pytest.mark.parametrize("arithmetic", [False, True])
def test_numbers_too_small_for_fp16_stay(evidence, proto, arithmetic):
    """Below 6e-5 fp16 has fewer digits, below 6e-8 none; beside larger numbers that does not matter."""
    rng = np.random.default_rng(0)
    constants = {"w": 1e-8 * rng.normal(size=(16, 16)), "v": 1e4 * rng.normal(size=(16, 16))}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    constants["v"][:8, 0] = 1e-9
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["h"], "tiny"),
        helper.make_node("MatMul", ["h", "v"], ["output"], "large"),
    ]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 16]), ["N", 16])
    judge = fold.evidence(evidence.data, score=lambda _: 1.0)
    made, report = cast(model, CastConfig(arithmetic=arithmetic), judge)
    assert list(report.untouched) == ["tiny"]
    assert "too small for fp16" in report.untouched["tiny"]
    assert [row["name"] for row in report.layers] == ["large"]
    x = (1e4 if arithmetic else 1) * rng.normal(size=(20, 16)).astype(np.float32)
    want = _onnx.outputs(model, x)
    assert np.abs(_onnx.outputs(made, x) - want).max() < 0.01 * np.abs(want).max()
    _, report = cast(model, CastConfig(dtype="bf16"), judge)
    assert report.untouched == {}


def test_bad_input_is_told(graph, evidence, proto):
    with pytest.raises(UserError, match=r"cast was given a str; expected an onnx\.ModelProto, or a network"):
        cast("model", CastConfig(), evidence)
    tiny = proto([helper.make_node("Relu", ["input"], ["output"])], {}, (TensorProto.FLOAT, ["N", 4]), ["N", 4])
    with pytest.raises(
        ModelError, match="the graph holds no weights to cast; expected float32 constants of at least 64"
    ):
        cast(tiny, CastConfig(), evidence)
