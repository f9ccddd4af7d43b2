"""What is exported is read back with TensorBoard's own reader."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimwise.errors import MissingExtra, RunError
from dimwise.runs import metrics
from dimwise.runs.tensorboard import export

RECIPE = 'name = "digits"\n\n[train]\nlr = 0.1\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "20260131-091500-digits-a1b2"
    path.mkdir()
    (path / "recipe.toml").write_text(RECIPE)
    with metrics.Metrics(path / "metrics.jsonl") as writer:
        writer.write({"kind": "step", "step": 1, "epoch": 0, "loss": 2.0, "lr": 0.1, "t": 0.5})
        writer.write({"kind": "step", "step": 2, "epoch": 0, "loss": math.nan, "lr": 0.05, "t": 1.0})
        writer.write({"kind": "epoch", "step": 2, "epoch": 0, "valid_score": 0.5, "grad_norms": {"fc.weight": 3.0}})
        writer.write({"kind": "resume", "step": 2})
    return path


def test_tensorboard_reads_back_what_was_written(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert export(run, tmp_path / "tb") == 6
    events = EventAccumulator(str(tmp_path / "tb" / run.name))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "epoch/grad_norms/fc.weight",
        "epoch/valid_score",
        "step/loss",
        "step/lr",
    ]
    losses = events.Scalars("step/loss")
    assert [e.step for e in losses] == [1, 2]
    assert losses[0].value == 2.0
    assert math.isnan(losses[1].value)
    assert time.strftime("%Y%m%d-%H%M%S", time.localtime(losses[0].wall_time)) == "20260131-091500"
    assert losses[1].wall_time - losses[0].wall_time == 0.5
    assert events.Scalars("epoch/grad_norms/fc.weight")[0].value == 3.0
    text = events.Tensors("recipe")[0].tensor_proto.string_val[0].decode()
    assert "    lr = 0.1\n" in text
    assert events.SummaryMetadata("recipe").plugin_data.plugin_name == "text"


def test_a_second_export_to_the_same_place_is_refused(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    export(run, tmp_path / "tb")
    with pytest.raises(RunError, match=f"{run.name}' holds an export of this run already"):
        export(run, tmp_path / "tb")


def test_nothing_to_export_and_nowhere_to_go(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot write '.*': a file stands where a folder should be"):
        export(run, tmp_path / "file")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=f"run '{run.name}' has no metrics to export"):
        export(run, tmp_path / "tb")


def test_without_the_library_the_extra_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(MissingExtra, match=r"exporting runs needs tensorboard.*pip install 'dimwise\[tensorboard\]'"):
        export(run, tmp_path / "tb")


def test_the_room_loads_no_torch() -> None:
    code = """
import sys
import dimwise.runs.atomic, dimwise.runs.folder, dimwise.runs.metrics, dimwise.runs.compare, dimwise.runs.tensorboard
assert not {"torch", "numpy", "tensorboard", "pydantic"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
