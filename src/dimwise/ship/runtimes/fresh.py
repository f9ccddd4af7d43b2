"""What a fresh process needs to load a subject and run it once, on any runtime."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dimwise.measure import process_peak_memory
from dimwise.ship.network import program
from dimwise.ship.runtimes import NETWORK_RUNTIMES, Served, content_of, open_runtime

_EXPORTED = ("torch._inductor.compile_fx", "torch._export.serde.serialize", "torch.export.pt2_archive._package")
"""What PyTorch loads with the first exported network: code, whatever the network's size."""
_LIBRARIES = {
    "onnxruntime": ("onnxruntime", "dimwise.ship.runtime"),
    "openvino": ("openvino", "dimwise.ship.runtimes.openvino"),
    "pytorch": ("dimwise.ship.runtimes.pytorch", "dimwise.ship.runtimes.compiled", *_EXPORTED),
    "pytorch-compiled": ("dimwise.ship.runtimes.pytorch", "dimwise.ship.runtimes.compiled", *_EXPORTED),
}
"""What the process holds before it is looked at: a server has its library loaded, whatever it serves."""


def peak_memory_on(
    subject: Any, runtime: str, inputs: np.ndarray, *, threads: int = 1, batch: int = 1, timeout_s: float = 60.0
) -> int | None:
    """Bytes at the peak of loading and one batch, above the process with its libraries; about ±5 % when repeated.

    For pytorch-compiled the compiler's own memory is part of it: a process that serves so has to have it once.

    Args:
        subject, runtime, threads: as for :func:`dimwise.ship.open_runtime`.
        inputs: (N, ...) raw, N ≥ 1; shape and dtype matter, values do not.
        batch: rows that are run.
        timeout_s: a process that takes longer is ended.

    Returns:
        Bytes, or None when that cannot be had: PyTorch cannot write the network down, or the process failed.

    Example:
        >>> peak_memory_on(b"no graph", "onnxruntime", np.zeros((1, 2), np.float32)) is None
        True
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "subject"
        if runtime in NETWORK_RUNTIMES:
            content = program(subject, inputs)
            if content is None:
                return None
            path.write_bytes(content)
        else:
            path.write_bytes(content_of(subject, runtime))
        shape = ",".join(map(str, (batch, *inputs.shape[1:])))
        words = [runtime, str(path), str(threads), shape, str(inputs.dtype)]
        imports = [name for name in _LIBRARIES[runtime] if _exists(name)]
        call = "dimwise.ship.runtimes.fresh:open_and_run"
        return process_peak_memory(call, words, imports=imports, timeout_s=timeout_s)


def open_and_run(runtime: str, path: str, threads: str, shape: str, dtype: str) -> Served:
    """Open what lies at ``path`` and give it zeros. Arguments are words of a command, see :func:`peak_memory_on`."""
    sizes = [int(n) for n in shape.split(",")]
    if runtime in NETWORK_RUNTIMES:
        served = _open_written(runtime, path, int(threads), sizes[0])
    else:
        served = open_runtime(path, runtime, threads=int(threads), batch=sizes[0])
    served.run(np.zeros(sizes, dtype))
    return served


def _open_written(runtime: str, path: str, threads: int, batch: int) -> Served:
    """What :func:`dimwise.ship.network.program` wrote a moment ago, in evaluation mode since then: the copy that
    :func:`open_runtime` would make has no place in a process that serves."""
    import torch

    from dimwise.ship.runtimes.compiled import Compiled
    from dimwise.ship.runtimes.pytorch import Eager

    with Path(path).open("rb") as file:
        network = torch.export.load(file).module()
    return Eager(network, threads) if runtime == "pytorch" else Compiled(network, threads, batch)


def _exists(module: str) -> bool:
    """Parts of PyTorch may be called otherwise in another version; then their memory is counted."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
