"""``dimwise report``: build a run's page again."""

from __future__ import annotations

from typing import Annotated

import typer

from dimwise.cli._typer import RUNS, RunsDir, single


def report(
    run: Annotated[str, typer.Argument(help="A path, name, short id, or 'last'.")],
    language: Annotated[str, typer.Option("--language", metavar="en|zh", help="Language of the page.")] = "en",
    runs_dir: RunsDir = RUNS,
) -> int:
    """Build a run's report.html again, and say where it lies.

    \b
    Example:
      dimwise report last --language zh
    """
    from dimwise.runs import folder
    from dimwise.view.report import report as build

    print(build(folder.find(runs_dir, run), language=language))
    return 0


app = single(report)
