"""``dimwise train``: the training alone, or the rest of a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.cli import _out, _stopped
from dimwise.cli._typer import RUNS, DataDir, Json, ModelName, Quiet, Resume, RunsDir, Settings, single
from dimwise.errors import UserError


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A name of `dimwise recipe list`, or a file.")
    ] = None,
    resume: Resume = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = RUNS,
    model: ModelName = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Train only, or continue a run that was stopped.

    A resumed run ends with the same weights, bit for bit, as one that was never stopped.

    \b
    Examples:
      dimwise train mnist --set train.epochs=2
      dimwise train --resume last
    """
    from dimwise.progress import SILENT, Terminal

    progress = SILENT if quiet else Terminal()
    if resume is not None:
        run = _stopped.to_resume("train", resume, runs_dir, recipe, settings)
        from dimwise import chain

        with _stopped.with_hint("train", runs_dir, model, data_dir, run=run):
            result = chain.resume(run, data_dir=data_dir, model=model, progress=progress)
    elif recipe is not None:
        from dimwise import chain

        resolved = chain.load(recipe, settings or ())
        with _stopped.with_hint("train", runs_dir, model, data_dir):
            result = chain.train(resolved, data_dir=data_dir, runs_dir=runs_dir, model=model, progress=progress)
    else:
        raise UserError("train: nothing to train", expected="a RECIPE, or --resume RUN")
    from dimwise.view.report import report

    page = report(result.run)
    if as_json:
        _out.emit(result.as_dict())
    elif not quiet:
        _show(result.as_dict(), page)
    _out.findings(result.checks, silent=quiet)
    return 0


def _show(facts: dict[str, Any], page: Path) -> None:
    from dimwise.view import units

    score = facts["score"]
    _out.pairs(
        {
            score["name"]: f"{units.score_text(score['value'], score['name'], score['n'])} of {score['n']} test inputs",
            "steps": f"{facts['steps']:,}",
            "time": f"{units.seconds_text(facts['seconds']['train'])} of training",
            "speed": f"{facts['images_per_s']:,.0f} inputs/s",
            "run": facts["run"],
            "report": page,
        }
    )


app = single(train)
