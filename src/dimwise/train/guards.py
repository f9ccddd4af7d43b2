"""What training borrows from the process and gives back: threads, random generators, Ctrl-C, cuDNN's freedom."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch

from dimwise.errors import UserError

_MOST_PER_CORE = 4  # with a hundred threads a core, each small operation takes seconds


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """So many compute threads inside; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_threads(n_threads: int) -> None:
    """Refuse a number of threads under which the machine would stand still.

    Raises:
        UserError: more than four for each core.
    """
    n_cores = os.cpu_count() or 1
    most = _MOST_PER_CORE * n_cores
    if n_threads > most:
        raise UserError(
            f"train.threads is {n_threads} but this machine has {n_cores} cores",
            expected=f"at most {most}",
            next_step="Set train.threads=0 to let dimwise choose.",
        )


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Inside, global generators may be seeded at will; afterwards they go on as if nothing had happened.

    On CUDA the kernels inside are those that give the same numbers each time.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - other people's transforms draw from it
    cuda = device.type == "cuda"
    try:
        with torch.random.fork_rng(devices=[device] if cuda else []):
            if cuda:
                with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
                    yield
            else:
                yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@dataclass
class Interrupt:
    """Whether somebody pressed Ctrl-C."""

    requested: bool = False


@contextmanager
def ctrl_c() -> Iterator[Interrupt]:
    """The first Ctrl-C inside only asks for a stop; a second one stops at once."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals reach only the main thread
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
