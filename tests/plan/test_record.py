"""Lines of a search: written whole, read back, shared, refused for another network."""

from __future__ import annotations

import threading

import pytest

from dimwise.errors import RunError
from dimwise.plan import record
from dimwise.plan.record import Line


def test_lines_are_read_back_as_they_were_written(tmp_path):
    lines = [
        Line("", 0, "whole", measured={"score": 0.5}),
        Line(
            "prune(macs=0.4)", 7, "shape", {"student": 0, "cut": 2, "numbers": 0}, 1, {"latency_ms": 0.5}, seconds=1.5
        ),
        Line("quantize", 0, "failed", reason="no “such” thing"),
    ]
    for line in lines:
        record.add(tmp_path, line)
    assert record.read(tmp_path) == lines


def test_a_line_cut_off_by_a_kill_costs_itself_only(tmp_path):
    record.add(tmp_path, Line("a", 0, "whole"))
    with (tmp_path / record.FILE).open("a") as file:
        file.write('{"steps": "b", "se\n')
    record.add(tmp_path, Line("c", 0, "whole"))
    assert [line.steps for line in record.read(tmp_path)] == ["a", "c"]


def test_nan_is_left_out_rather_than_read_as_a_number(tmp_path):
    record.add(tmp_path, Line("a", 0, "whole", measured={"score": float("nan"), "latency_ms": 1.0}))
    assert record.read(tmp_path)[0].measured == {"latency_ms": 1.0}


def test_writers_do_not_mix_their_lines(tmp_path):
    def write(name: str) -> None:
        for n in range(50):
            record.add(tmp_path, Line(f"{name}{n}", 0, "whole", reason=name * 500))

    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = record.read(tmp_path)
    assert len(lines) == 150
    assert all(set(line.reason) == {line.steps[0]} for line in lines)


def test_a_folder_belongs_to_one_network_and_one_target(tmp_path):
    record.begin(tmp_path / "plan", {"weights": "aa", "threads": 1})
    record.begin(tmp_path / "plan", {"weights": "aa", "threads": 1})
    with pytest.raises(RunError, match=r"is a search about weights 'aa', not 'bb'\. Remove that folder"):
        record.begin(tmp_path / "plan", {"weights": "bb", "threads": 1})
