"""Inside the watched script: begin when PyTorch has been imported, and leave word however the process ends."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

SPOOL, STEPS = "DIMWISE_DOCTOR", "DIMWISE_DOCTOR_STEPS"
"""Environment: folder where what was seen is written; number of steps that are watched."""
CURE, STOP = "DIMWISE_DOCTOR_CURE", "DIMWISE_DOCTOR_STOP"
"""For proofs: a cure as JSON; number of steps after which the process ends."""
ANSWERS = "DIMWISE_DOCTOR_ANSWERS"
"""For proofs about evaluation: go on until so many passes of one were looked at, within 50 times the steps."""


def begin() -> None:
    """Start watching this process; called once, right after ``import torch``."""
    from dimwise.doctor import watch
    from dimwise.doctor.watch import memory

    steps = os.environ.get(STEPS)
    spool = Path(os.environ[SPOOL])
    memory.keep_freed_memory()
    watching = watch.begin(spool, max_steps=int(steps) if steps else None)
    if os.environ.get(STOP):
        _short_stretch(watching, int(os.environ[STOP]))
    seen = watching.live.seen

    def finish() -> None:
        if watching.on and watching.live.seen.process.pid == os.getpid():
            _close(watching)
            seen.finished = seen.error is None
            watch.write(watching)

    atexit.register(finish)
    _on_exit(finish)
    _on_error(seen)
    _on_fork(watching)


def _short_stretch(watching: Any, n_steps: int) -> None:
    """For a proof: a seed of its own, perhaps a cure, and an end after so many steps."""
    import json
    import random

    import numpy as np
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the generator that scripts draw from
    torch.manual_seed(0)
    watching.live.seen.seeded = False
    answers, wanted = watching.live.seen.answers, int(os.environ.get(ANSWERS, "0"))
    if wanted:
        from dimwise.doctor import cures

        cures.watch_answers(answers, lambda: watching.live.step, watching.patches)
    if os.environ.get(CURE):
        from dimwise.doctor import cures

        cures.apply(json.loads(os.environ[CURE]), watching.patches)

    def stop(*_: Any) -> None:
        step = watching.live.step
        if step >= n_steps and (len(answers) >= wanted or step >= 50 * n_steps):
            sys.stdout.flush()
            os._exit(0)  # what was seen is written on the way out

    register_optimizer_step_post_hook(stop)


def _close(watching: Any) -> None:
    from dimwise.doctor.watch import backward

    backward.close(watching.live)


def _on_exit(finish: Any) -> None:
    """``os._exit`` runs no exit handlers, so word is left before it."""
    original = os._exit

    def leave(status: int) -> Any:
        finish()
        original(status)

    os._exit = leave  # type: ignore[assignment]


def _on_error(seen: Any) -> None:
    """The exception that ends the script is written down, then told as it would have been."""
    original = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        seen.error = describe(kind, error, trace)
        original(kind, error, trace)

    sys.excepthook = tell


def describe(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> dict[str, Any]:
    """Type, message and the user's own line of an exception."""
    from dimwise.doctor.watch.place import is_users

    place = None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if is_users(file):
            place = {"file": file, "line": trace.tb_lineno}
        trace = trace.tb_next
    message = str(error)
    words = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")
    memory = isinstance(error, MemoryError) or kind.__name__ == "OutOfMemoryError"
    memory = memory or any(w in message.lower() for w in words)
    return {"type": kind.__name__, "message": message[:500], "place": place, "out_of_memory": memory}


def _on_fork(watching: Any) -> None:
    """A forked child (a DataLoader worker, or a trainer of its own) starts with nothing seen."""

    def forget() -> None:
        from dimwise.doctor.seen import ProcessSeen, Seen

        watching.forked = True
        live = watching.live
        live.kept.clear()
        live.batch_keys.clear()
        live.loaders.clear()
        live.loader_by_key.clear()
        live.seen = Seen(process=ProcessSeen(pid=os.getpid()), seeded=live.seen.seeded)
        live.roots.clear()
        live.root_by_key.clear()
        live.optimizers.clear()
        live.owner.clear()
        live.pending.clear()
        live.graphs.clear()
        live.step = 0

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
