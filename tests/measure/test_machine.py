"""The description of the machine says enough, says nothing private, and needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
import torch

import dimwise
from dimwise.measure import device, environment, machine, machine_is_busy


def test_environment_is_json_with_what_a_reader_needs() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["dimwise"] == dimwise.__version__
    assert found["torch"] == torch.__version__ or found["torch"] == torch.__version__.partition("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert isinstance(found["cuda"], list)
    assert found["cpu"]
    for library in ("numpy", "onnx", "onnxruntime", "safetensors"):
        assert found[library]


def test_environment_names_no_folder_and_no_host() -> None:
    import socket

    text = json.dumps(environment())
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert f'"{socket.gethostname()}"' not in text


def test_describing_the_machine_needs_no_torch() -> None:
    code = (
        "import sys; from dimwise.measure import environment, machine_is_busy; found = environment(); "
        "sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules or 'threads' in found)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_library_is_none() -> None:
    assert machine._version("a-library-nobody-has") is None


Times = namedtuple("Times", "user system")


class Quiet:
    """A process that used the given seconds between two looks."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = iter(seconds)

    def cpu_times(self) -> Times:
        return Times(next(self.seconds), 0.0)


def pretend(patch: pytest.MonkeyPatch, busy_percent: float, own_s: float) -> None:
    patch.setattr(psutil, "cpu_percent", lambda interval: busy_percent)
    patch.setattr(psutil, "cpu_count", lambda: 4)
    patch.setattr(psutil, "Process", lambda: Quiet(1.0, 1.0 + own_s))


def test_other_processes_give_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 50.0, 0.0)
    assert machine_is_busy() == "Other processes use 2.0 of 4 cores: times come out longer and less steady."


@pytest.mark.parametrize(("busy_percent", "own_s"), [(0.0, 0.0), (6.0, 0.0), (50.0, 0.4)])
def test_a_quiet_machine_and_our_own_work_give_none(
    monkeypatch: pytest.MonkeyPatch, busy_percent: float, own_s: float
) -> None:
    pretend(monkeypatch, busy_percent, own_s)
    assert machine_is_busy() is None


def test_busy_looks_at_the_real_machine() -> None:
    assert machine_is_busy(interval_s=0.01, limit_frac=1e6) is None


def test_cpu_is_read_from_what_linux_says(tmp_path: Path) -> None:
    intel, arm = tmp_path / "intel", tmp_path / "arm"
    core = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f amx_int8 amx_bf16\n\n"
    intel.write_text(core + core.replace("Some Xeon", "Another"))
    arm.write_text("processor : 0\nFeatures : fp asimd i8mm\n")
    assert machine._cpu(intel) == ("Some Xeon", ["avx2", "avx512f", "amx_bf16", "amx_int8"])
    assert machine._cpu(arm)[1] == ["asimd", "i8mm"]
    name, capabilities = machine._cpu(tmp_path / "nothing")
    assert name
    assert capabilities == []


def test_commit_of_a_checkout_and_of_none(tmp_path: Path) -> None:
    assert machine._commit(tmp_path) is None

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    (tmp_path / "file").write_text("one")
    git("init")
    assert machine._commit(tmp_path) is None  # no commit yet
    git("add", "file")
    git("commit", "-m", "first")
    commit = machine._commit(tmp_path)
    assert commit is not None
    assert int(commit, 16) >= 0
    (tmp_path / "site-packages").mkdir()
    assert machine._commit(tmp_path / "site-packages") is None  # installed inside somebody else's checkout
    (tmp_path / "file").write_text("two")
    assert machine._commit(tmp_path) == f"{commit}-dirty"


def test_commit_without_git_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._commit(tmp_path) is None


@pytest.mark.parametrize("there", [True, False])
def test_device_is_cuda_when_there(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device().type == ("cuda" if there else "cpu")
