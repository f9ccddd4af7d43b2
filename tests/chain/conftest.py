"""One short real run of the whole chain, shared by the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimwise import chain

SHORT = [
    "train.epochs=12",
    "fold.candidates=['quantize', 'prune+quantize', 'distill']",
    "fold.prune.epochs=3",
    "fold.distill.epochs=6",
    "budget.drop=0.02",
    "budget.size_bytes=0",
    "fold.time_s=0",
]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> chain.Result:
    """digits, twelve epochs, three candidates."""
    runs_dir: Path = tmp_path_factory.mktemp("runs")
    return chain.run(chain.load("digits", SHORT), runs_dir=runs_dir)
