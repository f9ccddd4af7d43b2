"""Run a script of ours under the doctor in a forked child: PyTorch is imported once for hundreds of runs.

What the doctor sees is the same as under ``dimwise doctor SCRIPT``; only the start of the interpreter is saved. The
children come from a server that has imported PyTorch and never used it: a process that has run parallel kernels must
not be forked.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from dimwise.doctor.examine import examine
from dimwise.doctor.finding import Report
from dimwise.doctor.inside import STEPS
from dimwise.doctor.script import Execution, collect, environment

_IMPORTED = ["torch._dynamo", "torch.utils.data", "sklearn.datasets", "dimwise.doctor.watch"]
"""What nearly every script imports sooner or later; an optimizer's first step imports the compiler, which takes longer
than the training of a small network."""


_OUTPUT = "output.txt"


def examined(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    ignore: Collection[str] = (),
    limit_s: float = 240.0,
    steps: int | None = None,
) -> tuple[Report, Execution]:
    """The doctor's report on one run of ``script``, and how the run ended.

    Args:
        script: a Python file.
        arguments: its own.
        ignore: slugs of rules that are left out.
        limit_s: seconds after which the run is killed.
        steps: optimizer steps after which watching stops; the script goes on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with tempfile.TemporaryDirectory(prefix="dimwise-doctor-") as spool:
        child = context.Process(target=_child, args=(str(script), list(arguments), spool, steps))
        child.start()
        child.join(limit_s)
        if child.exitcode is None:
            child.kill()
            child.join()
        code = child.exitcode or 0
        execution = collect(Path(spool), code if code >= 0 else 128 - code)
        if (Path(spool) / _OUTPUT).is_file():
            execution.output = (Path(spool) / _OUTPUT).read_text("utf-8", errors="replace")
    return examine(execution.processes, ignore=ignore), execution


def _child(script: str, arguments: list[str], spool: str, steps: int | None) -> None:
    """The script as ``__main__``, watched, its output kept; never returns."""
    import torch

    code = 1
    leave = os._exit
    try:
        os.environ.update(environment(spool) | ({STEPS: str(steps)} if steps else {}))
        sink = os.open(Path(spool) / _OUTPUT, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.argv = [script, *arguments]
        torch.set_num_threads(1)  # several runs share the cores
        # A child inherits its server's way of starting processes; a user's own process starts workers in this one.
        multiprocessing.set_start_method("fork", force=True)
        from dimwise.doctor import inside

        inside.begin()
        leave = os._exit  # begin has wrapped it: what was seen is written before
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:  # noqa: BLE001 - the script's own error ends the child as it would end the script
            kind, error, trace = sys.exc_info()
            if kind is not None and error is not None:
                sys.excepthook(kind, error, trace)
    finally:
        leave(code)
