"""One composition, made and measured beside the network as it was trained."""

from __future__ import annotations

import time
from typing import Any

from dimwise.errors import DimwiseError, ModelError, UserError, first_line
from dimwise.fold._steps import parse, write
from dimwise.plan.apply import ORIGINAL, apply
from dimwise.plan.begin import begin, where_measured
from dimwise.plan.bench import BESIDE, Question, put
from dimwise.plan.choose import excess
from dimwise.plan.keep import keep, parity_of
from dimwise.plan.on_target import latencies, measure_memory, opened, score_on, told
from dimwise.plan.record import Line
from dimwise.recipe import as_dict


def replay(question: Question, text: str) -> dict[str, Any]:
    """Do what the text says, keep the artifact, and say how it compares with the original.

    Args:
        question: subject, evidence, budget, target and folder; time does not matter.
        text: a composition.

    Returns:
        {"steps", "seed", "original", "original_runtime", "made", "test", "artifact", "folds", "breaks", "target",
        "seconds"} as plain JSON; what ``breaks`` tells are limits of the budget. ``original_runtime`` is not the
        target's where the original has no graph and only teaches.

    Raises:
        RecipeError: for a composition that cannot be read.
        ModelError: when the subject cannot be served, or a fold fails.
    """
    from dataclasses import asdict

    steps = parse(text, question.base)
    if not steps:
        raise UserError("there is nothing to apply", expected="a composition, such as 'prune(macs=0.5) quantize(int8)'")
    bench = begin(question, steps)
    evidence, target = question.evidence, question.target
    started = time.monotonic()
    whole = write(steps, question.base)
    try:
        made = apply(steps, question.subject, evidence, target=target, once=bench.once, name=whole)
    except DimwiseError:
        raise
    except Exception as error:  # a fold stands on other libraries, and on the user's own code
        raise ModelError(f"{whole} failed: {first_line(error)}") from error
    made = opened(made, evidence.data, evidence.task, target)
    both = [bench.original, made]
    taken = latencies(both, evidence.data, target)
    beside = where_measured(bench.original, target)
    for candidate, where in ((bench.original, beside), (made, target)):
        measure_memory([candidate], evidence.data, where)
    trouble = parity_of(made, evidence)
    measured = {**told(made), BESIDE: taken[ORIGINAL].p50_ms}
    line = Line(whole, evidence.seed, "failed" if trouble else "whole", measured=measured, reason=trouble)
    line = Line(**{**asdict(line), "seconds": round(time.monotonic() - started, 3)})
    put(bench, line)
    place = question.folder / "artifacts" / line.name
    keep(made, place, evidence, line)
    test = evidence.data.test
    tests = {
        name: score_on(candidate.runner, test, evidence.task)
        for name, candidate in zip(("original", "chosen"), both, strict=True)
        if len(test)
    }
    return {
        "steps": whole,
        "seed": evidence.seed,
        "score_name": evidence.task.score_name,
        "original": told(bench.original),
        "original_runtime": beside.runtime,
        "made": told(made),
        "test": tests | {"n": len(test)} if tests else None,
        "artifact": str(place),
        "folds": [asdict(report) for report in made.reports],
        "breaks": [text for _, text in excess(made, bench.original.valid_score, question.budget).values()],
        "target": as_dict(target),
        "seconds": line.seconds,
    }
