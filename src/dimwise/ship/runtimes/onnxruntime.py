"""ONNX Runtime on the CPU: the runtime that serves artifacts, see :mod:`dimwise.ship.runtime`."""

from __future__ import annotations

from dimwise.ship.runtime import Runner, session


def open_graph(content: bytes, *, threads: int, batch: int) -> Runner:
    """A session with all graph optimisations; it takes batches of any size alike, so ``batch`` changes nothing."""
    return session(content, threads=threads)
