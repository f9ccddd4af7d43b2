from __future__ import annotations

import logging
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dimwise import fold
from dimwise.data.sets import Data, Split
from dimwise.errors import ArtifactError, DataError, ModelError, UserError
from dimwise.fold import _onnx
from dimwise.fold._numbers import calibration, int8
from dimwise.fold._numbers.selection import plan
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.measure import environment
from dimwise.measure.cost import n_params
from dimwise.measure.profiling import profile
from dimwise.ort import int8_products_saturate


@pytest.fixture(scope="module")
def static(graph: onnx.ModelProto, evidence: fold.Evidence) -> tuple[onnx.ModelProto, fold.FoldReport]:
    return quantize(graph, QuantizeConfig(), evidence)


def weights_of(model: onnx.ModelProto, node_name: str) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights and scales that flow into a node through a DequantizeLinear."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.name == node_name)
    back = next(n for n in model.graph.node if n.output[0] == node.input[1])
    assert back.op_type == "DequantizeLinear"
    return constants[back.input[0]], constants[back.input[1]]


def scaled_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


# What comes out


@pytest.mark.parametrize(("name", "index"), [("conv0", 0), ("conv2", 2), ("gemm7", 7)])
@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_weights_are_int8_with_one_scale_per_channel(graph, evidence, network, name, index, reduce_range, largest):
    static, _ = quantize(graph, QuantizeConfig(reduce_range=reduce_range, repair=False), evidence)
    whole, scale = weights_of(static, name)
    weight = network[index].weight.detach().numpy()
    expected = np.abs(weight).reshape(len(weight), -1).max(1) / largest
    assert whole.dtype == np.int8
    assert whole.shape == weight.shape
    np.testing.assert_allclose(scale, expected, rtol=1e-5)
    rounded = np.round(weight / expected.reshape(-1, *[1] * (weight.ndim - 1)))
    assert np.abs(whole - rounded).max() <= 1  # a tie may fall to either side
    assert (whole == rounded).mean() > 0.99


def test_one_scale_for_all_when_asked(graph, evidence, network):
    model, report = quantize(graph, QuantizeConfig(per_channel=False, reduce_range=False), evidence)
    _, scale = weights_of(model, "gemm7")
    assert scale.shape == ()
    assert scale == pytest.approx(network[7].weight.abs().max().item() / 127, rel=1e-5)
    assert {row.get("scales", 1) for row in report.layers} == {1}


def test_score_is_kept_within_a_point(static):
    _, report = static
    assert report.score_before > 0.93
    assert report.score_after > report.score_before - 0.01


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_outputs_are_near_at_batches_never_seen(static, graph, digits, batch):
    inputs = digits.test.inputs[:batch].numpy()
    after, before = _onnx.outputs(static[0], inputs), _onnx.outputs(graph, inputs)
    assert after.shape == (batch, 10)
    assert 0 < scaled_difference(after, before) < 0.05


@pytest.mark.parametrize(
    "settings",
    [
        {"activations": "int8"},
        {"calibration": "percentile"},
        {"calibration": "mse"},
        {"calibration": "entropy"},
        {"n_calibration": 20},
    ],
)
def test_every_setting_keeps_the_score(graph, evidence, settings):
    model, report = quantize(graph, QuantizeConfig(**settings), evidence)
    assert report.score_after > report.score_before - 0.02
    assert report.config == {**report.config, **settings}
    types = {t.data_type for t in model.graph.initializer}
    assert (TensorProto.UINT8 in types) == (settings.get("activations") != "int8")


def test_a_graph_of_fixed_batch_is_padded(graph, evidence, digits):
    fixed = onnx.ModelProto.FromString(graph.SerializeToString())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
    fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 32
    inputs = digits.test.inputs[:70].numpy()
    np.testing.assert_allclose(_onnx.outputs(fixed, inputs), _onnx.outputs(graph, inputs), atol=1e-5)
    made, report = quantize(fixed, QuantizeConfig(n_calibration=10), evidence)
    assert _onnx.outputs(made, inputs).shape == (70, 10)
    assert report.score_after > report.score_before - 0.02


def test_given_graph_is_not_changed(graph, evidence):
    before = graph.SerializeToString()
    for mode in ("static", "dynamic", "weights"):
        quantize(graph, QuantizeConfig(mode=mode), evidence)
    assert graph.SerializeToString() == before


def test_normalisation_and_scores_stay_float(static):
    model, report = static
    for name in ("cast", "scale", "shift"):
        assert "normalised exactly" in report.untouched[name]
    nodes = {node.name: node for node in model.graph.node if node.name}
    assert [nodes["cast"].input[0], nodes["gemm9"].output[0]] == ["input", "output"]
    quantized_after = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert nodes["shift"].output[0] in quantized_after
    assert not quantized_after & {nodes["cast"].output[0], nodes["scale"].output[0]}


def test_report_lists_every_node_once(static):
    report = static[1]
    names = [row["name"] for row in report.layers] + list(report.untouched)
    expected = "cast scale shift conv0 relu1 conv2 conv3 relu4 pool5 flatten6 gemm7 relu8 gemm9"
    assert sorted(names) == sorted(expected.split())
    row = next(row for row in report.layers if row["name"] == "conv3")
    assert row == {"name": "conv3", "op": "Conv", "bits": 8, "weights": [16, 8, 1, 1], "scales": 16}
    assert report.config["mode"] == "static"


def test_file_shrinks_and_is_valid(evidence, graph_of):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    wide = graph_of(net, evidence.data.normalise, (1, 8, 8))
    for mode in ("static", "dynamic", "weights"):
        made, report = quantize(wide, QuantizeConfig(mode=mode), evidence)
        onnx.checker.check_model(made, full_check=True)
        assert report.cost_before["size_bytes"] == wide.ByteSize()
        assert report.cost_after["size_bytes"] == len(made.SerializeToString()) < wide.ByteSize() / 3
        assert {k: report.cost_after[k] for k in ("params", "macs")} == {
            k: report.cost_before[k] for k in ("params", "macs")
        }


def test_same_seed_same_bytes(graph, evidence, static):
    again, _ = quantize(graph, QuantizeConfig(), evidence)
    assert again.SerializeToString() == static[0].SerializeToString()


def test_nothing_is_printed_or_logged(graph, evidence, capfd):
    handlers = list(logging.getLogger().handlers)
    for config in (QuantizeConfig(calibration="entropy"), QuantizeConfig(mode="dynamic")):
        quantize(graph, config, evidence)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers


# Oracles


def test_static_product_is_integer_arithmetic(evidence, digits, graph_of):
    """y = s_x s_w Σ q_w (q_x − z_x) + bias, with all numbers taken from the file."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    model, _ = quantize(graph_of(net, digits.normalise, (1, 8, 8)), QuantizeConfig(), evidence)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layer = next(n for n in model.graph.node if n.name == "gemm1")
    first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    s_x, z_x = constants[first.input[1]], constants[first.input[2]]
    q_w, s_w = weights_of(model, "gemm1")
    bias_back = next(n for n in model.graph.node if n.output[0] == layer.input[2])
    q_b, s_b = constants[bias_back.input[0]], constants[bias_back.input[1]]
    np.testing.assert_allclose(s_b, s_x * s_w, rtol=1e-6)
    assert q_b.dtype == np.int32

    raw = digits.test.inputs[:20]
    x = digits.normalise(raw).flatten(1).numpy()
    q_x = np.clip(np.round(x / s_x) + z_x.astype(np.int32), 0, 255).astype(np.int32)
    sums = (q_x - z_x) @ q_w.T.astype(np.int32) + q_b  # int32 throughout
    np.testing.assert_allclose(_onnx.outputs(model, raw.numpy()), sums * (s_x * s_w), atol=1e-5)


def test_weights_mode_is_the_float_network_with_rounded_weights(graph, evidence, network, digits):
    model, report = quantize(graph, QuantizeConfig(mode="weights"), evidence)
    rounded = nn.Sequential(*network)  # shares layers: weights are put back below
    kept = {name: p.detach().clone() for name, p in rounded.named_parameters()}
    try:
        for p in rounded.parameters():
            if p.dim() > 1 and p.numel() >= int8.MIN_WEIGHTS:
                whole, scale = int8.round_weights(p.detach().numpy(), 0)
                p.data = torch.from_numpy(whole * scale)
        with torch.no_grad():
            expected = rounded(digits.normalise(digits.test.inputs)).numpy()
    finally:
        for name, p in rounded.named_parameters():
            p.data = kept[name]
    np.testing.assert_allclose(_onnx.outputs(model, digits.test.inputs.numpy()), expected, atol=1e-4)
    assert {t.data_type for t in model.graph.initializer if len(t.dims) == 4} >= {TensorProto.INT8}
    assert report.score_after > report.score_before - 0.01


def test_dynamic_mode_rounds_linear_layers(graph, evidence, digits):
    model, report = quantize(graph, QuantizeConfig(mode="dynamic"), evidence)
    assert {row["op"] for row in report.layers} == {"MatMul"}
    assert report.untouched["conv0"] == "no fast dynamic int8 kernel for Conv"
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulInteger") == 2
    inputs = digits.test.inputs[:30].numpy()
    assert 0 < scaled_difference(_onnx.outputs(model, inputs), _onnx.outputs(graph, inputs)) < 0.03


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_lstm_weights_shrink(mode, evidence, proto):
    rng = np.random.default_rng(0)
    n_in, n_hidden = 16, 32
    constants = {
        "w": rng.normal(0, 0.2, (1, 4 * n_hidden, n_in)).astype(np.float32),
        "r": rng.normal(0, 0.2, (1, 4 * n_hidden, n_hidden)).astype(np.float32),
        "b": np.zeros((1, 8 * n_hidden), np.float32),
    }
    node = helper.make_node("LSTM", ["input", "w", "r", "b"], ["output"], "lstm", hidden_size=n_hidden)
    model = proto([node], constants, (TensorProto.FLOAT, [5, "N", n_in]), [5, 1, "N", n_hidden])
    judge = fold.evidence(evidence.data, score=lambda _: 0.0)
    made, report = quantize(model, QuantizeConfig(mode=mode), judge)
    x = rng.normal(size=(5, 3, n_in)).astype(np.float32)
    before, after = (_onnx.session(m).run(None, {"input": x})[0] for m in (model, made))
    assert 0 < scaled_difference(after, before) < 0.05
    assert report.cost_after["size_bytes"] < model.ByteSize() / 2.5
    assert report.cost_before["macs"] == 5 * 4 * n_hidden * (n_in + n_hidden)


def test_reduced_range_leaves_a_bit(graph, evidence):
    model, _ = quantize(graph, QuantizeConfig(reduce_range=True), evidence)
    assert np.abs(weights_of(model, "gemm7")[0].astype(int)).max() <= 64


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_weights_take_7_bits_where_the_processor_saturates(graph, evidence, monkeypatch, saturate, mode):
    monkeypatch.setattr(sys.modules["dimwise.fold.quantize"], "int8_products_saturate", lambda: saturate)
    model, report = quantize(graph, QuantizeConfig(mode=mode, repair=False), evidence)
    seven = saturate and mode != "weights"
    assert report.config["reduce_range"] == seven
    assert [note[:19] for note in report.notes] == ["weights have 7 bits"] * seven
    if mode == "static":
        assert np.abs(weights_of(model, "gemm7")[0].astype(int)).max() == (64 if seven else 127)
    _, told = quantize(graph, QuantizeConfig(mode=mode, repair=False, reduce_range=True), evidence)
    assert told.notes == []


def test_int8_activations_need_no_7_bits(graph, evidence, monkeypatch):
    """127 · 127 + 127 · 127 fits into 16 bits."""
    monkeypatch.setattr(sys.modules["dimwise.fold.quantize"], "int8_products_saturate", lambda: True)
    _, report = quantize(graph, QuantizeConfig(activations="int8"), evidence)
    assert (report.config["reduce_range"], report.notes) == (False, [])


def test_the_probe_agrees_with_what_the_processor_says():
    """A processor with integer dot products sums in 32 bits."""
    capable = {"avx512_vnni", "avx_vnni", "amx_int8", "asimd"} & set(environment()["capabilities"])
    assert int8_products_saturate() != bool(capable)


def test_first_last_and_named_nodes_stay_float(graph, evidence):
    _, report = quantize(graph, QuantizeConfig(keep_first_last=True, skip=("gemm7",)), evidence)
    assert "keep_first_last" in report.untouched["conv0"]
    assert "keep_first_last" in report.untouched["gemm9"]
    assert report.untouched["gemm7"] == "named in quantize.skip"
    assert report.untouched["relu8"] == "some of its input is float"
    assert {row["name"] for row in report.layers} >= {"conv2", "conv3"}


# The graph before


def test_means_over_positions_become_pools(evidence, proto):
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(8, 1, 3, 3)).astype(np.float32),
        "axes": np.array([-1, 2]),
        "v": rng.normal(size=(8, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["m"], "mean", keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["output"], "product"),
    ]
    model = proto(nodes, constants, (TensorProto.UINT8, ["N", 1, 8, 8]), ["N", 10])
    made = _onnx.optimised(model)
    kinds = [n.op_type for n in made.graph.node]
    assert kinds == ["Cast", "Conv", "GlobalAveragePool", "Flatten", "MatMul"]
    assert all(n.name for n in made.graph.node)
    inputs = evidence.data.test.inputs[:7].numpy()
    np.testing.assert_allclose(_onnx.outputs(made, inputs), _onnx.outputs(model, inputs), rtol=1e-4, atol=1e-4)
    _, report = quantize(model, QuantizeConfig(), evidence)
    assert {row["op"] for row in report.layers} == {"Conv", "GlobalAveragePool", "Flatten", "MatMul"}


def test_attention_products_and_what_follows_stay_float(proto):
    constants = {"w": np.eye(4, dtype=np.float32)}
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["q"], "query"),
        helper.make_node("Transpose", ["q"], ["k"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax"),
        helper.make_node("Relu", ["p"], ["output"], "after"),
    ]
    model = proto(nodes, constants, (TensorProto.FLOAT, ["N", 3, 4]), ["N", 3, 3])
    chosen, untouched = plan(onnx.shape_inference.infer_shapes(model), QuantizeConfig())
    assert chosen == {"query", "turn"}
    assert "two activations" in untouched["scores"]
    assert untouched["softmax"] == "no int8 kernel for Softmax"
    assert untouched["after"] == "some of its input is float"


def test_cost_of_a_graph_is_that_of_the_network(graph, network, evidence):
    assert _onnx.cost(graph) == {
        "params": n_params(network),
        "macs": profile(network, evidence.example).macs,
        "size_bytes": graph.ByteSize(),
    }


# Calibration


def observed(graph: onnx.ModelProto, digits: Data, method: str, percentile: float = 99.0) -> calibration.Range:
    values = digits.train.inputs[:200].numpy()
    return calibration.ranges(_onnx.optimised(graph), ["t0"], values, method=method, percentile=percentile)["t0"]


def test_minmax_is_the_minimum_and_maximum(graph, network, digits):
    with torch.no_grad():
        values = network[0](digits.normalise(digits.train.inputs[:200]))
    low, high = observed(graph, digits, "minmax")
    assert (low, high) == pytest.approx((values.min().item(), values.max().item()), rel=1e-5)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_other_methods_cut_inside(graph, digits, method):
    low, high = observed(graph, digits, method)
    smallest, largest = observed(graph, digits, "minmax")
    assert smallest <= low <= 0 <= high <= largest
    if method == "percentile":
        assert (low, high) != (smallest, largest)


def test_percentile_is_numpys(graph, network, digits):
    with torch.no_grad():
        values = network[0](digits.normalise(digits.train.inputs[:200])).numpy()
    smallest, largest = float(values.min()), float(values.max())
    expected = np.percentile(values[values != 0], [5, 95])
    step = (largest - smallest) / calibration.N_BINS
    assert observed(graph, digits, "percentile", percentile=90.0) == pytest.approx(expected, abs=1.01 * step)


def test_a_far_outlier_is_clipped_and_uniform_values_are_not():
    rng = np.random.default_rng(0)
    counts, edges = np.histogram(np.append(rng.normal(size=50_000), 60.0), 2048)
    assert calibration.least_divergence(counts.astype(float), edges)[1] < 8
    assert calibration.least_error(counts.astype(float), edges)[1] < 58  # clipping it costs its square
    for search in (calibration.least_divergence, calibration.least_error):
        assert search(np.ones(2048), np.linspace(-1, 1, 2049)) == (-1, 1)


def test_least_error_is_the_best_of_its_candidates():
    values = np.random.default_rng(0).standard_t(3, size=20_000)
    counts, edges = np.histogram(values, 2048)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        return float(((np.clip(np.round((values - low) / step), 0, 255) * step + low - values) ** 2).mean())

    largest = np.abs(values).max()
    best = min(error(max(values.min(), -t), min(values.max(), t)) for t in largest * np.linspace(0.05, 1, 60))
    found = error(*calibration.least_error(counts.astype(float), edges))
    assert found <= 1.02 * best
    assert found < 0.97 * error(values.min(), values.max())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=16, max_size=16).filter(any), st.floats(-50, 50))
def test_ranges_stay_inside_the_extremes_and_hold_zero(heights, start):
    counts, edges = np.repeat(np.array(heights, float), 128), np.linspace(start, start + 60, 2049)
    found = [
        calibration.cut_tails(counts, edges, 99.0),
        calibration.least_error(counts, edges),
        calibration.least_divergence(counts, edges),
    ]
    for low, high in found:
        assert min(start, 0) <= low <= 0 <= high <= max(start + 60, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 0, 1]))
def test_rounding_is_never_off_by_more_than_half_a_step(seed, axis):
    w = np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32)
    w[2] = 0
    whole, scale = int8.round_weights(w, axis)
    assert np.abs(whole.astype(int)).max() == 127  # the whole range is used
    assert np.abs(w - whole * scale).max() <= 0.5001 * scale.max()
    assert (np.abs(w - whole * scale) <= 0.5001 * np.broadcast_to(scale, w.shape)).all()
    assert not whole[2].any()


# What the user is told


def with_train(evidence: fold.Evidence, inputs: torch.Tensor) -> fold.Evidence:
    data = evidence.data
    split = Split(inputs, torch.zeros(len(inputs), dtype=torch.int64))
    made = Data("odd", split, data.valid, data.test, data.labels, data.normalise)
    return fold.evidence(made, example=evidence.example, score=lambda _: 0.0)


def test_what_is_no_graph_is_told(evidence):
    with pytest.raises(UserError, match=r"given a str; expected an onnx\.ModelProto"):
        quantize("model.onnx", QuantizeConfig(), evidence)


def test_empty_calibration_is_refused(graph, evidence):
    empty = with_train(evidence, torch.zeros(0, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(DataError, match="training split of 'odd' is empty: nothing to calibrate on"):
        quantize(graph, QuantizeConfig(), empty)
    assert quantize(graph, QuantizeConfig(mode="weights"), empty)[1].layers


def test_a_single_sample_calibrates_with_a_remark(graph, evidence):
    said: list[str] = []

    class Listening(type(evidence.progress)):  # type: ignore[misc]
        def say(self, line: str) -> None:
            said.append(line)

    one = with_train(evidence, evidence.data.train.inputs[:1])
    quantize(graph, QuantizeConfig(), fold.evidence(one.data, score=lambda _: 0.0, progress=Listening()))
    assert said == ["quantize: calibrating on only 1 inputs; what they show may be too little"]


@pytest.fixture
def rows_graph(proto):
    def made(weight: float = 1.0) -> onnx.ModelProto:
        constants = {"w": np.full((4, 16), weight, np.float32), "v": np.full((16, 2), weight, np.float32)}
        nodes = [
            helper.make_node("MatMul", ["input", "w"], ["h"], "product"),
            helper.make_node("MatMul", ["h", "v"], ["output"], "second"),
        ]
        return proto(nodes, constants, (TensorProto.FLOAT, ["N", 4]), ["N", 2])

    return made


def test_nan_in_the_calibration_inputs_is_named(evidence, rows_graph):
    rows = torch.zeros(20, 4)
    rows[:, 1] = torch.nan
    with pytest.raises(DataError, match=r"calibration input 0 holds NaN or infinity \(20 of 20 do\)"):
        quantize(rows_graph(), QuantizeConfig(), with_train(evidence, rows))


def test_activations_that_overflow_are_named(evidence, rows_graph):
    with pytest.raises(ModelError, match="node 'second' returns NaN or infinity"):
        quantize(rows_graph(3e37), QuantizeConfig(), with_train(evidence, torch.ones(20, 4)))


def test_data_that_does_not_fit_the_graph_is_shown(graph, evidence):
    floats = with_train(evidence, torch.zeros(20, 1, 8, 8))
    with pytest.raises(ModelError, match=r"data is float32 \(N, 1, 8, 8\); expected uint8 \(N, 1, 8, 8\)"):
        quantize(graph, QuantizeConfig(), floats)
    small = with_train(evidence, torch.zeros(20, 1, 6, 8, dtype=torch.uint8))
    with pytest.raises(ModelError, match=r"data is uint8 \(N, 1, 6, 8\); expected uint8 \(N, 1, 8, 8\)"):
        quantize(graph, QuantizeConfig(), small)


def test_misspelt_node_is_refused(graph, evidence):
    with pytest.raises(ModelError, match=r"names 'conv22', which is no node .* did you mean 'conv2'"):
        quantize(graph, QuantizeConfig(skip=("conv22",)), evidence)


def test_an_activation_that_was_never_alive_has_an_empty_range():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibration.cut_tails(np.zeros(10), np.linspace(-1, 1, 11), 99.0) == (0.0, 0.0)


def test_a_graph_that_is_int8_already_is_not_called_one_without_layers(graph, evidence):
    eight, _ = quantize(graph, QuantizeConfig(), evidence)
    with pytest.raises(ModelError, match="what can be quantized in this graph is int8 already; expected a graph in fl"):
        quantize(eight, QuantizeConfig(), evidence)


def test_nothing_to_quantize_says_why(evidence, graph, proto):
    relu = proto([helper.make_node("Relu", ["input"], ["output"])], {}, (TensorProto.FLOAT, ["N", 4]), ["N", 4])
    with pytest.raises(ModelError, match="nothing in this graph can be quantized in static mode; expected a conv"):
        quantize(relu, QuantizeConfig(), evidence)
    convolution = proto(
        [helper.make_node("Conv", ["input", "w"], ["output"], "only")],
        {"w": np.ones((16, 1, 3, 3), np.float32)},
        (TensorProto.FLOAT, ["N", 1, 8, 8]),
        ["N", 16, 6, 6],
    )
    with pytest.raises(ModelError, match=r"dynamic mode \(only: no fast dynamic int8 kernel for Conv\)"):
        quantize(convolution, QuantizeConfig(mode="dynamic"), evidence)


def test_graphs_that_cannot_be_used_are_refused(evidence, proto, rows_graph):
    io = (TensorProto.FLOAT, ["N", 4])
    custom = proto([helper.make_node("Odd", ["input"], ["output"], domain="my.own")], {}, io, ["N", 4])
    with pytest.raises(ModelError, match=r"onnxruntime cannot run this graph: .* custom operators"):
        quantize(custom, QuantizeConfig(), evidence)
    old = proto([helper.make_node("Relu", ["input"], ["output"])], {}, io, ["N", 4], opset=11)
    with pytest.raises(ArtifactError, match="written in opset 11; expected at least 13"):
        quantize(old, QuantizeConfig(), evidence)
    two = rows_graph()
    two.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 4]))
    with pytest.raises(ModelError, match=r"the graph has 2 inputs \('input', 'other'\); expected exactly one"):
        quantize(two, QuantizeConfig(), evidence)
