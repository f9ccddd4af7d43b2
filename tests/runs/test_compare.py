"""Two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimwise.errors import RunError
from dimwise.runs import atomic
from dimwise.runs.compare import compare


def make(path: Path, recipe: str, result: dict[str, Any] | None) -> Path:
    path.mkdir()
    (path / "recipe.toml").write_text(recipe)
    if result is not None:
        atomic.write_json(path / "result.json", result)
    return path


def stage(name: str, score: float, size_bytes: int, latency_ms: float | None) -> dict[str, Any]:
    return {"name": name, "score": score, "size_bytes": size_bytes, "latency_ms": latency_ms, "params": 10, "macs": 0}


def test_settings_scores_stages_and_ratios(tmp_path: Path) -> None:
    a = make(
        tmp_path / "a",
        'seed = 0\n[train]\nlr = 0.1\nepochs = 3\n[data]\nsource = "digits"\n',
        {
            "score": {"name": "accuracy", "value": 0.5, "n": 4},
            "stages": [stage("trained", 0.5, 400, 2.0), stage("int8", 0.5, 100, None)],
            "chosen": "int8",
            "seconds": {"train": 1.0, "fold": 3.0},
        },
    )
    b = make(
        tmp_path / "b",
        'seed = 0\nnote = "x"\n[train]\nlr = 0.01\nepochs = 3\n[data]\nsource = "digits"\n',
        {
            "score": {"name": "accuracy", "value": 0.75, "n": 4},
            "stages": [stage("trained", 0.75, 200, 1.0), stage("pruned", 0.75, 50, 0.5)],
            "chosen": "pruned",
            "seconds": 8.0,
        },
    )
    found = compare(a, b)
    assert found["runs"] == {"a": "a", "b": "b"}
    assert found["recipe"] == [
        {"field": "train.lr", "a": 0.1, "b": 0.01},
        {"field": "note", "a": None, "b": "x"},
    ]
    assert found["score"] == {"name": "accuracy", "a": 0.5, "b": 0.75, "difference": 0.25}
    assert [row["name"] for row in found["stages"]] == ["trained", "int8", "pruned"]
    trained, int8, pruned = found["stages"]
    assert trained["ratio"] == {"score": 1.5, "size_bytes": 0.5, "latency_ms": 0.5, "params": 1.0, "macs": None}
    assert trained["a"]["size_bytes"] == 400
    assert int8["b"] is None
    assert pruned["a"] is None
    assert set(int8["ratio"].values()) == {None}
    assert found["chosen"] == {"a": "int8", "b": "pruned"}
    assert found["seconds"] == {"a": 4.0, "b": 8.0, "ratio": 2.0}


def test_a_run_without_a_result_still_compares_its_recipe(tmp_path: Path) -> None:
    a = make(tmp_path / "a", "seed = 0\n", None)
    b = make(tmp_path / "b", "seed = 1\n", {"score": {"name": "accuracy", "value": 1.0}})
    found = compare(a, b)
    assert found["recipe"] == [{"field": "seed", "a": 0, "b": 1}]
    assert found["score"] == {"name": "accuracy", "a": None, "b": 1.0, "difference": None}
    assert found["seconds"] == {"a": None, "b": None, "ratio": None}


def test_empty_and_damaged_runs_are_named(tmp_path: Path) -> None:
    good = make(tmp_path / "a", "seed = 0\n", None)
    (tmp_path / "b").mkdir()
    with pytest.raises(RunError, match=r"run 'b' holds neither recipe\.toml nor result\.json"):
        compare(good, tmp_path / "b")
    (tmp_path / "b" / "result.json").write_text("{")
    with pytest.raises(RunError, match="run 'b' is damaged: "):
        compare(good, tmp_path / "b")
    (tmp_path / "b" / "result.json").write_text("[]")
    with pytest.raises(RunError, match=r"run 'b' is damaged: result\.json is not a JSON object"):
        compare(good, tmp_path / "b")
