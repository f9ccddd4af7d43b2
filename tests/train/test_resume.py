"""A run killed at any instant and resumed ends with bit-identical weights to one never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

N_KILLS = 6  # per scenario; 40 were tried when this was written

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    script, folder = Path(__file__).with_name("kill_and_resume.py"), tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-W", "error::UserWarning", str(script), str(N_KILLS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["scenario"]: row for row in rows}


@pytest.mark.parametrize("scenario", ["everything", "channels_last", "loader", "half"])
def test_killed_and_resumed_is_never_stopped(outcomes: dict[str, dict[str, Any]], scenario: str) -> None:
    found = outcomes[scenario]
    assert found["different"] == []
    assert N_KILLS <= found["kills"] <= N_KILLS + 1
    assert found["records"] == found["steps"] + found["epochs"]  # each step and each epoch is told exactly once


def test_the_scenarios_reach_what_they_are_for(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["everything"]["instants"] > 200  # many of them inside a save
    assert outcomes["channels_last"]["stopped_early"]
    assert not outcomes["everything"]["stopped_early"]
