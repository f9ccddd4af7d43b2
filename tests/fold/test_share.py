"""Weights as places in palettes: each its nearest centre, in a file that is really smaller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dimwise.errors import ModelError, UserError
from dimwise.fold import _onnx
from dimwise.fold._numbers.palettes import nearest_entry, pack, palette
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.fold.share import WORDS, ShareConfig, share

# Palettes -------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_each_value_has_its_nearest_centre(values, n):
    w = np.array(values)
    centres = palette(w, n)
    assert 1 <= len(centres) <= n
    assert (np.diff(centres) > 0).all()
    distance = np.abs(w[:, None] - centres)
    np.testing.assert_allclose(np.abs(w - centres[nearest_entry(w, centres)]), distance.min(1), atol=1e-12)


def test_few_different_values_are_kept_exactly():
    w = np.array([[3.0, 1.0], [1.0, 3.0]])
    assert palette(w, 16).tolist() == [1.0, 3.0]
    assert nearest_entry(w, palette(w, 16)).tolist() == [[1, 0], [0, 1]]


def test_clusters_are_found_and_no_single_move_helps():
    """The centre of each cluster is its mean: the condition that Lloyd's rounds end with."""
    w = np.concatenate([np.random.default_rng(0).normal(mean, 0.1, 300) for mean in (-3, 0.5, 2, 9)])
    np.testing.assert_allclose(palette(w, 4), [-3, 0.5, 2, 9], atol=0.03)
    normal = np.random.default_rng(1).standard_normal(5000)
    centres = palette(normal, 16)
    places = nearest_entry(normal, centres)
    np.testing.assert_allclose([normal[places == k].mean() for k in range(16)], centres, rtol=1e-6)
    error = np.square(normal - centres[places]).mean()
    assert error < 0.0099  # 0.0095 for 16 levels of a Gaussian; a uniform grid has 0.0115 (Max 1960, table 1)


def test_pruned_weights_stay_zero():
    w = np.random.default_rng(0).standard_normal(400)
    w[:200] = 0
    assert 0.0 in palette(w, 16)
    assert (palette(w, 16)[nearest_entry(w[:200], palette(w, 16))] == 0).all()


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 5, 2), (6,)])
def test_packed_places_unpack(shape):
    places = np.random.default_rng(0).integers(0, 16, shape).astype(np.uint8)
    found = pack(places)
    assert found is not None
    packed, axis = found
    assert packed.size * 2 == places.size
    np.testing.assert_array_equal(np.concatenate([packed >> 4, packed % 16], axis=axis), places)


def test_odd_shapes_are_not_packed():
    assert pack(np.zeros((3, 5), np.uint8)) is None


# The fold -------------------------------------------------------------------------------------------------------------


def constants_at_load(model: onnx.ModelProto, tmp_path) -> dict[str, np.ndarray]:
    """The weights that onnxruntime computes with, node by node, once it has loaded the file."""
    _onnx.session(model, save_to=tmp_path / "loaded.onnx")
    loaded = onnx.load(tmp_path / "loaded.onnx")
    assert not {"Gather", "BitShift", "Mod", "Concat"} & {node.op_type for node in loaded.graph.node}
    held = {t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}
    return {n.name: held[n.input[1]] for n in loaded.graph.node if n.op_type in ("Conv", "Gemm")}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_runtime_sees_the_nearest_centres(graph, network, evidence, tmp_path, bits, scaled):
    made, report = share(graph, ShareConfig(bits=bits, scaled=scaled, n_calibration=0), evidence)
    onnx.checker.check_model(made, full_check=True)
    seen = constants_at_load(made, tmp_path)
    shared = {row["name"] for row in report.layers}
    assert "gemm7" in shared
    for name, index in (("conv0", 0), ("conv2", 2), ("conv3", 3), ("gemm7", 7), ("gemm9", 9)):
        weight = network[index].weight.detach().numpy()
        got = seen[name] if seen[name].shape == weight.shape else seen[name].T
        if name not in shared:
            np.testing.assert_array_equal(got, weight)
            continue
        others = tuple(range(1, weight.ndim))
        size = np.sqrt(np.square(weight).mean(others, keepdims=True)) if scaled else 1.0
        plain, rounded = weight / size, got / size
        centres = palette(plain, 2**bits)
        want = centres[np.abs(plain[..., None] - centres).argmin(-1)]
        np.testing.assert_allclose(rounded, want, rtol=1e-4, atol=1e-6)
        assert len(np.unique(want)) <= 2**bits
        row = next(row for row in report.layers if row["name"] == name)
        assert row["error"] == pytest.approx(np.linalg.norm(got - weight) / np.linalg.norm(weight), rel=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_file_is_as_small_as_counted(graph, evidence, bits):
    made, report = share(graph, ShareConfig(bits=bits), evidence)
    saved = sum(row["bytes_before"] - row["bytes_after"] for row in report.layers)
    plain = _onnx.compact(_onnx.optimised(graph)).ByteSize()
    assert report.cost_after["size_bytes"] == made.ByteSize() == pytest.approx(plain - saved, rel=0.05)
    large = next(row for row in report.layers if row["name"] == "gemm7")
    assert large["bits"] == bits
    assert large["bytes_after"] < 32 * 256 * bits / 8 + 4 * 2**bits + 350
    assert report.cost_after["params"] == report.cost_before["params"]
    assert report.cost_after["macs"] == report.cost_before["macs"]
    assert abs(report.score_after - report.score_before) <= 0.02


def test_int8_weights_are_shared_and_stay_int8(graph, evidence):
    eight, _ = quantize(graph, QuantizeConfig(), evidence)
    before = eight.SerializeToString()
    made, report = share(eight, ShareConfig(bits=4), evidence)
    assert [row["name"] for row in report.layers] == ["gemm7", "gemm9"]
    assert report.cost_after["size_bytes"] < report.cost_before["size_bytes"] - 3000
    assert abs(report.score_after - report.score_before) <= 0.02
    assert eight.SerializeToString() == before
    entries = [numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == TensorProto.INT8]
    (whole,) = [numpy_helper.to_array(t) for t in eight.graph.initializer if sorted(t.dims) == [32, 256]]
    want = np.unique(np.round(palette(whole, 16)))
    assert any(np.array_equal(t, want) for t in entries)
    with pytest.raises(ModelError, match="no weights of this graph can be shared with 8 bits"):
        share(eight, ShareConfig(bits=8), evidence)


def test_a_file_that_grows_says_so(graph, evidence):
    """Eight bits a weight where a palette of 16 took four."""
    made, report = share(graph, ShareConfig(bits=4), evidence)
    assert report.notes == []
    _, grown = quantize(made, QuantizeConfig(repair=False), evidence)
    more = grown.cost_after["size_bytes"] - grown.cost_before["size_bytes"]
    assert more > 0
    assert f"the file grew by {more:,.0f} bytes" in grown.notes


def test_shared_twice_is_shared_once(graph, evidence):
    config = ShareConfig(bits=4, scaled=False)
    once, _ = share(graph, config, evidence)
    twice, report = share(once, config, evidence)
    assert twice.ByteSize() == pytest.approx(once.ByteSize(), rel=0.05)
    assert max(row["error"] for row in report.layers) < 1e-6


def test_every_kind_of_weight_is_found(proto, evidence):
    """Convolutions either way, products from both sides, an embedding, an LSTM: the same answers up to rounding."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32) / 4

    constants = {
        "table": normal(30, 16),
        "conv": normal(16, 16, 3),
        "back": normal(16, 8, 3),
        "right": normal(8, 40),
        "w": normal(1, 4 * 12, 40),
        "r": normal(1, 4 * 12, 12),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input"], ["e"], "embed"),
        helper.make_node("Transpose", ["e"], ["et"], "turn", perm=[0, 2, 1]),
        helper.make_node("Conv", ["et", "conv"], ["c"], "conv", pads=[1, 1]),
        helper.make_node("ConvTranspose", ["c", "back"], ["b"], "back"),
        helper.make_node("Transpose", ["b"], ["bt"], "turn back", perm=[2, 0, 1]),
        helper.make_node("MatMul", ["bt", "right"], ["m"], "product"),
        helper.make_node("LSTM", ["m", "w", "r"], ["h"], "lstm", hidden_size=12),
        helper.make_node("Squeeze", ["h", "axes"], ["output"], "drop"),
    ]
    model = proto(nodes, constants, (TensorProto.INT64, ["N", 7]), [9, "N", 12])
    looks = replace(evidence, score=lambda _: 1.0)
    made, report = share(model, ShareConfig(bits=8), looks)
    assert {(row["name"], row["op"]) for row in report.layers} >= {("lstm", "LSTM"), ("conv", "Conv")}
    four, report = share(model, ShareConfig(bits=4, n_calibration=0), looks)
    kinds = {"Gather", "Conv", "ConvTranspose", "MatMul", "LSTM"}
    assert {row["op"] for row in report.layers} == kinds
    assert len(report.layers) == 6
    words = rng.integers(0, 30, (5, 7))
    want, near, rough = (_onnx.session(m).run(None, {"input": words})[0] for m in (model, made, four))
    assert np.abs(near - want).max() < 0.02 * np.abs(want).max()
    assert np.abs(rough - want).max() < 0.3 * np.abs(want).max()


def test_weights_used_twice_are_shared_once(proto, evidence):
    w = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["a"], "one"),
        helper.make_node("Tanh", ["a"], ["b"], "between"),
        helper.make_node("MatMul", ["b", "w"], ["output"], "two"),
    ]
    model = proto(nodes, {"w": w}, (TensorProto.FLOAT, ["N", 40]), ["N", 40])
    looks = replace(evidence, score=lambda _: 1.0)
    made, report = share(model, ShareConfig(bits=4, n_calibration=0), looks)
    assert [row["name"] for row in report.layers] == ["one"]
    x = np.random.default_rng(1).standard_normal((5, 40)).astype(np.float32)
    want, got = (_onnx.session(m).run(None, {"input": x})[0] for m in (model, made))
    assert np.abs(got - want).max() < 0.3 * np.abs(want).max()


def test_skip_and_small_layers_are_reported(graph, evidence):
    _, report = share(graph, ShareConfig(bits=4, skip=("gemm9",)), evidence)
    assert report.untouched["gemm9"] == "named in share.skip"
    assert report.untouched["conv0"] == "a palette would be as large as what it saves"
    assert not report.untouched.keys() & {row["name"] for row in report.layers}


def test_words():
    assert {name: ShareConfig(**more).bits for name, more in WORDS.items()} == {"palette16": 4, "palette256": 8}


def test_mistakes_are_told_in_one_line(graph, evidence, proto):
    with pytest.raises(UserError, match=r"share was given the network ReLU; expected an exported graph .* First"):
        share(nn.ReLU(), ShareConfig(), evidence)
    with pytest.raises(UserError, match=r"share was given a str; expected an onnx.ModelProto"):
        share("graph", ShareConfig(), evidence)
    with pytest.raises(ModelError, match=r"share.skip names 'gem7', which is no node .* did you mean 'gemm7'"):
        share(graph, ShareConfig(skip=("gem7",)), evidence)
    nodes = [helper.make_node("Relu", ["input"], ["output"], "relu")]
    none = proto(nodes, {}, (TensorProto.FLOAT, ["N", 4]), ["N", 4])
    with pytest.raises(ModelError, match=r"no weights of this graph can be shared with 8 bits; expected layers"):
        share(none, ShareConfig(), evidence)
    bad = np.full((40, 40), np.nan, np.float32)
    nodes = [helper.make_node("MatMul", ["input", "w"], ["output"], "product")]
    sick = proto(nodes, {"w": bad}, (TensorProto.FLOAT, ["N", 40]), ["N", 40])
    with pytest.raises(ModelError, match="the weights of node 'product' are not finite"):
        share(sick, ShareConfig(), evidence)
