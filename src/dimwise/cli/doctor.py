"""``dimwise doctor``: run a training script under watch and name its mistakes; or look at a run, or at data."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.cli import _doctor
from dimwise.cli._typer import RUNS, DataDir, RunsDir, group
from dimwise.errors import UserError, nearest

_FAIL_ON = ("error", "warning", "never")


def doctor(
    target: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT [ARGS]... | RUN", help="A training script and its own arguments; or a run."),
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module, as in `python -m`.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the findings there; '-' for standard output.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="RULE", help="Leave a rule out; repeatable.")
    ] = None,
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="LEVEL", help="Exit 1 from this severity on: error, warning or never.")
    ] = "error",
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=1, help="Watch the first N optimizer steps; the script goes on."),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Run short stretches again with each remedy and show what it changes.")
    ] = False,
    sarif_file: Annotated[
        Path | None,
        typer.Option("--sarif", metavar="FILE", help="Write the findings there for code hosts (SARIF 2.1.0)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="RECIPE|FOLDER", help="Look at data before any training: the data rules alone."),
    ] = None,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="List the mistakes, each with a script that shows it.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="RULE", help="What a rule checks, and the mistake, harm and cure."),
    ] = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = RUNS,
) -> int:
    """Run a training script unmodified and name its mistakes, with evidence and remedy.

    The script runs as `python SCRIPT ARGS` would run it; what it prints is left alone, and the findings come after it
    on standard error. Exit code: the script's own if it failed, else 1 when a finding reaches --fail-on. Options of the
    doctor come before SCRIPT. A RUN (a path, name, short id, or 'last') is judged by what was seen when it was trained.

    \b
    Examples:
      dimwise doctor train.py --epochs 2
      dimwise doctor --json findings.json --ignore unseeded -m mypackage.train
      dimwise doctor last
      dimwise doctor --data mnist
      dimwise doctor --explain missing-zero-grad
    """
    if gallery or explain is not None:
        _doctor.refuse(target, "--gallery" if gallery else "--explain")
        return _doctor.show_gallery() if gallery else _doctor.show_card(str(explain))
    _check(ignore or (), fail_on)
    _must_be_writable({"--json": json_file, "--sarif": sarif_file})
    if data is not None:
        _doctor.refuse(target, "--data")
        look = _doctor.at_data(data, data_dir, ignore or ())
    else:
        if not target:
            raise UserError(
                "doctor: nothing to look at",
                expected="a SCRIPT",
                next_step="As in: dimwise doctor train.py --epochs 2.",
            )
        run = None if module or len(target) > 1 else _doctor.run_named(target[0], runs_dir)
        if run is not None:
            look = _doctor.at_run(run, ignore or ())
        else:
            look = _doctor.at_script(target, module=module, steps=steps, ignore=ignore or (), prove=prove)
    if json_file is not None:
        _write(json_file, look.report.as_dict())
    if sarif_file is not None:
        from dimwise import __version__
        from dimwise.doctor.sarif import sarif

        _write(sarif_file, sarif(look.report, version=__version__, succeeded=not look.exit_code))
    if "-" not in (str(json_file), str(sarif_file)):
        from dimwise.view.findings import show

        show(look.report, remarks=look.remarks, file=sys.stderr)
    if look.exit_code:
        return look.exit_code
    reached = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[fail_on]
    return int(any(f.severity in reached for f in look.report.findings))


def _check(ignore: Collection[str], fail_on: str) -> None:
    from dimwise.doctor.rules import ACROSS, RULES

    for rule in ignore:
        if rule not in {**RULES, **ACROSS}:
            raise UserError(
                f"doctor: --ignore {rule}: no such rule",
                next_step=nearest(rule, [*RULES, *ACROSS]) or "See: dimwise doctor --gallery.",
            )
    if fail_on not in _FAIL_ON:
        raise UserError(f"doctor: --fail-on {fail_on}", expected="one of: " + ", ".join(_FAIL_ON))


def _must_be_writable(files: Mapping[str, Path | None]) -> None:
    """Asked before the script runs: afterwards the findings of hours would be lost."""
    for option, path in files.items():
        if path is None or str(path) == "-":
            continue
        if path.is_dir():
            raise UserError(f"doctor: {option} {path}: is a folder", expected="a file", next_step="Name a file in it.")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            why = "cannot be written" if path.parent.is_dir() else "its folder does not exist"
            raise UserError(f"doctor: {option} {path}: {why}", expected="a file that can be written")


def _write(path: Path, told: dict[str, Any]) -> None:
    import json

    from dimwise.runs.atomic import finite

    text = json.dumps(finite(told), indent=1)
    if str(path) == "-":
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")


app = group()
app.command(context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]})(doctor)
