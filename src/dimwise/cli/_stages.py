"""The stages of a run as a table: rich on a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from typing import Any

from dimwise.cli import _out


def show(result: dict[str, Any]) -> None:
    """Print one row per stage of a ``result.json``: score, size, latency at batch 1, parameters, MACs."""
    if sys.stdout.isatty():
        from rich.console import Console

        from dimwise.view.console import summary_table

        Console().print(summary_table(result))
        return
    from dimwise.view import units

    score = result.get("score") or {}
    name = str(score.get("name", "score"))
    rows = [
        (
            f"{stage.get('name')}{' (chosen)' if stage.get('name') == result.get('chosen') else ''}",
            units.score_text(units.number(stage.get("score")), name, score.get("n")),
            units.bytes_text(units.number(stage.get("size_bytes"))),
            units.ms_text(units.number(stage.get("latency_ms"))),
            units.count_text(units.number(stage.get("params"))),
            units.count_text(units.number(stage.get("macs"))),
        )
        for stage in result["stages"]
    ]
    header = ["stage", name, "size", "latency", "parameters", "MACs"]
    _out.table(header, rows, right=header[1:])
