"""The tables of layers: what they say of smaller networks, against networks that were made so."""

from __future__ import annotations

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
from dimwise.plan.apply import Subject, apply
from dimwise.plan.bench import Question
from dimwise.plan.budget import Budget, Target
from dimwise.plan.layer_costs import LatencyTable, LayerCost, Layers, table_of
from dimwise.plan.predict import learn
from dimwise.plan.record import Line
from dimwise.plan.space import CUTS, NUMBERS, STUDENTS, space_of
from dimwise.ship.layer_table import Layer
from dimwise.ship.runtimes.layers import BEFORE
from dimwise.train import TrainConfig, evaluate

TABLE = LatencyTable(
    (
        LayerCost(BEFORE, "", 0, 0, 1.0),
        LayerCost("stem", "Conv", 100, 200, 5.0, power=1),
        LayerCost("body", "Conv", 900, 9000, 3.0, power=2, separable=0.2),
        LayerCost("head", "Gemm", 50, 50, 1.0, power=1),
    )
)


def subject(name: str) -> tuple[Subject, fold.Evidence]:
    data = load_data(DataConfig(source="digits", train_limit=40))
    torch.manual_seed(0)
    told: dict[str, Any] = {"precision": "fp32", "layout": "contiguous"}
    return Subject(build(name, data.input_shape, 10).eval()), fold.evidence(data, train=TrainConfig(epochs=1, **told))


@pytest.mark.parametrize(
    ("network", "steps", "within"),
    [
        ("small_cnn", "distill(scale=0.5)", 0.03),
        ("small_cnn", "separable", 0.15),
        ("mlp", "distill(scale=0.5)", 0.03),
        ("resnet20", "distill(scale=0.5)", 0.03),
        ("resnet20", "distill(depth=0.34, scale=1.0)", 0.2),
        ("mobilenetv2", "distill(scale=0.5)", 0.1),
    ],
)
def test_what_is_kept_is_what_a_network_made_so_keeps(network: str, steps: str, within: float) -> None:
    told, looks = subject(network)
    whole = apply((), told, looks)
    table = table_of(whole, looks.data, Target(), runs=3)
    assert table is not None
    assert sum(row.macs for row in table.rows) == whole.macs
    small = apply(parse(steps), told, looks, trained=False)
    assert table.kept(parse(steps), "macs") == pytest.approx(small.macs / whole.macs, rel=within)


def test_what_reads_words_shrinks_on_both_sides() -> None:
    found = [
        Layer("cell", "LSTM", (8, 16), (8, 32), params=6400, macs=50_000),
        Layer("head", "Gemm", (32,), (2,), params=66, macs=64),
    ]
    assert [row.power for row in layer_costs._costs(found, {}, n_inputs=8)] == [2, 1]
    assert [row.power for row in layer_costs._costs(found, {}, n_inputs=8 * 16)] == [1, 1]


def test_a_cut_keeps_the_operations_it_promises_and_more_of_the_time() -> None:
    cut = parse("prune(macs=0.25)")
    assert TABLE.kept(cut, "macs") == pytest.approx(0.25, rel=1e-3)
    assert TABLE.kept(cut) > 0.4  # the first layer and preprocessing take most of it
    twice = parse("distill(scale=0.5) prune(macs=0.25)")
    assert TABLE.kept(twice, "macs") == pytest.approx(0.25 * TABLE.kept(twice[:1], "macs"), rel=1e-3)
    assert TABLE.kept(parse("lowrank(macs=0.4)"), "macs") == pytest.approx(0.4)
    assert TABLE.kept(parse("quantize")) == 1.0


def test_predictions_come_from_the_layers_of_the_numbers_at_hand() -> None:
    epochs = {"distill": 9, "prune": 3, "separable": 9, "lowrank": 3}
    space = space_of(NUMBERS[1:], {}, epochs, network_folds=tuple(epochs))
    measured = {"score": 0.9, "latency_ms": 1.0, "size_bytes": 1000.0, "params": 1050.0}
    lines = [Line("", 0, "whole", measured=measured)]
    cut = {"student": 0, "cut": CUTS.index("prune(macs=0.25)"), "numbers": 0}
    int8 = {**cut, "numbers": space.numbers.index("quantize")}
    body = LatencyTable((replace(TABLE.rows[2], ms=9.0),))
    without, with_table = learn(space, lines, 100), learn(space, lines, 100, {"": TABLE, "quantize": body})
    assert with_table.latency_ms(cut).value > 1.5 * without.latency_ms(cut).value
    assert with_table.latency_ms(int8).value == pytest.approx(without.latency_ms(int8).value, rel=0.01)


def test_sizes_come_from_the_layers_where_these_hold_the_weights() -> None:
    space = space_of(NUMBERS[1:], {}, {"distill": 9}, network_folds=("distill",))
    half = {"student": STUDENTS.index("distill(scale=0.5)"), "cut": 0, "numbers": 0}
    measured = {"score": 0.9, "latency_ms": 1.0, "size_bytes": 1000.0, "params": 1050.0}
    found, embedded = (
        learn(space, [Line("", 0, "whole", measured=measured | {"params": n})], 100, {"": TABLE}).size_bytes(half).value
        for n in (1050.0, 1e6)
    )
    assert found == pytest.approx(1000 * (0.05 + 0.95 * 300 / 1050))
    assert embedded == pytest.approx(1000 * (0.05 + 0.95 * 0.25))


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


def test_every_student_of_the_list_has_a_share() -> None:
    for text in (*STUDENTS[1:], *CUTS[1:]):
        assert 0 < TABLE.kept(parse(text)) < 1
