"""Prove a cure: the script once more, a short stretch from the same seed, without it and with it; both curves.

A cure that does not help lowers its finding by one level and says so: a remedy is a claim, too.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dimwise.doctor.cures import CURES
from dimwise.doctor.finding import SEVERITIES, Finding, Report
from dimwise.doctor.inside import ANSWERS, CURE, STOP
from dimwise.doctor.script import Execution, watch_script
from dimwise.doctor.seen import Seen

_AT_MOST = 6
"""Different cures that are tried: each runs the script once."""
_END_FRAC = 0.25
"""Part of the stretch whose mean counts as its end."""
_PASSES = 5
"""Passes of an evaluation that are looked at."""


@dataclass(frozen=True)
class Curve:
    """What one stretch reached, step by step."""

    measure: str
    """'batch accuracy' (higher is better), 'loss' (lower is), or 'change of answers' (lower is): relative difference of
    the outputs for half of an evaluation batch when the other half is left out."""
    values: list[float]

    def end(self) -> tuple[float, float]:
        """Mean and standard error over the last part; NaN when there is nothing."""
        tail = self.values[-max(1, round(len(self.values) * _END_FRAC)) :]
        if not tail or not all(map(math.isfinite, tail)):
            return float("nan"), 0.0
        error = statistics.stdev(tail) / len(tail) ** 0.5 if len(tail) > 1 else 0.0
        return statistics.fmean(tail), error


def prove(
    report: Report, target: str, arguments: Sequence[str] = (), *, module: bool = False, steps: int = 60
) -> Report:
    """The same report, each curable error and warning with its proof.

    Args:
        report: of the script's own run.
        target: the script, as it was run; it runs again, quietly, once for each cure and once without.
        arguments: its own.
        module: whether ``target`` is a module.
        steps: length of a stretch, in optimizer steps.
    """
    curable = [f for f in report.findings if f.cure and f.severity != "hint" and f.cure["kind"] in CURES]
    wanted = list({json.dumps(f.cure, sort_keys=True): f.cure for f in curable}.items())[:_AT_MOST]
    if not wanted:
        return report

    evaluation = any(cure["kind"] == "eval_mode" for _, cure in wanted if cure)

    def stretch(cure: str | None) -> Execution:
        more = {STOP: str(steps), **({CURE: cure} if cure else {}), **({ANSWERS: str(_PASSES)} if evaluation else {})}
        return watch_script(target, arguments, module=module, more=more, quiet=True)

    without = _main(stretch(None))
    proofs = {key: proof(without, _main(stretch(key)), cure) for key, cure in wanted}
    findings = [_with(f, proofs.get(json.dumps(f.cure, sort_keys=True))) for f in report.findings]
    return replace(report, findings=findings).sorted()


def proof(without: Seen | None, with_cure: Seen | None, cure: Any) -> dict[str, Any] | None:
    """The two curves side by side, and whether the cure helped by more than the noise; None when one is missing."""
    if without is None or with_cure is None:
        return None
    broken, mended = _curves(without, with_cure, cure)
    if not broken.values or not mended.values:
        return None
    before, before_error = broken.end()
    after, after_error = mended.end()
    noise = 2 * (before_error**2 + after_error**2) ** 0.5
    up = broken.measure == "batch accuracy"
    gain = after - before if up else before - after
    finite_now = math.isnan(before) and not math.isnan(after)
    helped = finite_now or gain > noise
    n = max(len(broken.values), len(mended.values))
    told = f"{broken.measure} at the end of {n} steps: {before:.4g} without the cure, {after:.4g} with it"
    if broken.measure == "change of answers":
        told = (
            f"when half of an evaluation batch is left out, the answers to the rest change by {before:.1%} without the "
            f"cure, by {after:.1%} with it"
        )
    verdict = "helps" if helped else "does not help within this stretch"
    return {
        "cure": cure,
        "measure": broken.measure,
        "steps": n,
        "without": broken.values,
        "with": mended.values,
        "without_end": before,
        "with_end": after,
        "helped": helped,
        "summary": f"{told}; it {verdict}",
    }


def _curves(without: Seen, with_cure: Seen, cure: Any) -> tuple[Curve, Curve]:
    if cure and cure["kind"] == "eval_mode":  # the training is the same with and without
        before, after = ([v for _, v in s.answers] for s in (without, with_cure))
        return Curve("change of answers", before), Curve("change of answers", after)
    both = without.accuracy_history, with_cure.accuracy_history
    if all(len(history) >= 5 for history in both):
        return tuple(Curve("batch accuracy", [v for _, v in h]) for h in both)  # type: ignore[return-value]
    return tuple(Curve("loss", [v for _, v, _ in s.loss_history]) for s in (without, with_cure))  # type: ignore[return-value]


def _main(execution: Execution) -> Seen | None:
    return execution.processes[0] if execution.processes and execution.processes[0].loss_history else None


def _with(finding: Finding, found: dict[str, Any] | None) -> Finding:
    if found is None or not finding.cure:
        return finding
    if found["helped"]:
        return replace(finding, proof=found)
    lower = SEVERITIES[min(len(SEVERITIES) - 1, SEVERITIES.index(finding.severity) + 1)]
    return replace(finding, severity=lower, proof=found)
