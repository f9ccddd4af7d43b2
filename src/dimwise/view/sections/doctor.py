"""What the doctor found, most serious first, and what it saw of each layer in the first steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from dimwise.view import figures
from dimwise.view.files import RunFiles
from dimwise.view.lr_range import lr_range
from dimwise.view.page import Safe, clean, el, join
from dimwise.view.picture import figure, svg
from dimwise.view.story import mapping, sequence
from dimwise.view.strings import Words
from dimwise.view.units import number, significant

_ORDER = ("error", "warning", "hint")
_COLUMNS = 100
"""Steps are drawn one by one up to so many, else each column is the largest of its neighbours."""
_PICTURES = (
    # what, list in seen.json, key of its numbers, whether they are shares
    ("grad_norms", "layers", "grad_norm", False),
    ("update_ratios", "layers", "update_ratio", False),
    ("dead", "activations", "dead_frac", True),
    ("saturated", "activations", "saturated_frac", True),
)


def section(run: RunFiles, say: Words) -> Safe:
    """Nothing when the run was not checked."""
    if "checks" not in run.result:
        return Safe("")
    findings = [mapping(f) or {"rule": clean(f)} for f in sequence(run.result["checks"])]
    findings.sort(key=_rank)
    told = el("ul", *(_finding(finding, say) for finding in findings), cls="findings") if findings else Safe("")
    return join((_scope(run, say, well=not findings), told, _layers(run, say), _rates(run, say)))


def _scope(run: RunFiles, say: Words, *, well: bool) -> Safe:
    """How many rules looked at how many steps, and which could not look."""
    about = mapping(run.result.get("checked"))
    n_steps, silent = number(about.get("steps")), [mapping(n) for n in sequence(about.get("not_checked"))]
    if n_steps is None:
        return el("p", say("doctor_well"), cls="note good") if well else Safe("")
    values = {"rules": len(sequence(about.get("rules"))), "steps": f"{n_steps:,.0f}"}
    line = el(
        "p", say("doctor_well") if well else "", " ", say("doctor_scope", values), cls="note good" if well else "note"
    )
    if not silent:
        return line
    rows = [el("li", el("span", n.get("rule", "?"), cls="mono"), ": ", n.get("why", "")) for n in silent]
    return join((line, el("details", el("summary", say("doctor_not_checked", {"n": len(rows)})), el("ul", *rows))))


def _rank(finding: Mapping[str, Any]) -> int:
    severity = str(finding.get("severity", "")).lower()
    return _ORDER.index(severity) if severity in _ORDER else len(_ORDER)


def _finding(finding: Mapping[str, Any], say: Words) -> Safe:
    severity = str(finding.get("severity") or "")
    head = [el("b", finding.get("rule") or "?")]
    if severity:
        name = say.known("severity", severity.lower())
        head.append(el("span", name, cls="badge bad" if severity.lower() == "error" else "badge quiet"))
    place = _place(mapping(finding.get("where")), say)
    if place:
        head.append(el("span", place, cls="mono soft"))
    lines = [el("p", finding[key]) for key in ("title", "evidence") if finding.get(key)]
    if finding.get("remedy"):
        lines.append(el("p", el("b", say("remedy")), " ", finding["remedy"]))
    proof = finding.get("proof")
    if proof:
        lines.append(el("p", el("b", say("proof")), " ", mapping(proof).get("summary") or proof))
    return el("li", el("p", *head), *lines)


def _place(where: Mapping[str, Any], say: Words) -> str:
    """File and line, module, step: as much of it as is known."""
    file, line, step = where.get("file"), number(where.get("line")), number(where.get("step"))
    parts = []
    if file:
        name = clean(file).replace("\\", "/").rpartition("/")[2]
        parts.append(name if line is None else f"{name}:{line:.0f}")
    if where.get("module"):
        parts.append(clean(where["module"]))
    if step is not None:
        parts.append(say("doctor_step", {"n": f"{step:.0f}"}))
    return " · ".join(parts)


def _layers(run: RunFiles, say: Words) -> Safe:
    drawn = []
    for name, group, key, shares in _PICTURES:
        steps, rows = seen_rows(run.seen, group, key)
        if not rows:
            continue
        title, label = say(f"doctor_{name}_title"), say(f"alt_doctor_{name}", {"n": len(rows), "steps": steps[-1]})
        picture = figures.layer_heat(steps, rows, title, along="axis_step", shares=shares, language=say.language)
        drawn.append(figure(svg(picture, f"doctor{name.replace('_', '')}", label), say(f"doctor_{name}_caption")))
    return join((el("h3", say("doctor_layers_title")), el("div", *drawn, cls="pair"))) if drawn else Safe("")


def _rates(run: RunFiles, say: Words) -> Safe:
    """The curve of the range test with this run's rate in it, or why there is none."""
    told = run.lr_range
    if told.get("left_out"):
        share = f"{number(told.get('share')) or 0.0:.0%}"
        return el("p", say("lr_range_left_out", {"share": share}), cls="note")
    columns = [[number(v) for v in sequence(told.get(key))] for key in ("rates", "losses", "smoothed")]
    curves = [[v for v in column if v is not None] for column in columns]
    n = len(curves[0])
    if n < 2 or any(len(curve) != n for curve in curves) or any(a >= b for a, b in pairwise([0.0, *curves[0]])):
        return Safe("")
    ends = [number(v) for v in sequence(told.get("interval"))]
    low, high = ends if len(ends) == 2 else (None, None)
    interval = (low, high) if low is not None and high is not None and 0 < low < high else None
    used = number(mapping(run.recipe.get("train")).get("lr"))
    picture = lr_range(
        *curves,
        interval=interval,
        suggested=number(told.get("suggested")),
        used=used,
        n_seeds=int(number(told.get("n_seeds")) or 1),
        language=say.language,
    )
    values = {"low": significant(interval[0], 2), "high": significant(interval[1], 2)} if interval else {}
    label = say("lr_range_interval", values) if interval else say("lr_range_unclear")
    drawn = figure(svg(picture, "doctorlrrange", label), say("lr_range_caption"))
    return join((el("h3", say("lr_range_title")), drawn))


def seen_rows(seen: Mapping[str, Any], group: str, key: str) -> tuple[list[int], Mapping[str, list[float | None]]]:
    """Numbers of each layer over the watched steps of the network that was trained longest.

    Args:
        seen: the object in ``seen.json``.
        group: 'layers' or 'activations'.
        key: the list of (step, value) in each of them, such as 'grad_norm'.

    Returns: steps counted from 1, at most 100 columns, evenly spaced; row name -> one number a column.

    Example:
        >>> layers = {"fc": {"path": "fc", "order": 1, "grad_norm": [[0, 2.0], [1, 1.0]]}}
        >>> seen_rows({"roots": {"0": {"n_train_forwards": 2, "layers": layers}}}, "layers", "grad_norm")
        ([1, 2], {'fc': [2.0, 1.0]})
    """
    roots = [mapping(root) for root in mapping(seen.get("roots")).values()]
    root = max(roots, key=lambda r: number(r.get("n_train_forwards")) or 0.0, default=mapping(None))
    told = root.get(group)
    parts = [mapping(part) for part in (told.values() if isinstance(told, Mapping) else sequence(told))]
    parts.sort(key=lambda part: number(part.get("order")) or 0.0)
    series: dict[str, dict[int, float]] = {}
    for part in parts:
        values = dict(filter(None, map(_pair, sequence(part.get(key)))))
        if values:
            series[_row_name(part)] = values
    last = max((step for values in series.values() for step in values), default=-1)
    if last < 0:
        return [], {}
    width = -(-(last + 1) // _COLUMNS)
    n_columns = -(-(last + 1) // width)
    rows: dict[str, list[float | None]] = {name: [None] * n_columns for name in series}
    for name, values in series.items():
        for step, value in values.items():
            known = rows[name][step // width]
            rows[name][step // width] = value if known is None else max(known, value)
    rows = {name: _held(row) for name, row in rows.items()}
    return [1 + i * width for i in range(n_columns)], rows


def _held(row: list[float | None]) -> list[float | None]:
    """Between two looks the earlier one stands."""
    held: list[float | None] = []
    for value in row:
        held.append(value if value is not None or not held else held[-1])
    return held


def _pair(entry: Any) -> tuple[int, float] | None:
    both = [number(v) for v in sequence(entry)]
    if len(both) != 2 or both[0] is None or both[1] is None or not 0 <= both[0] < 1e6:
        return None
    return int(both[0]), both[1]


def _row_name(part: Mapping[str, Any]) -> str:
    path, function = clean(part.get("path") or ""), clean(part.get("function") or "")
    if function and function not in path.lower():
        return f"{path} {function}".strip()
    return path or clean(part.get("kind") or "?")
