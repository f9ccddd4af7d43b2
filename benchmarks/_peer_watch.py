"""One peer at work on scripts of the gallery. ``doctor_peers.py`` starts this with the Python that has the peers.

python benchmarks/_peer_watch.py PEER < cases    one JSON line for each case, as ``Case`` asks

The scripts are not changed: a peer is put into a script's own loop by hooks on modules, losses and optimizers, at the
places where the peer's README tells a user to call it. Each case runs in a forked child, so that PyTorch is imported
once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _peer_child import run_script

LIMIT_S = 150


def main(peer: str) -> None:
    """Answer every case on standard input with one line on standard output."""
    import sklearn.datasets  # noqa: F401 - every script needs it: imported before the forks

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        case = json.loads(line)
        answers.write(json.dumps(case | _answer(peer, case["script"], case["arguments"])) + "\n")
        answers.flush()


def _answer(peer: str, script: str, arguments: list[str]) -> dict[str, Any]:
    """{"said": [[rule, level, message], ...], "failed": what went wrong or None, "seconds_s"}."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as spool:
        child = os.fork()
        if child == 0:
            run_script(peer, spool, script, arguments)
        in_time = _wait(child)
        told = [json.loads(path.read_text("utf-8")) for path in sorted(Path(spool).glob("*.json"))]
    said = sorted({tuple(one) for part in told for one in part["said"]})
    failed = [part["failed"] for part in told if part["failed"]]
    if not in_time:
        failed.append(f"stopped after {LIMIT_S} s")
    elif not told:
        failed.append("the script never came to a training step")
    return {"said": said, "failed": failed[0] if failed else None, "seconds_s": round(time.monotonic() - start, 2)}


def _wait(child: int) -> bool:
    """Whether the child ended by itself; its whole group is killed otherwise."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


if __name__ == "__main__":
    main(sys.argv[1])
