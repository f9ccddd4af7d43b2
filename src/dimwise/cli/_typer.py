"""What all commands share: how a typer app is made, and how its mistakes become the house's errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.errors import UserError, nearest

# typer has carried its own copy of click since 0.26, so click's classes are reached through typer's.
_UsageError: Any = typer.BadParameter.__base__

# Options that several commands take, spelt once.
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the recipe, as in train.lr=0.01; repeatable."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Where data sets lie. Default: DIMWISE_DATA, else the cache folder."
    ),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Where runs are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="PACKAGE.MODULE:FUNCTION", help="Your own network instead of the recipe's."),
]
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="What built the network of a run that trained your own: what a run's files name is not called.",
    ),
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="RUN", help="Continue this run: a path, name, short id, or 'last'."),
]

RUNS = Path("runs")


def single(function: Callable[..., int | None]) -> typer.Typer:
    """An app of one command."""
    app = group()
    app.command()(function)
    return app


def group(help_text: str | None = None, *, example: str = "") -> typer.Typer:
    """An app of several commands. Help is plain text: it is read in pipes, and loading rich takes longer than it."""
    return typer.Typer(
        help=f"{help_text}\n\n\b\nExample:\n  {example}" if example else help_text,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=False,
        pretty_exceptions_enable=False,
    )


def invoke(app: typer.Typer, name: str, words: Sequence[str]) -> int:
    """Parse and call one command.

    Not through click's ``main``: that one has its own ideas about Ctrl-C, broken pipes and exit codes.

    Returns: the exit code.

    Raises:
        UserError: for an unknown option, a missing argument, a value of the wrong type.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context(f"dimwise {name}", list(words)) as context:
            code = command.invoke(context)
    except _UsageError as error:
        raise _as_user_error(error, name) from None
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0


def _as_user_error(error: Any, name: str) -> UserError:
    """One line: what was wrong, what is nearest, where the help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else f"dimwise {name}"
    step = f"See: {path} --help."
    place = path.removeprefix("dimwise ")
    commands = list(getattr(context.command, "commands", ())) if context is not None else []
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and option is not None:
        known = [o for p in context.command.params for o in p.opts] if context is not None else []
        return UserError(f"{place}: no such option '{option}'", next_step=_join(nearest(option, known), step))
    text = error.format_message().strip().replace("Value error, ", "").replace("Input should be", "it should be")
    unknown = re.match(r"No such command '([^']*)'", text)
    if unknown:
        text, hint = f"no such command '{unknown[1]}'", nearest(unknown[1], commands)
    else:
        text, hint = text[:1].lower() + text[1:], ""
    expected = "one of: " + ", ".join(commands) if commands and not option else ""
    return UserError(f"{place}: {text}", expected=expected, next_step=_join(hint, step))


def _join(hint: str, step: str) -> str:
    return f"{hint} {step}" if hint else step
