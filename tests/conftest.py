"""What the tests share: where real data lies, and a quiet machine."""

from __future__ import annotations

import os
from pathlib import Path

# Several test processes share a few cores: threads that spin while they wait for each other would cost most of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def find_data_dir() -> Path | None:
    named = os.environ.get("DIMWISE_DATA")
    candidates = [Path(named)] if named else [ROOT.parent / "shared" / "data"]
    return next((c for c in candidates if (c / "mnist").is_dir()), None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, or a skip that says how to bring it."""
    found = find_data_dir()
    if found is None:
        pytest.skip("no real data: set DIMWISE_DATA to a folder that holds mnist/, cifar10/, ...")
    return found
