"""The run in one headline and one sentence, for the page and for the terminal."""

from __future__ import annotations

from dimwise.view.files import RunFiles
from dimwise.view.story import Stage, chosen, mapping, ratio, total_seconds
from dimwise.view.strings import Words
from dimwise.view.units import (
    PERCENT_SCORES,
    bytes_text,
    ms_text,
    number,
    percent_decimals,
    ratio_text,
    score_text,
    seconds_text,
)

SAME = 0.05  # two measurements closer than this are called the same


def comparison(base: Stage, stage: Stage, score_name: str, n_test: float | None, say: Words) -> list[str]:
    """What a stage gained and lost against another one, as short phrases.

    Example:
        >>> from dimwise.view.strings import words
        >>> a, b = Stage("a", 0.99, size_bytes=96e3), Stage("b", 0.987, size_bytes=8e3)
        >>> comparison(a, b, "accuracy", 360, words("en"))
        ['12×\\xa0smaller', '0.3 points lost']
    """
    phrases = []
    pairs = (
        (ratio(base.size_bytes, stage.size_bytes), "smaller", "larger", "same_size"),
        (ratio(base.latency_ms, stage.latency_ms), "faster", "slower", "same_speed"),
    )
    for factor, more, less, same in pairs:
        if factor is None:
            continue
        if abs(factor - 1) < SAME:
            phrases.append(say(same))
        elif factor > 1:
            phrases.append(say(more, {"ratio": ratio_text(factor)}))
        else:
            phrases.append(say(less, {"ratio": ratio_text(1 / factor)}))
    if base.score is not None and stage.score is not None:
        phrases.append(score_change(stage.score - base.score, score_name, n_test, say))
    return phrases


def score_change(delta: float, score_name: str, n_test: float | None, say: Words) -> str:
    """A difference of scores in words: in percentage points for shares.

    Example:
        >>> from dimwise.view.strings import words
        >>> score_change(0.004, "accuracy", 10_000, words("en")), score_change(-0.02, "r2", None, words("en"))
        ('0.40 points gained', '0.020 lost')
    """
    percent = score_name in PERCENT_SCORES
    amount = f"{abs(100 * delta):.{percent_decimals(n_test)}f}" if percent else f"{abs(delta):.3f}"
    if not float(amount):
        return say("nothing_lost")
    key = ("points_" if percent else "score_") + ("gained" if delta > 0 else "lost")
    return say(key, {"amount": amount})


def score_name_text(run: RunFiles, say: Words) -> str:
    """Name of the score as a reader calls it."""
    return say.known("score_name", run.score_name)


def score_title(run: RunFiles, say: Words) -> str:
    """Name of the score as it begins a line."""
    name = score_name_text(run, say)
    return name[:1].upper() + name[1:]


def headline(run: RunFiles, say: Words) -> str:
    """The finding of the run: what was gained and lost, or the score, or how far it came."""
    best = chosen(run.stages)
    if best is not None and best is not run.stages[0]:
        return say("list_comma").join(comparison(run.stages[0], best, run.score_name, run.n_test, say))
    value = _score(run, best)
    if value is not None:
        values = {"score": score_text(value, run.score_name, run.n_test), "name": score_name_text(run, say)}
        return say("headline_kept" if best is not None and len(run.stages) > 1 else "headline_score", values)
    return unfinished(run, say)


def unfinished(run: RunFiles, say: Words) -> str:
    """How far a run without a result came."""
    if run.status == "running":
        key = "headline_running"
    elif run.status == "failed":
        key = "headline_failed"
    else:
        key = "headline_interrupted"
    done = len(run.history.epochs)
    if not done:
        return say(key + "_early")
    return say(key, {"done": run.history.numbers[-1], "all": run.n_epochs if run.n_epochs is not None else "?"})


def lead(run: RunFiles, say: Words) -> str:
    """One or two sentences below the headline."""
    best = chosen(run.stages)
    value = _score(run, best)
    name = score_name_text(run, say)
    if value is None:
        return _lead_unfinished(run, say, name)
    values: dict[str, object] = {
        "score": score_text(value, run.score_name, run.n_test),
        "name": name,
        "n": f"{run.n_test:,.0f}" if run.n_test else "?",
    }
    if best is None:
        return say("lead_trained", values | {"epochs": len(run.history.epochs), "time": seconds_text(_time(run))})
    values |= {
        "stage": best.name,
        "size": bytes_text(best.size_bytes),
        "latency": ms_text(best.latency_ms),
    }
    if best is run.stages[0]:
        return say("lead_kept" if len(run.stages) > 1 else "lead_only", values)
    trained = run.stages[0]
    values |= {
        "base": trained.name,
        "base_score": score_text(trained.score, run.score_name, run.n_test),
        "base_size": bytes_text(trained.size_bytes),
        "base_latency": ms_text(trained.latency_ms),
    }
    return say("lead_chosen", values) + ("" if best.meets_budget is not False else " " + say("lead_over_budget"))


def _lead_unfinished(run: RunFiles, say: Words, name: str) -> str:
    best = run.history.best_epoch
    if best is None:
        return ""
    top = max(v for v in run.history.column("valid_score") if v is not None)
    return say("lead_best_so_far", {"score": score_text(top, run.score_name), "name": name, "epoch": best})


def _score(run: RunFiles, best: Stage | None) -> float | None:
    if best is not None and best.score is not None:
        return best.score
    value = run.result.get("score")
    return number(mapping(value).get("value")) if isinstance(value, dict) else number(value)


def _time(run: RunFiles) -> float | None:
    return total_seconds(run.result)


def final_score(run: RunFiles) -> float | None:
    """Test score of what the run delivers."""
    return _score(run, chosen(run.stages))
