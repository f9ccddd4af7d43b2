"""What the doctor found, for the terminal: worst first, one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from dimwise.doctor.finding import Finding, Report

_STYLES = {"error": "bold red", "warning": "bold yellow", "hint": "bold cyan"}


def show(report: Report, *, remarks: Sequence[str] = (), file: IO[str]) -> None:
    """Print a report: each finding with its place, evidence and remedy; then what could not be checked."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False, soft_wrap=False)
    counts = {s: sum(f.severity == s for f in report.findings) for s in _STYLES}
    console.print()
    told = ", ".join(f"{n} {s}{'s' * (n != 1)}" for s, n in counts.items() if n) or "no findings"
    console.print(Text("doctor: ", style="bold").append(f"{told}; {len(report.checked)} rules checked", style=""))
    for remark in remarks:
        console.print(Text(f"  {remark}", style="dim"))
    for finding in report.findings:
        console.print()
        for line in _lines(finding):
            console.print(line)
    if report.not_checked:
        console.print()
        names = "; ".join(f"{n.rule} ({n.why})" for n in report.not_checked[:6])
        more = len(report.not_checked) - 6
        console.print(Text(f"not checked: {names}{f'; and {more} more' if more > 0 else ''}", style="dim"))


def _lines(finding: Finding) -> list[object]:
    from rich.padding import Padding
    from rich.text import Text

    head = Text(f"{finding.severity}", style=_STYLES[finding.severity]).append(f"  {finding.rule}", style="bold")
    if finding.place is not None:
        head.append(f"  {finding.place}", style="not bold blue")
    if finding.module:
        head.append(f"  {finding.module}", style="not bold magenta")
    if finding.step is not None:
        head.append(f"  step {finding.step}", style="not bold dim")
    lines: list[object] = [head, Padding(Text(finding.title), (0, 0, 0, 2))]
    lines.append(Padding(Text(finding.evidence), (0, 0, 0, 2)))
    lines.append(Padding(Text("→ ", style="green").append(finding.remedy), (0, 0, 0, 2)))
    if finding.proof:
        proof = f"proof: {finding.proof.get('summary', finding.proof)}"
        lines.append(Padding(Text(proof, style="green"), (0, 0, 0, 2)))
    return lines


def brief(told: Mapping[str, Any]) -> list[str]:
    """One line for each error and warning of a run's result; what is only a hint stays in the report.

    Example:
        >>> where = {"file": "net.py", "line": 7, "module": None, "step": 3}
        >>> found = {"rule": "lr-too-high", "severity": "error", "title": "the rate is too high", "remedy": "lr=0.1"}
        >>> brief({"checks": [found | {"where": where}]})
        ['doctor: error: lr-too-high (net.py:7): the rate is too high; lr=0.1']
    """
    lines = []
    for finding in told.get("checks", ()):
        if finding["severity"] in ("error", "warning"):
            file, line = finding["where"]["file"], finding["where"]["line"]
            place = f" ({str(file).replace(chr(92), '/').rpartition('/')[2]}:{line})" if file else ""
            text = f"{finding['severity']}: {finding['rule']}{place}: {finding['title']}; {finding['remedy']}"
            lines.append(f"doctor: {text}")
    return lines
