"""Whether a training step will fit into what is free, before it is allocated."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def available_bytes() -> float:
    """Memory this process may still take: what is free, within its own limits and those of its group."""
    import psutil

    free = [float(psutil.virtual_memory().available)]
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        status = Path("/proc/self/status").read_text("utf-8")
        used = {
            line.split(":")[0]: float(line.split()[1]) * 1024 for line in status.splitlines() if line.endswith("kB")
        }
        for limit, taken in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
            soft = resource.getrlimit(limit)[0]
            if soft != resource.RLIM_INFINITY:
                free.append(soft - used[taken])
    with contextlib.suppress(OSError, ValueError):
        most = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        if most != "max":
            free.append(float(most) - float(Path("/sys/fs/cgroup/memory.current").read_text("utf-8")))
    return max(0.0, min(free))


def predicted(module: nn.Module, x: Tensor, precision: str, free: float) -> dict[str, Any] | None:
    """What a step on this batch takes and which batch would fit; None when it cannot be told."""
    from dimwise.errors import DimwiseError
    from dimwise.measure import largest_batch, predict_memory

    fixed = sum(p.numel() * p.element_size() for p in module.parameters())  # they are there already
    try:
        with torch.random.fork_rng(devices=[]):
            need = predict_memory(module, x, precision).training.total - fixed
            told = {"predicted_bytes": int(need), "available_bytes": int(free)}
            if need > free:
                told["fits_batch"] = largest_batch(module, x[:1], free + fixed, precision)
    except DimwiseError:
        return None
    return told


_TRIM, _MMAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
_MMAP_BYTES = 32 << 20
_TRIM_BYTES = 2 * _MMAP_BYTES
"""What glibc's own adjustment ends at, once a block of 32 MB was freed."""


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step rather than give it back and fetch it anew.

    By itself it does so or not as the last block of the heap happens to lie, and what the watcher keeps lies there: a
    step of ResNet-18 took up to a fifth longer for it. Nothing happens where the C library is another.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if library.mallopt(_MMAP, _MMAP_BYTES):
            library.mallopt(_TRIM, _TRIM_BYTES)
