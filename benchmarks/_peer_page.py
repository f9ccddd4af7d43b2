"""docs/doctor_peers.md from the record of ``doctor_peers.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _peer_names import CLASSIC, FOR, OURS, PEERS, Row, counts, together

_HEAD = """\
<!-- Written by `python benchmarks/docs.py --write` from benchmarks/records/doctor_peers.json; edit neither. -->

# The doctor and its peers

Five tools that install with pip look for mistakes in PyTorch training as well. All of them, and `dimwise doctor`, ran
on the [gallery](doctor.md): {n} mistakes, each as a script with its own loop, broken and mended, one seed, the first
network that the script can show its mistake on. The scripts were not changed; each tool was put into their loops where
its own README says.

**Read it with care.** The gallery is ours, and so are the rules that were written beside it: it is biased toward the
doctor. {n_classic} of the mistakes (marked *) were written down and tried on four of these tools before the doctor had
a rule; they are counted apart. A tool that was made for something else is no worse for a silent row. Whether a message
names a mistake is decided by a table (`benchmarks/_peer_names.py`), with generosity to the peers.
"""

_MARKS = """\
**N** names the cause, **S** shows a symptom only (says something about the broken form that it does not say about the
mended one), **-** is silent, an empty cell was not run.
"""


def page(record: Mapping[str, Any]) -> str:
    """The page's text."""
    rows: Sequence[Row] = record["figures"]["rows"]
    tools = [OURS, *PEERS]
    versions = record["figures"]["versions"]
    lines = [
        _HEAD.format(n=len(rows), n_classic=sum(row["slug"] in CLASSIC for row in rows)),
        "## What each is for",
        "",
    ]
    lines += [f"- **{peer} {versions.get(peer, '(not installed)')}** {FOR[peer]}" for peer in PEERS]
    lines += ["", "## Summary", "", *_summary(rows, tools), "", "## Each mistake", "", _MARKS]
    lines += [_line(["mistake", "network", *tools]), _line(["---"] * (2 + len(tools)))]
    for row in rows:
        star = "\\*" if row["slug"] in CLASSIC else ""
        marks = [row["peers"][tool]["mark"] if tool in row["peers"] else "" for tool in tools]
        slug = f"[{row['slug']}](doctor.md#{row['slug']}){star}"
        lines.append(_line([slug, row["arch"], *(f"**{m}**" if m == "N" else m for m in marks)]))
    lines += ["", "## False alarms on mended forms", "", *_alarms(rows, tools), "", "## Notes", ""]
    lines += [f"- {note}" for note in record["notes"]]
    cpu = record["environment"].get("cpu", "unknown CPU")
    told = f"Run on {record['date'][:10]}, {cpu}, torch {record['environment']['torch']}."
    return "\n".join([*lines, "", f"{told} Again: `{record['command']}`; what each tool said is in the record.", ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _summary(rows: Sequence[Row], tools: Sequence[str]) -> list[str]:
    classic = [row for row in rows if row["slug"] in CLASSIC]
    lines = [_line(["", *tools, "all peers together"]), _line(["---"] * (2 + len(tools)))]
    for title, some in (("of all", rows), ("of the classic (*)", classic)):
        each = [counts(some, tool) for tool in tools]
        union = together(some)
        for what, m in (("named", "N"), ("symptom only", "S"), ("silent", "-")):
            cells = [f"{c[m]} of {c['tried']}" if c["tried"] else "" for c in each]
            lines.append(_line([f"{what} {title}", *cells, f"{union[m]} of {len(some)}"]))
    each = [counts(rows, tool) for tool in tools]
    cells = [f"{c['alarms']} of {c['tried']}" if c["tried"] else "" for c in each]
    lines.append(_line(["mended forms with a warning or an error", *cells, ""]))
    cells = [f"{c['errors']} of {c['tried']}" if c["tried"] else "" for c in each]
    lines.append(_line(["mended forms with an error", *cells, ""]))
    return lines


def _alarms(rows: Sequence[Row], tools: Sequence[str]) -> list[str]:
    """One line a tool: its rules that spoke about mended forms, and on how many."""
    lines = []
    for tool in tools:
        found: dict[str, int] = {}
        for row in rows:
            for rule in {one[0] for one in row["peers"].get(tool, {}).get("alarms", [])}:
                found[rule] = found.get(rule, 0) + 1
        most = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
        told = ", ".join(f"`{rule}` on {n}" for rule, n in most[:3]) + (", …" if len(most) > 3 else "")
        lines.append(f"- {tool}: {told or 'none'}")
    return lines
