"""Findings as SARIF 2.1.0 (OASIS standard, 2020), which code hosts show beside the line.

Levels: error, warning, and note for hints. Files inside the working folder are named relative to it.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from dimwise.doctor.finding import Finding, Report
from dimwise.doctor.rules import ACROSS, RULES
from dimwise.lookup import resolve

VERSION = "2.1.0"
LEVELS = {"error": "error", "warning": "warning", "hint": "note"}


def about(slug: str) -> tuple[str, str]:
    """The first sentence of a rule's own description, and the whole of it.

    Example:
        >>> about("class-imbalance")[0]
        'One class is far more frequent than another, and the loss does not know.'
    """
    text = inspect.getdoc(resolve({**RULES, **ACROSS}[slug])) or slug
    first = " ".join(text.partition("\n\n")[0].split())
    return first.partition(". ")[0].rstrip(".") + ".", text


def sarif(report: Report, *, version: str, root: Path | None = None, succeeded: bool = True) -> dict[str, Any]:
    """The object of ``--sarif``.

    Args:
        report: what was found.
        version: of dimwise.
        root: folder that file names are told relative to; None takes the working folder.
        succeeded: whether the script that was watched came to its own end.

    Example:
        >>> found = sarif(
        ...     Report([Finding("unseeded", "hint", "no seed", "step 0", "torch.manual_seed(0)")]), version="1"
        ... )
        >>> found["version"], found["runs"][0]["results"][0]["level"]
        ('2.1.0', 'note')
    """
    slugs = list({**RULES, **ACROSS})
    slugs += sorted({f.rule for f in report.findings} - set(slugs))
    base = (root or Path.cwd()).resolve()
    driver = {"name": "dimwise doctor", "semanticVersion": version, "rules": [_rule(slug) for slug in slugs]}
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "results": [_result(f, slugs.index(f.rule), base) for f in report.findings],
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": succeeded,
                "toolExecutionNotifications": [
                    {"level": "note", "message": {"text": f"{n.rule} was not checked: {n.why}"}}
                    for n in report.not_checked
                ],
            }
        ],
    }
    return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": VERSION, "runs": [run]}


def _rule(slug: str) -> dict[str, Any]:
    first, whole = about(slug) if slug in RULES or slug in ACROSS else (slug, slug)
    return {"id": slug, "shortDescription": {"text": first}, "help": {"text": whole}}


def _result(finding: Finding, index: int, base: Path) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if finding.place is not None:
        region = {"startLine": max(1, finding.place.line)}
        location["physicalLocation"] = {"artifactLocation": {"uri": _uri(finding.place.file, base)}, "region": region}
    if finding.module:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.module, "kind": "member"}]
    told: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.title}: {finding.evidence}. Remedy: {finding.remedy}"},
    }
    if location:
        told["locations"] = [location]
    more = {k: v for k, v in (("step", finding.step), ("proof", finding.proof)) if v is not None}
    return told | ({"properties": more} if more else {})


def _uri(file: str, base: Path) -> str:
    from urllib.parse import quote

    path = Path(file)
    if not path.is_absolute():
        return quote(path.as_posix())
    try:
        return quote(path.resolve().relative_to(base).as_posix())
    except ValueError:
        return path.as_uri()
