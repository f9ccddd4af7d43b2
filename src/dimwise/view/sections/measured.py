"""How each number was measured: device, threads, runs, versions, and where the time went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, clean, el, join, table
from dimwise.view.story import mapping, sequence, total_seconds
from dimwise.view.strings import Words
from dimwise.view.units import NONE, bytes_text, ms_text, number, seconds_text, significant

MAX_FACTS = 80

_FIRST = ("device", "cuda", "cpu", "cores", "threads", "runs", "latency_runs", "torch", "onnxruntime")


def section(run: RunFiles, say: Words) -> Safe:
    """Facts, the time of each stage, the choice of precision, the whole environment folded up."""
    parts = (_busy(run, say), _facts(run, say), _how(run, say), _time(run, say), _precision(run, say))
    return join((*parts, _environment(run, say)))


def _busy(run: RunFiles, say: Words) -> Safe:
    busy = mapping(run.result.get("measured")).get("busy")
    return el("p", say("busy", {"why": clean(busy)}), cls="warning") if busy else Safe("")


def _facts(run: RunFiles, say: Words) -> Safe:
    """Processor, threads, versions; a run that only trained has them in environment.json."""
    told = dict(_flat(mapping(run.result.get("measured")) or run.environment))
    hidden = ("busy", "command", "commit", "model")
    shown = [(key, value) for key, value in told.items() if key not in hidden and value not in (None, [], "")]
    shown.sort(key=lambda pair: _FIRST.index(pair[0]) if pair[0] in _FIRST else len(_FIRST))
    return facts([(say.known("fact", str(key)), _named(str(key), value, say)) for key, value in shown[:MAX_FACTS]])


def facts(pairs: Sequence[tuple[str, object]]) -> Safe:
    """A list of names and values; empty for no pairs."""
    if not pairs:
        return Safe("")
    return el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in pairs), cls="facts")


def _how(run: RunFiles, say: Words) -> Safe:
    if not run.stages:
        return Safe("")
    keys = ["how_score", "how_size", "how_latency", "how_throughput", "how_macs", "how_memory"]
    return el("ul", *(el("li", say(key)) for key in keys), cls="how")


def _time(run: RunFiles, say: Words) -> Safe:
    """Bars of seconds per stage."""
    seconds = run.result.get("seconds")
    if not isinstance(seconds, Mapping):
        return Safe("")
    parts = [(str(k), v) for k, v in ((k, number(v)) for k, v in seconds.items()) if v is not None and v >= 0]
    if not parts:
        return Safe("")
    longest = max(v for _, v in parts) or 1.0
    rows = [
        el(
            "li",
            el("span", say.known("time", name)),
            el("span", el("i", attrs={"style": f"width:{max(100 * value / longest, 0.5):.1f}%"}), cls="bar"),
            el("span", seconds_text(value), cls="n"),
        )
        for name, value in parts
    ]
    total = say("time_total", {"time": seconds_text(total_seconds(run.result))})
    return join((el("h3", say("time_title")), el("ul", *rows, cls="bars"), el("p", total, cls="note")))


def _precision(run: RunFiles, say: Words) -> Safe:
    precision = mapping(run.result.get("precision"))
    candidates = [mapping(c) for c in sequence(precision.get("candidates"))]
    pairs = [
        (say.known("fact", k), _text(precision[k], say)) for k in ("chosen", "layout", "compiled") if k in precision
    ]
    if not pairs and not candidates:
        return Safe("")
    head = [
        say("col_candidate"),
        el("th", say("col_step_ms"), cls="n", attrs={"scope": "col"}),
        el("th", say("col_loss"), cls="n", attrs={"scope": "col"}),
    ]
    rows = [
        (
            clean(c.get("name", "?")),
            el("td", ms_text(number(c.get("ms"))), cls="n"),
            el("td", significant(number(c.get("loss")), 5), cls="n"),
        )
        for c in candidates
    ]
    grid = table(head, rows, label=say("precision_title"), cls="small") if rows else ""
    return join((el("h3", say("precision_title")), facts(pairs), grid))


def _environment(run: RunFiles, say: Words) -> Safe:
    rows = [(key, _named(key, value, say)) for key, value in _flat(run.environment)][:MAX_FACTS]
    if not rows:
        return Safe("")
    grid = table([say("col_what"), say("col_value")], rows, label=say("environment_title"), cls="small")
    return el("details", el("summary", say("environment_title")), grid)


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _named(key: str, value: Any, say: Words) -> str:
    """A value whose name tells its unit."""
    amount = number(value)
    if amount is not None and key.endswith("_bytes"):
        return bytes_text(amount)
    if amount is not None and key.endswith("_ms"):
        return ms_text(amount)
    return _text(value, say)


def _text(value: Any, say: Words) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item, say) for item in value) or NONE
    if isinstance(value, bool):
        return say("yes" if value else "no")
    if isinstance(value, float):
        return significant(number(value), 4)
    return clean(value)
