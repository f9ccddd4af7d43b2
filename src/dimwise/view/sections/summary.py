"""The head of the page: the finding, one sentence, the big figures."""

from __future__ import annotations

from dimwise.view import sentences
from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, clean, el, join
from dimwise.view.story import Stage, chosen, mapping, ratio, sequence, total_seconds
from dimwise.view.strings import Words
from dimwise.view.units import bytes_text, ms_text, number, ratio_text, score_text, seconds_text, tiny_text


def section(run: RunFiles, say: Words) -> Safe:
    """Headline, sentence, warnings, big figures."""
    lead = sentences.lead(run, say)
    over = el("p", "dimwise", el("span", run.name, cls="mono"), cls="over")
    failure = run.result.get("failure")
    failed = el("p", el("b", "✗"), f" {clean(failure)}", cls="warning") if failure else ""
    warnings = [el("p", say("unreadable", {"file": name}), cls="warning") for name in run.unreadable]
    return el(
        "header",
        over,
        el("h1", sentences.headline(run, say)),
        el("p", lead, cls="lead") if lead else "",
        _resume(run, say),
        failed,
        join(warnings),
        _parity(run, say),
        _figures(run, say),
    )


def _resume(run: RunFiles, say: Words) -> Safe:
    """How to go on, for a run that was stopped."""
    if sentences.final_score(run) is not None or run.status in ("running", "failed"):
        return Safe("")
    verb = "run" if run.environment.get("command") == "run" else "train"
    command = el("code", f"dimwise {verb} ", el("span", "--resume", cls="keep"), f" {run.name}", cls="command")
    return el("p", say("lead_resume"), " ", command, cls="note")


def _parity(run: RunFiles, say: Words) -> Safe:
    """One line on whether the artifact computes what the model computes."""
    parity = mapping(run.result.get("parity"))
    passed = parity.get("passed")
    if not isinstance(passed, bool):
        return Safe("")
    difference, delta = number(parity.get("max_scaled_diff")), number(parity.get("score_delta"))
    values = {
        "delta": sentences.score_change(delta or 0.0, run.score_name, run.n_test, say),
        "diff": tiny_text(difference),
        "batches": ", ".join(clean(b) for b in sequence(parity.get("batches"))),
    }
    if passed:
        return el("p", el("b", "✓"), " ", say("parity_passed", values), cls="note good")
    return el("p", el("b", "✗"), " ", say("parity_failed", values), cls="warning")


def _figures(run: RunFiles, say: Words) -> Safe:
    """Score, size, latency, time; each with what it is compared with."""
    best = chosen(run.stages)
    base = run.stages[0] if best is not None and best is not run.stages[0] else None
    entries = [_score(run, best, base, say)]
    if best is not None:
        entries += [_size(best, base, say), _latency(best, base, run, say)]
    entries.append(_time(run, say))
    shown = [entry for entry in entries if entry is not None]
    return el("dl", *shown, cls="figures") if shown else Safe("")


def _figure(title: str, value: str, note: str) -> Safe:
    return el("div", el("dt", title), el("dd", el("strong", value), el("span", note)))


def _score(run: RunFiles, best: Stage | None, base: Stage | None, say: Words) -> Safe | None:
    value = sentences.final_score(run)
    title = sentences.score_title(run, say)
    if value is None:
        seen = [v for v in run.history.column("valid_score") if v is not None]
        if not seen:
            return None
        return _figure(title, score_text(max(seen), run.score_name), say("figure_best_validation"))
    note = say("figure_on_test", {"n": f"{run.n_test:,.0f}" if run.n_test else "?"})
    if base is not None and base.score is not None and best is not None and best.score is not None:
        change = sentences.score_change(best.score - base.score, run.score_name, run.n_test, say)
        note = say("list_comma").join((change, note))
    return _figure(title, score_text(value, run.score_name, run.n_test), note)


def _against(factor: float | None, more: str, less: str, same: str, before: str, say: Words) -> str:
    """Such as "12× smaller than 96.0 kB"."""
    if factor is None:
        return ""
    if abs(factor - 1) < sentences.SAME:
        return say(same)
    key, shown = (more, factor) if factor > 1 else (less, 1 / factor)
    return say("figure_than", {"ratio": say(key, {"ratio": ratio_text(shown)}), "before": before})


def _size(best: Stage, base: Stage | None, say: Words) -> Safe | None:
    if best.size_bytes is None:
        return None
    note = say("figure_on_disk")
    if base is not None:
        factor = ratio(base.size_bytes, best.size_bytes)
        note = _against(factor, "smaller", "larger", "same_size", bytes_text(base.size_bytes), say) or note
    return _figure(say("size"), bytes_text(best.size_bytes), note)


def _latency(best: Stage, base: Stage | None, run: RunFiles, say: Words) -> Safe | None:
    if best.latency_ms is None:
        return None
    note = say("figure_batch_1", {"runtime": best.runtime or "?"})
    if base is not None:
        factor = ratio(base.latency_ms, best.latency_ms)
        note = _against(factor, "faster", "slower", "same_speed", ms_text(base.latency_ms), say) or note
    return _figure(say("latency"), ms_text(best.latency_ms), note)


def _time(run: RunFiles, say: Words) -> Safe | None:
    seconds = total_seconds(run.result)
    if seconds is not None:
        device = str(mapping(run.result.get("measured")).get("device") or "")
        note = say("figure_whole_run", {"device": device}) if device else say("figure_whole_run_bare")
        return _figure(say("time"), seconds_text(seconds), note)
    spent = [v for v in run.history.column("seconds") if v is not None]
    if not spent:
        spent = [max((v for v in (number(r.get("t")) for r in run.history.steps) if v is not None), default=0.0)]
        spent = [v for v in spent if v > 0]
    return _figure(say("time"), seconds_text(sum(spent)), say("figure_training_so_far")) if spent else None
