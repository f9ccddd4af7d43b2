"""The stages side by side: a table, a picture, and what each fold changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dimwise.view import figures, folds, sentences
from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, clean, el, join, table, tr
from dimwise.view.picture import svg
from dimwise.view.story import Stage, chosen, mapping, over_budget, ratio, sequence
from dimwise.view.strings import Words
from dimwise.view.units import (
    NBSP,
    bytes_text,
    count_text,
    ms_text,
    number,
    ratio_text,
    score_text,
    seconds_text,
)


def section(run: RunFiles, say: Words) -> Safe:
    """Nothing for a run that only trained."""
    if not run.stages:
        return Safe("")
    notes = (_budget_line(run, say), _search(run, say), _memory(run, say), _skipped(run, say))
    return join((_table(run, say), *notes, _picture(run, say), _folds(run, say)))


def _columns(run: RunFiles, say: Words) -> list[tuple[str, str, Callable[[float | None], str]]]:
    """(field, title, how to write it), what decides first; only for what some stage has."""
    every: list[tuple[str, str, Callable[[float | None], str]]] = [
        ("score", sentences.score_title(run, say), lambda v: score_text(v, run.score_name, run.n_test)),
        ("size_bytes", say("size"), bytes_text),
        ("latency_ms", say("col_p50"), ms_text),
        ("latency_p95_ms", say("col_p95"), ms_text),
        ("throughput_per_s", say("col_throughput"), count_text),
        ("params", say("col_params"), count_text),
        ("macs", say("col_macs"), count_text),
        ("peak_memory_bytes", say("col_memory"), bytes_text),
        ("train_peak_memory_bytes", say("col_train_memory"), bytes_text),
        ("valid_score", say("col_valid_score"), lambda v: score_text(v, run.score_name, run.n_test)),
    ]
    # Of several stages, memory is measured with two rulers: see _memory.
    return [c for c in every if _known(run, c[0]) and not ("memory" in c[0] and len(run.stages) > 1)]


def _known(run: RunFiles, field: str) -> list[Stage]:
    return [stage for stage in run.stages if getattr(stage, field) is not None]


def _memory(run: RunFiles, say: Words) -> Safe:
    """Peak memory by ruler: PyTorch's tensors and a runtime's whole process do not belong into one column."""
    inference = _known(run, "peak_memory_bytes")
    rulers = (
        ("memory_tensors", "peak_memory_bytes", [s for s in inference if s.runtime.startswith("pytorch")]),
        ("memory_process", "peak_memory_bytes", [s for s in inference if not s.runtime.startswith("pytorch")]),
        ("memory_training", "train_peak_memory_bytes", _known(run, "train_peak_memory_bytes")),
    )
    lines = [
        el(
            "li",
            el("b", say(key)),
            ": ",
            say("list_comma").join(f"{s.name} {bytes_text(getattr(s, field))}" for s in of),
        )
        for key, field, of in rulers
        if of
    ]
    if not lines or len(run.stages) == 1:
        return Safe("")
    return join((el("p", say("memory_title"), cls="note"), el("ul", *lines, cls="how")))


def _table(run: RunFiles, say: Words) -> Safe:
    columns = _columns(run, say)
    budget = mapping(run.result.get("budget"))
    head = [say("col_stage"), *(el("th", title, cls="n", attrs={"scope": "col"}) for _, title, _ in columns)]
    with_reason = any(stage.reason or stage.meets_budget is not None for stage in run.stages)
    head += [el("th", say("col_verdict"), cls="verdict", attrs={"scope": "col"})] if with_reason else []
    rows = []
    for stage in run.stages:
        broken = over_budget(stage, run.stages[0], budget) if stage is not run.stages[0] else {}
        cells: list[object] = [_name(stage, say)]
        cells += [_cell(stage, column, broken, run, say) for column in columns]
        cells += [_verdict(stage, stage is run.stages[0], say)] if with_reason else []
        rows.append(tr(cells, cls="chosen" if stage.chosen else ""))
    return table(head, rows, label=say("nav_stages"), cls="stages")


def _name(stage: Stage, say: Words) -> Safe:
    badge = el("span", say("chosen"), cls="badge") if stage.chosen else ""
    threads = (
        ""
        if stage.threads is None
        else say("n_threads" if stage.threads != 1 else "one_thread", {"n": f"{stage.threads:.0f}"})
    )
    where = say("list_comma").join(part for part in (stage.runtime, threads) if part)
    parts = (join(part.split("("), Safe("<wbr>(")) for part in stage.name.split("+"))
    name = join(parts, Safe("+<wbr>"))  # a long name may break where it is composed
    return el("th", el("span", name), badge, el("small", where) if where else "", attrs={"scope": "row"})


def _cell(
    stage: Stage,
    column: tuple[str, str, Callable[[float | None], str]],
    broken: Mapping[str, float],
    run: RunFiles,
    say: Words,
) -> Safe:
    field, _, write = column
    base = run.stages[0]
    value = getattr(stage, field)
    small: object = ""
    if field in broken:
        small = el(
            "small",
            say(
                "over_limit" if field != "valid_score" else "under_limit", {"limit": _limit(field, broken[field], run)}
            ),
        )
    elif field in ("size_bytes", "latency_ms", "params", "macs") and stage is not base:
        factor = ratio(getattr(base, field), value)
        if factor is not None and abs(factor - 1) >= sentences.SAME:
            text = f"÷{ratio_text(factor)}" if factor > 1 else f"×{ratio_text(1 / factor)}"
            small = el("small", text)
    elif field == "throughput_per_s" and stage.best_batch is not None:
        small = el("small", say("at_batch", {"batch": f"{stage.best_batch:.0f}"}))
    return el("td", write(value), small, cls="n bad" if field in broken else "n")


def _verdict(stage: Stage, is_base: bool, say: Words) -> Safe:
    if is_base and not stage.reason:
        return el("td", el("small", say("is_base")), cls="verdict")
    mark: object = ""
    if stage.meets_budget is not None:
        good = stage.meets_budget
        text = ("✓ " if good else "✗ ") + say("meets_budget" if good else "fails_budget")
        mark = el("span", text, cls="good" if good else "bad")
    reason = el("small", stage.reason) if stage.reason else ""
    return el("td", mark, reason, cls="verdict")


def _limit(column: str, limit: float, run: RunFiles) -> str:
    """A limit as it was asked for, without the zeros of a measurement."""
    if column == "valid_score":
        return score_text(limit, run.score_name, run.n_test)
    if column.endswith("_ms"):
        return f"{limit:g}{NBSP}ms"
    return bytes_text(limit) if column.endswith("_bytes") else count_text(limit)


def _budget_line(run: RunFiles, say: Words) -> Safe:
    """The limits that were set."""
    budget = mapping(run.result.get("budget"))
    parts = []
    for key, value in budget.items():
        amount = number(value)
        if key == "drop" and amount is not None:
            change = sentences.score_change(-amount, run.score_name, run.n_test, say)
            parts.append(say("budget_drop", {"change": change}))
        elif key == "prefer":
            parts.append(say("budget_prefer", {"what": say.known("prefer", clean(value))}))
        elif amount:
            name = say.known("budget_name", key)
            parts.append(say("budget_at_most", {"name": name, "limit": _limit(key, amount, run)}))
    return el("p", say("budget", {"text": say("list_comma").join(parts)}), cls="note") if parts else Safe("")


def _search(run: RunFiles, say: Words) -> Safe:
    """How much was looked at beyond the candidates that were asked for."""
    told = mapping(run.result.get("search"))
    numbers = {key: number(told.get(key)) for key in ("time_s", "looked_at", "whole")}
    if any(value is None for value in numbers.values()):
        return Safe("")
    words = {"time": seconds_text(numbers["time_s"])}
    words |= {key: f"{numbers[key]:.0f}" for key in ("looked_at", "whole")}
    return el("p", say("search", words), cls="note")


def _skipped(run: RunFiles, say: Words) -> Safe:
    """The candidates that were asked for and are not in the table, each with its reason."""
    skipped = list(mapping(run.result.get("skipped")).items())
    if not skipped:
        return Safe("")
    items = [el("li", el("b", name), f": {clean(reason)}") for name, reason in skipped[: folds.MAX_LAYER_ROWS]]
    return join((el("h3", say("skipped_title")), el("ul", *items)))


def _picture(run: RunFiles, say: Words) -> Safe:
    placed = [s for s in run.stages if s.score is not None and s.latency_ms is not None and s.latency_ms > 0]
    if len(placed) < 2:
        return Safe("")
    budget = mapping(run.result.get("budget"))
    limit = number(budget.get("latency_ms"))
    limit = limit if limit is not None and limit > 0 else None
    name = sentences.score_title(run, say)
    told = "; ".join(
        f"{s.name}: {score_text(s.score, run.score_name, run.n_test)}, {ms_text(s.latency_ms)}" for s in placed
    )
    label = f"{say('tradeoff_title', {'name': name})}. {told}"
    drawings = [
        el("div", _one(run, width_px, limit, label, say), cls=cls)
        for width_px, cls in ((1040, "wide"), (340, "narrow"))
    ]
    best = chosen(run.stages)
    caption = say("tradeoff_caption") + (" " + say("tradeoff_chosen") if best is not None else "")
    return join(
        (
            el("h3", say("tradeoff_title", {"name": name})),
            el("figure", *drawings, el("figcaption", caption), cls="tradeoff"),
        )
    )


def _one(run: RunFiles, width_px: float, limit: float | None, label: str, say: Words) -> Safe:
    drawn = figures.tradeoff(
        run.stages, run.score_name, latency_limit_ms=limit, width_px=width_px, language=say.language
    )
    return svg(drawn, f"tradeoff{width_px:.0f}", label)


def _folds(run: RunFiles, say: Words) -> Safe:
    """One entry a candidate, with one part for each fold that made it."""
    shown = []
    for place, entry in enumerate(sequence(run.result.get("folds"))):
        told = mapping(entry)
        steps = [mapping(step) for step in sequence(told.get("steps"))] or [told]
        steps = [step for step in steps if step]
        if steps:
            name = str(told.get("stage") or steps[0].get("fold") or "?")
            shown.append(folds.details(name, steps, say, place=str(place), score=_score_of(run), label=run.label))
    return join((el("h3", say("folds_title")), *shown)) if shown else Safe("")


def _score_of(run: RunFiles) -> Callable[[float], str]:
    return lambda score: score_text(score, run.score_name, run.n_test)
