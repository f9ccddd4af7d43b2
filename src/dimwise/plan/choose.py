"""Pick the candidate that meets the budget; "keep the original" and "none does, the nearest is …" are answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dimwise import measure
from dimwise.errors import BudgetError, GateError
from dimwise.plan.apply import ORIGINAL
from dimwise.plan.budget import Budget
from dimwise.plan.on_target import Candidate

_SECOND = {"latency": "size", "size": "latency"}
"""What decides inside the noise of what is preferred."""


def choose(
    found: Sequence[Candidate], trained: Mapping[str, Any], budget: Budget
) -> tuple[Candidate, dict[str, str], BudgetError | None]:
    """The candidate to ship, a reason for each, and the failed gate when none meets the budget.

    Everything that decides is measured on the validation split and on the serving runtime.

    Args:
        found: candidates with score, bytes and latency.
        trained: the stage of the trained network; its ``valid_score`` is what may drop.
        budget: limits; 0 means none.

    Returns:
        (chosen, name -> reason, failure). When none meets the budget the nearest one is chosen and
        the failure names it.
    """
    excesses = {c.name: excess(c, float(trained["valid_score"]), budget) for c in found}
    meeting = [c for c in found if not excesses[c.name]]
    if not meeting:
        nearest = min(found, key=lambda c: sum(over for over, _ in excesses[c.name].values()))
        told = "; ".join(text for _, text in excesses[nearest.name].values())
        failure = BudgetError(
            "no candidate meets the budget",
            next_step=f"The nearest is '{nearest.name}': {told}. Relax [budget], or add folds to fold.candidates.",
        )
        reasons = {name: "; ".join(t for _, t in over.values()) for name, over in excesses.items()}
        return nearest, reasons | {nearest.name: "nearest to the budget: " + reasons[nearest.name]}, failure
    best = first = min(meeting, key=lambda c: _rank(c, budget))
    tied = [c for c in meeting if c is not best and _tie(c, best, budget)]
    for other in tied:  # inside the noise the second wish decides
        if _second(other, budget) < _second(best, budget):
            best = other
    reasons = {}
    for candidate in found:
        over = excesses[candidate.name]
        if over:
            reasons[candidate.name] = "; ".join(text for _, text in over.values())
        elif candidate is not best:
            reasons[candidate.name] = "meets the budget, but is " + _worse(candidate, best, budget)
    kept = best.name == ORIGINAL
    why = f"best {budget.prefer} within the budget"
    if best is not first:
        why = f"no worse in {budget.prefer} than {first.name} beyond noise, and better in {_SECOND[budget.prefer]}"
    reasons[best.name] = "no fold is better: keep the original" if kept else why
    return best, reasons, None


def nothing_to_serve(skipped: Mapping[str, str]) -> GateError:
    """The failed gate of a run whose trained network no candidate could be made from.

    Example:
        >>> str(nothing_to_serve({"onnx": "torch cannot export the model: no."}))
        'nothing can be shipped, the trained network is kept: torch cannot export the model: no.'
    """
    reason = skipped.get(ORIGINAL) or next(iter(skipped.values()), "no candidate was asked for")
    return GateError(f"nothing can be shipped, the trained network is kept: {reason}")


def excess(candidate: Candidate, trained_score: float, budget: Budget) -> dict[str, tuple[float, str]]:
    """Which limits a candidate breaks: name -> (relative excess, words)."""
    over: dict[str, tuple[float, str]] = {}
    drop = trained_score - candidate.valid_score
    if not drop <= budget.drop + 1e-9:  # written so that NaN, which compares false with everything, breaks the limit
        # A point of score outweighs a tenth of latency or size when the nearest candidate is looked for.
        text = f"validation score drops by {drop:.4f}, allowed {budget.drop:.4f}"
        over["drop"] = (math.inf if math.isnan(drop) else 10 * (drop - budget.drop), text)
    latency_ms = candidate.latency.p50_ms if candidate.latency else 0.0
    if budget.latency_ms and latency_ms > budget.latency_ms:
        text = f"latency is {latency_ms:.4g} ms, allowed {budget.latency_ms:.4g} ms"
        over["latency"] = (latency_ms / budget.latency_ms - 1, text)
    if budget.size_bytes and candidate.size_bytes > budget.size_bytes:
        text = f"size is {candidate.size_bytes:,} bytes, allowed {budget.size_bytes:,}"
        over["size"] = (candidate.size_bytes / budget.size_bytes - 1, text)
    memory_bytes = candidate.peak_memory_bytes
    if budget.memory_bytes and memory_bytes is None:
        over["memory"] = (1.0, f"memory could not be measured, allowed {budget.memory_bytes:,}")
    elif budget.memory_bytes and memory_bytes is not None and memory_bytes > budget.memory_bytes:
        text = f"memory is {memory_bytes:,} bytes, allowed {budget.memory_bytes:,}"
        over["memory"] = (memory_bytes / budget.memory_bytes - 1, text)
    return over


def _latency(candidate: Candidate) -> measure.Latency:
    assert candidate.latency is not None, "candidates are looked at before they are chosen from"
    return candidate.latency


def _rank(candidate: Candidate, budget: Budget) -> float:
    return _latency(candidate).p50_ms if budget.prefer == "latency" else float(candidate.size_bytes)


def _second(candidate: Candidate, budget: Budget) -> float:
    return float(candidate.size_bytes) if budget.prefer == "latency" else _latency(candidate).p50_ms


def _tie(a: Candidate, b: Candidate, budget: Budget) -> bool:
    if budget.prefer == "size":
        return a.size_bytes == b.size_bytes
    return measure.tie(_latency(a), _latency(b))


def _worse(candidate: Candidate, best: Candidate, budget: Budget) -> str:
    if _tie(candidate, best, budget) and _second(candidate, budget) >= _second(best, budget):
        factor = _second(candidate, budget) / max(_second(best, budget), 1e-12)
        second = _SECOND[budget.prefer]
        return f"no better in {budget.prefer} than {best.name} beyond noise, and {factor:.2f}× its {second}"
    ratio = _rank(candidate, budget) / max(_rank(best, budget), 1e-12)
    return f"{ratio:.2f}× the {budget.prefer} of {best.name}"
