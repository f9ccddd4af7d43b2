"""The command line: one verb a file, each imported only when it is used.

This file is all that ``dimwise --help`` loads. Exit codes: 0 good, 1 a gate failed, 2 the user's mistake (one line,
no traceback; ``DIMWISE_DEBUG=1`` shows it), 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from dimwise.errors import DimwiseError, UserError, nearest

# name -> (module that holds a typer `app` or a `main(words)`, one line of help).
# Adding a command: its file, its test, its line here.
COMMANDS = {
    "run": ("dimwise.cli.run", "Everything: train, fold, choose, ship, prove and report, from one recipe."),
    "train": ("dimwise.cli.train", "Train only, or continue a run that was stopped."),
    "doctor": ("dimwise.cli.doctor", "Run a training script and name its mistakes."),
    "fold": ("dimwise.cli.fold", "Make a trained network smaller or faster, within a budget."),
    "lr-range": ("dimwise.cli.lr_range", "Try growing learning rates, and say which are worth training with."),
    "compare": ("dimwise.cli.compare", "Two models side by side, layer by layer: before and after a fold."),
    "predict": ("dimwise.cli.predict", "Classify files with an artifact, without PyTorch."),
    "report": ("dimwise.cli.report", "Build a run's report page again."),
    "recipe": ("dimwise.cli.recipe", "List, show, make and check recipes."),
    "data": ("dimwise.cli.data", "List, fetch and describe data sets."),
    "model": ("dimwise.cli.model", "List networks, and show one layer by layer."),
    "runs": ("dimwise.cli.runs", "List, show, compare, export and remove runs."),
    "env": ("dimwise.cli.env", "What this machine has: device, threads, versions."),
}

INTERRUPTED = 130
_BROKEN_PIPE = 141  # 128 + SIGPIPE, as the shell reports it for other tools


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and say how it went.

    Args:
        argv: the words after ``dimwise``; ``None`` takes them from the process.

    Returns: the exit code.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        dimwise ...
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal without × or ≤ gets a question mark, not a traceback; a file name that is no UTF-8 its own bytes.
        sys.stdout.reconfigure(errors="surrogateescape" if "utf" in sys.stdout.encoding.lower() else "replace")
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except DimwiseError as error:
        return _tell(str(error), error.exit_code)
    except KeyboardInterrupt as stop:
        return _tell(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader went away (`dimwise runs list | head -1`). Python flushes stdout once more at exit: let it have
        # somewhere to go.
        _discard_stdout()
        return _BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        return _tell(f"{os.fspath(error.filename)}: {error.strerror or error}", UserError.exit_code)


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["help"] and len(words) > 1:  # `dimwise help run` is `dimwise run --help`
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        from dimwise import __version__

        print(f"dimwise {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        known = (*COMMANDS, "--help", "--version")
        raise UserError(
            f"no such {kind} '{name}'", expected="one of: " + ", ".join(COMMANDS), next_step=nearest(name, known)
        )
    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "main"):
        code: int = module.main(rest)
        return code
    from dimwise.cli import _typer

    return _typer.invoke(module.app, name, rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items())
    return f"""\
dimwise takes a PyTorch model from theory to a device, and measures every step.

Usage: dimwise COMMAND [OPTIONS]

Commands:
{rows}

Options:
  --version  Show the version.
  --help     Show this; after a command, what that command takes.

Example:
  dimwise run digits"""


def _tell(message: str, code: int) -> int:
    """One line on standard error; with DIMWISE_DEBUG the traceback before it."""
    if os.environ.get("DIMWISE_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exc()
    print(f"dimwise: {' '.join(message.split())}", file=sys.stderr)
    return code


def _discard_stdout() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
