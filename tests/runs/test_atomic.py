"""A file is whole or not there, whatever goes wrong."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dimwise.errors import RunError
from dimwise.runs import atomic


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_bytes_text_and_json_are_read_back(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "b", b"\x00\xff")
    atomic.write_text(tmp_path / "t", "鸟 ≤\n")
    atomic.write_json(tmp_path / "j", {"a": [1, 2.5, None], "名": "x"})
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert (tmp_path / "t").read_text("utf-8") == "鸟 ≤\n"
    assert json.loads((tmp_path / "j").read_text("utf-8")) == {"a": [1, 2.5, None], "名": "x"}
    assert names(tmp_path) == ["b", "j", "t"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "j", {"a": math.nan, "b": [math.inf, (-math.inf, 1.0)]})
    assert json.loads((tmp_path / "j").read_text(), parse_constant=pytest.fail) == {"a": None, "b": [None, [None, 1.0]]}


def test_json_refuses_what_it_has_no_word_for_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "j", {"a": object()})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, r"cannot write '.*last\.bin': disk full\. Free some space.*the previous file is intact"),
        (errno.EDQUOT, "disk quota used up.*the previous file is intact"),
        (errno.EIO, "the device reported an I/O error.*the previous file is intact"),
        (errno.EACCES, "permission denied.*Choose a folder you may write"),
        (errno.EROFS, "read-only file system"),
        (errno.EXDEV, os.strerror(errno.EXDEV)),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str, call: str
) -> None:
    path = tmp_path / "last.bin"
    atomic.write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "replace", fail)
        with pytest.raises(RunError, match=reason):
            atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["last.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_the_kernel_refusing_to_write_in_the_middle_leaves_the_previous_file(tmp_path: Path) -> None:
    # A real refusal, not a stand-in: the kernel lets 64 KiB through and then says no.
    path = tmp_path / "last.bin"
    atomic.write_bytes(path, b"old")
    code = f"""
import resource
from dimwise.errors import RunError
from dimwise.runs import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    atomic.write_bytes({str(path)!r}, bytes(10 << 20))
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "last.bin': file too large" in done.stdout
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["last.bin"]


def test_a_new_file_that_fails_says_nothing_else_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"disk full.*nothing else was lost"):
            atomic.write_text(tmp_path / "new", "x")
    assert names(tmp_path) == []


def test_missing_folder_and_file_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write '.*gone/a': its folder does not exist"):
        atomic.write_text(tmp_path / "gone" / "a", "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="a file stands where a folder should be"):
        atomic.write_text(tmp_path / "file" / "a", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="a folder stands where the file should be"):
        atomic.write_text(tmp_path / "folder", "x")


def test_interrupted_in_the_middle_leaves_no_trace(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a", "old")

    def interrupted() -> None:
        with atomic.replacing(tmp_path / "a") as temp:
            temp.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_library_that_hides_the_full_disk_in_its_own_error(tmp_path: Path) -> None:
    def write() -> None:
        with atomic.replacing(tmp_path / "a"):
            raise ValueError("IoError(Os { code: 28, message: 'No space left on device' })")

    with pytest.raises(RunError, match="a': disk full"):
        write()


def test_commit_takes_the_final_name_and_removes_the_temporary(tmp_path: Path) -> None:
    temp = atomic.temporary(tmp_path / "w.safetensors")
    temp.write_bytes(b"1")
    atomic.commit(temp, tmp_path / "w.safetensors")
    assert names(tmp_path) == ["w.safetensors"]
    with pytest.raises(RunError, match=r"w\.safetensors': its folder does not exist"):
        atomic.commit(temp, tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == b"1"


def test_sweep_removes_what_a_kill_left(tmp_path: Path) -> None:
    (tmp_path / ".last.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "last.safetensors").write_bytes(b"whole")
    assert atomic.sweep(tmp_path) == 1
    assert names(tmp_path) == ["last.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot sync a folder")
def test_the_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.fsync

    def watch(handle: int) -> None:
        is_folder = os.path.samestat(os.fstat(handle), tmp_path.stat())
        seen.append(("folder" if is_folder else "file", (tmp_path / "a").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", watch)
    atomic.write_text(tmp_path / "a", "x")
    assert seen == [("file", False), ("folder", True)]
