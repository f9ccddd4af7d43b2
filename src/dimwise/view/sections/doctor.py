"""What the doctor found, most serious first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, clean, el
from dimwise.view.story import mapping, sequence
from dimwise.view.strings import Words

_ORDER = ("error", "critical", "high", "warning", "warn", "medium", "low", "info", "note")


def section(run: RunFiles, say: Words) -> Safe:
    """Nothing when the run was not checked."""
    if "checks" not in run.result:
        return Safe("")
    findings = [mapping(f) or {"rule": clean(f)} for f in sequence(run.result["checks"])]
    if not findings:
        return el("p", say("doctor_well"), cls="note good")
    findings.sort(key=_rank)
    return el("ul", *(_finding(finding, say) for finding in findings), cls="findings")


def _rank(finding: Mapping[str, Any]) -> int:
    severity = str(finding.get("severity", "")).lower()
    return _ORDER.index(severity) if severity in _ORDER else len(_ORDER)


def _finding(finding: Mapping[str, Any], say: Words) -> Safe:
    severity = str(finding.get("severity") or "")
    serious = severity.lower() in _ORDER[:3]
    head = [el("b", finding.get("rule") or finding.get("name") or "?")]
    if severity:
        head.append(el("span", say.known("severity", severity.lower()), cls="badge bad" if serious else "badge quiet"))
    if finding.get("place"):
        head.append(el("span", finding["place"], cls="mono soft"))
    lines = [el("p", finding[key]) for key in ("message", "evidence") if finding.get(key)]
    if finding.get("remedy"):
        lines.append(el("p", el("b", say("remedy")), " ", finding["remedy"]))
    return el("li", el("p", *head), *lines)
