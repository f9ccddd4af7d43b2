"""Run folders are made, found and listed, damaged neighbours or not."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimwise.errors import RunError
from dimwise.runs import atomic, folder


def finished(runs_dir: Path, name: str = "digits", *, score: float = 0.985) -> Path:
    run = folder.create(runs_dir, name)
    result = {"score": {"name": "accuracy", "value": score, "n": 360}, "seconds": {"train": 2.0, "fold": 0.5}}
    atomic.write_json(run / "result.json", result)
    folder.mark(run, "finished")
    return run


def test_a_new_run_has_its_folders_and_its_name(tmp_path: Path) -> None:
    run = folder.create(tmp_path / "deep" / "runs", "my recipe/ü")
    assert re.fullmatch(r"\d{8}-\d{6}-my-recipe-ü-[0-9a-f]{4}", run.name)
    assert (run / "checkpoints").is_dir()
    assert (run / "artifacts").is_dir()
    assert folder.status(run) == "running"
    assert re.fullmatch(r"\d{8}-\d{6}-run-[0-9a-f]{4}", folder.create(tmp_path, "../").name)


def test_runs_of_the_same_second_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(secrets, "token_hex", lambda n: next(ids))
    monkeypatch.setattr(time, "strftime", lambda *a: "20260131-091500")
    assert folder.create(tmp_path, "digits").name.endswith("aaaa")
    assert folder.create(tmp_path, "digits").name.endswith("bbbb")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"runs folder '.*file' cannot be written: .* Choose a folder you may write"):
        folder.create(tmp_path / "file", "digits")
    with pytest.raises(RunError, match=r"runs folder '.*file/runs' cannot be written"):
        folder.create(tmp_path / "file" / "runs", "digits")


def test_find_by_path_name_prefix_id_and_last(tmp_path: Path) -> None:
    old = tmp_path / "20260131-091500-digits-a1b2"
    new = tmp_path / "20260201-091500-mnist-a1c3"
    for run in (new, old):
        run.mkdir()
    (tmp_path / "notes").mkdir()
    assert folder.find(tmp_path, "last") == new
    assert folder.find(tmp_path, old.name) == old
    assert folder.find(tmp_path, str(old) + "/") == old
    assert folder.find("elsewhere", old) == old
    assert folder.find(tmp_path, "20260131") == old
    assert folder.find(tmp_path, "a1b2") == old
    assert folder.find(tmp_path, "a1c") == new
    with pytest.raises(RunError, match=f"'a1' fits 2 runs: {old.name}, {new.name}. Give more of the name"):
        folder.find(tmp_path, "a1")
    with pytest.raises(RunError, match=rf"no run 'b1b2' in .*latest: {old.name}, {new.name}.*did you mean 'a1b2'"):
        folder.find(tmp_path, "b1b2")
    with pytest.raises(RunError, match=r"no run 'zzz'.*See: dimwise runs list"):
        folder.find(tmp_path, "zzz")
    with pytest.raises(RunError, match="no run ''"):
        folder.find(tmp_path, "")


def test_find_where_there_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run 'last': there are no runs in '.*none'. Start one with: dimwise run"):
        folder.find(tmp_path / "none", "last")


def test_a_run_that_was_renamed_is_still_a_run(tmp_path: Path) -> None:
    run = finished(tmp_path).rename(tmp_path / "best-so-far")
    assert folder.find(tmp_path, "best-so-far") == run
    assert folder.find(tmp_path, "best") == run
    (info,) = folder.listing(tmp_path)
    assert (info.name, info.status, info.score) == ("best-so-far", "finished", 0.985)


def test_listing_tells_status_score_time_and_size(tmp_path: Path) -> None:
    done = finished(tmp_path)
    going = folder.create(tmp_path, "mnist")
    (going / "metrics.jsonl").write_bytes(b'{"kind":"step","t":1.5}\n{"kind":"step","t":2.5}\n{"kin')
    stopped = folder.create(tmp_path, "mnist")
    folder.mark(stopped, "interrupted")
    failed = folder.create(tmp_path, "mnist")
    folder.mark(failed, "failed")
    by_name = {info.name: info for info in folder.listing(tmp_path)}
    assert len(by_name) == 4
    info = by_name[done.name]
    assert (info.recipe, info.status, info.score, info.score_name, info.seconds) == (
        "digits",
        "finished",
        0.985,
        "accuracy",
        2.5,
    )
    assert info.size_bytes == sum(p.stat().st_size for p in done.rglob("*") if p.is_file())
    assert by_name[going.name].status == "running"
    assert by_name[going.name].seconds == 2.5
    assert by_name[going.name].score is None
    assert by_name[stopped.name].status == "interrupted"
    assert by_name[failed.name].status == "failed"


def test_how_a_run_ended_is_written_even_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder.create(tmp_path, "digits")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        folder.mark(run, "failed")
        with pytest.raises(RunError, match=r"status\.json': disk full"):
            folder.mark(run, "running")
    assert folder.status(run) == "failed"
    (run / "status.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        folder.mark(run, "failed")
    assert folder.status(run) == "interrupted"


def test_parity_that_did_not_hold_is_a_failed_run(tmp_path: Path) -> None:
    run = finished(tmp_path)
    atomic.write_json(run / "result.json", {"parity": {"passed": False}})
    assert folder.status(run) == "failed"


def test_a_killed_run_is_listed_as_interrupted(tmp_path: Path) -> None:
    code = f"""
import os, signal
from dimwise.runs import folder
folder.create({str(tmp_path)!r}, "digits")
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (info,) = folder.listing(tmp_path)
    assert (info.status, info.recipe) == ("interrupted", "digits")


def test_a_process_number_used_again_is_not_the_run(tmp_path: Path) -> None:
    run = folder.create(tmp_path, "digits")
    state = json.loads((run / "status.json").read_text())
    atomic.write_json(run / "status.json", state | {"born": state["born"] - 100})
    assert folder.status(run) == "interrupted"


def test_a_run_on_another_machine_runs_as_long_as_it_gives_news(tmp_path: Path) -> None:
    run = folder.create(tmp_path, "digits")
    state = json.loads((run / "status.json").read_text())
    atomic.write_json(run / "status.json", state | {"host": "elsewhere"})
    assert folder.status(run) == "interrupted"
    (run / "metrics.jsonl").write_text("")
    assert folder.status(run) == "running"


@pytest.mark.parametrize(
    ("file", "content", "note"),
    [
        ("result.json", b'{"score": {"val', "result.json is damaged"),
        ("result.json", b"\xff\xff", "result.json is damaged"),
        ("result.json", b"[]", "result.json is damaged: not a JSON object"),
        ("result.json", b'{"score": {"value": "high"}}', "could not convert"),
        ("result.json", b'{"score": 3}', "has no attribute"),
        ("result.json", b'{"seconds": {"a": null}}', "unsupported operand"),
        ("status.json", b"\x00" * 20, "status.json is damaged"),
        (None, b"", "none of its files is there"),
    ],
)
def test_a_damaged_run_is_listed_and_hides_no_other(
    tmp_path: Path, file: str | None, content: bytes, note: str
) -> None:
    good = finished(tmp_path)
    bad = tmp_path / "20200101-000000-digits-dead"
    bad.mkdir()
    if file:
        (bad / file).write_bytes(content)
    first, second = folder.listing(tmp_path)
    assert (first.name, first.status) == (bad.name, "unreadable")
    assert note in first.note
    assert (second.name, second.status) == (good.name, "finished")


def test_listing_ignores_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / ".removed-20200101-000000-digits-dead").mkdir()
    (tmp_path / "20200101-000000-digits-beef").write_text("a file")
    assert folder.listing(tmp_path) == []
    assert folder.listing(tmp_path / "none") == []


def test_remove_deletes_a_finished_or_damaged_run_only(tmp_path: Path) -> None:
    run = finished(tmp_path)
    keep = finished(tmp_path)
    folder.remove(run)
    assert sorted(p.name for p in tmp_path.iterdir()) == [keep.name]
    (keep / "result.json").write_bytes(b"{")
    folder.remove(keep)
    assert folder.listing(tmp_path) == []


def test_remove_refuses_a_running_run_and_other_folders(tmp_path: Path) -> None:
    run = folder.create(tmp_path, "digits")
    with pytest.raises(RunError, match=f"run '{run.name}' is still running. Stop it with Ctrl-C"):
        folder.remove(run)
    (tmp_path / "thesis").mkdir()
    with pytest.raises(RunError, match="thesis' is not a run folder"):
        folder.remove(tmp_path / "thesis")
    (tmp_path / "20200101-000000-digits-beef").symlink_to(run)
    with pytest.raises(RunError, match="is not a run folder"):
        folder.remove(tmp_path / "20200101-000000-digits-beef")
    assert run.is_dir()


def test_a_run_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(tmp_path)

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(RunError, match="cannot be removed: Device or resource busy"):
        folder.remove(run)
