"""The search: propose compositions, look at their shape first, train what may meet the budget, measure, learn, go on.

What is cheap is measured first: size and latency need no training, so each proposal is built with untrained weights
and put on the target. Only what can meet the budget, or is better there than what already does, is trained: shortly
at first, longer when it is still worth the time. Every prediction is corrected by every measurement.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from dimwise.plan import propose
from dimwise.plan.begin import begin, layer_sensitivity
from dimwise.plan.bench import Bench, Question, catch_up, others_at_it
from dimwise.plan.make import look, train, untuned
from dimwise.plan.predict import learn
from dimwise.plan.promise import any_meets, any_possible, best_proposal, ranked, too_late
from dimwise.plan.record import Line
from dimwise.plan.space import Space
from dimwise.plan.worth import frontiers

WAITING = 3
"""Shapes that wait before one of them is trained, so that there is a choice."""

_POLL_S = 0.5


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
        question.folder, bench.searched, seed=question.evidence.seed, storage=question.storage
    )
    catch_up(bench)
    layer_sensitivity(bench)
    ended, moved_at, before = "exhausted", time.monotonic(), _sign(bench)
    patience_s = max(20.0, question.patience_frac * question.time_s)
    with question.evidence.progress.stage("plan", question.time_s) as bar:
        try:
            for _ in moves(bench):
                bar.update(time.monotonic() - start, note(bench))
                if (sign := _sign(bench)) != before:
                    moved_at, before = time.monotonic(), sign
                if bench.left_s <= 0:
                    ended = "time"
                    break
                if time.monotonic() - moved_at > patience_s and any_meets(bench):
                    ended = "settled"
                    break
            else:
                ended = "infeasible" if not any_possible(bench) else "time" if too_late(bench) else "exhausted"
        except KeyboardInterrupt:
            ended = "interrupted"
    lines = [line for line in bench.lines if line.state != "begun"]
    return Found(lines, bench, ended, time.monotonic() - start)


def moves(bench: Bench) -> Iterator[Line]:
    """One candidate after the other, each the one that promises most; ends when nothing promises anything."""
    # Processes that begin together go different ways, or each would do what all do.
    draw = random.Random(os.getpid()) if bench.question.storage else None
    for point in first_points(bench.space, draw):
        if draw is not None:
            catch_up(bench)
        if (line := look(bench, point)) is not None:
            yield line
    if not any_possible(bench):
        return
    yield from untuned(bench)
    while True:
        catch_up(bench)
        n_valid = len(bench.question.evidence.data.valid)
        guesses = learn(bench.space, bench.lines, n_valid, bench.layers.tables, bench.shapes)
        waiting = ranked(bench, guesses)
        proposed = best_proposal(bench, guesses) if len(waiting) < WAITING else None
        if proposed is not None:
            if (line := look(bench, proposed, guesses)) is not None:
                yield line
            continue
        if not waiting and others_at_it(bench) and bench.left_s > 0:
            time.sleep(_POLL_S)  # what another process is at may be what is asked for
            continue
        if not waiting:
            return
        _, point, rung = waiting[0]
        yield train(bench, point, rung, guesses)


def first_points(space: Space, draw: random.Random | None) -> list[dict[str, int]]:
    """The points with which a search begins, in another order for each ``draw``."""
    points = [*space.smallest(), *space.listed()]
    if draw is not None:
        draw.shuffle(points)
    return points


def _sign(bench: Bench) -> frozenset[str]:
    return frozenset(line.name for line in frontiers(bench.lines, bench.first(), bench.question.budget))


def note(bench: Bench) -> str:
    """A short note for the bar: how many were tried, and the best that meets the budget."""
    whole = sum(line.state == "whole" for line in bench.lines)
    shapes = sum(line.state == "shape" for line in bench.lines)
    return f"{shapes} shapes, {whole} trained"
