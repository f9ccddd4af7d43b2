"""What is read out of a result: stages, budget, front, history; and how it is put in words."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimwise.view import sentences, story, units
from dimwise.view.files import RunFiles
from dimwise.view.story import History, Stage, history, over_budget, pareto, stages
from dimwise.view.strings import words

EN = words("en")
BASE: dict[str, Any] = {"size_bytes": 100e3, "latency_ms": 1.0, "score": 0.99}
places = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=8)


@given(places)
def test_front_is_what_nobody_beats(found: list[tuple[int, int]]) -> None:
    rows = [Stage(str(i), s / 5, latency_ms=float(t)) for i, (s, t) in enumerate(found)]
    front = {(row.score, row.latency_ms) for row in pareto(rows)}
    beaten = {
        (a.score, a.latency_ms)
        for a in rows
        for b in rows
        if (b.score, a.latency_ms) != (a.score, b.latency_ms)
        and (b.score or 0) >= (a.score or 0)
        and (b.latency_ms or 0) <= (a.latency_ms or 0)
    }
    assert front == {(row.score, row.latency_ms) for row in rows} - beaten


def test_budget_is_held_against_the_validation_score() -> None:
    base = Stage("trained", score=0.99, valid_score=0.98)
    budget = {"drop": 0.005, "latency_ms": 0.0, "size_bytes": 1000, "prefer": "latency"}
    assert over_budget(Stage("a", score=0.1, valid_score=0.975, size_bytes=1000), base, budget) == {}
    broken = over_budget(Stage("a", score=0.99, valid_score=0.9749, size_bytes=1001), base, budget)
    assert broken == {"size_bytes": 1000, "valid_score": pytest.approx(0.975)}


def test_whether_a_stage_meets_the_budget_is_said_or_follows(result: dict[str, Any]) -> None:
    met = {stage.name: stage.meets_budget for stage in stages(result)}
    assert met["trained"] is None, "it is what the others are compared with"
    assert met["prune+quantize"] is True
    assert met["distill"] is False
    result["stages"][4]["meets_budget"] = False
    assert stages(result)[4].meets_budget is False
    del result["budget"], result["stages"][4]["meets_budget"]
    assert stages(result)[4].meets_budget is None


def test_epochs_are_counted_from_one_whatever_the_records_do() -> None:
    steps = [{"kind": "step", "step": 0, "epoch": 0}]
    assert history([*steps, {"kind": "epoch", "epoch": 1}, {"kind": "epoch", "epoch": 3}]).numbers == [2, 4]
    assert history([{"kind": "epoch", "epoch": 1}, {"kind": "epoch", "epoch": 2}]).numbers == [1, 2]


def test_best_epoch_prefers_score_then_loss_then_the_first() -> None:
    rows = [(0.8, 0.1), (0.9, 0.3), (0.9, 0.2), (0.9, 0.2), (None, 0.0)]
    records = [{"kind": "epoch", "epoch": i, "valid_score": s, "valid_loss": v} for i, (s, v) in enumerate(rows)]
    assert history(records).best_epoch == 3
    assert History().best_epoch is None


def test_of_two_records_of_one_epoch_the_last_stands() -> None:
    found = history([{"kind": "epoch", "epoch": 0, "valid_score": s} for s in (0.1, 0.2)])
    assert found.column("valid_score") == [0.2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size_bytes": 25e3}, ["4.0×\u00a0smaller", "same speed", "nothing lost"]),
        ({"size_bytes": 150e3, "latency_ms": 0.05}, ["1.5×\u00a0larger", "20×\u00a0faster", "nothing lost"]),
        ({"latency_ms": 3.0, "score": 0.995}, ["same size", "3.0×\u00a0slower", "0.5 points gained"]),
        ({"size_bytes": None, "latency_ms": None, "score": 0.96}, ["3.0 points lost"]),
    ],
)
def test_comparison(change: dict[str, Any], told: list[str]) -> None:
    base, stage = Stage("a", **BASE), Stage("b", **(BASE | change))
    assert sentences.comparison(base, stage, "accuracy", 360, EN) == told


def run_of(**result: Any) -> RunFiles:
    return RunFiles("r", "", result=result)


def test_headline_when_the_original_is_kept() -> None:
    rows = [{"name": "trained", "score": 0.99}, {"name": "prune", "score": 0.5}]
    run = run_of(stages=rows, chosen="trained", score={"name": "accuracy", "value": 0.99, "n": 360})
    assert sentences.headline(run, EN) == "The trained model is kept: 99.0\u00a0% accuracy"
    assert sentences.lead(run, EN).startswith("No candidate was better within the budget.")


def test_lead_says_when_nothing_meets_the_budget() -> None:
    rows = [{"name": "trained", "score": 0.99}, {"name": "prune", "score": 0.5, "meets_budget": False}]
    assert "No candidate meets the budget" in sentences.lead(run_of(stages=rows, chosen="prune"), EN)


@pytest.mark.parametrize(("status", "told"), [("running", "Still running"), ("failed", "Failed"), ("", "Stopped")])
def test_headline_without_result(status: str, told: str) -> None:
    assert sentences.headline(RunFiles("r", "", status=status), EN).startswith(told)


def test_seconds_are_one_number_or_one_a_stage() -> None:
    assert story.total_seconds({"seconds": {"data": 1, "train": 2.5, "bad": "x"}}) == 3.5
    assert story.total_seconds({"seconds": 4}) == 4
    assert story.total_seconds({}) is None


@given(st.floats(1e-6, 1e14))
def test_significant_keeps_three_digits_without_exponent(value: float) -> None:
    text = units.significant(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.00501)


@given(st.floats(0, 1e15))
def test_sizes_and_counts_read_back(value: float) -> None:
    scale = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    amount, unit = units.bytes_text(value).split("\u00a0")
    assert float(amount) * scale[unit] == pytest.approx(value, rel=0.00501, abs=0.5)
    amount, _, unit = units.count_text(value).partition("\u00a0")
    assert float(amount.replace(",", "")) * scale.get(unit, 1.0) == pytest.approx(value, rel=0.00501, abs=0.5)


@given(st.floats(0, 1e6))
def test_seconds_read_back(value: float) -> None:
    text = units.seconds_text(value)
    unit = {"s": 1, "min": 60, "h": 3600}
    parts = text.split("\u00a0")
    total = sum(float(n) * unit[u] for n, u in zip(parts[::2], parts[1::2], strict=True))
    finest = 0.0051 if value < 9.995 else 0.501  # hundredths of a second, then whole seconds
    assert total == pytest.approx(value, rel=0.01, abs=finest)
    assert not any(float(n) >= 60 for n, u in zip(parts[::2], parts[1::2], strict=True) if u != "h" and len(parts) > 2)


@pytest.mark.parametrize("value", [None, "3", True, math.nan, math.inf, [], 10**400, 1e300])
def test_what_is_no_number_becomes_a_dash(value: Any) -> None:
    assert units.number(value) is None
    for write in (units.bytes_text, units.count_text, units.ms_text, units.seconds_text, units.score_text):
        assert write(units.number(value)) == units.NONE
