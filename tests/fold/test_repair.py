from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dimwise import fold
from dimwise.data.sets import Split
from dimwise.errors import RecipeError
from dimwise.fold import _onnx
from dimwise.fold._numbers import bias_correction, calibration, int8, repairs, selection
from dimwise.fold.quantize import QuantizeConfig, quantize


def scaled(network: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function with half of the channels between layers 0 and 2 far larger than the others."""
    net = copy.deepcopy(network)
    with torch.no_grad():
        for name, value in (("weight", factor), ("bias", factor)):
            getattr(net[0], name)[:4] *= value
        net[2].weight[:4] /= factor
    return net


@pytest.fixture(scope="module")
def collapsing(network, digits, graph_of) -> onnx.ModelProto:
    return graph_of(scaled(network, 3000.0), digits.normalise, (1, 8, 8))


@pytest.fixture(scope="module")
def repaired(collapsing, evidence):
    return quantize(collapsing, QuantizeConfig(), evidence)


def test_a_collapse_is_repaired_by_keeping_the_guilty_layers_float(repaired, collapsing, evidence):
    made, report = repaired
    assert report.tried[0]["what"] == "static, minmax"
    assert report.tried[0]["score"] < report.score_before - 0.05
    assert report.score_after >= report.score_before - 0.005
    kept = [name for name, why in report.untouched.items() if "by repair" in why]
    assert set(kept) == {"conv0", "conv2"}  # the two that touch the stretched tensor, and no other
    assert "dB of signal over noise" in report.untouched["conv0"]
    assert {"conv3", "gemm7", "gemm9"} <= {row["name"] for row in report.layers}
    assert evidence.score(made) == report.score_after
    assert report.cost_after["size_bytes"] < report.cost_before["size_bytes"]


def test_everything_tried_is_told(repaired):
    made, report = repaired
    told = [row["what"] for row in report.tried]
    cheap = ["calibration percentile", "calibration mse", "calibration entropy", "bias correction"]
    fewer_bits = (
        [] if report.notes else ["7-bit weights"]
    )  # where the processor saturates they are there from the start
    assert told[: 6 + len(fewer_bits)] == ["static, minmax", *cheap, *fewer_bits, "1 guiltiest kept float"]
    assert [row["what"] for row in report.tried if row["chosen"]] == ["2 guiltiest kept float"]
    assert next(row for row in report.tried if row["chosen"])["size_bytes"] == made.ByteSize()


def test_without_repair_the_collapse_is_only_reported(collapsing, evidence):
    _, report = quantize(collapsing, QuantizeConfig(repair=False), evidence)
    assert report.score_after < report.score_before - 0.05
    assert report.tried == []


def test_a_drop_that_is_allowed_begins_no_repair(graph, collapsing, evidence):
    for proto, allowed in ((graph, 0.02), (collapsing, 1.0)):
        _, report = quantize(proto, QuantizeConfig(max_drop=allowed), evidence)
        assert [row["what"] for row in report.tried] == ["static, minmax"]
        assert report.tried[0]["chosen"]


def test_what_cannot_be_repaired_returns_the_best_and_says_so(graph, evidence):
    """A score that falls with every attempt but one: the best of them comes back."""
    given = iter([0.9, 0.2, 0.3, 0.5, 0.1])
    known: dict[bytes, float] = {}

    def score(proto: onnx.ModelProto) -> float:
        return known.setdefault(proto.SerializeToString(), next(given, 0.1))

    judge = dataclasses.replace(evidence, score=score)
    made, report = quantize(graph, QuantizeConfig(repair_layers=2), judge)
    assert report.score_after == 0.5 == score(made)
    assert sum(row["chosen"] for row in report.tried) == 1
    n = len(report.tried)
    assert report.untouched["(the graph)"] == f"not repaired: the best of {n} attempts scores 0.5000, 0.9000 before"
    assert report.tried[-1]["what"] == "weights in 8 bits, activations float"


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_what_needs_no_inputs_is_not_lost_for_want_of_them(mode, graph, evidence):
    """The score falls too far, and there is nothing to rank layers by: the best without them comes back."""
    train = evidence.data.train
    empty = dataclasses.replace(evidence.data, train=Split(train.inputs[:0], train.targets[:0]))
    looks = dataclasses.replace(evidence, data=empty, score=lambda model: 1.0 if model is graph else 0.5)
    _, report = quantize(graph, QuantizeConfig(mode=mode), looks)
    (row,) = [row for row in report.tried if row["what"] == "guilty layers kept higher"]
    assert "is empty" in row["error"]
    assert report.score_after == 0.5


def test_a_cheap_setting_that_helps_is_enough(graph, evidence):
    given = iter([0.9, 0.2, 0.9])
    _, report = quantize(graph, QuantizeConfig(), dataclasses.replace(evidence, score=lambda _: next(given)))
    assert [(row["what"], row["chosen"]) for row in report.tried] == [
        ("static, minmax", False),
        ("calibration percentile", True),
    ]
    assert report.score_after == 0.9
    assert "(the graph)" not in report.untouched


def test_no_attempt_begins_when_time_is_up(collapsing, evidence):
    _, report = quantize(collapsing, QuantizeConfig(repair_s=0), evidence)
    assert [row["what"] for row in report.tried] == ["static, minmax"]
    assert report.untouched["(the graph)"].endswith("time was up (quantize.repair_s)")


def test_repair_never_sees_the_test_split(collapsing, digits):
    poisoned = dataclasses.replace(digits, test=Split(torch.zeros(0), torch.zeros(0)))
    _, report = quantize(collapsing, QuantizeConfig(), fold.evidence(poisoned))
    assert report.score_after >= report.score_before - 0.005


def test_repair_keeps_the_given_graph_and_repeats(collapsing, evidence, repaired):
    before = collapsing.SerializeToString()
    again, report = quantize(collapsing, QuantizeConfig(), evidence)
    assert collapsing.SerializeToString() == before
    assert again.SerializeToString() == repaired[0].SerializeToString()
    assert report.tried == repaired[1].tried


def test_a_score_that_is_no_number_before_is_left_alone(graph, evidence):
    judge = dataclasses.replace(evidence, score=lambda _: float("nan"))
    _, report = quantize(graph, QuantizeConfig(), judge)
    assert len(report.tried) <= 1
    assert "(the graph)" not in report.untouched


def test_the_fewest_layers_that_will_do_are_kept():
    """Five of twelve layers are guilty: after 1, 2, 3, 4, 6 the search tries 5."""
    noise = {f"l{i}": float(i) for i in range(12)}
    config = QuantizeConfig()

    class Graph:
        def ByteSize(self) -> int:
            return 1

    def make(settings, kept):
        return repairs.Made(Graph(), settings, [], {}, tuple(kept))

    counts: dict[int, float] = {}
    search = repairs.Search(make, lambda g: counts[id(g)], 1.0, float("inf"), fold.evidence.__globals__["SILENT"])
    looked = search.look

    def look(what, made):
        counts[id(made.graph)] = 1.0 if len(made.kept) >= 5 else 0.0
        return looked(what, made)

    search.look = look  # type: ignore[method-assign]
    repairs._keep_guilty(search, config, noise)
    assert [row["n_kept"] for row in search.rows] == [1, 2, 3, 4, 6, 5]
    assert search.best is not None
    assert search.best.kept == ("l0", "l1", "l2", "l3", "l4")


# Sensitivity and bias correction against plain arithmetic


def test_sensitivity_is_signal_over_noise():
    exact = np.array([[3.0, 4.0]])
    assert repairs._snr_db(exact, exact + 0.5) == pytest.approx(10 * np.log10(25 / 0.5))
    assert repairs._snr_db(exact, exact) == np.inf


def test_the_stretched_layers_are_the_most_sensitive(collapsing, evidence):
    before = _onnx.optimised(collapsing)
    chosen, _ = selection.plan(before, QuantizeConfig())
    inputs = evidence.data.train.inputs[:64].numpy()
    ranges = calibration.ranges(
        before, int8.tensors_to_calibrate(before, chosen), inputs, method="minmax", percentile=99.0
    )

    def alone(name: str):
        return int8.static(copy.deepcopy(before), {name}, ranges, per_channel=True, reduce_range=False, signed=False)

    layers = ["conv0", "conv2", "conv3", "gemm7", "gemm9"]
    found = repairs.sensitivities({"": lambda: before} | {n: lambda n=n: alone(n) for n in layers}, inputs)
    assert set(list(found)[:2]) == {"conv0", "conv2"}
    assert list(found.values()) == sorted(found.values())


@pytest.mark.parametrize("kind", ["conv", "gemm", "matmul"])
def test_bias_correction_brings_the_means_back(kind, proto):
    """Coarse weights (one scale for all, an outlier beside small ones) shift the mean of each output."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (50, 6) if kind != "conv" else (50, 6, 4, 4)).astype(np.float32)
    w = rng.normal(0, 0.01, (6, 5)).astype(np.float32)
    w[0, 0] = 8.0
    constants = {"w": w, "b": rng.normal(size=5).astype(np.float32)}
    shape = ["N", *x.shape[1:]]
    if kind == "conv":
        constants["w"] = np.ascontiguousarray(w.T)[:, :, None, None]
        nodes = [helper.make_node("Conv", ["input", "w"], ["output"], "layer")]  # none yet: a bias is made
        out = ["N", 5, 4, 4]
    elif kind == "gemm":
        nodes, out = [helper.make_node("Gemm", ["input", "w", "b"], ["output"], "layer")], ["N", 5]
    else:
        nodes = [
            helper.make_node("MatMul", ["input", "w"], ["m"], "layer"),
            helper.make_node("Add", ["b", "m"], ["output"], "add"),
        ]
        out = ["N", 5]
    before = onnx.shape_inference.infer_shapes(proto(nodes, constants, (TensorProto.FLOAT, shape), out))
    text = before.SerializeToString()
    fixed = bias_correction.corrected(before, {"layer"}, x, per_channel=False)
    assert before.SerializeToString() == text

    def shift(model: onnx.ModelProto) -> np.ndarray:
        weights = next(t for t in model.graph.initializer if t.name == "w")
        whole, scale = int8.round_weights(numpy_helper.to_array(weights), None)
        weights.CopyFrom(numpy_helper.from_array(whole * scale, "w"))
        error = _onnx.outputs(model, x) - _onnx.outputs(before, x)
        return np.abs(error.mean(tuple(a for a in range(error.ndim) if a != 1))).max()

    assert shift(onnx.ModelProto.FromString(text)) > 0.005
    assert shift(fixed) < 1e-4


def test_bias_correction_counts_clipped_activations(proto):
    """What clipping takes from a layer's inputs shifts its outputs: y = 2 x, x uniform in [0, 2] and clipped at 1."""
    x = np.linspace(0, 2, 201, dtype=np.float32)[:, None]
    nodes = [helper.make_node("Gemm", ["input", "w", "b"], ["output"], "layer")]
    constants = {"w": np.full((1, 1), 2.0, np.float32), "b": np.zeros(1, np.float32)}
    model = onnx.shape_inference.infer_shapes(proto(nodes, constants, (TensorProto.FLOAT, ["N", 1]), ["N", 1]))
    fixed = bias_correction.corrected(model, {"layer"}, x, ranges={"input": (0.0, 1.0)})
    bias = next(numpy_helper.to_array(t) for t in fixed.graph.initializer if t.name == fixed.graph.node[0].input[2])
    assert bias[0] == pytest.approx(2 * (1.0 - 0.75), abs=0.02)  # means of x and of min(x, 1)


def test_four_bits_need_the_mode_that_has_them(graph, evidence):
    with pytest.raises(RecipeError, match=r"quantize\.bits is 4 in static mode; expected mode = 'weights'.*int4"):
        quantize(graph, QuantizeConfig(bits=4), evidence)
