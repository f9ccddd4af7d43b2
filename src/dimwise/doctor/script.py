"""Run somebody's script under watch, in a fresh interpreter, and collect what was seen in all its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dimwise.doctor import wire
from dimwise.doctor.inside import SPOOL, STEPS
from dimwise.doctor.seen import Seen
from dimwise.errors import UserError

SITE = Path(__file__).parent / "site"


@dataclass
class Execution:
    """How the script ended, and what was seen."""

    exit_code: int
    """Of the script; 128 + n when signal n ended it."""
    processes: list[Seen] = field(default_factory=list)
    """By rank; the one that trained most first among equals."""
    output: str = ""
    """What it printed, where that was kept."""
    remarks: list[str] = field(default_factory=list)
    """What a reader should know: it never imported torch, it was killed, a file could not be read."""


def watch_script(
    target: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    steps: int | None = None,
    more: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> Execution:
    """Run ``python target arguments...`` (``python -m target`` for a module) and watch it.

    Args:
        target: path of a script, or name of a module.
        arguments: its own.
        module: whether ``target`` is a module.
        steps: optimizer steps after which watching stops; the script goes on.
        more: more environment variables for the script.
        quiet: throw its output away.

    Raises:
        UserError: when the script does not exist or cannot be read.
    """
    if not module:
        _must_exist(target)
    with tempfile.TemporaryDirectory(prefix="dimwise-doctor-") as spool:
        variables = {**os.environ, **environment(spool), **(more or {})}
        if steps is not None:
            variables[STEPS] = str(steps)
        code = _run([sys.executable, *(["-m"] if module else []), target, *arguments], variables, quiet)
        return collect(Path(spool), code)


def _must_exist(target: str) -> None:
    path = Path(target)
    if path.is_dir() and not (path / "__main__.py").is_file():
        raise UserError(f"script '{target}' is a folder", expected="a Python file", next_step="Name the file inside.")
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.py"))[:5] if path.parent.is_dir() else []
        raise UserError(
            f"script '{target}' does not exist",
            expected="a Python file" + (f" (there: {', '.join(near)})" if near else ""),
            next_step="For a module use: dimwise doctor -m NAME.",
        )


def _run(command: list[str], variables: dict[str, str], quiet: bool) -> int:
    sink = subprocess.DEVNULL if quiet else None
    before = {}
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _frame: object) -> None:
        if process is not None and number != signal.SIGINT:  # the terminal gives Ctrl-C to the script itself
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if sys.platform != "win32" else ())):
        if signal.getsignal(number) == signal.SIG_IGN:  # nohup: the script ignores it as well
            continue
        try:
            before[number] = signal.signal(number, pass_on)
        except ValueError:  # not in the main thread
            break
    try:
        process = subprocess.Popen(command, env=variables, stdout=sink, stderr=sink)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def environment(spool: str) -> dict[str, str]:
    """Variables that have every Python process started with them watched."""
    path = os.pathsep.join(p for p in (str(SITE), os.environ.get("PYTHONPATH", "")) if p)
    return {SPOOL: spool, "PYTHONPATH": path}


def collect(spool: Path, code: int) -> Execution:
    """What the processes of one execution left in their spool folder."""
    made = Execution(code)
    for path in sorted(spool.glob("seen-*.json")):
        try:
            made.processes.append(wire.read(path))
        except (ValueError, KeyError, TypeError) as error:
            made.remarks.append(f"what one process saw could not be read: {error}")
    made.processes.sort(key=lambda s: (s.process.rank, -s.n_backward, -s.n_steps))
    if not made.processes:
        made.remarks.append("PyTorch was not used: there was nothing to watch")
    elif not any(s.n_backward or s.n_steps for s in made.processes):
        made.remarks.append("nothing was trained: no backward pass and no optimizer step was seen")
    if code == 128 + signal.SIGKILL:
        made.remarks.append("the script was killed (perhaps for want of memory); this is what was seen until then")
    elif code > 128:
        made.remarks.append(f"the script was ended by signal {code - 128}; this is what was seen until then")
    elif code:
        made.remarks.append(f"the script itself ended with exit code {code}; this is what was seen until then")
    return made
