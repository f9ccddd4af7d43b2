"""The ruler everybody uses: parameters, MACs, bytes, milliseconds, and the machine they were measured on.

Names are imported when first used, so that describing the machine needs no torch. No file of this room has the
name of one of these functions: a submodule of that name would hide it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dimwise.lookup import late

if TYPE_CHECKING:
    from dimwise.measure._state import evaluating
    from dimwise.measure.cost import Cost, n_params, state_size_bytes
    from dimwise.measure.machine import device, environment, machine_is_busy
    from dimwise.measure.memory import peak_memory, process_peak_memory
    from dimwise.measure.prediction import MemoryParts, MemoryPrediction, largest_batch, predict_memory
    from dimwise.measure.profiling import Profile, Row, profile
    from dimwise.measure.timing import Latency, Throughput, latency, throughput, tie

__all__ = [
    "Cost",
    "Latency",
    "MemoryParts",
    "MemoryPrediction",
    "Profile",
    "Row",
    "Throughput",
    "device",
    "environment",
    "evaluating",
    "largest_batch",
    "latency",
    "machine_is_busy",
    "n_params",
    "peak_memory",
    "predict_memory",
    "process_peak_memory",
    "profile",
    "state_size_bytes",
    "throughput",
    "tie",
]

_EXPORTS = {
    "Cost": "dimwise.measure.cost",
    "Latency": "dimwise.measure.timing",
    "MemoryParts": "dimwise.measure.prediction",
    "MemoryPrediction": "dimwise.measure.prediction",
    "Profile": "dimwise.measure.profiling",
    "Row": "dimwise.measure.profiling",
    "Throughput": "dimwise.measure.timing",
    "device": "dimwise.measure.machine",
    "environment": "dimwise.measure.machine",
    "evaluating": "dimwise.measure._state",
    "largest_batch": "dimwise.measure.prediction",
    "latency": "dimwise.measure.timing",
    "machine_is_busy": "dimwise.measure.machine",
    "n_params": "dimwise.measure.cost",
    "peak_memory": "dimwise.measure.memory",
    "predict_memory": "dimwise.measure.prediction",
    "process_peak_memory": "dimwise.measure.memory",
    "profile": "dimwise.measure.profiling",
    "state_size_bytes": "dimwise.measure.cost",
    "throughput": "dimwise.measure.timing",
    "tie": "dimwise.measure.timing",
}
__getattr__ = late(__name__, _EXPORTS)
