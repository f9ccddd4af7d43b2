"""``dimwise runs``: list, show, compare, rm, tensorboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.cli import _out, _stages
from dimwise.cli._typer import RUNS, Json, RunsDir, group
from dimwise.runs import folder

app = group("List, show, compare, export and remove runs.", example="dimwise runs show last")

Key = Annotated[str, typer.Argument(help="A path, name, short id, or 'last'.")]


@app.command("list")
def list_runs(runs_dir: RunsDir = RUNS, as_json: Json = False) -> int:
    """List runs, oldest first.

    \b
    Example:
      dimwise runs list
    """
    found = folder.listing(runs_dir)
    if as_json:
        _out.emit([_as_dict(info) for info in found])
        return 0
    if not found:
        print(f"no runs in '{runs_dir}'; start one with: dimwise run")
        return 0
    rows = [(info.name, info.status, *_score_time_size(info)) for info in found]
    _out.table(["run", "status", "score", "time", "size"], rows, right=["score", "time", "size"])
    for info in found:
        if info.note:
            _out.warn(f"{info.name}: {info.note}")
    return 0


@app.command()
def show(run: Key, runs_dir: RunsDir = RUNS, as_json: Json = False) -> int:
    """Show one run: how it stands, its stages and what they cost.

    \b
    Example:
      dimwise runs show last
    """
    path = folder.find(runs_dir, run)
    info = folder.info(path)
    result = _result(path)
    if as_json:
        _out.emit({**_as_dict(info), "result": result or None})
        return 0
    score, seconds, size = _score_time_size(info)
    facts = {"run": path, "recipe": info.recipe, "status": info.status, "started": info.started or None}
    facts |= {info.score_name or "score": score, "time": seconds, "size": size}
    for name in ("summary", "chosen", "artifact"):
        if result.get(name):
            facts[name] = result[name]
    if (path / "report.html").is_file():
        facts["report"] = path / "report.html"
    _out.pairs(facts)
    if result.get("stages"):
        print()
        _stages.show(result)
    if info.note:
        _out.warn(info.note)
    return 0


@app.command()
def compare(a: Key, b: Key, runs_dir: RunsDir = RUNS, as_json: Json = False) -> int:
    """Compare two runs: settings that differ, scores, stages side by side. Ratios are B / A.

    \b
    Example:
      dimwise runs compare a1b2 last
    """
    from dimwise.runs.compare import compare as compare_runs

    found = compare_runs(folder.find(runs_dir, a), folder.find(runs_dir, b))
    if as_json:
        _out.emit(found)
    else:
        _show_comparison(found)
    return 0


@app.command()
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Paths, names, short ids, or 'last'.")],
    runs_dir: RunsDir = RUNS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. In a script nothing is asked.")] = False,
) -> int:
    """Remove runs for good.

    \b
    Example:
      dimwise runs rm a1b2
    """
    paths = list(dict.fromkeys(folder.find(runs_dir, key) for key in runs))
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        names = ", ".join(p.name for p in paths)
        if not typer.confirm(f"Remove {names} for good?"):
            return 0
    for path in paths:
        folder.remove(path)
        print(f"removed {path}")
    return 0


@app.command()
def tensorboard(
    run: Key,
    out: Annotated[Path, typer.Argument(help="The folder that `tensorboard --logdir` will be given.")],
    runs_dir: RunsDir = RUNS,
) -> int:
    """Export a run's curves and recipe as TensorBoard event files.

    \b
    Example:
      dimwise runs tensorboard last tb && tensorboard --logdir tb
    """
    from dimwise.runs.tensorboard import export

    path = folder.find(runs_dir, run)
    n_points = export(path, out)
    print(f"{n_points} points written; see them with: tensorboard --logdir {out}")
    return 0


def _as_dict(info: folder.RunInfo) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(info), "path": str(info.path)}


def _score_time_size(info: folder.RunInfo) -> tuple[str, str, str]:
    from dimwise.view import units

    score = units.score_text(info.score, info.score_name or "accuracy")
    return score, units.seconds_text(info.seconds), units.bytes_text(info.size_bytes)


def _result(path: Path) -> dict[str, Any]:
    """result.json, or nothing when there is none or it is damaged (the caller shows why)."""
    import json

    try:
        found = json.loads((path / "result.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _show_comparison(found: dict[str, Any]) -> None:
    from dimwise.view import units

    print(f"A  {found['runs']['a']}\nB  {found['runs']['b']}\n")
    if found["recipe"]:
        _out.table(["setting", "A", "B"], [(row["field"], row["a"], row["b"]) for row in found["recipe"]])
    else:
        print("same recipe")
    print()
    name = found["score"]["name"] or "accuracy"
    shows = {
        "score": lambda value: units.score_text(value, name),
        "size_bytes": units.bytes_text,
        "latency_ms": units.ms_text,
        "params": units.count_text,
        "macs": units.count_text,
    }
    rows = []
    for stage in found["stages"]:
        for cost, text in shows.items():
            a, b = (units.number((stage[side] or {}).get(cost)) for side in ("a", "b"))
            if a is not None or b is not None:
                ratio = None if stage["ratio"][cost] is None else f"{stage['ratio'][cost]:.2f}"
                rows.append((stage["name"], name if cost == "score" else cost, text(a), text(b), ratio))
    score, seconds = found["score"], found["seconds"]
    rows.append(("run", name, shows["score"](score["a"]), shows["score"](score["b"]), None))
    ratio = None if seconds["ratio"] is None else f"{seconds['ratio']:.2f}"
    rows.append(("run", "time", units.seconds_text(seconds["a"]), units.seconds_text(seconds["b"]), ratio))
    _out.table(["stage", "cost", "A", "B", "B / A"], rows, right=["A", "B", "B / A"])
