"""The stages of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimwise.view import sentences
from dimwise.view.page import clean
from dimwise.view.story import mapping, stages
from dimwise.view.strings import words
from dimwise.view.units import bytes_text, count_text, ms_text, number, score_text


def summary_table(result: Mapping[str, Any], *, language: str = "en") -> Any:
    """What ``dimwise run`` prints at its end: a row a stage, the chosen one marked.

    Args:
        result: what result.json holds.
        language: en or zh.

    Returns: a ``rich.table.Table``; names from the run are printed literally, markup in them has no effect.

    Example:
        >>> table = summary_table({"stages": [{"name": "trained", "score": 0.99}], "chosen": "trained"})
        >>> table.row_count
        1
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    say = words(language)
    rows = stages(result)
    score = mapping(result.get("score"))
    score_name = str(score.get("name") or result.get("score_name") or "accuracy")
    n_test = number(score.get("n"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column(say("col_stage"), overflow="fold")
    for key in ("console_score", "console_size", "console_latency", "console_params"):
        table.add_column(say(key), justify="right", no_wrap=True)
    table.add_column(say("console_against"), overflow="fold")
    for stage in rows:
        phrases = sentences.comparison(rows[0], stage, score_name, n_test, say) if stage is not rows[0] else []
        against = Text(say("list_comma").join(phrases))
        if stage.meets_budget is False:
            against.append((say("list_comma") if phrases else "") + say("fails_budget"), style="red")
        table.add_row(
            "→" if stage.chosen else "",
            Text(clean(stage.name)),
            score_text(stage.score, score_name, n_test),
            bytes_text(stage.size_bytes),
            ms_text(stage.latency_ms),
            count_text(stage.params),
            against,
            style="bold" if stage.chosen else "",
        )
    return table
