"""Ask every rule about what was seen. A rule that fails itself is told as not checked; it never harms the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from dimwise.doctor.finding import Finding, NotChecked, Report
from dimwise.doctor.rules import ACROSS, RULES
from dimwise.doctor.seen import Seen
from dimwise.lookup import resolve


def examine(processes: Sequence[Seen], *, ignore: Collection[str] = ()) -> Report:
    """The findings of all rules about one execution.

    Args:
        processes: what was seen in each process, the main one first. Rules look at each process that trained;
            the same finding in several processes is told once.
        ignore: slugs that are left out (they are told as not checked).

    Returns:
        Findings worst first, the slugs that were checked, and those that could not be, each with its reason.

    Example:
        >>> report = examine([Seen()])
        >>> report.findings
        []
    """
    report = Report()
    looked_at = [s for s in processes if s.n_steps or s.n_backward] or list(processes[:1])
    for slug, target in {**RULES, **ACROSS}.items():
        if slug in ignore:
            report.not_checked.append(NotChecked(slug, "ignored as asked"))
            continue
        said: list[Finding | NotChecked] = []
        try:
            rule = resolve(target)
            if slug in ACROSS:
                said = _listed(rule(list(processes)))
            else:
                for seen in looked_at:
                    said += _listed(rule(seen))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in a rule must not harm the examination
            report.not_checked.append(NotChecked(slug, f"the rule itself failed: {type(error).__name__}: {error}"))
            continue
        findings = [f for f in said if isinstance(f, Finding)]
        reasons = [n for n in said if isinstance(n, NotChecked)]
        report.findings += _once(findings)
        if reasons and not findings and len(reasons) >= len(looked_at):
            report.not_checked.append(reasons[0])
        else:
            report.checked.append(slug)
    seconds = max((s.seconds for s in processes), default=0.0)
    watching = max((s.watching_s for s in processes), default=0.0)
    if 0 < watching < seconds:
        report.overhead = round(seconds / (seconds - watching), 4)
    return report.sorted()


def _listed(said: Any) -> list[Finding | NotChecked]:
    if said is None:
        return []
    if isinstance(said, Finding | NotChecked):
        return [said]
    return [one for one in said if one is not None]


def _once(findings: Iterable[Finding]) -> list[Finding]:
    kept: dict[tuple[Any, ...], Finding] = {}
    for finding in findings:
        kept.setdefault((finding.rule, finding.place, finding.module, finding.title), finding)
    return list(kept.values())
