"""Scripts under the doctor: they run as they would without it, and whatever they do is passed on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dimwise.doctor.script import watch_script
from dimwise.errors import UserError

BROKEN = """\
import sys, torch
from torch import nn
torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.randint(0, 4, (64,))
model = nn.Linear(8, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(20):
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


def doctor(tmp_path: Path, text: str, *options: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    script = tmp_path / "train.py"
    script.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "dimwise", "doctor", *options, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=180)


def test_the_mistake_is_named_with_its_line_and_the_output_left_alone(tmp_path: Path) -> None:
    text = BROKEN + "print(sys.argv[1:], __name__, sys.path[0])\n"
    done = doctor(tmp_path, text, "--json", "found.json", arguments=("--epochs", "3"))
    assert done.stdout == f"['--epochs', '3'] __main__ {tmp_path}\n"
    assert done.returncode == 1
    told = json.loads((tmp_path / "found.json").read_text())
    first = told["findings"][0]
    assert (first["rule"], first["severity"]) == ("missing-zero-grad", "error")
    assert (Path(first["where"]["file"]).name, first["where"]["line"]) == ("train.py", 8)
    assert set(told) >= {"findings", "checked", "not_checked", "overhead"}
    assert set(first) >= {"rule", "severity", "title", "evidence", "where", "remedy", "proof"}
    assert "missing-zero-grad" in done.stderr


def test_ignored_or_allowed_it_does_not_fail(tmp_path: Path) -> None:
    assert doctor(tmp_path, BROKEN, "--fail-on", "never").returncode == 0
    done = doctor(tmp_path, BROKEN, "--ignore", "missing-zero-grad", "--json", "-")
    assert "missing-zero-grad" not in [f["rule"] for f in json.loads(done.stdout)["findings"]]


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("sys.exit(3)", 3, "exit code 3"),
        ("import os; os._exit(status=4)", 4, "exit code 4"),
        ("raise ValueError('mine')", 1, "ValueError: mine"),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL, "was killed"),
    ],
)
def test_however_it_ends_the_end_is_its_own_and_what_was_seen_is_told(
    tmp_path: Path, end: str, code: int, said: str
) -> None:
    done = doctor(tmp_path, BROKEN + end + "\n")
    assert done.returncode == code
    assert said in done.stderr
    assert "missing-zero-grad" in done.stderr


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("def f(:\n", 1, "SyntaxError"),
        ("print('no torch')\n", 0, "PyTorch was not used"),
        ("import torch\nprint(torch.ones(1).sum())\n", 0, "nothing was trained"),
    ],
)
def test_scripts_that_train_nothing(tmp_path: Path, text: str, code: int, said: str) -> None:
    done = doctor(tmp_path, text)
    assert done.returncode == code
    assert said in done.stderr


def test_a_missing_script_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train2.py").write_text("")
    with pytest.raises(UserError, match=r"does not exist; expected a Python file \(there: train2.py\)"):
        watch_script(str(tmp_path / "train.py"))
    with pytest.raises(UserError, match="is a folder"):
        watch_script(str(tmp_path))


def test_a_module_is_run_as_python_would(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN + "print(__name__, sys.argv[0])\n")
    command = [sys.executable, "-m", "dimwise", "doctor", "--fail-on", "never", "-m", "mine"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=180)
    assert done.stdout == f"__main__ {tmp_path / 'mine.py'}\n"
    assert "missing-zero-grad" in done.stderr


def test_somebody_elses_sitecustomize_still_runs(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import builtins\nbuiltins.theirs = 7\n")
    script = tmp_path / "train.py"
    script.write_text("import torch, builtins\nprint(builtins.theirs)\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "dimwise", "doctor", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=180)
    assert done.stdout == "7\n"


def test_two_processes_are_gathered(tmp_path: Path) -> None:
    text = """\
import torch, torch.multiprocessing as mp
from torch import nn
def work(rank):
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(12):
        model(torch.randn(16, 8)).pow(2).mean().backward()
        optimizer.step()
if __name__ == "__main__":
    mp.spawn(work, (), 2)
"""
    script = tmp_path / "train.py"
    script.write_text(text)
    execution = watch_script(str(script), quiet=True)
    assert [s.n_steps for s in execution.processes if s.n_steps] == [12, 12]


def test_a_cure_is_proven(tmp_path: Path) -> None:
    done = doctor(
        tmp_path, BROKEN.replace("lr=0.1", "lr=0.5").replace("range(20)", "range(60)"), "--prove", "--json", "o"
    )
    told = json.loads((tmp_path / "o").read_text())
    found = next(f for f in told["findings"] if f["rule"] == "missing-zero-grad")
    assert found["proof"]["helped"], done.stderr
    assert len(found["proof"]["with"]) > 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ignore", "missing-zerograd", "x.py"], "did you mean 'missing-zero-grad'"),
        (["--fail-on", "always", "x.py"], "one of: error, warning, never"),
        ([], "nothing to look at"),
        (["--steps", "0", "x.py"], "steps"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from dimwise.cli import main

    assert main(["doctor", *options]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--sarif"])
def test_a_file_that_cannot_be_written_is_refused_before_the_script_runs(tmp_path: Path, option: str) -> None:
    ran = "open('ran', 'w')\n"
    for file, said in ((tmp_path / "gone" / "x.json", "its folder does not exist"), (tmp_path, "is a folder")):
        done = doctor(tmp_path, ran, option, str(file))
        assert done.returncode == 2
        assert said in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_hang_up_reaches_the_script(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import os, signal\nos.kill(os.getppid(), signal.SIGHUP)\nsignal.pause()\n", encoding="utf-8")
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so in children
    try:
        done = subprocess.run([sys.executable, "-m", "dimwise", "doctor", str(script)], capture_output=True, timeout=60)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.returncode == 128 + signal.SIGHUP
