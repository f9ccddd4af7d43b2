"""``dimwise fold``: make a trained network smaller or faster, within a budget; or say that it is not worth it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.cli import _out
from dimwise.cli._typer import RUNS, DataDir, Json, OwnModel, Quiet, RunsDir, Settings, single
from dimwise.errors import UserError

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_GOES_ON = "The same command goes on where this one was stopped"


def fold(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ARTIFACT|PACKAGE.MODULE:FUNCTION",
            help="A run (path, name, id, 'last'), an artifact's folder or RUN:STAGE, or what returns your network.",
        ),
    ],
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            metavar="TERMS",
            help="Terms with commas between them: latency<=0.5ms, size<=200kB, memory<=20MB, drop<=0.5pt (the only one "
            "that is on by itself), prefer=latency (or size), runtime=onnxruntime (or openvino, pytorch, "
            "pytorch-compiled), threads=1, batch=1. Units: docs/planner.md.",
        ),
    ] = "",
    time: Annotated[str, typer.Option("--time", metavar="TIME", help="How long to search: 90s, 20m, 1h.")] = "10m",
    apply: Annotated[
        str | None,
        typer.Option("--apply", metavar="STEPS", help="Do these folds instead of searching. All folds: docs/folds.md."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Data and training, for a subject that is no run."),
    ] = None,
    settings: Settings = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train what FUNCTION returns first, once: it is kept.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where the search is kept. Default: RUN/plan/RUNTIME-THREADS-BATCH; for a function, or an artifact "
            "that lies in no run, RUNS/plan-NAME/RUNTIME-THREADS-BATCH.",
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="URL", help="A database by which several processes search.")
    ] = None,
    price_per_hour: Annotated[
        float, typer.Option("--price-per-hour", min=0.0, help="Of the machine, for the money view.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: the training's.")] = None,
    language: Annotated[str, typer.Option("--language", metavar="en|zh", help="Language of the page.")] = "en",
    data_dir: DataDir = None,
    runs_dir: RunsDir = RUNS,
    model: OwnModel = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Search the folds that meet a budget, measured on the runtime that will serve; or replay one composition.

    Exit code 1 says that nothing meets the budget, or not what was applied; the nearest is named. Stopped with Ctrl-C
    it answers from what it has, and the same command goes on.

    \b
    Examples:
      dimwise fold last --budget "latency<=0.5ms, size<=200kB, drop<=0.5pt" --time 20m
      dimwise fold last --apply "distill(scale=0.5) prune(macs=0.6) quantize(int8)"
      dimwise fold my_nets:trained --recipe fashion --budget "size<=100kB, runtime=openvino, threads=1, batch=1"
    """
    from dataclasses import replace

    from dimwise import chain
    from dimwise.chain.subject import open_subject
    from dimwise.plan import budget as budgets
    from dimwise.plan.bench import Question
    from dimwise.progress import SILENT, Terminal
    from dimwise.train import Interrupted
    from dimwise.view.strings import words

    limits, target = budgets.parse(budget)
    seconds = duration_s(time)
    words(language)  # says now, not after the search, what it does not speak
    if apply is not None and (storage or price_per_hour):
        what = "--storage" if storage else "--price-per-hour"
        raise UserError(f"{what} is for a search, and --apply does not search", next_step=f"Leave {what} out.")
    if settings and recipe is None:
        raise UserError(
            "--set changes a recipe, and none is named",
            next_step="Name it with --recipe NAME; a run brings its own, with its settings.",
        )
    told = chain.load(recipe, settings or ()) if recipe is not None else None
    progress = SILENT if quiet else Terminal()
    try:
        opened = open_subject(
            subject, runs_dir=runs_dir, recipe=told, data_dir=data_dir, model=model, train=train, progress=progress
        )
    except Interrupted as stop:  # in the training of --train
        raise KeyboardInterrupt(f"{stop}. {_GOES_ON}") from stop
    evidence = opened.evidence if seed is None else replace(opened.evidence, seed=seed)
    question = Question(
        opened.subject,
        evidence,
        limits,
        target,
        out or opened.folder / target.folder,
        base=opened.settings,
        time_s=seconds,
        storage=storage,
    )
    if apply is not None:
        return _replay(question, apply, judged=budgets.names_limit(budget), as_json=as_json, quiet=quiet)
    return _search(question, opened.name, price_per_hour, language, as_json=as_json, quiet=quiet)


def _replay(question: Any, text: str, *, judged: bool, as_json: bool, quiet: bool) -> int:
    from dimwise.plan.replay import replay

    told = replay(question, text)
    if as_json:
        _out.emit(told)
    elif not quiet:
        from dimwise.view.plan import done, replayed

        _out.table(*replayed(told), right=("score", "test", "p50", "p95", "size", "memory", "bit operations"))
        for line in done(told["folds"]):
            print(line)
        print(f"artifact: {told['artifact']}")
    if judged and told["breaks"]:
        _out.warn(f"'{told['steps']}' does not meet the budget: {'; '.join(told['breaks'])}")
        return 1
    return 0


def _search(question: Any, name: str, price_per_hour: float, language: str, *, as_json: bool, quiet: bool) -> int:
    from dimwise.plan.answer import answer
    from dimwise.plan.search import search
    from dimwise.runs.atomic import write_json
    from dimwise.view.plan import columns, page, spoken

    found = search(question)
    answered = answer(found, price_per_hour=price_per_hour)
    told = {"subject": name} | answered.told
    write_json(question.folder / "answer.json", told)
    path = page(question.folder, told, language=language)
    if as_json:
        _out.emit(told | {"page": str(path)})
    elif not quiet:
        header, rows, right = columns(told)
        _out.table(header, rows, right=right)
        for line in spoken(told):
            print(line)
        print(f"page: {path}")
    if answered.failure is not None:
        _out.warn(answered.text)
    if found.ended == "interrupted":
        raise KeyboardInterrupt(f"interrupted. {_GOES_ON}")
    return answered.exit_code


def duration_s(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``20m`` or ``1h``.

    Raises:
        UserError: for anything else.

    Example:
        >>> duration_s("20m"), duration_s("1.5h"), duration_s("90 s")
        (1200.0, 5400.0, 90.0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in _UNITS or not float(found[1]) > 0:
        raise UserError(f"--time {text!r} is no duration", expected="a number above 0 with s, m or h, such as 20m")
    return float(found[1]) * _UNITS[found[2]]


app = single(fold)
