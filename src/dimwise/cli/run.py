"""``dimwise run``: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from dimwise.cli import _out, _stages, _stopped
from dimwise.cli._typer import RUNS, DataDir, Json, ModelName, Quiet, Resume, RunsDir, Settings, single


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A name of `dimwise recipe list`, or a file. Default: digits."),
    ] = None,
    resume: Resume = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = RUNS,
    model: ModelName = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Train, fold, choose, ship, prove and report, from one recipe; or do the rest of a run that was stopped.

    Exit code 1 says that a gate failed: parity did not hold, or nothing met the budget.

    \b
    Examples:
      dimwise run
      dimwise run mnist-fast --set train.epochs=5 --json
      dimwise run --resume last
    """
    from dimwise import chain
    from dimwise.progress import SILENT, Terminal
    from dimwise.view.report import report

    progress = SILENT if quiet else Terminal()
    if resume is not None:
        run_dir = _stopped.to_resume("run", resume, runs_dir, recipe, settings)
        with _stopped.with_hint("run", runs_dir, model, data_dir, run=run_dir):
            result = chain.complete(run_dir, data_dir=data_dir, model=model, progress=progress)
    else:
        resolved = chain.load(recipe or "digits", settings or ())
        with _stopped.with_hint("run", runs_dir, model, data_dir):
            result = chain.run(resolved, data_dir=data_dir, runs_dir=runs_dir, model=model, progress=progress)
    page = report(result.run)
    if not (quiet or as_json):
        _stages.show(result.as_dict())
        print(f"report: {page}")
    _out.findings(result.as_dict(), silent=quiet)
    if result.failure is not None:
        _out.warn(str(result.failure))
    if as_json:
        _out.emit(result.as_dict())
    return result.exit_code


app = single(run)
