"""The bench of a search: what is asked, and the lines at hand, in today's milliseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from dimwise.fold import Evidence
from dimwise.plan import propose, record
from dimwise.plan.apply import Once, Subject, not_made_yet
from dimwise.plan.budget import Budget, Target
from dimwise.plan.layer_costs import Layers
from dimwise.plan.on_target import Candidate
from dimwise.plan.record import Line
from dimwise.plan.shapes import Shapes
from dimwise.plan.space import RUNGS, Point, Space, is_whole, key_of, understood

BESIDE = "original_ms"
"""In a line's measurements: the latency of the original at that moment, in turns with which its own was taken."""
RECENT = 9
"""Measurements of the original that say how fast the machine is now."""


@dataclass(frozen=True)
class Question:
    """What is searched for, and with what."""

    subject: Subject
    evidence: Evidence
    budget: Budget
    target: Target
    folder: Path
    base: Mapping[str, Any] = field(default_factory=dict)
    """Fold -> settings that compositions start from."""
    time_s: float = 600.0
    patience_frac: float = 0.35
    """The search ends when the frontier has not moved for this part of the time."""
    storage: str | None = None
    """URL of a database that several processes share; None: the folder's own journal."""
    known: tuple[Candidate, ...] = ()
    """Candidates that were made before, opened and scored: a search looks for what is better than these."""


@dataclass
class Bench:
    """What a search has at hand while it goes on."""

    question: Question
    space: Space
    original: Candidate
    searched: str
    """A fingerprint of what is folded, with which data and settings, for which target."""
    lines: list[Line]
    once: Once
    shapes: Shapes
    epoch_s: float
    """Seconds that one pass of training the original takes, measured."""
    study: Any = None
    """Optuna's, while proposals are asked for."""
    original_ms: list[float] = field(default_factory=list)
    """Latencies of the original on this machine in this sitting, oldest first. Machines drift and differ, so lines are
    written down with the original's latency of that moment, and those at hand are told in today's milliseconds."""
    layers: Layers = field(default_factory=Layers)
    """Latency and sensitivity, layer by layer."""
    kept: dict[str, Candidate] = field(default_factory=dict)
    """Name of a line -> its candidate, for those on the frontier that were made by this process."""
    started: float = field(default_factory=time.monotonic)
    since: str = field(default_factory=lambda: time.strftime(record.TIME))
    """When this sitting began, as lines tell it."""

    @property
    def left_s(self) -> float:
        """Seconds until time is up."""
        return self.question.time_s - (time.monotonic() - self.started)

    @property
    def today_ms(self) -> float:
        """The original's usual latency of late."""
        return median(self.original_ms[-RECENT:])

    def first(self) -> Line:
        """The line of the network as it was trained."""
        return next(line for line in self.lines if not line.steps and line.state == "whole")


def expected_s(bench: Bench, point: Point, rung: int) -> float:
    """Seconds that making a point takes: what its epochs cost, corrected by those that were made. What this process
    has trained already, such as the network whose numbers alone are to be written otherwise, costs nothing."""
    first: dict[tuple[int, int, int], Line] = {}
    for line in bench.lines:  # later ones may have found their network trained
        if line.state == "whole" and line.point and bench.space.passes(line.steps):
            first.setdefault((line.point["student"], line.point["cut"], line.rung), line)
    pace = [line.seconds / _plain_s(bench, line.point, bench.space.passes(line.steps)) for line in first.values()]
    factor = sorted(pace)[len(pace) // 2] if pace else 1.0
    steps = not_made_yet(bench.space.steps(point, rung), bench.question.evidence.seed, bench.once)
    passes = sum(step.config.epochs for step in steps if step.name in bench.space.epochs)
    return 1.0 + factor * _plain_s(bench, point, passes)


def _plain_s(bench: Bench, point: Point, passes: int) -> float:
    return 1.0 + passes * bench.epoch_s * (0.5 + 0.5 * bench.space.operations(point))


def known_points(bench: Bench) -> set[tuple[int, int, int]]:
    """Points that need not be built: the original, those that were, other numbers of a network that cannot be made, and
    other cuts of a student that cannot."""
    known = {(0, 0, 0)} | {key_of(line.point) for line in bench.lines if line.point}
    made = {key_of(line.point)[:2] for line in bench.lines if line.point and line.measured}
    plain = [line for line in bench.lines if line.state == "failed" and line.point and not line.point["numbers"]]
    failed = {key_of(line.point)[:2] for line in plain} - made
    gone = {student for student, cut in failed if student and not cut} - {student for student, _ in made}
    failures = (line.point for line in bench.lines if line.state == "failed" and line.point)
    bad = {point["numbers"] for point in failures if is_whole(point)}
    return known | {
        key
        for point in bench.space.points()
        if (key := key_of(point))[:2] in failed or key[0] in gone or point["numbers"] in bad
    }


def put(bench: Bench, line: Line) -> Line:
    """Add a line as it was measured to the file, and to those at hand in today's milliseconds, as which it returns."""
    write_down(bench, line)
    bench.lines.append(line := in_today(bench, line))
    return line


def write_down(bench: Bench, line: Line) -> None:
    """Write a line down where every process of the search reads it."""
    record.add(bench.question.folder, line)
    if bench.study is None or not line.point or line.state == "shape":
        return
    values = None
    if line.state == "whole" and "score" in line.measured:
        first = bench.first().measured["score"]
        values = (first - line.measured["score"], line.measured["latency_ms"], line.measured["size_bytes"])
    with suppress(Exception):  # a shared database that went away costs the others this line, not us the search
        propose.add(bench.study, bench.space, line.point, values, line)


def catch_up(bench: Bench) -> None:
    """Lines that other processes added; the same line comes from the file and from the study."""
    seed = bench.question.evidence.seed
    found = record.read(bench.question.folder)
    if bench.study is not None:
        with suppress(Exception):
            found += propose.lines_of(bench.study)
    found = [line for line in found if line.seed == seed and understood(line.point, bench.space)]
    if bench.question.budget.memory_bytes:  # asked for later than they were measured: they are looked at again
        found = [line for line in found if has_memory(line) or line.time >= bench.since]
    found = [_on_its_rung(bench, line) for line in found]
    unique = {
        (line.steps, line.state, line.rung, key_of(line.point) if line.point else ()): in_today(bench, line)
        for line in found
    }
    done = {(line.steps, line.rung) for line in found if line.state in ("whole", "failed")}
    bench.lines[:] = [
        line
        for line in unique.values()
        if line.state != "begun" or ((line.steps, line.rung) not in done and record.under_way(line))
    ]


def _on_its_rung(bench: Bench, line: Line) -> Line:
    """A line of a sitting with other time: what it was trained is another rung of this one."""
    if line.rung < 0 or not line.point or not bench.space.n_epochs(line.point, len(RUNGS) - 1):
        return line
    return replace(line, rung=bench.space.rung_of(line.point, bench.space.passes(line.steps)))


def has_memory(line: Line) -> bool:
    """Whether memory was measured, of what was measured at all."""
    return not line.measured or "memory_bytes" in line.measured


def in_milliseconds(numbers: Mapping[str, float], factor: float) -> dict[str, float]:
    """The same numbers with all latencies multiplied.

    Example:
        >>> in_milliseconds({"latency_ms": 2.0, "params": 8.0}, 0.5)
        {'latency_ms': 1.0, 'params': 8.0}
    """
    return {key: value * factor if key.startswith("latency") else value for key, value in numbers.items()}


def in_today(bench: Bench, line: Line) -> Line:
    """The line in the milliseconds of this machine and this hour."""
    if not line.measured.get(BESIDE):
        return line
    factor = bench.today_ms / line.measured[BESIDE]
    measured, predicted = (in_milliseconds(numbers, factor) for numbers in (line.measured, line.predicted))
    return replace(line, measured=measured, predicted=predicted)


def others_at_it(bench: Bench) -> bool:
    """Whether another process is still making something."""
    return any(record.under_way(line) for line in bench.lines)
