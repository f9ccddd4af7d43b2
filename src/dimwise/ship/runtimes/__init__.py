"""Runtimes: what can run a network or its exported graph on this machine, one adapter a file, all of one shape.

    open_runtime(subject, name) -> Served: ``run(raw inputs) -> raw scores``

Adding one: its file, its line in :data:`RUNTIMES`, its test in ``tests/ship/test_ship_runtimes.py``.
No module here has the name of one of these functions: importing the one would hide the other.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dimwise.errors import ArtifactError, ModelError, RecipeError, a_kind, nearest
from dimwise.lookup import resolve

RUNTIMES = {
    "onnxruntime": "dimwise.ship.runtimes.onnxruntime:open_graph",
    "openvino": "dimwise.ship.runtimes.openvino:open_graph",
    "pytorch": "dimwise.ship.runtimes.pytorch:open_network",
    "pytorch-compiled": "dimwise.ship.runtimes.compiled:open_network",
}
NETWORK_RUNTIMES = ("pytorch", "pytorch-compiled")
"""Those that run an ``nn.Module``; the others run an exported graph."""


class Served(Protocol):
    """A subject opened on a runtime."""

    @property
    def runtime(self) -> str:
        """A name of :data:`RUNTIMES`."""

    @property
    def threads(self) -> int:
        """Threads of one inference."""

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """(N, ...) raw inputs -> (N, K) float32 scores; N ≥ 1 is free."""

    def close(self) -> None:
        """Give back what the runtime holds; ``run`` is over then."""


def open_runtime(subject: Any, runtime: str, *, threads: int = 1, batch: int = 1) -> Served:
    """Open a network or a graph on one of :data:`RUNTIMES`.

    Args:
        subject: for pytorch and pytorch-compiled an ``nn.Module`` from raw inputs to scores, such as
            ``nn.Sequential(data.normalise, model)``; it is copied, so that what happens to it later changes nothing.
            For the others an ``onnx.ModelProto``, its bytes, the path of an ``.onnx`` file, or an artifact folder.
        runtime: its name.
        threads: threads of one inference, at least 1.
        batch: rows that it will mostly be given, at least 1: runtimes that can be specialised to one size are. Other
            sizes give the same scores, more slowly.

    Raises:
        RecipeError: for an unknown runtime.
        ModelError: for a graph on PyTorch or a module elsewhere; for a network that cannot be compiled.
        ArtifactError: for a graph that the runtime cannot load.
        MissingExtra: when its library is not installed.

    Example:
        >>> import torch
        >>> served = open_runtime(torch.nn.Linear(2, 1, bias=False), "pytorch")
        >>> served.runtime, served.run(np.zeros((3, 2), np.float32)).shape
        ('pytorch', (3, 1))
    """
    if runtime not in RUNTIMES:
        raise RecipeError(
            f"unknown runtime {runtime!r}",
            expected="one of: " + ", ".join(RUNTIMES),
            next_step=nearest(runtime, RUNTIMES),
        )
    for name, value in (("threads", threads), ("batch", batch)):
        if value < 1:
            raise RecipeError(f"{name} is {value}", expected="at least 1")
    opened: Served
    if runtime in NETWORK_RUNTIMES:
        if not _is_module(subject):
            raise ModelError(
                f"{runtime} was given {_kind(subject)}",
                expected="an nn.Module",
                next_step="Run exported graphs on: "
                + ", ".join(r for r in RUNTIMES if r not in NETWORK_RUNTIMES)
                + ".",
            )
        opened = resolve(RUNTIMES[runtime])(subject, threads=threads, batch=batch)
    else:
        opened = resolve(RUNTIMES[runtime])(content_of(subject, runtime), threads=threads, batch=batch)
    return opened


def content_of(subject: Any, runtime: str = "this runtime") -> bytes:
    """The bytes of a graph: of an ``onnx.ModelProto``, a file, an artifact folder, or bytes as they are.

    Raises:
        ModelError: for an ``nn.Module``, which must be exported first, and for anything else.
        ArtifactError: for a file that cannot be read.

    Example:
        >>> content_of(b"graph")
        b'graph'
    """
    from dimwise.ship.runtime import content

    if isinstance(subject, bytes):
        return subject
    if isinstance(subject, (str, Path)):
        path = Path(subject)
        return content(path / "model.onnx" if path.is_dir() else path)
    if hasattr(subject, "SerializeToString"):
        try:
            serialized: bytes = subject.SerializeToString()
        except Exception as error:  # noqa: BLE001  (protobuf's errors have no common base but Exception)
            raise ArtifactError(f"the graph cannot be written: {error}", expected="less than 2 GiB") from None
        return serialized
    raise ModelError(
        f"{runtime} was given {_kind(subject)}",
        expected="an exported graph: onnx.ModelProto, its bytes, or a path",
        next_step="Export it first: ship.graph(model, data.normalise, data.train.inputs[:1])."
        if _is_module(subject)
        else "",
    )


def _is_module(subject: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a module has loaded it
    return torch is not None and isinstance(subject, torch.nn.Module)


def _kind(subject: Any) -> str:
    if isinstance(subject, (str, Path)):
        return f"the path '{subject}'"
    if hasattr(subject, "SerializeToString"):
        return "an exported graph"
    return f"{a_kind(subject)}"
