"""What commands print: JSON for scripts, rich tables on a terminal, plain columns in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from dimwise.runs.atomic import finite


def emit(value: Any) -> None:
    """One JSON value on one line; NaN and infinity become ``null``, and every reader's encoding can hold it."""
    print(json.dumps(finite(value)))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), title: str = "") -> None:
    """Rows under a header; columns named in ``right`` are set to the right.

    ``None`` is shown as an en dash, which no value can be mistaken for.
    """
    cells = [["–" if cell is None else str(cell).replace("\u00a0", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(header, cells, right, title)
        return
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    for row in [list(header), *cells]:
        aligned = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ]
        print("  ".join(aligned).rstrip())


def _rich_table(header: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[str], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in header:
        grid.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))  # as Text: square brackets in names are no markup
    Console().print(grid)


def pairs(values: dict[str, Any]) -> None:
    """Names and values under one another."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(f"{name:<{width}}  {'–' if value is None else value}".replace("\u00a0", " "))


def warn(line: str) -> None:
    """One line on standard error."""
    print(f"dimwise: {' '.join(line.split())}", file=sys.stderr)


def findings(result: dict[str, Any], *, silent: bool) -> None:
    """The doctor's errors and warnings about a run, one line each, on standard error."""
    if not silent and result.get("checks"):
        from dimwise.view.findings import brief

        for line in brief(result):
            print(line, file=sys.stderr)
