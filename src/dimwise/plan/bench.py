"""The bench of a search: what is asked, what is at hand, and how one candidate is made, measured and written down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os import getpid
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
from dimwise.plan.predict import Predictions
from dimwise.plan.record import Line
from dimwise.plan.space import NUMBERS, RUNGS, Point, Space, key_of, space_of, understood
from dimwise.plan.worth import frontier


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
    catch_up(bench)
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


def look(bench: Bench, point: Point, guesses: Predictions | None = None) -> Line | None:
    """Build a point and measure its shape; what needs no training is measured whole. None when it is known already."""
    if key_of(point) in known_points(bench):
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
    if whole:
        _tell(
            bench, replace(line, state="begun", predicted={}, seconds=expected_s(bench, point, rung), process=getpid())
        )
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


def known_points(bench: Bench) -> set[tuple[int, int, int]]:
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


def _put(bench: Bench, line: Line) -> None:
    bench.lines.append(line)
    _tell(bench, line)


def _tell(bench: Bench, line: Line) -> None:
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
    unique = {(line.steps, line.state, line.rung): line for line in found}
    done = {(line.steps, line.rung) for line in found if line.state in ("whole", "failed")}
    bench.lines[:] = [
        line
        for line in unique.values()
        if line.state != "begun" or ((line.steps, line.rung) not in done and record.under_way(line))
    ]


def others_at_it(bench: Bench) -> bool:
    """Whether another process is still making something."""
    return any(record.under_way(line) for line in bench.lines)


def _keep(bench: Bench, line: Line, made: Candidate) -> None:
    """Artifacts of what is on the frontier; what left it gives its place back."""
    on_it = {row.name for row in frontier(bench.lines)}
    if line.name in on_it:
        bench.kept[line.name] = made
        keep(made, bench.question.folder / "artifacts" / line.name, bench.question.evidence, line)
    for name in [name for name in bench.kept if name not in on_it]:
        del bench.kept[name]
