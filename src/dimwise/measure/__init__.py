"""The ruler everybody uses: parameters, MACs, bytes, milliseconds, and the machine they were measured on.

Names are imported when first used, so that describing the machine needs no torch. No file of this room has the
name of one of these functions: a submodule of that name would hide it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimwise.measure.cost import Cost, n_params, state_size_bytes
    from dimwise.measure.machine import device, environment, machine_is_busy
    from dimwise.measure.memory import peak_memory
    from dimwise.measure.profiling import Profile, Row, profile
    from dimwise.measure.timing import Latency, Throughput, latency, throughput, tie

__all__ = [
    "Cost",
    "Latency",
    "Profile",
    "Row",
    "Throughput",
    "device",
    "environment",
    "latency",
    "machine_is_busy",
    "n_params",
    "peak_memory",
    "profile",
    "state_size_bytes",
    "throughput",
    "tie",
]

_HOME = {
    "Cost": "cost",
    "Latency": "timing",
    "Profile": "profiling",
    "Row": "profiling",
    "Throughput": "timing",
    "device": "machine",
    "environment": "machine",
    "latency": "timing",
    "machine_is_busy": "machine",
    "n_params": "cost",
    "peak_memory": "memory",
    "profile": "profiling",
    "state_size_bytes": "cost",
    "throughput": "timing",
    "tie": "timing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
