"""A run that was stopped: say how to go on, and go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dimwise.errors import UserError


@contextmanager
def with_hint(
    verb: str, runs_dir: Path, model: str | None = None, data_dir: Path | None = None, *, run: Path | None = None
) -> Iterator[None]:
    """When the body is interrupted in the middle of a run, name the command that goes on with it.

    Args:
        verb: the command that does so, "run" or "train".
        runs_dir: where runs are kept.
        model: the user's own builder.
        data_dir: where data sets lie.
        run: the run that the body works on; None for one that it begins itself.
    """
    from dimwise.runs import folder

    before = _names(runs_dir)
    try:
        yield
    except KeyboardInterrupt as stop:
        begun = [runs_dir / name for name in _names(runs_dir) - before] if run is None else [run]
        if len(begun) == 1 and folder.status(begun[0]) == "interrupted":
            raise KeyboardInterrupt(
                f"interrupted. {how_to_resume(verb, begun[0], runs_dir, model, data_dir)}"
            ) from stop
        raise


def _names(runs_dir: Path) -> set[str]:
    return {path.name for path in runs_dir.iterdir()} if runs_dir.is_dir() else set()


def how_to_resume(verb: str, run: Path, runs_dir: Path, model: str | None = None, data_dir: Path | None = None) -> str:
    """The command that continues a run.

    Example:
        >>> how_to_resume("run", Path("runs/20260131-091500-digits-a1b2"), Path("runs"))
        'Continue with: dimwise run --resume a1b2'
        >>> how_to_resume("train", Path("runs/20260131-091500-mnist-a1b2"), Path("runs"), data_dir=Path("my data"))
        "Continue with: dimwise train --resume a1b2 --data-dir 'my data'"
    """
    import shlex

    from dimwise.cli._typer import RUNS

    code = "" if model is None else f" --model {shlex.quote(model)}"
    data = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    place = "" if runs_dir == RUNS else f" --runs-dir {shlex.quote(str(runs_dir))}"
    return f"Continue with: dimwise {verb} --resume {run.name.rpartition('-')[2]}{code}{data}{place}"


def to_resume(verb: str, key: str, runs_dir: Path, recipe: str | None, settings: Sequence[str] | None) -> Path:
    """The run that ``--resume`` means.

    Raises:
        UserError: when a recipe or settings are given too.
        RunError: when there is no such run, or it is running.
    """
    extra = recipe if recipe is not None else "--set" if settings else None
    if extra is not None:
        raise UserError(
            f"{verb}: '{extra}' together with --resume",
            expected="--resume alone, since a run continues with its own recipe",
            next_step=f"For other settings, start anew: dimwise {verb} RECIPE --set KEY=VALUE.",
        )
    from dimwise.runs import folder

    run = folder.find(runs_dir, key)
    folder.refuse_running(run)
    return run
