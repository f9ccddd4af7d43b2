"""Layers of networks and graphs: what they hold, which kernels are theirs, and two models side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from tests._networks import network, small_shape, zeros
from torch import nn

from dimwise import measure, models
from dimwise.data.sets import Data
from dimwise.errors import ArtifactError, ModelError
from dimwise.fold import QuantizeConfig, _onnx, evidence, quantize
from dimwise.ship import graph, layer_table
from dimwise.ship.layer_table import OUTSIDE, Layer, Side, align
from dimwise.ship.runtimes import layers as timed


class Residual(nn.Module):
    """Two ways that meet: optimisers fuse the addition into one of the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.long = nn.Conv2d(16, 16, 3, padding=1)
        self.short = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.long(x) + self.short(x))
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def residual() -> tuple[nn.Module, Any, np.ndarray]:
    torch.manual_seed(0)
    net, raw = Residual().eval(), torch.randn(2, 3, 12, 12)
    return net, graph(net, nn.Identity(), raw), raw.numpy()


def run_and_read(subject: Any, runtime: str, inputs: np.ndarray, n: int = 6) -> dict[str, float]:
    watched = timed.watch(subject, runtime)
    for _ in range(n):
        watched.run(inputs)
    return watched.ms()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_of_a_graph_has_its_own_kernel(runtime: str, residual: tuple[nn.Module, Any, np.ndarray]) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    _, proto, raw = residual
    ms = run_and_read(proto, runtime, raw[:1], n=20)
    assert [name for name in ms if name != timed.BEFORE] == ["first", "long", "short", "fc"]
    assert all(value > 0 for value in ms.values())


def test_kernels_are_led_back_to_layers_by_what_they_return() -> None:
    """Oracle by hand: fused, renamed and inserted nodes, as onnxruntime makes them."""
    make, value = helper.make_node, helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "x")
    names = {stem: numpy_helper.from_array(numpy_helper.to_array(weight), f"{stem}.weight") for stem in ("p", "q", "r")}
    nodes = [
        make("Conv", ["input", "p.weight"], ["a"], "Conv_0"),
        make("Relu", ["a"], ["b"], "Relu_1"),
        make("Conv", ["b", "q.weight"], ["c"], "Conv_2"),
        make("Conv", ["b", "r.weight"], ["d"], "Conv_3"),
        make("Add", ["c", "d"], ["output"], "Add_4"),
    ]
    given, made = value("input", 1, ["n", 2, 4, 4]), value("output", 1, ["n", 2, 4, 4])
    proto = helper.make_model(helper.make_graph(nodes, "g", [given], [made], list(names.values())))
    assert [layer.name for layer in timed.graph_layers(proto)] == ["p", "q", "r"]
    fused = [
        make("ReorderInput", ["input"], ["reordered"], "ReorderInput"),
        make("Conv", ["reordered", "w0"], ["e0"], "b_nchwc"),
        make("Conv", ["e0", "w1"], ["e1"], "d_nchwc"),
        make("Conv", ["e0", "w2", "", "e1"], ["e2"], "output_nchwc"),
        make("ReorderOutput", ["e2"], ["output"], "ReorderOutput_token_7"),
        make("Elu", ["nowhere"], ["nothing"], "Elu"),
    ]
    optimised = helper.make_model(helper.make_graph(fused, "g", [given], [made]))
    assert timed.kernel_homes(proto, optimised) == {
        "b_nchwc": "p",
        "d_nchwc": "r",
        "output_nchwc": "q",
        "ReorderOutput_token_7": "r",
    }


def test_kernels_that_name_their_nodes_are_led_back_by_them() -> None:
    """Oracle by hand: as OpenVINO tells what it fused, split and inserted."""
    make, value = helper.make_node, helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "p.weight")
    other = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "q.weight")
    nodes = [
        make("Cast", ["input"], ["raw"], "cast", to=1),
        make("Conv", ["raw", "p.weight"], ["a"], "/body/p/Conv"),
        make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "q.weight"], ["output"], "/body/q/Conv"),
    ]
    given, made = value("input", 2, ["n", 2, 4, 4]), value("output", 1, ["n", 2, 4, 4])
    proto = helper.make_model(helper.make_graph(nodes, "g", [given], [made], [weight, other]))
    kernels = {
        "input_reorder": [],
        "cast": ["cast"],
        "/body/p/Conv/WithoutBiases": ["/body/p/Conv/WithoutBiases", "Multiply_5343", "b"],
        "b_reorder": ["b"],
        "sum": ["Constant_7", "/body/q/Conv/WithoutBiases/Scale", "output"],
    }
    kernels |= {"Sequence_145": ["Sequence_145"], "Transpose": [], "nowhere": []}
    readers = {"Sequence_145": ["Transpose", "sum"], "Transpose": ["b_reorder"], "cast": ["Transpose"]}
    homes = timed.named_homes(proto, kernels, readers | {"nowhere": ["nowhere", "cast"]})
    assert homes == {
        "/body/p/Conv/WithoutBiases": "p",
        "b_reorder": "p",
        "sum": "q",
        "Sequence_145": "p",
        "Transpose": "p",
    }


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["resnet20", "vit", "lstm"])
def test_layers_of_deep_networks_take_most_of_the_time(runtime: str, name: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    shape = small_shape(name)
    x = zeros(name, 1, *shape)
    proto = graph(network(name, shape, 4, width=0.5).eval(), nn.Identity(), x)
    ms = run_and_read(proto, runtime, x.numpy(), n=20)
    rows = layer_table.layers(Side(name, proto, x.numpy()))
    taken = [ms[row.name] for row in rows]
    assert sum(value > 0 for value in taken) >= 0.85 * len(taken), (
        "OpenVINO has one kernel for the two products of attention"
    )
    assert sum(taken) > 0.5 * sum(ms.values())


def test_graphs_and_networks_count_alike(residual: tuple[nn.Module, Any, np.ndarray]) -> None:
    net, proto, raw = residual
    counted = measure.profile(net, torch.from_numpy(raw[:1]))
    mine, theirs = layer_table.layers(Side("a", net, raw)), layer_table.layers(Side("b", proto, raw))
    known = {layer.name: layer for layer in mine}
    assert [layer.name for layer in theirs] == ["first", "long", "short", "fc"]
    for layer in theirs:
        same = known[layer.name]
        assert (layer.params, layer.macs, layer.output_shape) == (same.params, same.macs, same.output_shape)
    assert sum(layer.macs for layer in theirs) == counted.macs


def test_the_sums_are_those_of_the_whole_graph_and_biases_lend_their_names() -> None:
    shape = (3, 32, 32)
    proto = graph(models.build("vit", shape, 10, width=0.25), nn.Identity(), torch.zeros(1, *shape))
    rows = layer_table.layers(Side("vit", proto, np.zeros((1, *shape), np.float32)))
    whole = _onnx.cost(proto)
    assert sum(row.params for row in rows) == whole["params"]
    assert sum(row.macs for row in rows) == whole["macs"]
    assert len({row.name for row in rows}) == len(rows)
    assert {"patches", "blocks.0.fc1", "head"} <= {row.name for row in rows}


def test_int8_layers_keep_names_and_counts(image_proto: Any, data: Data) -> None:
    int8, _ = quantize(image_proto, QuantizeConfig(), evidence(data))
    raw = data.test.inputs.numpy()
    before, after = (layer_table.layers(Side("x", proto, raw)) for proto in (image_proto, int8))
    assert [(r.name, r.macs, r.params) for r in before] == [(r.name, r.macs, r.params) for r in after]
    assert sum(r.params for r in after) == _onnx.cost(int8)["params"]
    assert set(run_and_read(int8, "onnxruntime", raw[:1])) - {timed.BEFORE} == {r.name for r in after}


def test_modules_are_charged_without_what_is_inside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    class Takes(nn.Module):
        def __init__(self, ms: int, inside: nn.Module | None = None, *, own: bool = True) -> None:
            super().__init__()
            self.ms, self.inside = ms, inside
            self.weight = nn.Parameter(torch.ones(1)) if own else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += self.ms * 1_000_000
            return x if self.inside is None else self.inside(x)

    monkeypatch.setattr(timed, "perf_counter_ns", lambda: now)
    leaf = Takes(3)
    net = nn.Sequential(Takes(10, leaf), Takes(100, nn.ReLU(), own=False), Takes(1), leaf)
    ms = run_and_read(net, "pytorch", np.zeros((1, 2), np.float32))
    assert ms == {"0.inside": 6.0, "0": 10.0, "1.inside": 0.0, "2": 1.0}  # a shared layer runs twice


def test_warm_up_and_outliers_do_not_count() -> None:
    assert timed.middle([1, 2, 3, 1000]) == 2.5
    assert timed.middle([1000, 7]) == 503.5


def test_two_networks_side_by_side() -> None:
    torch.manual_seed(0)
    wide, narrow = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), nn.Sequential(nn.Linear(8, 2))
    rows = np.zeros((1, 8), np.float32)
    found = layer_table.compare(
        Side("wide", wide, rows), Side("narrow", narrow, rows), runtime="pytorch", batch=3, runs=6, budget_s=0.02
    )
    told = found.as_dict()
    assert [(row["name"], row["a"] is None, row["b"] is None) for row in told["layers"]] == [
        ("0", False, False),
        ("1", False, True),
        ("2", False, True),
        (OUTSIDE, False, False),
    ]
    assert (told["a"]["params"], told["b"]["params"]) == (178, 18)
    assert (told["runtime"], told["threads"], told["batch"]) == ("pytorch", 1, 3)
    for side in (found.a, found.b):
        assert side.latency is not None
        assert sum(layer.ms or 0.0 for layer in side.layers) == pytest.approx(side.latency.p50_ms)
        assert sum(layer.share or 0.0 for layer in side.layers) == pytest.approx(1.0)


def test_new_layers_stand_after_their_predecessors() -> None:
    a = [Layer(name, "") for name in ("x", "y", "z")]
    b = [Layer(name, "") for name in ("new", "x", "y.0", "y.1", "z", "last")]
    names = [(name, one is not None, other is not None) for name, one, other in align(a, b)]
    assert [name for name, *_ in names] == ["new", "x", "y.0", "y.1", "y", "z", "last"]
    assert [name for name, one, other in names if one and other] == ["x", "z"]


def test_what_cannot_be_watched_is_one_line(image_proto: Any) -> None:
    expected = "layers cannot be timed on pytorch-compiled; expected pytorch or onnxruntime or openvino"
    with pytest.raises(ModelError, match=expected):
        timed.watch(nn.Linear(1, 1), "pytorch-compiled")
    broken = onnx.ModelProto()
    broken.CopyFrom(image_proto)
    broken.graph.node[0].op_type = "Magic"
    with pytest.raises(ModelError, match="the graph cannot be profiled"):
        timed.watch(broken, "onnxruntime")
    pytest.importorskip("openvino")
    with pytest.raises(ArtifactError, match="the model cannot be loaded by OpenVINO"):
        timed.watch(broken, "openvino").run(np.zeros((1, 1, 28, 28), np.float32))
