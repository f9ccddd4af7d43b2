"""The answer of a search among folds: as a table and a few lines on a terminal, and as a page with its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dimwise.runs import atomic
from dimwise.view import figures, folds
from dimwise.view.page import Safe, document, el, join, table, tr
from dimwise.view.picture import svg
from dimwise.view.report import stylesheet
from dimwise.view.story import Stage, mapping, sequence
from dimwise.view.strings import HTML_LANGUAGE, Words, words
from dimwise.view.units import (
    bytes_text,
    count_text,
    ms_text,
    number,
    score_text,
    seconds_text,
    share_text,
    significant,
)

PAGE = "plan.html"
MOST_LAYERS = 12
"""Rows of the table of layers: the slowest tell where the time goes."""
MOST_LEFT = 3
"""Layers that were left alone and are named on a terminal; the page and the artifact's folder name all."""
_RIGHT = ("score", "p50", "p95", "size", "memory", "bit operations")


def columns(told: Mapping[str, Any]) -> tuple[list[str], list[list[str]], tuple[str, ...]]:
    """Header, rows and the columns that are set to the right, for a terminal.

    Args:
        told: what :mod:`dimwise.plan.answer` tells.
    """
    rows = [
        [
            _named(row),
            _score(row.get("score"), told),
            ms_text(number(row.get("latency_ms"))),
            ms_text(number(row.get("latency_p95_ms"))),
            bytes_text(number(row.get("size_bytes"))),
            bytes_text(number(row.get("memory_bytes"))),
            count_text(number(row.get("bit_operations"))),
            _note(row, told, words("en")),
        ]
        for row in told["frontier"]
    ]
    return ["model", *_RIGHT, "note"], rows, _RIGHT


def replayed(told: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and two rows: the original, and what was made from it."""
    rows = []
    for name, steps, test in (("original", "", "original"), ("made", told["steps"], "chosen")):
        row = told[name]
        rows.append(
            [
                steps or "original",
                _score(row.get("score"), told),
                _score((told.get("test") or {}).get(test), told),
                ms_text(number(row.get("latency_ms"))),
                ms_text(number(row.get("latency_p95_ms"))),
                bytes_text(number(row.get("size_bytes"))),
                bytes_text(number(row.get("memory_bytes"))),
                count_text(number(row.get("bit_operations"))),
            ]
        )
    return ["model", "score", "test", *_RIGHT[1:]], rows


def done(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each fold changed and left alone, a line each and its notes, for a terminal.

    Example:
        >>> done([{"fold": "prune", "layers": [{"name": "1"}], "untouched": {"5": "they are the outputs"}}])
        ['prune: 1 layer changed, 1 left as it was: 5 (they are the outputs)']
    """
    lines = []
    for report in reports:
        fold, n_changed, left = report["fold"], len(report["layers"]), list(report["untouched"].items())
        line = f"{fold}: {n_changed} layer{'s' * (n_changed != 1)} changed"
        if left:
            named = "; ".join(f"{name} ({why})" for name, why in left[:MOST_LEFT])
            more = f"; {len(left) - MOST_LEFT} more" if len(left) > MOST_LEFT else ""
            line += f", {len(left)} left as {'they were' if len(left) > 1 else 'it was'}: {named}{more}"
        lines += [line, *(f"{fold}: {note}" for note in report.get("notes", ()))]
    return lines


def spoken(told: Mapping[str, Any]) -> list[str]:
    """The answer in a few lines, for a terminal."""
    say = words("en")
    infeasible = told["verdict"] == "infeasible"
    lines = [say("plan_asked", {"text": str(told["asked"])}), *([] if infeasible else [str(told["text"])])]
    if told.get("test"):
        lines.append(_test(told, say))
    lines += done(told.get("folds") or ())
    lines += [*([] if infeasible else [_money(told, say)]), _effort(told, say)]
    if told.get("artifact"):
        lines.append(f"artifact{' of the nearest' * infeasible}: {told['artifact']}")
    return lines


def page(folder: Path, told: Mapping[str, Any], *, language: str = "en") -> Path:
    """Write ``plan.html`` into a search's folder; it loads nothing.

    Raises:
        RunError: when it cannot be written.
        UserError: for an unknown language.
    """
    path = Path(folder) / PAGE
    atomic.write_text(path, render(told, words(language)))
    return path


def render(told: Mapping[str, Any], say: Words) -> str:
    """The page as text."""
    headline = say(f"plan_headline_{told['verdict']}")
    parts: list[tuple[str, object]] = [
        (say("plan_frontier"), join((_table(told, say), _picture(told, say)))),
        (say("plan_money_title"), el("p", _money(told, say)) if told["verdict"] != "infeasible" else ""),
        (say("folds_title"), _folds(told, say)),
        (say("plan_alone"), _alone(told, say)),
        (say("plan_layers"), _layers(told, say)),
        (say("plan_how"), _how(told, say)),
    ]
    blocks = [el("section", el("h2", title), content) for title, content in parts if content]
    header = el(
        "header",
        el("p", el("span", "dimwise fold"), el("span", str(told.get("subject", "")), cls="mono"), cls="over"),
        el("h1", headline),
        el("p", str(told["text"]), cls="lead"),
        el("p", _test(told, say), cls="note") if told.get("test") else "",
        el("p", say("plan_asked", {"text": str(told["asked"])}), cls="note"),
    )
    body = join((header, el("main", *blocks)), "\n")
    return document(
        f"{headline} · {told.get('subject', '')}", body, css=stylesheet(), language=HTML_LANGUAGE[say.language]
    )


def _named(row: Mapping[str, Any]) -> str:
    return "original" if row.get("original") else str(row["steps"])


def _score(value: Any, told: Mapping[str, Any]) -> str:
    return score_text(number(value), str(told.get("score_name", "accuracy")))


def _note(row: Mapping[str, Any], told: Mapping[str, Any], say: Words) -> str:
    if row.get("chosen"):
        return say("plan_nearest" if told["verdict"] == "infeasible" else "chosen")
    return say("plan_tie") if row.get("tie") else str(row.get("reason", ""))


def _test(told: Mapping[str, Any], say: Words) -> str:
    test = told["test"]
    values = {"chosen": _score(test["chosen"], told), "original": _score(test["original"], told), "n": test["n"]}
    return say("plan_test", values)


def _money(told: Mapping[str, Any], say: Words) -> str:
    money = told["money"]
    saved, effort = float(money["saved_s_per_million"]), float(money["effort_s"])
    if not saved > 0:
        return say("plan_money_none", {"effort": seconds_text(effort)})
    values = {
        "saved": seconds_text(saved),
        "effort": seconds_text(effort),
        "requests": count_text(number(money["break_even_requests"])),
    }
    text = say("plan_money", values)
    if "price_per_hour" in money:
        amounts = {"saved": significant(money["saved_per_million"]), "effort": significant(money["effort"])}
        text += " " + say("plan_price", amounts)
    return text


def _effort(told: Mapping[str, Any], say: Words) -> str:
    values = {**told["tried"], "seconds": seconds_text(told["seconds"]), "ended": say(f"plan_ended_{told['ended']}")}
    text = say("plan_tried", values)
    error = number(told["prediction"].get("latency"))
    if error is not None:
        text += " " + say("plan_predicted", {"error": f"{100 * error:.0f}", "n": told["prediction"]["n"]})
    return text


def _table(told: Mapping[str, Any], say: Words) -> Safe:
    titles = ("plan_score", "col_p50", "col_p95", "size", "col_memory", "plan_bits")
    head = [say("plan_model"), *(el("th", say(key), cls="n", attrs={"scope": "col"}) for key in titles)]
    head.append(el("th", say("col_verdict"), cls="verdict", attrs={"scope": "col"}))
    first = next((row for row in told["frontier"] if row.get("original")), None)
    rows = []
    for row in told["frontier"]:
        low, high = row["latency_interval_ms"]
        cells: list[object] = [
            el("th", say("plan_original") if row.get("original") else row["steps"], attrs={"scope": "row"}),
            _cell(_score(row["score"], told)),
            _cell(ms_text(row["latency_ms"]), f"{significant(low)} … {significant(high)}"),
            _cell(ms_text(row["latency_p95_ms"])),
            _cell(bytes_text(row["size_bytes"])),
            _cell(bytes_text(number(row.get("memory_bytes")))),
            _cell(_share(row, first)),
            el("td", _note(row, told, say), cls="verdict"),
        ]
        rows.append(tr(cells, cls="chosen" if row.get("chosen") else ""))
    return table(head, rows, label=say("plan_frontier"), cls="stages")


def _share(row: Mapping[str, Any], first: Mapping[str, Any] | None) -> str:
    mine, whole = number(row.get("bit_operations")), number((first or {}).get("bit_operations"))
    if mine is None:
        return "–"
    return f"{100 * mine / whole:.3g}\u00a0%" if whole else count_text(mine)


def _cell(text: str, small: str = "") -> Safe:
    return el("td", text, el("small", small) if small else "", cls="n")


def _picture(told: Mapping[str, Any], say: Words) -> Safe:
    rows: Sequence[Mapping[str, Any]] = told["frontier"]
    stages = [
        Stage(
            name=say("plan_original") if row.get("original") else str(row["steps"]),
            score=number(row["score"]),
            latency_ms=number(row["latency_ms"]),
            size_bytes=number(row["size_bytes"]),
            chosen=bool(row.get("chosen")),
        )
        for row in rows
    ]
    if len(stages) < 2:
        return Safe("")
    limit = number(told["budget"].get("latency_ms")) or None
    name = str(told.get("score_name", "accuracy"))
    label = "; ".join(f"{s.name}: {score_text(s.score, name)}, {ms_text(s.latency_ms)}" for s in stages)
    drawings = [
        el(
            "div",
            svg(
                figures.tradeoff(stages, name, latency_limit_ms=limit, width_px=width, language=say.language),
                f"plan-{width}",
                label,
            ),
            cls=cls,
        )
        for width, cls in ((1040, "wide"), (340, "narrow"))
    ]
    return el("figure", *drawings, el("figcaption", say("tradeoff_caption")), cls="tradeoff")


def _folds(told: Mapping[str, Any], say: Words) -> Safe:
    """What made the one that is recommended, or is nearest."""
    steps = [mapping(step) for step in sequence(told.get("folds"))]
    if not steps:
        return Safe("")
    labels = [str(label) for label in sequence(told.get("labels"))]
    return folds.details(
        str(mapping(told.get("chosen")).get("steps") or "?"),
        steps,
        say,
        place="chosen",
        score=lambda value: _score(value, told),
        label=lambda k: labels[k] if k < len(labels) else str(k),
    )


def _alone(told: Mapping[str, Any], say: Words) -> Safe:
    rows = told.get("alone") or []
    if not rows:
        return Safe("")
    head = [say("plan_fold"), say("plan_drop"), say("latency"), say("size")]
    cells = [
        [
            row["steps"],
            "–" if row["drop"] is None else f"{100 * row['drop']:.2f}",
            significant(row["latency_ratio"], 2) + "×",
            significant(row["size_ratio"], 2) + "×",
        ]
        for row in rows
    ]
    return join((el("p", say("plan_alone_note"), cls="note"), table(head, cells, label=say("plan_alone"), cls="small")))


def _layers(told: Mapping[str, Any], say: Words) -> Safe:
    rows = (told.get("layers") or [])[:MOST_LAYERS]
    if not rows:
        return Safe("")
    head = [say("plan_layer"), say("plan_kind"), say("col_params"), say("col_macs"), say("plan_time_share")]
    cells = [
        [row["name"], row["kind"], count_text(row["params"]), count_text(row["macs"]), share_text(row["share"])]
        for row in rows
    ]
    drops = [row.get("drop") for row in rows]
    if any(drop is not None for drop in drops):
        head.append(say("plan_layer_drop"))
        for cell, drop in zip(cells, drops, strict=True):
            cell.append("–" if drop is None else f"{100 * drop:.2f}")
    told_on = str(told.get("layers_on") or mapping(told.get("target")).get("runtime") or "")
    note = el("p", say("plan_layers_on", {"runtime": told_on}), cls="note") if told_on else ""
    return join((note, table(head, cells, label=say("plan_layers"), cls="small")))


def _how(told: Mapping[str, Any], say: Words) -> Safe:
    target = told["target"]
    values = {"runtime": target["runtime"], "threads": target["threads"], "batch": target["batch"]}
    lines = [_effort(told, say), say("plan_measured", values), say("plan_bits_note"), say("plan_again")]
    return el("ul", *(el("li", line) for line in lines), cls="how")
