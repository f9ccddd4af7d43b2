"""The table in the terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from dimwise.view.console import summary_table


def shown(result: dict[str, Any], language: str = "en") -> str:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(summary_table(result, language=language))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.replace("\u00a0", " ")


def test_chosen_stage_is_marked_and_compared(result: dict[str, Any]) -> None:
    lines = shown(result).splitlines()
    marked = [line for line in lines if "→" in line]
    assert len(marked) == 1
    for part in (
        "prune+quantize",
        "98.6 %",
        "21.5 kB",
        "0.0171 ms",
        "14.2 k",
        "7.2× smaller, 14× faster, 0.3 points lost",
    ):
        assert part in marked[0]
    assert sum("over budget" in line for line in lines) == 2


def test_markup_in_names_is_printed_literally(result: dict[str, Any]) -> None:
    result["stages"][1]["name"] = "[red]x[/red]\x1b[31m"
    text = shown(result)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_nothing_to_show() -> None:
    assert summary_table({}).row_count == 0
    assert summary_table({"stages": "x", "score": 3}).row_count == 0


def test_chinese(result: dict[str, Any]) -> None:
    assert "体积缩小至 1/7.2" in shown(result, "zh")
