"""Predictions: the formula where nothing is known, the measurement where something is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dimwise.plan.predict import Guess, learn
from dimwise.plan.record import Line
from dimwise.plan.space import MACS, NUMBERS, RUNGS, WIDTHS, space_of

SPACE = space_of(NUMBERS[1:], {}, {"distill": 9, "prune": 3}, network_folds=("distill", "prune"))
FIRST = Line("", 0, "whole", measured={"score": 0.98, "latency_ms": 1.0, "size_bytes": 1000.0})


def truth(point: dict[str, int]) -> dict[str, float]:
    """A world with its own laws: a floor of latency, int8 twice as fast, errors that double with every halving."""
    kept = SPACE.operations(point)
    return {
        "latency_ms": (0.3 + 0.7 * kept) * (0.5 if point["numbers"] == 1 else 1.0),
        "size_bytes": 1000 * kept * (0.25 if point["numbers"] == 1 else 1.0) + 50,
        "score": 1 - 0.02 * (1 - 0.3 * math.log2(kept)),
    }


def lines(points: list[dict[str, int]]) -> list[Line]:
    return [FIRST, *(Line(str(p), 0, "whole", p, len(RUNGS) - 1, measured=truth(p)) for p in points)]


def error(found: Any, points: list[dict[str, int]]) -> float:
    off = sorted(abs(found.latency_ms(p).value / truth(p)["latency_ms"] - 1) for p in points)
    return off[len(off) // 2]


def test_measurements_pull_predictions_to_the_truth():
    everything = SPACE.points()
    known, unknown = everything[::9], everything[4::9]
    before, after = learn(SPACE, [FIRST], 1000), learn(SPACE, lines(known), 1000)
    assert error(after, unknown) < 0.1 < error(before, unknown)


def test_a_measured_point_is_predicted_as_it_was_measured_and_more_surely():
    point = {"width": 2, "macs": 1, "numbers": 1}
    before, after = learn(SPACE, [FIRST], 1000), learn(SPACE, lines([point]), 1000)
    assert after.latency_ms(point).value == pytest.approx(truth(point)["latency_ms"], rel=0.03)
    assert after.size_bytes(point).value == pytest.approx(truth(point)["size_bytes"], rel=0.03)
    assert after.latency_ms(point).log_std < 0.3 * before.latency_ms(point).log_std


def test_a_short_training_and_a_smaller_network_are_expected_to_lose_more():
    found = learn(SPACE, [FIRST], 1000)
    small, large = {"width": 5, "macs": 0, "numbers": 0}, {"width": 1, "macs": 0, "numbers": 0}
    assert found.loss(small, 2).value > found.loss(large, 2).value
    assert found.loss(small, 0).value > found.loss(small, 2).value


def test_a_guess_knows_how_sure_it_is():
    assert Guess(1.0, 0.1).below(2.0) > 0.99 > 0.01 > Guess(1.0, 0.1).below(0.5)
    assert Guess(1.0, 0.1).below(0.0) == 0.0


def test_the_space_is_what_works_on_the_subject():
    assert SPACE.size == len(WIDTHS) * len(MACS) * len(NUMBERS) == len(SPACE.points())
    graph = space_of(["quantize"], {}, {}, network_folds=())
    assert graph.points() == [{"width": 0, "macs": 0, "numbers": 0}, {"width": 0, "macs": 0, "numbers": 1}]
    assert [step.name for step in SPACE.steps({"width": 2, "macs": 2, "numbers": 1})] == [
        "distill",
        "prune",
        "quantize",
    ]


def test_rungs_train_longer_and_only_where_that_is_another_training():
    point = {"width": 2, "macs": 0, "numbers": 1}
    assert [SPACE.n_epochs(point, rung) for rung in SPACE.rungs(point)] == [1, 3, 9, 27]
    assert SPACE.rungs({"width": 0, "macs": 2, "numbers": 0}) == (1, 2, 3)
    assert SPACE.rungs({"width": 0, "macs": 0, "numbers": 1}) == (3,)
