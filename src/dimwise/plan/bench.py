"""The bench of a search: what is asked, what is at hand, and how one candidate is made, measured and written down."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os import getpid
from pathlib import Path
from statistics import median
from typing import Any

from dimwise.errors import ModelError, ParityError
from dimwise.fold import GRAPH_FOLDS, Evidence
from dimwise.fold._steps import Step, parse, write
from dimwise.plan import propose, record
from dimwise.plan.apply import ORIGINAL, Once, Subject, apply, not_made_yet, tried
from dimwise.plan.budget import Budget, Target
from dimwise.plan.keep import keep, parity_of
from dimwise.plan.on_target import Candidate, batch_of, latencies, measure_memory, opened, told
from dimwise.plan.pace import full_epochs, seconds_per_epoch
from dimwise.plan.predict import Predictions
from dimwise.plan.record import Line
from dimwise.plan.space import NUMBERS, RUNGS, Point, Space, key_of, space_of, understood
from dimwise.plan.worth import frontiers
from dimwise.recipe import as_dict
from dimwise.ship.runtimes import NETWORK_RUNTIMES
from dimwise.ship.runtimes.fresh import peak_memory_on

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
    epoch_s: float
    """Seconds that one pass of training the original takes, measured."""
    study: Any = None
    """Optuna's, while proposals are asked for."""
    original_ms: list[float] = field(default_factory=list)
    """Latencies of the original on this machine in this sitting, oldest first. Machines drift and differ, so lines are
    written down with the original's latency of that moment, and those at hand are told in today's milliseconds."""
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


def begin(question: Question) -> Bench:
    """Open folder and subject; measure the subject itself. Lines of an earlier sitting are there again.

    Raises:
        RunError: when the folder belongs to another search, or cannot be written.
        ModelError: when the subject cannot be served on the target at all.
    """
    subject, target, evidence = question.subject, question.target, question.evidence
    named = subject.network.state_dict().items() if subject.network is not None else ()
    weights = record.fingerprint(named) if named else record.fingerprint_of(subject.proto.SerializeToString())
    about = {
        "weights": weights,
        "data": _data(evidence),
        "settings": _settings(question),
        "runtime": target.runtime,
        "threads": target.threads,
        "batch": target.batch,
    }
    once = Once()
    original = _served(subject, evidence, target, once)
    original = opened(original, evidence.data, evidence.task, target)
    epoch_s = seconds_per_epoch(subject, evidence)
    full = full_epochs(question.base, evidence.train.epochs, question.time_s, epoch_s)
    only_graph = subject.network is None
    network_folds = tuple(full) if not only_graph else ("distill",) if subject.student is not None else ()
    numbers = [text for text in NUMBERS[1:] if target.runtime not in NETWORK_RUNTIMES or not _of_graph(text)]
    space = space_of(numbers, question.base, full, network_folds=network_folds, only_graph=only_graph)
    about["choices"] = record.fingerprint_of(repr((space.students, space.cuts, space.numbers)).encode())
    record.begin(question.folder, about)
    searched = record.fingerprint_of(repr(about).encode())
    bench = Bench(question, space, original, searched, [], once, epoch_s)
    began = time.monotonic()
    latencies([original], evidence.data, target)
    assert original.latency is not None
    bench.original_ms.append(original.latency.p50_ms)
    if question.budget.memory_bytes and target.runtime not in NETWORK_RUNTIMES:
        _memory_too(bench)
    catch_up(bench)
    if not any(not line.steps and line.state == "whole" for line in bench.lines):
        if question.budget.memory_bytes:
            measure_memory([original], evidence.data, target)
        measured = {**told(original), BESIDE: original.latency.p50_ms}
        put(bench, Line("", evidence.seed, "whole", measured=measured, seconds=time.monotonic() - began))
    for made in map(replace, question.known):  # copies: whoever made them measures them in turns of their own
        if not any(line.steps == made.name and line.state == "whole" for line in bench.lines):
            put(bench, Line(made.name, evidence.seed, "whole", measured=_measure(bench, made)))
    return bench


def _served(subject: Subject, evidence: Evidence, target: Target, once: Once) -> Candidate:
    """The subject itself; of a network that cannot be exported, what can still be done is told."""
    try:
        return apply((), subject, evidence, target=target, once=once)
    except ModelError as error:
        if subject.network is None or target.runtime in NETWORK_RUNTIMES:
            raise
        still = f"Or search for PyTorch itself, without a graph: runtime={NETWORK_RUNTIMES[0]}, in the budget."
        raise ModelError(
            error.what, expected=error.expected, next_step=" ".join(filter(None, (error.next_step, still)))
        ) from error


def _data(evidence: Evidence) -> str:
    """A fingerprint of what is learnt from and judged on."""
    found = []
    for name in ("train", "valid"):
        split = getattr(evidence.data, name)
        found += [(name, split.targets), (f"some of {name}", split.inputs[:256])]
    return record.fingerprint(found)


def _settings(question: Question) -> str:
    """A fingerprint of what compositions start from and how networks are trained: lines do not say it again."""
    told = {name: as_dict(value) for name, value in sorted(question.base.items())}
    augment = question.evidence.augment
    how = [told, as_dict(question.evidence.train), None if augment is None else as_dict(augment)]
    return record.fingerprint_of(json.dumps(how, sort_keys=True, default=str).encode())


def _of_graph(text: str) -> bool:
    """Whether a composition needs a runtime of graphs."""
    return any(step.name in GRAPH_FOLDS for step in parse(text))


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
        usual_ms = bench.today_ms  # in which it was predicted
        line = replace(line, measured=_measure(bench, made))
        line = replace(line, predicted=in_milliseconds(line.predicted, line.measured[BESIDE] / usual_ms))
        trouble = parity_of(made, evidence) if whole else ""
        if whole and not trouble:
            trouble = _keep(bench, line, made)
    else:
        trouble = made.reason
    if trouble:
        line = replace(line, state="failed", reason=trouble)
    line = replace(line, seconds=round(time.monotonic() - began, 3))
    return put(bench, line)


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


def _measure(bench: Bench, made: Candidate) -> dict[str, float]:
    """What a line keeps of a candidate: its latency is taken in turns with the original's, which stands beside it."""
    question = bench.question
    both = latencies([made, bench.original], question.evidence.data, question.target, runs=60, budget_s=0.25)
    bench.original_ms.append(both[ORIGINAL].p50_ms)
    if question.budget.memory_bytes:
        measure_memory([made], question.evidence.data, question.target)
    return {**told(made), BESIDE: both[ORIGINAL].p50_ms}


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
    bad = {line.point["numbers"] for line in bench.lines if line.state == "failed" and _alone(bench, line)}
    return known | {
        key
        for point in bench.space.points()
        if (key := key_of(point))[:2] in failed or key[0] in gone or point["numbers"] in bad
    }


def _alone(bench: Bench, line: Line) -> bool:
    return bool(line.point) and bench.space.operations(line.point) == 1.0


def put(bench: Bench, line: Line) -> Line:
    """Add a line as it was measured to the file, and to those at hand in today's milliseconds, as which it returns."""
    _tell(bench, line)
    bench.lines.append(line := _today(bench, line))
    return line


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
    if bench.question.budget.memory_bytes:  # asked for later than they were measured: they are looked at again
        found = [line for line in found if _has_memory(line) or line.time >= bench.since]
    found = [_on_its_rung(bench, line) for line in found]
    unique = {
        (line.steps, line.state, line.rung, key_of(line.point) if line.point else ()): _today(bench, line)
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


def _has_memory(line: Line) -> bool:
    """Whether memory was measured, of what was measured at all."""
    return not line.measured or "memory_bytes" in line.measured


def _memory_too(bench: Bench) -> None:
    """Measure the memory of what earlier sittings kept, where this one asks for it."""
    question, bar = bench.question, bench.question.evidence.progress
    raw = batch_of(question.evidence.data, 1)[0].numpy()
    lines = {line.name: line for line in record.read(question.folder) if line.state == "whole"}
    for name, line in lines.items():
        graph = question.folder / "artifacts" / name / "model.onnx"
        if _has_memory(line) or not graph.is_file():
            continue
        with bar.stage(f"memory of {line.steps}"):
            taken = peak_memory_on(graph, question.target.runtime, raw, threads=question.target.threads)
        if taken is not None:
            record.add(question.folder, replace(line, measured={**line.measured, "memory_bytes": float(taken)}))


def in_milliseconds(numbers: Mapping[str, float], factor: float) -> dict[str, float]:
    """The same numbers with all latencies multiplied.

    Example:
        >>> in_milliseconds({"latency_ms": 2.0, "params": 8.0}, 0.5)
        {'latency_ms': 1.0, 'params': 8.0}
    """
    return {key: value * factor if key.startswith("latency") else value for key, value in numbers.items()}


def _today(bench: Bench, line: Line) -> Line:
    """The line in the milliseconds of this machine and this hour."""
    if not line.measured.get(BESIDE):
        return line
    factor = bench.today_ms / line.measured[BESIDE]
    measured, predicted = (in_milliseconds(numbers, factor) for numbers in (line.measured, line.predicted))
    return replace(line, measured=measured, predicted=predicted)


def others_at_it(bench: Bench) -> bool:
    """Whether another process is still making something."""
    return any(record.under_way(line) for line in bench.lines)


def _keep(bench: Bench, line: Line, made: Candidate) -> str:
    """Artifacts of what is on the frontier; what left it gives its place back. Why it cannot be kept, or nothing."""
    lines = [*bench.lines, _today(bench, line)]
    on_it = {row.name for row in frontiers(lines, bench.first(), bench.question.budget)}
    if line.name in on_it:
        try:
            keep(made, bench.question.folder / "artifacts" / line.name, bench.question.evidence, line)
        except ParityError as error:  # on the whole split, where some inputs had not shown it
            return str(error)
        bench.kept[line.name] = made
    for name in [name for name in bench.kept if name not in on_it]:
        del bench.kept[name]
    return ""
