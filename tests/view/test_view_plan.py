"""The page of a search: what it says in each case, in both languages, with nothing to load."""

from __future__ import annotations

from typing import Any

import pytest

from dimwise.view.plan import columns, render, spoken
from dimwise.view.strings import STRINGS, words


def row(steps: str, score: float, ms: float, **more: Any) -> dict[str, Any]:
    told = {"steps": steps, "score": score, "latency_ms": ms, "latency_p95_ms": 2 * ms, "size_bytes": 1000 * ms}
    told |= {"latency_interval_ms": [0.9 * ms, 1.1 * ms], "memory_bytes": None, "bit_operations": 1e6 * ms}
    return told | {"chosen": False, "original": not steps, "tie": False, "reason": ""} | more


def answer(verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "subject": "<run>",
        "verdict": verdict,
        "text": "One sentence.",
        "score_name": "accuracy",
        "test": {"original": 0.99, "chosen": 0.98, "n": 100},
        "artifact": "place",
        "frontier": [row("quantize", 0.98, 0.5, chosen=True), row("", 0.99, 1.0), row("prune", 0.97, 0.51, tie=True)],
        "money": {"saved_s_per_million": 500.0, "effort_s": 60.0, "break_even_requests": 120_000.0},
        "budget": {"latency_ms": 0.7},
        "target": {"runtime": "onnxruntime", "threads": 1, "batch": 1},
        "asked": "drop<=0.5pt",
        "ended": "time",
        "seconds": 60.0,
        "tried": {"shape": 3, "whole": 4, "failed": 0},
        "prediction": {"n": 5, "latency": 0.08},
        "alone": [{"steps": "quantize", "drop": 0.01, "latency_ratio": 0.5, "size_ratio": 0.5}],
        "layers": [{"name": "conv1", "kind": "Conv", "params": 9, "macs": 900, "ms": 0.4, "share": 0.4}],
    } | more


@pytest.mark.parametrize("language", list(STRINGS))
@pytest.mark.parametrize("verdict", ["fold", "keep", "infeasible"])
def test_the_page_says_the_verdict_and_loads_nothing(verdict: str, language: str) -> None:
    page = render(answer(verdict), words(language))
    assert STRINGS[language][f"plan_headline_{verdict}"] in page
    assert "&lt;run&gt;" in page
    assert "<run>" not in page
    assert "<svg" in page
    assert "conv1" in page
    assert "src=" not in page.replace('src="data:', "")


def test_what_the_folds_did_is_on_the_page_and_the_terminal() -> None:
    changed = {"name": "conv1", "channels_before": 32, "channels_after": 20}
    report: dict[str, Any] = {
        "fold": "prune",
        "config": {"macs": 0.5},
        "layers": [changed],
        "untouched": {"fc": "the <outputs>"},
    }
    report |= {"score_before": 0.99, "score_after": 0.98, "notes": ["a note"], "seconds": 2.0}
    told = answer("fold", folds=[report], layers_on="pytorch")
    page = render(told, words("en"))
    assert "the &lt;outputs&gt;" in page
    assert page.index("channels after") < page.index("Left as it was") < page.index("a note")
    assert "Layer by layer on pytorch." in page
    lines = spoken(told)
    assert "prune: 1 layer changed, 1 left as it was: fc (the <outputs>)" in lines
    assert "prune: a note" in lines


@pytest.mark.parametrize("language", list(STRINGS))
def test_what_the_score_loses_without_a_layer_stands_beside_its_time(language: str) -> None:
    layer = answer("fold")["layers"][0]
    title = STRINGS[language]["plan_layer_drop"]
    page = render(
        answer("fold", layers=[layer | {"drop": 0.1234}, layer | {"name": "fc", "drop": None}]), words(language)
    )
    assert title in page
    assert page.index("conv1") < page.index("12.34") < page.index(">fc<")
    assert title not in render(answer("fold"), words(language))


def test_ties_and_the_chosen_one_are_named() -> None:
    header, rows, _ = columns(answer("fold"))
    assert [r[0] for r in rows] == ["quantize", "original", "prune"]
    assert [r[-1] for r in rows] == ["chosen", "", "tie with the chosen one"]
    assert len(header) == len(rows[0])


def test_money_is_plain_arithmetic_in_words() -> None:
    lines = "\n".join(spoken(answer("fold"))).replace("\u00a0", " ")
    assert "A million requests take 8 min 20 s less" in lines
    assert "paid for itself after 120 k requests" in lines
    priced = {"saved_s_per_million": 3600.0, "effort_s": 7200.0, "break_even_requests": 2e6, "price_per_hour": 3.0}
    priced |= {"saved_per_million": 3.0, "effort": 6.0}
    assert "3.00 saved per million requests, 6.00 spent" in "\n".join(spoken(answer("fold", money=priced)))
    none = {"saved_s_per_million": 0.0, "effort_s": 60.0, "break_even_requests": None}
    assert "Nothing is saved per request" in "\n".join(spoken(answer("keep", money=none)))


def test_what_is_infeasible_has_a_nearest_and_saves_nothing() -> None:
    told = answer("infeasible")
    assert [row[-1] for row in columns(told)[1]] == ["the nearest", "", "tie with the chosen one"]
    lines = "\n".join(spoken(told))
    assert "drop<=0.5pt" in lines
    assert "million requests" not in lines
    assert "artifact of the nearest: place" in lines
    page = render(told, words("en"))
    assert "Is it worth it?" not in page
    assert "Is it worth it?" in render(answer("fold"), words("en"))
