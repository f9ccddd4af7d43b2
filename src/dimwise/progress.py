"""Every wait over two seconds has a bar, and a pipe sees none: a thin face on rich's progress.

Rooms report to a :class:`Progress`; the door (a command, a notebook) decides which one. The default is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Bar(Protocol):
    """What a room sees of a bar."""

    def update(self, done: float, note: str = "") -> None:
        """Say how much is done, in the units of ``total``, and a short note (loss, score, speed)."""


class Progress:
    """A progress display that shows nothing.

    Example:
        >>> with Progress().stage("train", total=10) as bar:
        ...     bar.update(5, "loss 0.3")
    """

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """One stage with its bar; ``total=None`` shows a spinner."""
        yield _NoBar()

    def say(self, line: str) -> None:
        """One line that stays."""


class _NoBar:
    def update(self, done: float, note: str = "") -> None:
        pass


SILENT = Progress()


class Terminal(Progress):
    """Bars with time left on standard error; quiet when that is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """One stage with its bar; it disappears when the stage is over."""
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description:<12}"), BarColumn(bar_width=24)]
        columns += [TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(compact=True)]
        if not self._console.is_terminal:
            yield _NoBar()
            return
        with RichProgress(*columns, console=self._console, transient=True) as rich_progress:
            task = rich_progress.add_task(name, total=total, note="")
            yield _RichBar(rich_progress, task)

    def say(self, line: str) -> None:
        """One line that stays, on standard error."""
        self._console.print(line, highlight=False, markup=False)


class _RichBar:
    def __init__(self, rich_progress: Any, task: Any) -> None:
        self._progress = rich_progress
        self._task = task

    def update(self, done: float, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)
