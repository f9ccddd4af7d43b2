"""What folds did to a network: their settings, the layers they changed, and what they left alone and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dimwise.view import components
from dimwise.view.page import Safe, clean, el, join, table
from dimwise.view.picture import svg
from dimwise.view.story import mapping, sequence
from dimwise.view.strings import Words
from dimwise.view.units import NONE, bytes_text, count_text, number, seconds_text, significant

MAX_LAYER_ROWS = 80
MOST_CLASSES = 1000


def details(
    name: str,
    steps: Sequence[Mapping[str, Any]],
    say: Words,
    *,
    place: str,
    score: Callable[[float], str],
    label: Callable[[int], str],
) -> Safe:
    """What made one candidate, folded up: the first line is enough for most readers.

    Args:
        name: of the candidate.
        steps: reports of its folds as plain JSON, in order; at least one.
        say: the words of the page.
        place: tells its pictures apart from others of the page.
        score: how a score is written.
        label: a class's number -> its name.
    """
    whole = {**steps[-1], "cost_before": steps[0].get("cost_before"), "score_before": steps[0].get("score_before")}
    line = el("summary", el("b", name), " ", el("span", _effect(whole, score, say), cls="soft"))
    parts: list[object] = [line]
    for index, step in enumerate(steps):
        head: list[object] = [el("b", step.get("fold") or "?")] if len(steps) > 1 else []
        settings = ", ".join(f"{k} = {_setting(v)}" for k, v in mapping(step.get("config")).items())
        if settings:
            head.append(el("span", settings, cls="mono soft"))
        seconds = number(step.get("seconds"))
        if seconds is not None:
            head.append(el("span", seconds_text(seconds), cls="soft"))
        parts.append(el("p", join(head, " ")) if head else "")
        parts.append(_layers([mapping(row) for row in sequence(step.get("layers"))], say))
        untouched = list(mapping(step.get("untouched")).items())[:MAX_LAYER_ROWS]
        if untouched:
            items = [el("li", el("span", k, cls="mono"), f" – {clean(v)}") for k, v in untouched]
            parts += [el("p", say("fold_untouched")), el("ul", *items)]
        parts += [el("p", clean(note)) for note in sequence(step.get("notes"))]
        parts.append(_components(mapping(step.get("drawn")), f"{place}-{index}", label, say))
    return el("details", *parts)


def _components(drawn: Mapping[str, Any], place: str, label: Callable[[int], str], say: Words) -> Safe:
    """Of features that were reduced: what each component explains, and the inputs in the plane of the first two."""
    pictures = []
    told = mapping(drawn.get("scree"))
    shares = [share for share in map(number, sequence(told.get("shares"))) if share is not None]
    if shares:
        kept = number(told.get("kept"))
        picture = components.scree(shares, n_kept=None if kept is None else int(kept), language=say.language)
        pictures.append(el("figure", svg(picture, f"scree{place}", say("figure_scree"))))
    told = mapping(drawn.get("projection"))
    points = [tuple(map(number, sequence(point)[:2])) for point in sequence(told.get("points"))]
    classes = [number(k) for k in sequence(told.get("classes"))]
    if points and len(points) == len(classes) and all(len(p) == 2 and None not in p for p in points):
        known = [-1 if k is None or k > MOST_CLASSES else int(k) for k in classes]
        labels = [label(k) for k in range(max(known) + 1)]
        picture = components.projection(np.array(points, dtype=float), known, labels, language=say.language)
        pictures.append(el("figure", svg(picture, f"projection{place}", say("figure_projection"))))
    return join(pictures)


def _effect(report: Mapping[str, Any], score: Callable[[float], str], say: Words) -> str:
    before, after = mapping(report.get("cost_before")), mapping(report.get("cost_after"))
    facts = []
    for key, write in (("params", count_text), ("macs", count_text), ("size_bytes", bytes_text)):
        pair = number(before.get(key)), number(after.get(key))
        if None not in pair and pair[0] != pair[1]:
            facts.append(f"{say('fold_' + key)} {write(pair[0])} → {write(pair[1])}")
    before_it, after_it = number(report.get("score_before")), number(report.get("score_after"))
    if before_it is not None and after_it is not None:
        facts.append(f"{say('fold_score')} {score(before_it)} → {score(after_it)}")
    return " · ".join(facts)


def _layers(rows: Sequence[Mapping[str, Any]], say: Words) -> Safe:
    rows = [row for row in rows if row]
    if not rows:
        return Safe("")
    keys = list(dict.fromkeys(key for row in rows for key in row))[:10]
    keys.sort(key=lambda key: key != "name")
    counted = {key for key in keys if all(row.get(key) is None or number(row[key]) is not None for row in rows)}
    aligned = {key: "n" if key in counted else "" for key in keys}
    lines = [
        [_value(row.get(keys[0])), *(el("td", _value(row.get(key)), cls=aligned[key]) for key in keys[1:])]
        for row in rows[:MAX_LAYER_ROWS]
    ]
    titles = [el("th", key.replace("_", " "), cls=aligned[key], attrs={"scope": "col"}) for key in keys]
    more = el("p", say("n_more", {"n": len(rows) - MAX_LAYER_ROWS}), cls="note") if len(rows) > MAX_LAYER_ROWS else ""
    return join((table(titles, lines, label=say("fold_layers"), cls="small"), more))


def _value(value: Any) -> str:
    """A measurement with three digits; a setting of type int, bool or text as it was given."""
    if isinstance(value, float):
        return significant(number(value))
    return _setting(value)


def _setting(value: Any) -> str:
    """A value as it stands in a recipe."""
    if value is None or value == []:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    return clean(value)
