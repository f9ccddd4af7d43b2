"""What the run learnt from: sizes of the splits, classes, remarks."""

from __future__ import annotations

from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, clean, el, join, short
from dimwise.view.sections.measured import facts
from dimwise.view.story import mapping, sequence
from dimwise.view.strings import Words
from dimwise.view.units import number

MAX_LABELS = 20


def section(run: RunFiles, say: Words) -> Safe:
    """Nothing when the run says nothing about its data."""
    data = mapping(run.result.get("data"))
    pairs: list[tuple[str, object]] = [
        (say(f"data_{key}"), _count(data[key])) for key in ("name", "train", "valid", "test", "classes") if key in data
    ]
    notes = data.get("notes")
    remarks = [notes] if isinstance(notes, str) else list(sequence(notes))
    labels = [short(label, 30) for label in sequence(run.result.get("labels"))]
    parts = [facts(pairs)]
    if labels:
        shown = ", ".join(labels[:MAX_LABELS]) + (" …" if len(labels) > MAX_LABELS else "")
        parts.append(el("p", el("b", say("data_labels")), " ", shown))
    if remarks:
        parts.append(el("ul", *(el("li", clean(remark)) for remark in remarks)))
    return join(parts)


def _count(value: object) -> str:
    amount = number(value)
    return clean(value) if amount is None else f"{amount:,.0f}"
