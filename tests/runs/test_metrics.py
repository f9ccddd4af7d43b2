"""Metrics survive a kill at any byte, and a resumed run reads like one never stopped."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimwise.errors import RunError
from dimwise.runs.metrics import Metrics, read


def step(number: int) -> dict[str, object]:
    return {"kind": "step", "step": number}


def test_records_come_back_in_order(tmp_path: Path) -> None:
    records = [{"kind": "step", "step": i, "loss": 1 / (i + 1), "note": "鸟\n"} for i in range(100)]
    with Metrics(tmp_path / "m") as metrics:
        for record in records:
            metrics.write(record)
    assert read(tmp_path / "m") == records
    assert read(tmp_path / "none") == []


def test_nothing_is_written_until_it_is_due_and_all_is_at_flush(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m", flush_s=3600)
    metrics.write(step(1))
    assert read(tmp_path / "m") == []
    metrics.flush()
    assert read(tmp_path / "m") == [step(1)]
    metrics.write(step(2))
    metrics.close()
    metrics.close()
    assert read(tmp_path / "m") == [step(1), step(2)]
    with Metrics(tmp_path / "now", flush_s=0) as metrics:
        metrics.write(step(1))
        assert read(tmp_path / "now") == [step(1)]


def test_a_record_may_be_changed_after_it_was_written(tmp_path: Path) -> None:
    record = {"kind": "step", "step": 1}
    with Metrics(tmp_path / "m") as metrics:
        metrics.write(record)
        record["step"] = 2
    assert read(tmp_path / "m") == [step(1)]


def test_nan_and_infinity_are_valid_json_and_come_back(tmp_path: Path) -> None:
    with Metrics(tmp_path / "m") as metrics:
        metrics.write({"loss": math.nan, "norms": {"a": math.inf, "b": [-math.inf, 1.0]}})
    line = (tmp_path / "m").read_text()
    raw = json.loads(line, parse_constant=pytest.fail)
    assert raw == {"loss": "NaN", "norms": {"a": "Infinity", "b": ["-Infinity", 1.0]}}
    (back,) = read(tmp_path / "m")
    assert math.isnan(back["loss"])
    assert back["norms"] == {"a": math.inf, "b": [-math.inf, 1.0]}


def test_numpy_scalars_and_arrays_are_numbers(tmp_path: Path) -> None:
    with Metrics(tmp_path / "m") as metrics:
        metrics.write({"a": np.float32(0.5), "b": np.arange(2), "c": np.float32(np.nan), "d": np.int64(3)})
        metrics.write({"a": math.nan, "b": np.float32(0.5)})
    first, second = read(tmp_path / "m")
    assert (first["a"], first["b"], first["d"]) == (0.5, [0, 1], 3)
    assert math.isnan(first["c"])
    assert second["b"] == 0.5


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    with Metrics(tmp_path / "m") as metrics, pytest.raises(TypeError, match="a metric cannot be an object"):
        metrics.write({"a": object()})


def test_a_torn_last_line_is_closed_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b'{"kind":"step","step":1}\n{"kind":"st')
    with Metrics(path) as metrics:
        metrics.write(step(2))
    assert read(path) == [step(1), step(2)]


def test_invalid_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b'\x00\x00\x00\n[1]\n\xff\xfe\n{"kind":"step","step":1}\n\n"word"\n' + b"[" * 100_000)
    assert read(path) == [step(1)]


def test_resume_drops_what_came_after_its_step(tmp_path: Path) -> None:
    with Metrics(tmp_path / "m") as metrics:
        for number in range(1, 6):
            metrics.write(step(number))
        metrics.write({"kind": "epoch", "epoch": 0, "step": 3})
        metrics.write({"kind": "epoch", "epoch": 1, "step": 5})
        metrics.write({"kind": "note", "step": 9})
        metrics.write({"kind": "resume", "step": 3})
        metrics.write(step(4))
    assert [(r["kind"], r["step"]) for r in read(tmp_path / "m")] == [
        *(("step", n) for n in (1, 2, 3)),
        ("epoch", 3),
        ("note", 9),
        ("resume", 3),
        ("step", 4),
    ]


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.one_of(st.floats(), st.integers(), st.text(max_size=6)), max_size=8),
    cut=st.floats(0, 1),
)
def test_a_file_cut_at_any_byte_loses_at_most_the_torn_line(values: list[object], cut: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        with Metrics(path) as metrics:
            for value in values:
                metrics.write({"v": value})
        whole, data = read(path), path.read_bytes()
        assert len(whole) == len(values)
        data = data[: round(cut * len(data))]
        path.write_bytes(data)
        n_whole_lines = data.count(b"\n")
        left = read(path)
        assert repr(left) in (repr(whole[:n_whole_lines]), repr(whole[: n_whole_lines + 1]))
        with Metrics(path) as metrics:  # and writing goes on after the cut
            metrics.write(step(7))
        assert repr(read(path)) == repr([*left, step(7)])


@given(
    st.lists(
        st.one_of(
            st.builds(lambda s: {"kind": "step", "step": s}, st.integers(0, 9)),
            st.builds(lambda s: {"kind": "resume", "step": s}, st.integers(0, 9)),
        ),
        max_size=20,
    )
)
@settings(deadline=None, max_examples=60)
def test_resume_agrees_with_the_plain_definition(records: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        with Metrics(path) as metrics:
            for record in records:
                metrics.write(record)
        kept = [
            r
            for i, r in enumerate(records)
            if r["kind"] == "resume"
            or not any(later["kind"] == "resume" and r["step"] > later["step"] for later in records[i:])
        ]
        assert read(path) == kept


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_killed_process_leaves_what_it_flushed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    code = f"""
import os, signal
from dimwise.runs.metrics import Metrics
metrics = Metrics({str(path)!r}, flush_s=3600)
metrics.write({{"kind": "step", "step": 1}})
metrics.flush()
metrics.write({{"kind": "step", "step": 2}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read(path) == [step(1)]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:3]))
    with Metrics(tmp_path / "m") as metrics:
        metrics.write(step(1))
    assert read(tmp_path / "m") == [step(1)]


def fail_with_full_disk(handle: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(tmp_path / "m")
    metrics.write(step(1))
    metrics.flush()
    metrics.write(step(2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail_with_full_disk)
        with pytest.raises(RunError, match=r"cannot write '.*m': disk full.*what was written before is intact"):
            metrics.flush()
    metrics.close()
    assert read(tmp_path / "m") == [step(1)]


def test_the_error_under_way_is_not_covered_by_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        with Metrics(tmp_path / "m") as metrics:
            metrics.write(step(1))
            monkeypatch.setattr(os, "write", fail_with_full_disk)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write '.*gone/m': its folder does not exist"):
        Metrics(tmp_path / "gone" / "m")
