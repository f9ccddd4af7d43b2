"""Ctrl-C in the middle of a run: say how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def with_hint(runs_dir: Path, model: str | None = None, data_dir: Path | None = None) -> Iterator[None]:
    """When the body is interrupted after it started a run that can be resumed, name the command that does it."""
    before = _names(runs_dir)
    try:
        yield
    except KeyboardInterrupt as stop:
        begun = [runs_dir / name for name in _names(runs_dir) - before]
        if len(begun) == 1 and (begun[0] / "checkpoints" / "last.safetensors").is_file():
            raise KeyboardInterrupt(f"interrupted. {how_to_resume(begun[0], runs_dir, model, data_dir)}") from stop
        raise


def _names(runs_dir: Path) -> set[str]:
    return {path.name for path in runs_dir.iterdir()} if runs_dir.is_dir() else set()


def how_to_resume(run: Path, runs_dir: Path, model: str | None = None, data_dir: Path | None = None) -> str:
    """The command that continues a run.

    Example:
        >>> how_to_resume(Path("runs/20260131-091500-digits-a1b2"), Path("runs"))
        'Continue with: dimwise train --resume a1b2'
        >>> how_to_resume(Path("runs/20260131-091500-mnist-a1b2"), Path("runs"), data_dir=Path("my data"))
        "Continue with: dimwise train --resume a1b2 --data-dir 'my data'"
    """
    import shlex

    from dimwise.cli._typer import RUNS

    code = "" if model is None else f" --model {shlex.quote(model)}"
    data = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    place = "" if runs_dir == RUNS else f" --runs-dir {shlex.quote(str(runs_dir))}"
    return f"Continue with: dimwise train --resume {run.name.rpartition('-')[2]}{code}{data}{place}"
