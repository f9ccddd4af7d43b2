"""The answer of a search: the frontier measured afresh, and one of three words: fold, keep, infeasible.

Everything that decides is measured again, all finalists in turns with the network as it was trained. What cannot be
told apart from noise is a tie. Money is plain arithmetic: time saved per million requests against the time it took.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dimwise import measure, ship
from dimwise.errors import BudgetError, ParityError
from dimwise.fold._steps import parse
from dimwise.plan import budget as budgets
from dimwise.plan.apply import ORIGINAL, apply, tried
from dimwise.plan.bench import Bench
from dimwise.plan.choose import choose, excess
from dimwise.plan.keep import is_kept, keep, reports_of
from dimwise.plan.layer_costs import layer_runtime
from dimwise.plan.on_target import Candidate, latencies, measure_memory, opened, score_on
from dimwise.plan.record import Line
from dimwise.plan.search import Found
from dimwise.plan.space import RUNGS, key_of
from dimwise.plan.worth import frontiers, meets
from dimwise.recipe import as_dict
from dimwise.ship.runtimes import NETWORK_RUNTIMES

Verdict = Literal["fold", "keep", "infeasible"]
MOST = 8
"""Finalists that are measured again, beside the original."""
LEAST_GAIN = 1.05
"""A model that is less than a twentieth better is not worth another file to look after."""


@dataclass(frozen=True)
class Answer:
    """What the search found, in words and numbers."""

    verdict: Verdict
    text: str
    """One sentence."""
    told: dict[str, Any]
    """Everything, as plain JSON."""
    failure: BudgetError | None = None

    @property
    def exit_code(self) -> int:
        """1 when nothing meets the budget, else 0."""
        return self.failure.exit_code if self.failure else 0


def answer(found: Found, *, price_per_hour: float = 0.0) -> Answer:
    """Measure the finalists once more, and decide.

    Args:
        found: what a search left.
        price_per_hour: of the machine, in any currency; 0 leaves money out.
    """
    bench, question = found.bench, found.bench.question
    evidence, budget, target = question.evidence, question.budget, question.target
    first = bench.first()
    rivals = {line.steps: line for line in finalists(found)}
    with evidence.progress.stage("measure", len(rivals) + 1):
        candidates = [bench.original, *(c for line in rivals.values() if (c := reopened(bench, line)) is not None)]
        latencies(candidates, evidence.data, target, runs=200)
        measure_memory(candidates, evidence.data, target)
    chosen, reasons, failure = choose(candidates, {"valid_score": first.measured["score"]}, budget)
    verdict, text = _verdict(chosen, bench.original, first, failure, reasons, found)
    kept = bench.original if verdict == "keep" else chosen
    rows = [_row(c, rivals.get(c.name, first), kept, reasons, bench) for c in candidates]
    rows.sort(key=lambda row: row["latency_ms"])
    tests, place = _on_test(kept, bench), _artifact(kept, rivals.get(kept.name, first), bench)
    told = {
        "verdict": verdict,
        "text": text,
        "chosen": next(row for row in rows if row["chosen"]),
        "score_name": evidence.task.score_name,
        "test": tests,
        "artifact": str(place),
        "folds": reports_of(place),
        "labels": list(evidence.data.labels),
        "frontier": rows,
        "money": money(bench.original, kept, _effort_s(found), target.batch, price_per_hour),
        "budget": as_dict(budget),
        "target": as_dict(target),
        "asked": budgets.write(budget, target),
        "ended": found.ended,
        "seconds": round(found.seconds, 1),
        "tried": tally(found.lines),
        "prediction": prediction_errors(found.lines),
        "alone": alone(found.lines, bench),
        "layers": bench.layers.shown(),
        "layers_on": layer_runtime(target.runtime),
        "folder": str(question.folder),
    }
    return Answer(verdict, text, told, failure)


def finalists(found: Found) -> list[Line]:
    """What is on the frontier: all that meets the budget before what does not, the score's losers last."""
    first, budget = found.bench.first(), found.bench.question.budget
    rows = [line for line in frontiers(found.lines, first, budget) if line.steps]
    what = "latency_ms" if budget.prefer == "latency" else "size_bytes"

    def order(line: Line) -> tuple[bool, float]:
        ok = meets(line, first, budget)
        return (not ok, line.measured[what] if ok else -line.measured["score"])

    return sorted(rows, key=order)[:MOST]


def reopened(bench: Bench, line: Line, *, with_network: bool = False) -> Candidate | None:
    """A candidate of an earlier line: as it is at hand, from its artifact, or made again from its composition.

    Args:
        bench: of the search.
        line: with its composition.
        with_network: an artifact will not do, since its network is needed too.
    """
    question = bench.question
    evidence, target = question.evidence, question.target
    if line.name in bench.kept:
        return bench.kept[line.name]
    place = question.folder / "artifacts" / line.name
    if not with_network and target.runtime not in NETWORK_RUNTIMES and (place / "manifest.json").is_file():
        made = tried(lambda: opened(_from_artifact(line, place), evidence.data, evidence.task, target), line.steps)
        if isinstance(made, Candidate):
            return made

    def again() -> Candidate:
        steps = parse(line.steps, bench.space.base)
        made = apply(steps, question.subject, evidence, target=target, once=bench.once, name=line.steps)
        return opened(made, evidence.data, evidence.task, target)

    made = tried(again, line.steps)
    if not isinstance(made, Candidate):
        return None
    try:
        keep(made, place, evidence, line)
    except ParityError:
        return None
    return made


def _from_artifact(line: Line, place: Path) -> Candidate:
    import onnx

    proto = onnx.load(ship.read(place).model_path)
    told = line.measured
    return Candidate(line.steps, proto, int(told["params"]), int(told["macs"]), [], None, exact=False)


def _verdict(
    chosen: Candidate,
    original: Candidate,
    first: Line,
    failure: BudgetError | None,
    reasons: dict[str, str],
    found: Found,
) -> tuple[Verdict, str]:
    if failure is not None:
        why = {
            "infeasible": "no shape that was tried is within the limits, whatever its training",
            "exhausted": "nothing that is left to try promises to meet it",
            "settled": "the search had settled",
        }.get(found.ended, f"nothing was found in {found.seconds:.0f} s")
        nearest = reasons[chosen.name].removeprefix("nearest to the budget: ")
        return "infeasible", f"Infeasible: {why}. The nearest is {_named(chosen)}: {nearest}."
    faster, smaller = _ratios(original, chosen)
    if not any(line.steps and line.state == "whole" for line in found.lines):
        return "keep", f"Keep the original: {_nothing_made(found)}"
    if chosen.name == ORIGINAL or (_meets(original, first, found) and max(faster, smaller) < LEAST_GAIN):
        why = "nothing that keeps the score is faster or smaller beyond the noise"
        if chosen.name != ORIGINAL:
            why = f"the best is {_named(chosen)}, {faster:.2f}× faster and {smaller:.2f}× smaller, which is too little"
        return "keep", f"Not worth it: keep the original, because {why}."
    lost = first.measured["score"] - chosen.valid_score
    drop = f"{100 * abs(lost):.2f} points of validation score {'lost' if lost >= 0 else 'gained'}"
    speed = "as fast" if faster == 1 else f"{faster:.2f}× faster"
    return "fold", f"{_named(chosen)} meets the budget: {speed}, {smaller:.2f}× smaller, {drop}."


def _nothing_made(found: Found) -> str:
    failed = [line for line in found.lines if line.state == "failed"]
    if failed and not any(line.state == "shape" for line in found.lines):
        return (
            f"none of the folds that were tried ({len(failed)}) can be made from it. The first of them, "
            f"{failed[0].steps}: {failed[0].reason}"
        )
    return f"no fold was made and measured in {found.seconds:.0f} s. Search for longer."


def _meets(original: Candidate, first: Line, found: Found) -> bool:
    return not excess(original, first.measured["score"], found.bench.question.budget)


def _ratios(original: Candidate, chosen: Candidate) -> tuple[float, float]:
    """(times faster, times smaller) than the original on the same runtime."""
    assert original.latency is not None
    assert chosen.latency is not None
    faster = original.latency.p50_ms / chosen.latency.p50_ms
    if measure.tie(original.latency, chosen.latency):
        faster = 1.0
    return faster, original.size_bytes / chosen.size_bytes


def _named(candidate: Candidate) -> str:
    return "the original" if candidate.name == ORIGINAL else f"'{candidate.name}'"


def _row(candidate: Candidate, line: Line, kept: Candidate, reasons: dict[str, str], bench: Bench) -> dict[str, Any]:
    latency, best = candidate.latency, kept.latency
    assert latency is not None
    assert best is not None
    n_valid = max(1, len(bench.question.evidence.data.valid))
    allowed = not excess(candidate, bench.first().measured["score"], bench.question.budget)
    apart = abs(candidate.valid_score - kept.valid_score)
    noise = math.sqrt(max(kept.valid_score * (1 - kept.valid_score), 0.0) / n_valid)  # of a share of n_valid inputs
    return {
        "name": line.name,
        "steps": line.steps,
        "seed": line.seed,
        "score": candidate.valid_score,
        "latency_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "latency_interval_ms": [latency.p50_ms - latency.iqr_ms / 2, latency.p50_ms + latency.iqr_ms / 2],
        "size_bytes": candidate.size_bytes,
        "memory_bytes": candidate.peak_memory_bytes,
        "params": candidate.params,
        "macs": candidate.macs,
        "bit_operations": line.measured.get("bit_operations"),
        "predicted_latency_ms": line.predicted.get("latency_ms"),
        "tie": candidate is not kept and allowed and measure.tie(latency, best) and apart <= noise,
        "chosen": candidate is kept,
        "original": candidate.name == ORIGINAL,
        "reason": reasons.get(candidate.name, ""),
    }


def _on_test(kept: Candidate, bench: Bench) -> dict[str, float] | None:
    """Scores on the test split, which no choice has seen."""
    evidence = bench.question.evidence
    if not len(evidence.data.test):
        return None
    scores = {
        "original": score_on(bench.original.runner, evidence.data.test, evidence.task),
        "chosen": score_on(kept.runner, evidence.data.test, evidence.task),
    }
    return scores | {"n": len(evidence.data.test)}


def _artifact(kept: Candidate, line: Line, bench: Bench) -> Path:
    place = bench.question.folder / "artifacts" / line.name
    if not is_kept(place):
        keep(kept, place, bench.question.evidence, line)
    return place


def money(
    original: Candidate, kept: Candidate, effort_s: float, batch: int, price_per_hour: float
) -> dict[str, float | None]:
    """Time saved against time spent, both of one machine.

    saved per million requests = (latency before − after) · 10⁶ / batch; requests after which the search has paid
    for itself = effort / (saved per request).
    """
    assert original.latency is not None
    assert kept.latency is not None
    saved_s = (original.latency.p50_ms - kept.latency.p50_ms) * 1e3 / batch
    if measure.tie(original.latency, kept.latency):
        saved_s = 0.0
    told: dict[str, float | None] = {
        "saved_s_per_million": saved_s,
        "effort_s": effort_s,
        "break_even_requests": effort_s / saved_s * 1e6 if saved_s > 0 else None,
    }
    if price_per_hour:
        told |= {
            "price_per_hour": price_per_hour,
            "saved_per_million": saved_s / 3600 * price_per_hour,
            "effort": effort_s / 3600 * price_per_hour,
        }
    return told


def _effort_s(found: Found) -> float:
    """All that was spent on these lines, in all sittings and by all processes."""
    return max(found.seconds, sum(line.seconds for line in found.lines))


def tally(lines: Sequence[Line]) -> dict[str, int]:
    """How many were tried, by what came of them."""
    return {state: sum(line.state == state for line in lines) for state in ("shape", "whole", "failed")}


def prediction_errors(lines: Sequence[Line]) -> dict[str, float | int]:
    """How far predictions were off: median of |predicted / measured − 1|, each point's first measurement alone.

    The points with which a search begins are not predicted and do not count.

    Example:
        >>> line = Line("a", 0, "shape", {"student": 1, "cut": 0, "numbers": 0}, -1, {"latency_ms": 1.1})
        >>> import dataclasses
        >>> prediction_errors([dataclasses.replace(line, measured={"latency_ms": 1.0})])
        {'n': 1, 'latency': 0.1...}
    """
    errors: dict[str, list[float]] = {"latency": [], "size": []}
    seen = set()
    for line in lines:
        if not line.point or key_of(line.point) in seen or not line.measured:
            continue
        seen.add(key_of(line.point))
        for name, key in (("latency", "latency_ms"), ("size", "size_bytes")):
            if key in line.predicted and key in line.measured:
                errors[name].append(abs(line.predicted[key] / line.measured[key] - 1))
    middle = {name: sorted(values)[len(values) // 2] for name, values in errors.items() if values}
    return {"n": len(errors["latency"]), **middle}


ALONE = re.compile(r"\w+(\([^()]*\))?")
"""A composition of one step."""


def alone(lines: Sequence[Line], bench: Bench) -> list[dict[str, Any]]:
    """The table of sensitivity: what each fold does alone, without training where it would need some."""
    first = bench.first()
    single = [line for line in lines if line.state != "failed" and ALONE.fullmatch(line.steps) and line.measured]
    rows = []
    for line in {line.steps: line for line in single if line.rung in (-1, len(RUNGS) - 1)}.values():
        if line.state == "shape" and line.steps.startswith("prune"):
            continue  # it is there with its score, as it was cut
        told = line.measured
        rows.append(
            {
                "steps": line.steps,
                "drop": None if "score" not in told else first.measured["score"] - told["score"],
                "latency_ratio": told["latency_ms"] / first.measured["latency_ms"],
                "size_ratio": told["size_bytes"] / first.measured["size_bytes"],
            }
        )
    return rows
