"""What a search does next: the training or the shape that promises most for its time, and whether anything does."""

from __future__ import annotations

from dimwise.errors import first_line
from dimwise.plan import propose
from dimwise.plan.bench import Bench, expected_s, known_points
from dimwise.plan.predict import Predictions
from dimwise.plan.space import RUNGS, Point, key_of
from dimwise.plan.worth import meets, meets_costs, worth

N_ASKED = 6
"""Proposals that are compared by their predictions before one is built."""
LEAST_WORTH = 1e-3
"""Worth per proposal below which nothing is gained any more: a thousandth of a doubling."""


def ranked(bench: Bench, guesses: Predictions) -> list[tuple[float, dict[str, int], int]]:
    """What could be trained next, most worth per second first: (worth, point, rung)."""
    found, met = [], any_meets(bench)
    for line in bench.lines:
        if line.state != "shape" or not line.point:
            continue
        rung = _next_rung(bench, line.point)
        if rung is None:
            continue
        seconds = expected_s(bench, line.point, rung)
        if seconds > bench.left_s:
            continue
        gain = worth(
            line.measured,
            guesses.loss(line.point, rung),
            bench.lines,
            bench.question.budget,
            later=guesses.loss(line.point, len(RUNGS) - 1),
        )
        if gain > LEAST_WORTH or (not met and meets_costs(line.measured, bench.question.budget)):
            found.append((gain / seconds, line.point, rung))
    return sorted(found, key=lambda row: -row[0])


def _next_rung(bench: Bench, point: Point) -> int | None:
    """The first rung at which this point was not tried; None when it failed, is at the top, or is made elsewhere."""
    done = [
        line for line in bench.lines if line.point and key_of(line.point) == key_of(point) and line.state != "shape"
    ]
    if any(line.state in ("failed", "begun") for line in done):
        return None
    highest = max((line.rung for line in done), default=-1)
    return next((rung for rung in bench.space.rungs(point) if rung > highest), None)


def best_proposal(bench: Bench, guesses: Predictions) -> dict[str, int] | None:
    """Of some proposals, and of trained networks with other numbers, the one whose prediction is worth most; the
    study is told what is predicted of its own."""
    known = known_points(bench)
    top = len(RUNGS) - 1
    rated = []
    for _ in range(N_ASKED if bench.study is not None else 0):
        try:
            trial, point = propose.ask(bench.study, bench.space)
            propose.tell(bench.study, trial, _values(bench, point, guesses))
        except Exception as error:  # noqa: BLE001  (a database that is shared may go away, and raises anything then)
            told = f"the search's storage cannot be reached any more ({first_line(error)}); this process goes on alone"
            bench.question.evidence.progress.say(told)
            bench.study = None
            break
        if key_of(point) not in known:
            rated.append(point)
    rated += [point for key, point in _rewritten(bench).items() if key not in known]
    if not rated or bench.study is None:  # Optuna draws what it knows again when little is left
        rated = [point for point in bench.space.points() if key_of(point) not in known]
    gains = []
    for point in rated:
        costs = {"latency_ms": guesses.latency_ms(point).value, "size_bytes": guesses.size_bytes(point).value}
        gains.append(worth(costs, guesses.loss(point, top), bench.lines, bench.question.budget, slack=0.1))
    best = max(range(len(rated)), key=gains.__getitem__, default=None)
    least = LEAST_WORTH if any_meets(bench) else 0.0
    return rated[best] if best is not None and gains[best] > least else None


def _rewritten(bench: Bench) -> dict[tuple[int, int, int], dict[str, int]]:
    """The networks that were trained and keep the score, with their numbers written in each of the other ways."""
    budget, first = bench.question.budget, bench.first()
    trained = [line for line in bench.lines if line.state == "whole" and line.point and "score" in line.measured]
    good = [line for line in trained if first.measured["score"] - line.measured["score"] <= budget.drop]
    found = ({**line.point, "numbers": n} for line in good for n in range(len(bench.space.numbers)))
    return {key_of(point): point for point in found}


def _values(bench: Bench, point: Point, guesses: Predictions) -> tuple[float, float, float]:
    loss = guesses.loss(point, len(RUNGS) - 1).value
    lost = loss - (1 - bench.first().measured["score"])
    return lost, guesses.latency_ms(point).value, guesses.size_bytes(point).value


def any_meets(bench: Bench) -> bool:
    """Whether anything meets the budget so far; until then no prediction ends the search, only the clock."""
    return any(meets(line, bench.first(), bench.question.budget) for line in bench.lines if line.measured)


def too_late(bench: Bench) -> bool:
    """Whether a shape within the limits is left that the rest of the time does not suffice to train."""
    shapes = (line for line in bench.lines if line.state == "shape" and line.point)
    within = (line for line in shapes if meets_costs(line.measured, bench.question.budget))
    rungs = ((line.point, _next_rung(bench, line.point)) for line in within)
    return any(rung is not None and expected_s(bench, point, rung) > bench.left_s for point, rung in rungs)


def any_possible(bench: Bench) -> bool:
    """Whether any shape seen so far is within the limits that need no training."""
    seen = [line for line in bench.lines if line.measured]
    return any(meets_costs(line.measured, bench.question.budget) for line in seen)
