"""Run a script of ours under the doctor in a forked child: PyTorch is imported once for hundreds of runs.

What the doctor sees is the same as under ``dimwise doctor SCRIPT``; only the start of the interpreter is saved.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from dimwise.doctor.examine import examine
from dimwise.doctor.finding import Report
from dimwise.doctor.script import Execution, collect, environment


def examined(
    script: Path, arguments: Sequence[str] = (), *, ignore: Collection[str] = (), limit_s: float = 120.0
) -> tuple[Report, Execution]:
    """The doctor's report on one run of ``script``, and how the run ended.

    Args:
        script: a Python file.
        arguments: its own.
        ignore: slugs of rules that are left out.
        limit_s: seconds after which the run is killed.
    """
    importlib.import_module("torch.utils.data")  # before the fork, so that no child has to

    with tempfile.TemporaryDirectory(prefix="dimwise-doctor-") as spool:
        pid = os.fork()
        if pid == 0:
            _child(script, arguments, spool)
        code = _wait(pid, limit_s)
        execution = collect(Path(spool), code)
    return examine(execution.processes, ignore=ignore), execution


def _child(script: Path, arguments: Sequence[str], spool: str) -> None:
    """Never returns."""
    code = 1
    leave = os._exit
    try:
        os.environ.update(environment(spool))
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.argv = [str(script), *arguments]
        from dimwise.doctor import inside

        inside.begin()
        leave = os._exit  # begin has wrapped it: what was seen is written before
        try:
            runpy.run_path(str(script), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:  # noqa: BLE001 - the script's own error ends the child as it would end the script
            kind, error, trace = sys.exc_info()
            if kind is not None and error is not None:
                sys.excepthook(kind, error, trace)
    finally:
        leave(code)


def _wait(pid: int, limit_s: float) -> int:
    deadline = time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if time.monotonic() > deadline:
            os.kill(pid, 9)
        time.sleep(0.01)
