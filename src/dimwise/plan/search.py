"""The search: propose compositions, look at their shape first, train what may meet the budget, measure, learn, go on.

What is cheap is measured first: size and latency need no training, so each proposal is built with untrained weights
and put on the target. Only what can meet the budget, or is better there than what already does, is trained: shortly
at first, longer when it is still worth the time. Every prediction is corrected by every measurement.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dimwise.fold import Evidence
from dimwise.fold._steps import Step, parse, write
from dimwise.plan import propose, record
from dimwise.plan.apply import ORIGINAL, Once, Subject, apply, tried
from dimwise.plan.budget import Budget, Target
from dimwise.plan.keep import keep, parity_of
from dimwise.plan.on_target import Candidate, latencies, measure_memory, opened, told
from dimwise.plan.pace import full_epochs, seconds_per_epoch
from dimwise.plan.predict import Predictions, learn
from dimwise.plan.record import Line
from dimwise.plan.space import NUMBERS, RUNGS, Point, Space, key_of, space_of, understood
from dimwise.plan.worth import frontier, meets, meets_costs, worth

N_ASKED = 6
"""Proposals that are compared by their predictions before one is built."""
WAITING = 3
"""Shapes that wait before one of them is trained, so that there is a choice."""
LEAST_WORTH = 1e-3
"""Worth per proposal below which nothing is gained any more: a thousandth of a doubling."""


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
    weights: str
    """A fingerprint of what is folded."""
    lines: list[Line]
    once: Once
    epoch_s: float
    """Seconds that one pass of training the original takes, measured."""
    study: Any = None
    """Optuna's, while proposals are asked for."""
    kept: dict[str, Candidate] = field(default_factory=dict)
    """Name of a line -> its candidate, for those on the frontier that were made by this process."""
    started: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds until time is up."""
        return self.question.time_s - (time.monotonic() - self.started)

    def first(self) -> Line:
        """The line of the network as it was trained."""
        return next(line for line in self.lines if not line.steps and line.state == "whole")


@dataclass(frozen=True)
class Found:
    """What a search leaves."""

    lines: list[Line]
    bench: Bench
    ended: str
    """time | settled | exhausted | infeasible | interrupted"""
    seconds: float


def search(question: Question) -> Found:
    """Search until time is up, the frontier has settled, or nothing is left to try; Ctrl-C ends it cleanly too.

    A search that was stopped goes on where it was: its lines are read again.

    Raises:
        MissingExtra: without Optuna.
        RunError: when the folder belongs to another search, or cannot be written.
        ModelError: when the subject cannot be served on the target at all.
    """
    start = time.monotonic()
    bench = begin(question)
    bench.study = propose.open_study(
        question.folder, study_name(bench), seed=question.evidence.seed, storage=question.storage
    )
    _catch_up(bench)
    ended, moved_at, best = "exhausted", time.monotonic(), _sign(bench)
    patience_s = max(20.0, question.patience_frac * question.time_s)
    with question.evidence.progress.stage("plan", question.time_s) as bar:
        try:
            for _ in moves(bench):
                bar.update(time.monotonic() - start, note(bench))
                if (sign := _sign(bench)) != best:
                    moved_at, best = time.monotonic(), sign
                if bench.left_s <= 0:
                    ended = "time"
                    break
                if time.monotonic() - moved_at > patience_s and _met(bench):
                    ended = "settled"
                    break
            else:
                ended = "infeasible" if not _possible(bench) else "time" if _too_late(bench) else "exhausted"
        except KeyboardInterrupt:
            ended = "interrupted"
    return Found(bench.lines, bench, ended, time.monotonic() - start)


def begin(question: Question) -> Bench:
    """Open folder and subject; measure the subject itself. Lines of an earlier sitting are there again.

    Raises:
        RunError: when the folder belongs to another search, or cannot be written.
        ModelError: when the subject cannot be served on the target at all.
    """
    subject, target, evidence = question.subject, question.target, question.evidence
    named = subject.network.state_dict().items() if subject.network is not None else ()
    weights = record.fingerprint(named) if named else record.fingerprint_of(subject.proto.SerializeToString())
    about = {"weights": weights, "runtime": target.runtime, "threads": target.threads, "batch": target.batch}
    once = Once()
    original = apply((), subject, evidence, target=target, once=once)
    original = opened(original, evidence.data, evidence.task, target)
    record.begin(question.folder, about)
    epoch_s = seconds_per_epoch(subject, evidence)
    full = full_epochs(question.base, evidence.train.epochs, question.time_s, epoch_s)
    network_folds = tuple(full) if subject.network is not None else ()
    space = space_of(NUMBERS[1:], question.base, full, network_folds=network_folds)
    bench = Bench(question, space, original, weights, [], once, epoch_s)
    _catch_up(bench)
    if not any(not line.steps and line.state == "whole" for line in bench.lines):
        began = time.monotonic()
        latencies([original], evidence.data, target)
        if question.budget.memory_bytes:
            measure_memory([original], evidence.data, target)
        _put(bench, Line("", evidence.seed, "whole", measured=told(original), seconds=time.monotonic() - began))
    for made in map(replace, question.known):  # copies: whoever made them measures them in turns of their own
        if not any(line.steps == made.name and line.state == "whole" for line in bench.lines):
            _measure(bench, made)
            _put(bench, Line(made.name, evidence.seed, "whole", measured=told(made)))
    return bench


def study_name(bench: Bench) -> str:
    """What processes that search together call it: they share weights and target."""
    target = bench.question.target
    return f"{bench.weights}-{target.runtime}-{target.threads}-{target.batch}"


def moves(bench: Bench) -> Iterator[Line]:
    """One candidate after the other, each the one that promises most; ends when nothing promises anything."""
    # Processes that begin together go different ways, or each would do what all do.
    draw = random.Random(os.getpid()) if bench.question.storage else None
    for point in first_points(bench.space, draw):
        if draw is not None:
            _catch_up(bench)
        if (line := look(bench, point)) is not None:
            yield line
    if not _possible(bench):
        return
    yield from untuned(bench)
    while True:
        _catch_up(bench)
        guesses = learn(bench.space, bench.lines, len(bench.question.evidence.data.valid))
        waiting = ranked(bench, guesses)
        proposed = best_proposal(bench, guesses) if len(waiting) < WAITING else None
        if proposed is not None:
            if (line := look(bench, proposed, guesses)) is not None:
                yield line
            continue
        if not waiting:
            return
        _, point, rung = waiting[0] if draw is None else draw.choice(waiting[:WAITING])
        yield train(bench, point, rung, guesses)


def first_points(space: Space, draw: random.Random | None) -> list[dict[str, int]]:
    """The points with which a search begins, in another order for each ``draw``."""
    points = [*space.smallest(), *space.listed()]
    if draw is not None:
        draw.shuffle(points)
    return points


def look(bench: Bench, point: Point, guesses: Predictions | None = None) -> Line | None:
    """Build a point and measure its shape; what needs no training is measured whole. None when it is known already."""
    if key_of(point) in _known(bench):
        return None
    if not bench.space.n_epochs(point, len(RUNGS) - 1):
        return _make(bench, point, bench.space.rungs(point)[-1], guesses, whole=True)
    return _make(bench, point, -1, guesses, whole=False)


def train(bench: Bench, point: Point, rung: int, guesses: Predictions | None = None) -> Line:
    """Make a point for real, trained as long as the rung says, and measure it."""
    return _make(bench, point, rung, guesses, whole=True)


def _make(bench: Bench, point: Point, rung: int, guesses: Predictions | None, *, whole: bool) -> Line:
    space, evidence = bench.space, bench.question.evidence
    top = len(RUNGS) - 1
    steps = space.steps(point, rung if whole else top)
    text = write(steps, space.base)
    predicted = {}
    if guesses is not None:  # the first points are measured whatever is thought of them: predictions learn from these
        predicted = {
            "latency_ms": guesses.latency_ms(point).value,
            "size_bytes": guesses.size_bytes(point).value,
            "score": 1 - guesses.loss(point, rung if whole else top).value,
        }
    line = Line(text, evidence.seed, "whole" if whole else "shape", dict(point), rung, predicted)
    return _attempt(bench, line, steps)


def _attempt(bench: Bench, line: Line, steps: Sequence[Step]) -> Line:
    """Make and measure what a line says, and write down what came of it."""
    question, whole, began = bench.question, line.state == "whole", time.monotonic()
    evidence, target = question.evidence, question.target

    def candidate() -> Candidate:
        made = apply(steps, question.subject, evidence, target=target, once=bench.once, name=line.steps, trained=whole)
        return opened(made, evidence.data, evidence.task, target, scored=whole)

    made = tried(candidate, line.steps)
    if isinstance(made, Candidate):
        _measure(bench, made)
        line = replace(line, measured=told(made))
        trouble = parity_of(made, evidence) if whole else ""
    else:
        trouble = made.reason
    if trouble:
        line = replace(line, state="failed", reason=trouble)
    line = replace(line, seconds=round(time.monotonic() - began, 3))
    _put(bench, line)
    if isinstance(made, Candidate) and line.state == "whole":
        _keep(bench, line, made)
    return line


def untuned(bench: Bench) -> Iterator[Line]:
    """How sensitive the score is to pruning alone, without any training afterwards: cheap, and it may be enough."""
    evidence = bench.question.evidence
    known = {line.steps for line in bench.lines}
    for cut in bench.space.cuts[1:]:
        (step,) = parse(cut, bench.space.base)
        if step.name != "prune":
            continue
        steps = (Step("prune", replace(step.config, epochs=0)),)
        text = write(steps, bench.space.base)
        if text not in known and bench.left_s > 0.7 * bench.question.time_s:
            yield _attempt(bench, Line(text, evidence.seed, "whole"), steps)


def _measure(bench: Bench, made: Candidate) -> None:
    """Latency in turns with the original, in whose first milliseconds all lines are told: machines drift."""
    question = bench.question
    both = latencies([made, bench.original], question.evidence.data, question.target, runs=60, budget_s=0.25)
    drift = bench.first().measured["latency_ms"] / both[ORIGINAL].p50_ms
    now = both[made.name]
    made.latency = replace(now, p50_ms=now.p50_ms * drift, p95_ms=now.p95_ms * drift, iqr_ms=now.iqr_ms * drift)
    if question.budget.memory_bytes:
        measure_memory([made], question.evidence.data, question.target)


def ranked(bench: Bench, guesses: Predictions) -> list[tuple[float, dict[str, int], int]]:
    """What could be trained next, most worth per second first: (worth, point, rung)."""
    found, met = [], _met(bench)
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


def _met(bench: Bench) -> bool:
    """Whether anything meets the budget so far; until then no prediction ends the search, only the clock."""
    return any(meets(line, bench.first(), bench.question.budget) for line in bench.lines if line.measured)


def _too_late(bench: Bench) -> bool:
    """Whether a shape within the limits is left that the rest of the time does not suffice to train."""
    shapes = (line for line in bench.lines if line.state == "shape" and line.point)
    within = (line for line in shapes if meets_costs(line.measured, bench.question.budget))
    rungs = ((line.point, _next_rung(bench, line.point)) for line in within)
    return any(rung is not None and expected_s(bench, point, rung) > bench.left_s for point, rung in rungs)


def _next_rung(bench: Bench, point: Point) -> int | None:
    """The first rung at which this point was not tried; None when it failed or is at the top."""
    done = [
        line
        for line in bench.lines
        if line.point and key_of(line.point) == key_of(point) and line.state in ("whole", "failed")
    ]
    if any(line.state == "failed" for line in done):
        return None
    highest = max((line.rung for line in done), default=-1)
    return next((rung for rung in bench.space.rungs(point) if rung > highest), None)


def best_proposal(bench: Bench, guesses: Predictions) -> dict[str, int] | None:
    """Of some proposals the one whose prediction is worth most; the others are told what is predicted of them."""
    known = _known(bench)
    top = len(RUNGS) - 1
    rated = []
    for _ in range(N_ASKED):
        trial, point = propose.ask(bench.study, bench.space)
        propose.tell(bench.study, trial, _values(bench, point, guesses))
        if key_of(point) not in known:
            rated.append(point)
    if not rated:  # Optuna draws what it knows again when little is left
        rated = [point for point in bench.space.points() if key_of(point) not in known]
    gains = []
    for point in rated:
        costs = {"latency_ms": guesses.latency_ms(point).value, "size_bytes": guesses.size_bytes(point).value}
        gains.append(
            worth(costs, guesses.loss(point, top), bench.lines, bench.question.budget, slack=0.1 if rated else 0.0)
        )
    best = max(range(len(rated)), key=gains.__getitem__, default=None)
    least = LEAST_WORTH if _met(bench) else 0.0
    return rated[best] if best is not None and gains[best] > least else None


def _known(bench: Bench) -> set[tuple[int, int, int]]:
    """Points that need not be built: those that were, and other numbers of a network that cannot be made."""
    known = {key_of(line.point) for line in bench.lines if line.point}
    made = {key_of(line.point)[:2] for line in bench.lines if line.point and line.measured}
    failed = {key_of(line.point)[:2] for line in bench.lines if line.point and line.state == "failed"} - made
    bad = {line.point["numbers"] for line in bench.lines if line.state == "failed" and _alone(bench, line)}
    return known | {
        key for point in bench.space.points() if (key := key_of(point))[:2] in failed or point["numbers"] in bad
    }


def _alone(bench: Bench, line: Line) -> bool:
    return bool(line.point) and bench.space.operations(line.point) == 1.0


def _values(bench: Bench, point: Point, guesses: Predictions) -> tuple[float, float, float]:
    loss = guesses.loss(point, len(RUNGS) - 1).value
    lost = loss - (1 - bench.first().measured["score"])
    return lost, guesses.latency_ms(point).value, guesses.size_bytes(point).value


def expected_s(bench: Bench, point: Point, rung: int) -> float:
    """Seconds that making a point takes: what its epochs cost, corrected by those that were made."""
    pace = [
        line.seconds / max(_plain_s(bench, line.point, line.rung), 1e-3)
        for line in bench.lines
        if line.state == "whole" and line.point and bench.space.n_epochs(line.point, line.rung)
    ]
    factor = sorted(pace)[len(pace) // 2] if pace else 1.0
    return 1.0 + factor * _plain_s(bench, point, rung)


def _plain_s(bench: Bench, point: Point, rung: int) -> float:
    passes = bench.space.n_epochs(point, rung)
    return 1.0 + passes * bench.epoch_s * (0.5 + 0.5 * bench.space.operations(point))


def _possible(bench: Bench) -> bool:
    """Whether any shape seen so far is within the limits that need no training."""
    seen = [line for line in bench.lines if line.measured]
    return any(meets_costs(line.measured, bench.question.budget) for line in seen)


def _put(bench: Bench, line: Line) -> None:
    record.add(bench.question.folder, line)
    bench.lines.append(line)
    if bench.study is not None and line.state == "whole" and line.point and "score" in line.measured:
        first = bench.first().measured["score"]
        values = (first - line.measured["score"], line.measured["latency_ms"], line.measured["size_bytes"])
        with suppress(Exception):  # a shared database that went away costs the others this line, not us the search
            propose.add(bench.study, bench.space, line.point, values, line)


def _catch_up(bench: Bench) -> None:
    """Lines that other processes added; the same line comes from the file and from the study."""
    seed = bench.question.evidence.seed
    found = record.read(bench.question.folder)
    if bench.study is not None:
        with suppress(Exception):
            found += propose.lines_of(bench.study)
    found = [line for line in found if line.seed == seed and understood(line.point, bench.space)]
    unique = {(line.steps, line.seed, line.state, line.rung): line for line in found}
    bench.lines[:] = list(unique.values())


def _keep(bench: Bench, line: Line, made: Candidate) -> None:
    """Artifacts of what is on the frontier; what left it gives its place back."""
    on_it = {row.name for row in frontier(bench.lines)}
    if line.name in on_it:
        bench.kept[line.name] = made
        keep(made, bench.question.folder / "artifacts" / line.name, bench.question.evidence, line)
    for name in [name for name in bench.kept if name not in on_it]:
        del bench.kept[name]


def _sign(bench: Bench) -> frozenset[str]:
    return frozenset(line.name for line in frontier(bench.lines))


def note(bench: Bench) -> str:
    """A short note for the bar: how many were tried, and the best that meets the budget."""
    whole = sum(line.state == "whole" for line in bench.lines)
    shapes = sum(line.state == "shape" for line in bench.lines)
    return f"{shapes} shapes, {whole} trained"
