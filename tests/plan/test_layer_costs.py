"""The tables of layers: what they say of smaller networks, against networks that were made so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from dimwise import fold
from dimwise.data import load as load_data
from dimwise.data.config import DataConfig
from dimwise.fold._steps import parse
from dimwise.models import build
from dimwise.plan import begin, layer_costs, make
from dimwise.plan.apply import Once, Subject, apply, network_of
from dimwise.plan.bench import Question
from dimwise.plan.budget import Budget, Target
from dimwise.plan.layer_costs import LatencyTable, LayerCost, Layers, table_of
from dimwise.plan.predict import learn
from dimwise.plan.record import Line
from dimwise.plan.shapes import LayerShape, layers_of
from dimwise.plan.space import CUTS, NUMBERS, Point, space_of
from dimwise.ship.runtimes.layers import BEFORE
from dimwise.train import TrainConfig, evaluate

TABLE = LatencyTable(
    (
        LayerCost(BEFORE, "", 0, 0, 1.0),
        LayerCost("stem", "Conv", 100, 200, 5.0),
        LayerCost("body", "Conv", 900, 9000, 3.0),
        LayerCost("head", "Gemm", 50, 50, 1.0),
    )
)
WHOLE = (
    LayerShape("stem", 100, 200, 1, 16, 64),
    LayerShape("body", 900, 9000, 16, 16, 64),
    LayerShape("head", 50, 50, 16, 10, 10),
)


def subject(name: str) -> tuple[Subject, fold.Evidence]:
    data = load_data(DataConfig(source="digits", train_limit=40))
    torch.manual_seed(0)
    told: dict[str, Any] = {"precision": "fp32", "layout": "contiguous"}
    return Subject(build(name, data.input_shape, 10).eval()), fold.evidence(data, train=TrainConfig(epochs=1, **told))


@pytest.mark.parametrize(
    ("network", "steps"),
    [
        ("small_cnn", "separable"),
        ("small_cnn", "distill(scale=0.375) prune(macs=0.75)"),
        ("mlp", "lowrank(macs=0.6)"),
        ("resnet20", "distill(depth=0.34, scale=1.0)"),
        ("resnet20", "prune(macs=0.5)"),
        ("mobilenetv2", "distill(scale=0.5)"),
    ],
)
def test_a_table_whose_times_are_operations_keeps_what_operations_keep(network: str, steps: str) -> None:
    told, looks = subject(network)
    whole = apply((), told, looks)
    measured = table_of(whole, looks.data, Target(), runs=3)
    assert measured is not None
    assert sum(row.macs for row in measured.rows) == whole.macs
    by_macs = LatencyTable(tuple(replace(row, ms=float(row.macs)) for row in measured.rows))
    assert told.network is not None
    before, after = (
        layers_of(made, looks.example) for made in (told.network, network_of(parse(steps), told, looks, Once()))
    )
    operations = [sum(layer.macs for layer in of) for of in (before, after)]
    assert by_macs.kept(before, after) == pytest.approx(operations[1] / operations[0])
    assert measured.kept(before, before) == pytest.approx(1)


def test_preprocessing_stays_what_is_gone_takes_nothing_and_blocks_are_filled_up() -> None:
    assert TABLE.kept(WHOLE, WHOLE) == 1.0
    assert TABLE.kept(WHOLE, ()) == pytest.approx(0.1)
    other = tuple(replace(layer, name=f"own.{layer.name}", macs=layer.macs // 2) for layer in WHOLE)
    assert TABLE.kept(WHOLE, other) == pytest.approx(0.5), "of a network with names of its own the operations tell"
    half = (replace(WHOLE[0], macs=100, n_out=8), replace(WHOLE[1], macs=2250, n_in=8, n_out=8), WHOLE[2])
    assert TABLE.kept(WHOLE, half) == pytest.approx(0.1 + 0.5 * 0.5 + 0.3 * 0.25 + 0.1)
    assert TABLE.kept(WHOLE, half, 16) == pytest.approx(0.1 + 0.5 + 0.3 * 0.5 + 0.1)


def test_predictions_come_from_the_layers_of_the_numbers_at_hand() -> None:
    epochs = {"distill": 9, "prune": 3, "separable": 9, "lowrank": 3}
    space = space_of(NUMBERS[1:], {}, epochs, network_folds=tuple(epochs))
    measured = {"score": 0.9, "latency_ms": 1.0, "size_bytes": 1000.0, "params": 1050.0}
    lines = [Line("", 0, "whole", measured=measured)]
    cut = {"student": 0, "cut": CUTS.index("prune(macs=0.25)"), "numbers": 0}
    int8 = {**cut, "numbers": space.numbers.index("quantize")}
    small = (WHOLE[0], replace(WHOLE[1], macs=2250, params=225), WHOLE[2])

    def shape(point: Point) -> Sequence[LayerShape]:
        return small if point["cut"] else WHOLE

    body = LatencyTable((replace(TABLE.rows[2], ms=9.0),))
    without = learn(space, lines, 100)
    found = learn(space, lines, 100, {"": TABLE, "quantize": body}, shape)
    assert without.latency_ms(cut).value == pytest.approx(0.02 + 0.98 * 0.25)
    assert found.latency_ms(cut).value == pytest.approx(0.02 + 0.98 * (0.1 + 0.5 + 0.3 * 0.25 + 0.1))
    assert found.latency_ms(int8).value == pytest.approx(without.latency_ms(int8).value, rel=0.01)
    assert found.size_bytes(cut).value == pytest.approx(1000 * (0.05 + 0.95 * 375 / 1050))


def test_a_point_whose_layers_become_known_is_predicted_by_them() -> None:
    space = space_of(NUMBERS[1:], {}, {"prune": 3}, network_folds=("prune",))
    measured = {"score": 0.9, "latency_ms": 1.0, "size_bytes": 1000.0, "params": 1050.0}
    cut = {"student": 0, "cut": space.cuts.index("prune(macs=0.25)"), "numbers": 0}
    known = {0: WHOLE}
    found = learn(space, [Line("", 0, "whole", measured=measured)], 100, {"": TABLE}, lambda p: known.get(p["cut"]))
    before = found.latency_ms(cut).value
    known[cut["cut"]] = (WHOLE[0], replace(WHOLE[1], macs=2250, params=225), WHOLE[2])  # it was built to be looked at
    assert before == pytest.approx(0.02 + 0.98 * 0.25)
    assert found.latency_ms(cut).value == pytest.approx(0.02 + 0.98 * (0.1 + 0.5 + 0.3 * 0.25 + 0.1))


def test_tables_are_read_again_and_a_broken_file_costs_nothing_but_itself(tmp_path) -> None:
    rows = [{"layers": ["body"], "kept": 0.5, "drop": 0.2}]
    layer_costs.write(tmp_path, Layers({"": TABLE}, rows))
    layer_costs.write(tmp_path, Layers({"quantize": TABLE}, rows))  # another process knows of other numbers
    found = layer_costs.read(tmp_path)
    assert found == Layers({"": TABLE, "quantize": TABLE}, rows)
    shown = found.shown()
    assert [row["name"] for row in shown[:2]] == ["stem", "body"]
    assert [row["drop"] for row in shown[:2]] == [None, 0.2]
    assert sum(row["share"] for row in shown) == pytest.approx(1)
    for broken in ("[", "[]", '{"latency": 1}', '{"latency": {"": [{"nme": 1}]}, "sensitivity": []}'):
        (tmp_path / layer_costs.FILE).write_text(broken)
        assert layer_costs.read(tmp_path) == Layers()


@pytest.mark.parametrize("runtime", ["onnxruntime", "pytorch"])
def test_a_search_measures_both_tables_once(runtime: Any, trained, tmp_path, monkeypatch) -> None:
    asked = Question(trained.subject, trained.evidence, Budget(drop=1.0), Target(runtime=runtime), tmp_path)
    bench = begin.begin(asked)
    monkeypatch.setattr(begin, "SENSITIVITY_ROWS", 50)
    scored: list[int] = []

    def evaluated(network: Any, some: Any, *more: Any) -> Any:
        scored.append(len(some))
        return evaluate(network, some, *more)

    monkeypatch.setattr(begin, "evaluate", evaluated)
    begin.layer_sensitivity(bench)
    assert 0 < min(scored) <= max(scored) <= 50
    if runtime == "onnxruntime":
        assert make.look(bench, {"student": 0, "cut": 0, "numbers": bench.space.numbers.index("quantize")})
    names = {row.name for row in bench.layers.tables[""].rows}
    assert BEFORE in names
    assert {name for row in bench.layers.sensitivity for name in row["layers"]} <= names
    assert any(row["drop"] is not None for row in bench.layers.shown())
    assert ("quantize" in bench.layers.tables) is (runtime == "onnxruntime")
    monkeypatch.setattr(begin, "sensitivity", lambda *_, **__: pytest.fail("it was measured before"))
    again = begin.begin(asked)
    begin.layer_sensitivity(again)
    assert again.layers.sensitivity == bench.layers.sensitivity
    assert again.layers.tables.keys() == bench.layers.tables.keys()


def test_what_cannot_be_told_apart_or_cut_costs_the_table_alone(trained, tmp_path, monkeypatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("of another library")

    monkeypatch.setattr(layer_costs, "watch", fails)
    monkeypatch.setattr(begin, "sensitivity", fails)
    bench = begin.begin(Question(trained.subject, trained.evidence, Budget(), Target(), tmp_path))
    begin.layer_sensitivity(bench)
    assert bench.layers == Layers()
    assert bench.layers.shown() == []
