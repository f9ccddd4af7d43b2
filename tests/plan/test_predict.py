"""Predictions: the formula where nothing is known, the measurement where something is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dimwise.fold._steps import parse, write
from dimwise.plan.predict import Guess, learn
from dimwise.plan.record import Line
from dimwise.plan.space import CUTS, NUMBERS, RUNGS, STUDENTS, space_of, understood

EPOCHS = {"distill": 9, "prune": 3, "separable": 9, "lowrank": 3, "qat": 3}
SPACE = space_of(NUMBERS[1:], {}, EPOCHS, network_folds=tuple(EPOCHS))
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
    point = {"student": 2, "cut": 1, "numbers": 1}
    before, after = learn(SPACE, [FIRST], 1000), learn(SPACE, lines([point]), 1000)
    assert after.latency_ms(point).value == pytest.approx(truth(point)["latency_ms"], rel=0.03)
    assert after.size_bytes(point).value == pytest.approx(truth(point)["size_bytes"], rel=0.03)
    assert after.latency_ms(point).log_std < 0.3 * before.latency_ms(point).log_std


def test_int8_saves_nothing_of_what_calls_take():
    """Milliseconds that a small network took on Fashion-MNIST: int8 was faster only where the network was whole."""
    half = "distill(scale=0.5)"
    known = {("", 1): 0.123, (half, 0): 0.0517, (half, 1): 0.069}
    unknown = {0: {0.75: 0.112, 0.5: 0.078, 0.35: 0.0617}, 1: {0.75: 0.104, 0.5: 0.0807, 0.35: 0.0743}}
    lines = [Line("", 0, "whole", measured={"score": 0.9, "latency_ms": 0.143, "size_bytes": 1000.0})]
    for (student, numbers), ms in known.items():
        point = {"student": STUDENTS.index(student), "cut": 0, "numbers": numbers}
        lines.append(Line(str(point), 0, "shape", point, measured={"latency_ms": ms, "size_bytes": 500.0}))
    found = learn(SPACE, lines, 1000)
    for numbers, rows in unknown.items():
        for macs, ms in rows.items():
            point = {"student": 0, "cut": CUTS.index(f"prune(macs={macs})"), "numbers": numbers}
            assert found.latency_ms(point).value == pytest.approx(ms, rel=0.1)


def test_numbers_of_which_no_small_network_was_measured_take_what_the_most_similar_take():
    """Milliseconds on Fashion-MNIST: int8 that was trained for is as fast as int8 on the whole network."""
    float32, int8, trained = (NUMBERS.index(text) for text in ("", "quantize", "qat quantize"))
    small = {"student": STUDENTS.index("distill(scale=0.125)"), "cut": 0}
    whole = {"student": 0, "cut": 0}
    known = [
        ({**small, "numbers": float32}, 0.0191),
        ({**small, "numbers": int8}, 0.0393),
        ({**whole, "numbers": int8}, 0.0673),
        ({**whole, "numbers": trained}, 0.0673),
    ]
    lines = [Line("", 0, "whole", measured={"score": 0.89, "latency_ms": 0.1078, "size_bytes": 227337.0})]
    for point, ms in known:
        lines.append(Line(str(point), 0, "shape", point, measured={"latency_ms": ms, "size_bytes": 500.0}))
    asked = {
        "student": STUDENTS.index("distill(scale=0.75)"),
        "cut": CUTS.index("prune(macs=0.5)"),
        "numbers": trained,
    }
    assert learn(SPACE, lines, 1000).latency_ms(asked).value == pytest.approx(0.0420, rel=0.15)


def test_a_short_training_and_a_smaller_network_are_expected_to_lose_more():
    found = learn(SPACE, [FIRST], 1000)
    small, large = {"student": 5, "cut": 0, "numbers": 0}, {"student": 1, "cut": 0, "numbers": 0}
    assert found.loss(small, 2).value > found.loss(large, 2).value
    assert found.loss(small, 0).value > found.loss(small, 2).value


def test_a_guess_knows_how_sure_it_is():
    assert Guess(1.0, 0.1).below(2.0) > 0.99 > 0.01 > Guess(1.0, 0.1).below(0.5)
    assert Guess(1.0, 0.1).below(0.0) == 0.0


def test_the_space_is_what_works_on_the_subject():
    assert SPACE.size == len(STUDENTS) * len(CUTS) * len(SPACE.numbers) == len(SPACE.points())
    assert SPACE.numbers == tuple(text for text in NUMBERS if text != "quantize(static)")  # quantize says the same
    graph = space_of(["quantize"], {}, {}, network_folds=())
    assert graph.points() == [{"student": 0, "cut": 0, "numbers": 0}, {"student": 0, "cut": 0, "numbers": 1}]
    assert [step.name for step in SPACE.steps({"student": 2, "cut": 2, "numbers": 1})] == [
        "distill",
        "prune",
        "quantize",
    ]


def test_rungs_train_longer_and_only_where_that_is_another_training():
    point = {"student": 2, "cut": 0, "numbers": 1}
    assert [SPACE.n_epochs(point, rung) for rung in SPACE.rungs(point)] == [1, 3, 9, 27]
    assert SPACE.rungs({"student": 0, "cut": 2, "numbers": 0}) == (1, 2, 3)
    assert SPACE.rungs({"student": 0, "cut": 0, "numbers": 1}) == (3,)


def test_every_point_is_a_composition_that_reads_back():
    texts = {write(SPACE.steps(point)) for point in SPACE.points()}
    assert len(texts) == SPACE.size
    for point in (*SPACE.smallest(), *SPACE.listed()):
        steps = SPACE.steps(point)
        assert parse(write(steps)) == steps
    names = {step.name for point in SPACE.points() for step in SPACE.steps(point)}
    assert names == {"distill", "separable", "prune", "lowrank", "qat", "quantize", "share", "cast"}


def test_what_a_search_begins_with_is_in_its_space():
    begun = {write(SPACE.steps(point)) for point in SPACE.listed()}
    assert {"distill(epochs=27)", "distill(epochs=27) quantize", "prune(epochs=9)", "prune(epochs=9) quantize"} <= begun
    assert 'prune(allocation="latency", epochs=9)' in begun
    assert "distill(scale=1.0, depth=0.5, inherit=true, epochs=27)" in begun
    assert [SPACE.operations(point) for point in SPACE.smallest()] == [0.125**2] * (len(SPACE.numbers) - 1)


def test_points_of_another_space_are_not_understood():
    assert understood({}, SPACE)
    assert understood({"student": 1, "cut": 0, "numbers": 0}, SPACE)
    assert not understood({"width": 1, "macs": 0, "numbers": 0}, SPACE)
    assert not understood({"student": len(STUDENTS), "cut": 0, "numbers": 0}, SPACE)
