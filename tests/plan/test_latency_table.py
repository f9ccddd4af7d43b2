"""The table of layers: fitted to timings that are additive by construction; nothing here depends on a clock."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dimwise.errors import ModelError
from dimwise.measure import Latency
from dimwise.plan import latency_table as tables
from dimwise.ship.layer_table import Layer
from dimwise.ship.runtimes.side_by_side import SideBySide


def network(c: int, hidden: int = 64) -> list[Layer]:
    """Spatial, depthwise, pointwise, dense, on an 8×8 image."""
    return [
        Layer("stem", "Conv2d", (3, 8, 8), (c, 8, 8), 27 * c, 64 * 27 * c),
        Layer("deep", "Conv2d", (c, 8, 8), (c, 8, 8), 9 * c, 64 * 9 * c),
        Layer("wide", "Conv2d", (c, 8, 8), (2 * c, 8, 8), 2 * c * c, 64 * 2 * c * c),
        Layer("more", "Conv2d", (2 * c, 8, 8), (2 * c, 8, 8), 36 * c * c, 64 * 36 * c * c),
        Layer("head", "Linear", (2 * c,), (hidden,), 2 * c * hidden, 2 * c * hidden),
    ]


def true_ms(layer: Layer) -> float:
    """A machine that fills registers of 16 values, and takes twice as long for one of the layers."""
    _, macs, filled, written, read, *_ = tables.features(layer)
    work = 2e-8 * filled + 1e-9 * macs + 1e-7 * (written + read)
    return 0.004 + work * (2 if layer.name == "more" else 1)


def seen(widths: Sequence[int]) -> tuple[list[tuple[list[Layer], Mapping[str, float]]], list[float]]:
    networks = [network(c) for c in widths]
    times = [{layer.name: true_ms(layer) for layer in rows} for rows in networks]
    return list(zip(networks, times, strict=True)), [0.01 + 0.9 * sum(ms.values()) for ms in times]


def test_other_widths_are_predicted() -> None:
    table = tables.fit(*seen([64, 48, 40, 24, 16, 8]), threads=2, batch=3)
    assert (table.runtime, table.threads, table.batch) == ("onnxruntime", 2, 3)
    assert table.error_frac < 0.05
    errors = []
    for c in (56, 36, 32, 20, 12):
        expected = 0.01 + 0.9 * sum(map(true_ms, network(c)))
        errors.append(abs(table.ms(network(c)) / expected - 1))
    assert np.median(errors) <= 0.1
    assert max(errors) <= 0.25


def test_a_layer_is_corrected_by_its_own_times() -> None:
    table = tables.fit(*seen([64, 48, 40, 24, 16, 8]))
    known = {layer.name: layer for layer in network(32)}
    assert table.layer_ms(known["more"]) == pytest.approx(0.9 * true_ms(known["more"]), rel=0.1)
    plain = replace(known["more"], name="unknown")  # priced as its kind alone
    assert table.layer_ms(plain) != table.layer_ms(known["more"])


def test_layers_that_leave_or_come_are_priced() -> None:
    table = tables.fit(*seen([64, 48, 40, 24, 16, 8]))
    rows = network(32)
    without = [layer for layer in rows if layer.name != "wide"]
    gone = table.ms(rows) - table.ms(without)
    assert gone == pytest.approx(0.9 * true_ms(rows[2]), rel=0.5)
    new = Layer("new", "Conv2d", (32, 8, 8), (32, 8, 8), 32 * 32 * 9, 64 * 32 * 32 * 9)
    price = table.ms([*rows, new]) - table.ms(rows)  # as its kind: half of those that were seen take twice as long
    assert 0.9 * true_ms(new) <= price <= 2.5 * 0.9 * true_ms(new)
    assert table.layer_ms(Layer("x", "Unheard", (3,), (3,))) == table.call_ms


def test_networks_and_their_graphs_are_the_same_kinds_of_work() -> None:
    pairs = [("Conv2d", "Conv"), ("Linear", "Gemm"), ("Linear", "MatMul")]
    for one, other in pairs:
        kinds = {tables.kind_of(Layer("x", kind, (8, 4, 4), (16, 4, 4), 0, 16 * 16 * 8 * 9)) for kind in (one, other)}
        assert len(kinds) == 1
    spatial, deep, point = (
        tables.kind_of(Layer("x", "Conv", (8, 4, 4), (8, 4, 4), 0, 128 * per)) for per in (72, 9, 8)
    )
    assert (spatial, deep, point) == ("Conv spatial", "Conv depthwise", "Conv pointwise")


def test_channels_are_filled_up_but_those_of_an_image() -> None:
    image = tables.features(Layer("x", "Conv2d", (3, 4, 4), (24, 4, 4), 0, 24 * 27 * 16))
    assert image[2] == image[1] * 32 / 24
    both = tables.features(Layer("x", "Conv2d", (24, 4, 4), (24, 4, 4), 0, 24 * 24 * 9 * 16))
    assert both[2] == pytest.approx(both[1] * (32 / 24) ** 2)
    assert both[5:] == (384.0, 384.0)
    deep = tables.features(Layer("x", "Conv2d", (24, 4, 4), (24, 4, 4), 0, 24 * 9 * 16))
    assert deep[2] == pytest.approx(deep[1] * 32 / 24)  # once: they meet no others


@pytest.mark.parametrize(("runtime", "told_on"), [("pytorch", "pytorch"), ("openvino", "onnxruntime")])
def test_the_whole_is_measured_where_it_is_asked(runtime: str, told_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    asked: dict[str, Any] = {}

    class Opened:
        def close(self) -> None:
            next(calls)

    def opened(subject: Any, where: str, **settings: Any) -> Any:
        asked.setdefault("opened", []).append((type(subject).__name__, where, settings))
        return Opened()

    def measured(candidates: Mapping[str, Any], rows: np.ndarray, **settings: Any) -> SideBySide:
        asked["rows"] = rows.shape
        found = {name: Latency(1.0 / (1 + int(name)), 1.0, 0.1, 9, 1, "cpu") for name in candidates}
        return SideBySide(found, 2, dict.fromkeys(candidates, runtime))

    def looked(subject: Any, where: str, *others: Any) -> Any:
        asked.setdefault("told on", set()).add(where)
        ms = 1.0 / len(asked["told on"])
        return [Layer("0", "Linear", (4,), (8,), 40, 32)], {"0": ms}

    monkeypatch.setattr(tables, "open_runtime", opened)
    monkeypatch.setattr(tables, "measure_on", measured)
    monkeypatch.setattr(tables, "_seen", looked)
    monkeypatch.setattr(tables, "_graph", lambda network, example: "graph")
    table = tables.latency_table(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        torch.zeros(1, 4),
        runtime,
        batch=2,
        widths=(1.0, 0.5),
    )
    kind = "Sequential" if runtime == "pytorch" else "str"
    assert [(name, where) for name, where, _ in asked["opened"]] == 2 * [(kind, runtime)]
    assert asked["opened"][0][2] == {"threads": 1, "batch": 2}
    assert asked["rows"] == (2, 4)
    assert asked["told on"] == {told_on}
    assert next(calls) == 2  # all were closed
    assert table.runtime == runtime


def test_a_network_whose_channels_cannot_leave_has_its_own_times() -> None:
    def refuse(model: nn.Module, width: float) -> nn.Module:
        raise ModelError("no channel can leave")

    net = nn.Linear(4, 2)
    assert tables._made(net, (1.0, 0.5), refuse) == [net]


def test_a_real_network_gives_a_table() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), torch.zeros(1, 16)
    table = tables.latency_table(net, x, "pytorch", widths=(1.0, 0.5), budget_s=0.02)
    assert set(table.weights) == {"Linear", "ReLU"}
    assert table.predict(net, x) > 0
    assert [row.name for row in tables.rows_of(net, x, "onnxruntime")] == ["0", "2"]
