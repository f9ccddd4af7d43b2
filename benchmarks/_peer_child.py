"""One script in a child process, a peer in its loop; what the peer said is left in a spool folder."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _peer_loop
import torch
from _peer_adapters import PEERS
from _peer_loop import Loop


def run_script(peer: str, spool: str, script: str, arguments: list[str]) -> None:
    """The script as ``__main__``, its output thrown away. Never returns."""
    os.setpgid(0, 0)  # what it starts can be killed with it
    sink = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(sink, stream)
    sys.argv = [script, *arguments]
    _watched(peer, spool, lambda: runpy.run_path(script, run_name="__main__"))


def _watched(peer: str, spool: str, run: Callable[[], object]) -> None:
    loop = Loop(PEERS[peer](), lambda: _leave(loop, spool))
    try:
        torch.multiprocessing.spawn = _spawning(peer, spool)
        _peer_loop.watch(loop)
        run()
    except BaseException as error:  # noqa: BLE001 - a script that fails (one mistake does) ends its loop, not the case
        loop.error = f"{type(error).__name__}: {error}"[:200]
    finally:
        _leave(loop, spool)


def _leave(loop: Loop, spool: str) -> None:
    said, failed = loop.findings()
    if said or failed or loop.n_steps:
        path = Path(spool) / f"{os.getpid()}.json"
        path.write_text(json.dumps({"said": said, "failed": failed}), "utf-8")
    os._exit(0)


def _spawning(peer: str, spool: str) -> Callable[..., Any]:
    """``torch.multiprocessing.spawn`` whose processes are watched as well."""
    plain = torch.multiprocessing.spawn

    def spawn(fn: Callable[..., None], args: tuple[Any, ...] = (), nprocs: int = 1, **kwargs: Any) -> Any:
        return plain(_rank, args=(peer, spool, fn, args), nprocs=nprocs, **kwargs)

    return spawn


def _rank(rank: int, peer: str, spool: str, fn: Callable[..., None], args: tuple[Any, ...]) -> None:
    _watched(peer, spool, lambda: fn(rank, *args))
