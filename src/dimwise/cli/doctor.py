"""``dimwise doctor``: run a training script under watch and name its mistakes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.cli._typer import group
from dimwise.errors import UserError, nearest

_FAIL_ON = ("error", "warning", "never")


def doctor(
    target: Annotated[
        list[str] | None, typer.Argument(metavar="SCRIPT [ARGS]...", help="A training script, and its own arguments.")
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
) -> int:
    """Run a training script unmodified and name its mistakes, with evidence and remedy.

    The script runs as `python SCRIPT ARGS` would run it; what it prints is left alone, and the findings come after it
    on standard error. Exit code: the script's own if it failed, else 1 when a finding reaches --fail-on.

    \b
    Examples:
      dimwise doctor train.py --epochs 2
      dimwise doctor --json findings.json --ignore unseeded -m mypackage.train
    """
    from dimwise.doctor.examine import examine
    from dimwise.doctor.rules import ACROSS, RULES
    from dimwise.doctor.script import watch_script

    for rule in ignore or ():
        if rule not in {**RULES, **ACROSS}:
            raise UserError(
                f"doctor: --ignore {rule}: no such rule",
                next_step=nearest(rule, [*RULES, *ACROSS]) or "See: dimwise doctor --rules.",
            )
    if fail_on not in _FAIL_ON:
        raise UserError(f"doctor: --fail-on {fail_on}", expected="one of: " + ", ".join(_FAIL_ON))
    if not target:
        raise UserError(
            "doctor: nothing to look at", expected="a SCRIPT", next_step="As in: dimwise doctor train.py --epochs 2."
        )
    execution = watch_script(target[0], target[1:], module=module, steps=steps)
    report = examine(execution.processes, ignore=ignore or ())
    if prove:
        from dimwise.doctor.prove import prove as proven

        report = proven(report, target[0], target[1:], module=module)
    if json_file is not None:
        _write(json_file, report.as_dict())
    if str(json_file) != "-":
        from dimwise.view.findings import show

        show(report, remarks=execution.remarks, file=sys.stderr)
    if execution.exit_code:
        return execution.exit_code
    reached = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[fail_on]
    return int(any(f.severity in reached for f in report.findings))


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
