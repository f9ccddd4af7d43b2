"""Choosing is pure: every answer follows from the numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimwise.measure import Latency, latency
from dimwise.plan.budget import Budget
from dimwise.plan.choose import choose


@pytest.fixture(scope="module")
def measured() -> Latency:
    return latency({"x": lambda: None}, runs=5, min_time_s=0.0)["x"]


def candidate(name: str, score: float, ms: float, size: int, like: Latency) -> Any:
    import dataclasses

    told = dataclasses.replace(like, p50_ms=ms, p95_ms=ms * 1.01, iqr_ms=ms * 0.001)
    return SimpleNamespace(name=name, valid_score=score, latency=told, size_bytes=size, peak_memory_bytes=None)


TRAINED = {"valid_score": 0.99}


def test_the_fastest_within_the_budget_wins(measured):
    found = [
        candidate("onnx", 0.99, 1.0, 400, measured),
        candidate("quantize", 0.987, 0.5, 100, measured),
        candidate("prune", 0.90, 0.1, 100, measured),
    ]
    chosen, reasons, failure = choose(found, TRAINED, Budget())
    assert (chosen.name, failure) == ("quantize", None)
    assert reasons["prune"] == "validation score drops by 0.0900, allowed 0.0050"
    assert reasons["onnx"] == "meets the budget, but is 2.00× the latency of quantize"


def test_keep_the_original_is_an_answer(measured):
    found = [candidate("onnx", 0.99, 0.5, 400, measured), candidate("quantize", 0.99, 0.8, 100, measured)]
    chosen, reasons, failure = choose(found, TRAINED, Budget())
    assert (chosen.name, failure) == ("onnx", None)
    assert reasons["onnx"] == "no fold is better: keep the original"


def test_a_tie_in_latency_goes_to_the_smaller(measured):
    found = [candidate("onnx", 0.99, 0.5000, 400, measured), candidate("quantize", 0.99, 0.5001, 100, measured)]
    chosen, reasons, _ = choose(found, TRAINED, Budget())
    assert chosen.name == "quantize"
    assert reasons["quantize"] == "no worse in latency than onnx beyond noise, and better in size"


def test_size_may_be_what_matters(measured):
    found = [candidate("onnx", 0.99, 0.1, 400, measured), candidate("quantize", 0.99, 0.8, 100, measured)]
    assert choose(found, TRAINED, Budget(prefer="size"))[0].name == "quantize"


def test_when_none_meets_the_budget_the_nearest_is_named(measured):
    found = [candidate("onnx", 0.99, 2.0, 400, measured), candidate("quantize", 0.99, 1.1, 100, measured)]
    chosen, _reasons, failure = choose(found, TRAINED, Budget(latency_ms=1.0))
    assert chosen.name == "quantize"
    assert "The nearest is 'quantize': latency is 1.1 ms, allowed 1 ms" in str(failure)


@given(
    rows=st.lists(st.tuples(st.floats(0.5, 1.0), st.floats(0.01, 10), st.integers(10, 10_000)), min_size=1, max_size=6),
    latency_ms=st.floats(0.0, 5.0),
    size_bytes=st.integers(0, 5_000),
    prefer=st.sampled_from(["latency", "size"]),
)
def test_the_choice_meets_the_budget_or_says_that_nothing_does(measured, rows, latency_ms, size_bytes, prefer):
    found = [candidate(f"c{i}", score, ms, size, measured) for i, (score, ms, size) in enumerate(rows)]
    budget = Budget(latency_ms=latency_ms, size_bytes=size_bytes, prefer=prefer)

    def meets(c: Any) -> bool:
        return (
            TRAINED["valid_score"] - c.valid_score <= budget.drop + 1e-9
            and (not latency_ms or c.latency.p50_ms <= latency_ms)
            and (not size_bytes or c.size_bytes <= size_bytes)
        )

    chosen, reasons, failure = choose(found, TRAINED, budget)
    assert set(reasons) == {c.name for c in found}
    assert meets(chosen) == (failure is None) == any(meets(c) for c in found)


def test_memory_is_a_limit_where_it_was_measured(measured):
    small, large = candidate("a", 0.99, 2.0, 100, measured), candidate("b", 0.99, 1.0, 100, measured)
    small.peak_memory_bytes, large.peak_memory_bytes = 900, 1100
    chosen, reasons, failure = choose([small, large], TRAINED, Budget(memory_bytes=1000))
    assert (chosen.name, failure) == ("a", None)
    assert reasons["b"] == "memory is 1,100 bytes, allowed 1,000"
