"""Bars for a terminal, silence for everything else."""

from __future__ import annotations

import io
from typing import Any

import pytest

from dimwise.progress import SILENT, Progress, Terminal


def on(terminal: bool) -> tuple[Terminal, io.StringIO]:
    from rich.console import Console

    shown, progress = io.StringIO(), Terminal()
    progress._console = Console(file=shown, force_terminal=terminal, width=100, color_system=None)
    return progress, shown


def use(progress: Progress) -> None:
    with progress.stage("train", total=10) as bar:
        bar.update(5, "loss 0.3")
    with progress.stage("fold") as bar:
        bar.update(1)
    progress.say("[1] a line [bold]that[/bold] stays")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    use(SILENT)
    assert capsys.readouterr() == ("", "")


def test_a_pipe_sees_lines_but_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    use(Terminal())
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "[1] a line [bold]that[/bold] stays\n"  # what looks like markup is text


def test_a_terminal_sees_bars() -> None:
    progress, shown = on(True)
    use(progress)
    text = shown.getvalue()
    assert "train" in text
    assert "loss 0.3" in text
    assert "fold" in text


def test_a_bar_goes_away_on_an_error() -> None:
    progress, shown = on(True)

    def failing() -> Any:
        with progress.stage("train", total=2):
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    with progress.stage("again", total=1) as bar:  # rich allows one live display at a time
        bar.update(1)
    assert "again" in shown.getvalue()
