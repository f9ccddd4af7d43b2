"""Frontiers, limits and promises follow from the numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dimwise.plan.budget import Budget
from dimwise.plan.predict import Guess
from dimwise.plan.record import Line
from dimwise.plan.worth import frontier, meets, meets_costs, worth

FIRST = Line("", 0, "whole", measured={"score": 0.99, "latency_ms": 1.0, "size_bytes": 400.0})


def line(steps: str, score: float, ms: float, size: float) -> Line:
    return Line(steps, 0, "whole", measured={"score": score, "latency_ms": ms, "size_bytes": size})


@given(st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 9), st.integers(1, 99)), max_size=8))
def test_the_frontier_beats_the_rest_and_nobody_beats_it(rows):
    lines = [line(f"c{i}", *row) for i, row in enumerate(rows)]
    found = frontier(lines)
    for one in lines:
        mine = one.measured
        beaten = any(
            o.measured["score"] >= mine["score"]
            and o.measured["latency_ms"] <= mine["latency_ms"]
            and o.measured["size_bytes"] <= mine["size_bytes"]
            and o.measured != mine
            for o in lines
        )
        if one in found:
            assert not beaten
        else:
            assert beaten or any(o.measured == mine for o in found)


def test_shapes_and_failures_are_on_no_frontier():
    shape = Line("prune", 0, "shape", measured={"latency_ms": 0.1, "size_bytes": 1.0})
    assert frontier([FIRST, shape, Line("x", 0, "failed")]) == [FIRST]


def test_every_limit_counts():
    for limit in ({"latency_ms": 0.5}, {"size_bytes": 300}, {"memory_bytes": 10}):
        assert not meets_costs({**FIRST.measured, "memory_bytes": 11}, Budget(**limit))
    assert meets_costs(FIRST.measured, Budget(latency_ms=1.0, size_bytes=400))
    assert meets_costs({"latency_ms": 1.04}, Budget(latency_ms=1.0), slack=0.05)
    assert not meets(line("a", 0.98, 0.5, 100), FIRST, Budget(drop=0.005))
    assert meets(line("a", 0.985, 0.5, 100), FIRST, Budget(drop=0.005))


def test_what_breaks_a_limit_or_is_no_better_promises_nothing():
    sure = Guess(0.005, 0.1)
    assert worth({"latency_ms": 0.6, "size_bytes": 1}, sure, [FIRST], Budget(latency_ms=0.5)) == 0
    assert worth({"latency_ms": 1.1, "size_bytes": 1}, sure, [FIRST], Budget()) == 0
    assert worth({"latency_ms": 0.5, "size_bytes": 1}, sure, [FIRST], Budget()) > 0.9
    assert worth({"latency_ms": 1.1, "size_bytes": 100}, sure, [FIRST], Budget(prefer="size")) > 1.5


def test_what_likely_loses_too_much_promises_less_and_a_later_rung_may_help():
    costs = {"latency_ms": 0.5, "size_bytes": 1}
    poor, good = Guess(0.1, 0.5), Guess(0.01, 0.5)
    assert worth(costs, poor, [FIRST], Budget()) < 0.01 < worth(costs, good, [FIRST], Budget())
    assert worth(costs, poor, [FIRST], Budget(), later=good) > 10 * worth(costs, poor, [FIRST], Budget())


def test_before_anything_meets_the_budget_a_chance_is_worth_itself():
    tight = Budget(size_bytes=100)
    assert worth({"latency_ms": 0.5, "size_bytes": 90}, Guess(0.001, 0.1), [FIRST], tight) > 1
