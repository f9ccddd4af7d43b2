"""Making one candidate of a search: built, trained, measured beside the original, written down, kept if it is good."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import getpid

from dimwise.errors import ParityError
from dimwise.fold._steps import Step, parse, write
from dimwise.plan import layer_costs
from dimwise.plan.apply import ORIGINAL, apply, tried
from dimwise.plan.bench import (
    BESIDE,
    RECENT,
    Bench,
    expected_s,
    in_milliseconds,
    in_today,
    known_points,
    put,
    write_down,
)
from dimwise.plan.keep import keep, parity_of
from dimwise.plan.on_target import Candidate, latencies, measure_memory, opened, told
from dimwise.plan.predict import Predictions
from dimwise.plan.record import Line
from dimwise.plan.space import RUNGS, Point, is_whole, key_of
from dimwise.plan.worth import frontiers
from dimwise.ship.runtimes import NETWORK_RUNTIMES

RUNS = 400
"""Samples of a candidate, as far as time allows: of the fastest networks 60 are over in a hundredth of a second."""
BUSY = 1.1
"""The original takes so much longer than of late when the machine is busy."""
TRIES = 3


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


def _make(bench: Bench, point: Point, rung: int, guesses: Predictions | None, *, whole: bool) -> Line:
    space, evidence = bench.space, bench.question.evidence
    top = len(RUNGS) - 1
    steps = space.steps(point, rung if whole else top)
    text = write(steps, space.base)
    predicted = {}
    if not whole:
        bench.shapes.know(point)
    if guesses is not None:  # the first points are measured whatever is thought of them: predictions learn from these
        predicted = {
            "latency_ms": guesses.latency_ms(point).value,
            "size_bytes": guesses.size_bytes(point).value,
            "score": 1 - guesses.loss(point, rung if whole else top).value,
        }
    line = Line(text, evidence.seed, "whole" if whole else "shape", dict(point), rung, predicted)
    if whole:
        write_down(
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
        line = replace(line, measured=measured_now(bench, made))
        if line.point and is_whole(line.point):
            put_table(bench, made, bench.space.numbers[line.point["numbers"]])
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


def measured_now(bench: Bench, made: Candidate) -> dict[str, float]:
    """What a line keeps of a candidate: its latency is taken in turns with the original's, which stands beside it.

    A busy moment slows small networks more than large ones, and their ratio does not hold: then it is tried again.
    """
    question, quiet_ms, found = bench.question, min(bench.original_ms[-RECENT:]), []
    for _ in range(TRIES):
        both = latencies([made, bench.original], question.evidence.data, question.target, runs=RUNS, budget_s=0.25)
        found.append(both)
        if both[ORIGINAL].p50_ms < BUSY * quiet_ms:
            break
    both = min(found, key=lambda both: both[ORIGINAL].p50_ms)
    made.latency = both[made.name]
    bench.original_ms.append(both[ORIGINAL].p50_ms)
    if question.budget.memory_bytes:
        measure_memory([made], question.evidence.data, question.target)
    return {**told(made), BESIDE: both[ORIGINAL].p50_ms}


def put_table(bench: Bench, made: Candidate, numbers: str) -> None:
    """Measure the layers of the original, written in these numbers, for predictions of everything smaller. Of a network
    that is rounded inside PyTorch there are none: it has other layers, or is only emulated operator by operator."""
    if numbers and bench.question.target.runtime in NETWORK_RUNTIMES:
        return
    table = layer_costs.table_of(made, bench.question.evidence.data, bench.question.target)
    if table is not None:
        bench.layers.tables[numbers] = table
        layer_costs.write(bench.question.folder, bench.layers)


def _keep(bench: Bench, line: Line, made: Candidate) -> str:
    """Artifacts of what is on the frontier; what left it gives its place back. Why it cannot be kept, or nothing."""
    lines = [*bench.lines, in_today(bench, line)]
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
