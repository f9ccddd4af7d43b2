"""Two runs side by side: which settings differ, which scores, which costs, and by what factor."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimwise.errors import RunError

COSTS = ("score", "size_bytes", "latency_ms", "params", "macs")


def compare(a: Path, b: Path) -> dict[str, Any]:
    """What differs between two runs.

    Args:
        a: a run folder.
        b: another; ratios are b / a.

    Returns:
        ``runs``: the two names; ``recipe``: [{"field", "a", "b"}] of the settings that differ; ``score``:
        {"name", "a", "b", "difference"} (fractions 0 to 1, b − a); ``stages``: one row per stage of either run,
        {"name", "a": {cost: value}, "b": ..., "ratio": {cost: b / a}}, with latency in ms and size in bytes; a run
        without that stage has None; ``seconds``: {"a", "b", "ratio"} over all stages; ``chosen``: {"a", "b"}.

    Raises:
        RunError: when one of the folders holds neither a readable recipe nor a result.
    """
    first, second = _load(a), _load(b)
    return {
        "runs": {"a": a.name, "b": b.name},
        "recipe": _differences(first["recipe"], second["recipe"]),
        "score": _scores(first["result"], second["result"]),
        "stages": _stages(first["result"], second["result"]),
        "chosen": {"a": first["result"].get("chosen"), "b": second["result"].get("chosen")},
        "seconds": _pair(_total(first["result"]), _total(second["result"])),
    }


def _load(run: Path) -> dict[str, Any]:
    recipe, result = run / "recipe.toml", run / "result.json"
    if not recipe.is_file() and not result.is_file():
        raise RunError(
            f"run '{run.name}' holds neither recipe.toml nor result.json",
            next_step="Only runs that got that far can be compared.",
        )
    try:
        loaded = {
            "recipe": tomllib.loads(recipe.read_text("utf-8")) if recipe.is_file() else {},
            "result": json.loads(result.read_text("utf-8")) if result.is_file() else {},
        }
    except (OSError, ValueError) as error:
        raise RunError(f"run '{run.name}' is damaged: {error}") from None
    if not isinstance(loaded["result"], dict):
        raise RunError(f"run '{run.name}' is damaged: result.json is not a JSON object")
    return loaded


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted keys, as ``--set`` spells them.

    Example:
        >>> flat({"train": {"lr": 0.1}, "seed": 0})
        {'train.lr': 0.1, 'seed': 0}
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    first, second = flat(a), flat(b)
    fields = [*first, *(key for key in second if key not in first)]
    return [
        {"field": key, "a": first.get(key), "b": second.get(key)} for key in fields if first.get(key) != second.get(key)
    ]


def _scores(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    first, second = a.get("score") or {}, b.get("score") or {}
    mine, other = first.get("value"), second.get("value")
    difference = None if mine is None or other is None else other - mine
    name = first.get("name") or second.get("name")
    return {"name": name, "a": mine, "b": other, "difference": difference}


def _stages(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    first = {stage["name"]: stage for stage in a.get("stages") or []}
    second = {stage["name"]: stage for stage in b.get("stages") or []}
    rows = []
    for name in [*first, *(n for n in second if n not in first)]:
        mine, other = _costs(first.get(name)), _costs(second.get(name))
        ratio = {cost: _ratio((mine or {}).get(cost), (other or {}).get(cost)) for cost in COSTS}
        rows.append({"name": name, "a": mine, "b": other, "ratio": ratio})
    return rows


def _costs(stage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if stage is None else {cost: stage.get(cost) for cost in COSTS}


def _ratio(a: Any, b: Any) -> float | None:
    return b / a if isinstance(a, (int, float)) and isinstance(b, (int, float)) and a else None


def _pair(a: float | None, b: float | None) -> dict[str, float | None]:
    return {"a": a, "b": b, "ratio": _ratio(a, b)}


def _total(result: Mapping[str, Any]) -> float | None:
    seconds = result.get("seconds")
    if isinstance(seconds, Mapping):
        return float(sum(seconds.values()))
    return None if seconds is None else float(seconds)
