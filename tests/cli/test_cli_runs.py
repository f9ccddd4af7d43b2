"""``dimwise runs`` and ``dimwise report`` on run folders made by hand."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dimwise import cli
from dimwise.runs import atomic, folder
from dimwise.runs.metrics import Metrics

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(name: str, *, score: float, latency_ms: float, lr: float) -> Path:
    run = Path("runs") / name
    (run / "artifacts").mkdir(parents=True)
    (run / "recipe.toml").write_text(f'name = "digits"\n[train]\nlr = {lr}\n')
    stage = {"score": score, "size_bytes": 40_000, "latency_ms": latency_ms, "params": 9610, "macs": 25_557_032}
    result = {
        "run": str(run),
        "summary": "It went well.",
        "score": {"name": "accuracy", "value": score, "n": 360},
        "stages": [{"name": "trained", **stage}, {"name": "quantize", **stage, "size_bytes": 10_000}],
        "chosen": "quantize",
        "artifact": str(run / "artifacts" / "quantize"),
        "seconds": {"train": 2.0},
    }
    atomic.write_json(run / "result.json", result)
    folder.mark(run, "finished")
    with Metrics(run / "metrics.jsonl") as metrics:
        metrics.write({"kind": "step", "step": 1, "loss": 2.0, "t": 0.1})
    return run


@pytest.fixture
def two() -> tuple[Path, Path]:
    return (
        make("20260131-091500-digits-a1b2", score=0.95, latency_ms=0.2, lr=0.1),
        make("20260201-091500-digits-c3d4", score=0.98, latency_ms=0.1, lr=0.01),
    )


def test_list_shows_each_run(two: tuple[Path, Path], capsys: Captured) -> None:
    damaged = Path("runs/20200101-000000-digits-dead")
    damaged.mkdir()
    assert cli.main(["runs", "list"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].split() == ["run", "status", "score", "time", "size"]
    assert lines[1].split() == [damaged.name, "unreadable", "–", "–", "0", "B"]
    assert lines[2].split()[:6] == [two[0].name, "finished", "95.0", "%", "2.00", "s"]
    assert lines[3].split()[0] == two[1].name
    assert told.err == f"dimwise: {damaged.name}: none of its files is there\n"


def test_list_as_json_is_one_line(two: tuple[Path, Path], capsys: Captured) -> None:
    assert cli.main(["runs", "list", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert [(f["name"], f["status"], f["score"]) for f in found] == [
        (two[0].name, "finished", 0.95),
        (two[1].name, "finished", 0.98),
    ]


def test_list_without_runs_says_how_to_start_one(capsys: Captured) -> None:
    assert cli.main(["runs", "list", "--runs-dir", "none"]) == 0
    assert capsys.readouterr().out == "no runs in 'none'; start one with: dimwise run\n"


def test_show_tells_stages_and_what_was_chosen(two: tuple[Path, Path], capsys: Captured) -> None:
    (two[0] / "report.html").write_text("")
    assert cli.main(["runs", "show", "a1b2"]) == 0
    out = capsys.readouterr().out
    assert "status    finished" in out
    assert "accuracy  95.0 %" in out
    assert "summary   It went well." in out
    assert f"report    {two[0] / 'report.html'}" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["trained", "95.0", "%", "40.0", "kB", "0.200", "ms", "9,610", "25.6", "M"] in rows
    assert any(row[:2] == ["quantize", "(chosen)"] for row in rows)
    assert cli.main(["runs", "show", "last", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == two[1].name
    assert found["result"]["chosen"] == "quantize"


def test_show_of_a_damaged_run_tells_what_is_damaged(capsys: Captured) -> None:
    run = make("20260131-091500-digits-a1b2", score=0.95, latency_ms=0.2, lr=0.1)
    (run / "result.json").write_text("{")
    assert cli.main(["runs", "show", "last"]) == 0
    told = capsys.readouterr()
    assert "status   unreadable" in told.out
    assert "result.json is damaged" in told.err
    assert cli.main(["runs", "show", "last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] is None


def test_compare_names_what_differs(two: tuple[Path, Path], capsys: Captured) -> None:
    assert cli.main(["runs", "compare", "a1b2", "c3d4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["A", two[0].name] in rows
    assert ["train.lr", "0.1", "0.01"] in rows
    assert ["trained", "latency_ms", "0.200", "ms", "0.100", "ms", "0.50"] in rows
    assert ["run", "accuracy", "95.0", "%", "98.0", "%", "–"] in rows
    assert cli.main(["runs", "compare", "a1b2", "c3d4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"]["difference"] == pytest.approx(0.03)
    assert cli.main(["runs", "compare", "a1b2", "a1b2"]) == 0
    assert "same recipe" in capsys.readouterr().out


def test_rm_removes_for_good_and_refuses_a_running_one(two: tuple[Path, Path], capsys: Captured) -> None:
    assert cli.main(["runs", "rm", "a1b2", "a1b2"]) == 0
    assert capsys.readouterr().out == f"removed {two[0]}\n"
    assert not two[0].exists()
    assert cli.main(["runs", "rm", "a1b2"]) == 2
    assert "no run 'a1b2'" in capsys.readouterr().err
    running = folder.create("runs", "digits")
    assert cli.main(["runs", "rm", running.name]) == 2
    assert "is still running" in capsys.readouterr().err
    assert two[1].exists()


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "words", "left"), [("n\n", [], True), ("y\n", [], False), ("", ["--yes"], False)])
def test_rm_asks_on_a_terminal(
    two: tuple[Path, Path],
    answer: str,
    words: list[str],
    left: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(answer))
    monkeypatch.setattr("sys.stdout", Keyboard())
    assert cli.main(["runs", "rm", "last", *words]) == 0
    assert two[1].exists() == left


def test_a_terminal_gets_a_rich_table(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Keyboard()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["runs", "list"]) == 0
    assert "\x1b[1m" in screen.getvalue()
    assert two[0].name in screen.getvalue()


def test_tensorboard_says_what_to_call(two: tuple[Path, Path], capsys: Captured) -> None:
    pytest.importorskip("tensorboard")
    assert cli.main(["runs", "tensorboard", "last", "tb"]) == 0
    assert capsys.readouterr().out == "1 points written; see them with: tensorboard --logdir tb\n"
    assert list((Path("tb") / two[1].name).glob("events.out.tfevents.*"))
    assert cli.main(["runs", "tensorboard", "last", "tb"]) == 2
    assert "holds an export of this run already" in capsys.readouterr().err


def test_tensorboard_missing_names_the_extra(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    assert cli.main(["runs", "tensorboard", "last", "tb"]) == 2
    assert capsys.readouterr().err == (
        "dimwise: exporting runs needs tensorboard, which is not installed. Run: pip install 'dimwise[tensorboard]'\n"
    )


def test_json_has_no_nan(capsys: Captured) -> None:
    run = make("20260131-091500-digits-a1b2", score=0.95, latency_ms=0.2, lr=0.1)
    text = (run / "result.json").read_text().replace("0.95", "NaN")
    (run / "result.json").write_text(text)
    assert cli.main(["runs", "show", "last", "--json"]) == 0
    found: Any = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["score"] is None
