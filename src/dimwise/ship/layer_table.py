"""What each layer of a network or a graph takes, and two of them side by side: before and after a fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dimwise.fold import _onnx
from dimwise.measure import Latency, profile, tie
from dimwise.ship.runtimes import content_of, open_runtime
from dimwise.ship.runtimes.layers import BEFORE, TELLS_LAYERS, graph_layers, homes_of_values, watch
from dimwise.ship.runtimes.side_by_side import measure_on

OUTSIDE = "(outside the layers)"
"""The whole run without its layers: functions in ``forward``, calls, and the runtime's own work."""


@dataclass(frozen=True)
class Layer:
    """One layer; shapes without the batch, counts for one input."""

    name: str
    kind: str
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    params: int = 0
    macs: int = 0
    ms: float | None = 0.0
    """Milliseconds of one batch; the profiler's own time is taken off all alike, where there is any. None where the
    runtime does not tell layers apart."""
    share: float | None = 0.0
    """Of the whole run, 0 to 1; None as ``ms``."""


@dataclass(frozen=True)
class Side:
    """One of the two: its layers, and all of it timed without a profiler."""

    name: str
    subject: Any
    """An ``nn.Module`` or an ``onnx.ModelProto``, as for :func:`dimwise.ship.open_runtime`."""
    inputs: np.ndarray
    """(N, ...) what it takes."""
    layers: tuple[Layer, ...] = field(default=())
    latency: Latency | None = None
    size_bytes: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two models layer by layer."""

    a: Side
    b: Side
    rows: tuple[tuple[str, Layer | None, Layer | None], ...]
    """(name, that layer in A, in B); None where one of them has no such layer."""
    runtime: str
    threads: int
    batch: int
    tie: bool
    """Whether the difference between the two latencies is within the noise."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        sides = {
            side: {
                "name": told.name,
                "latency_ms": told.latency.p50_ms if told.latency else None,
                "latency_p95_ms": told.latency.p95_ms if told.latency else None,
                "latency_iqr_ms": told.latency.iqr_ms if told.latency else None,
                "params": sum(layer.params for layer in told.layers),
                "macs": sum(layer.macs for layer in told.layers),
                "size_bytes": told.size_bytes,
            }
            for side, told in (("a", self.a), ("b", self.b))
        }
        layers = [
            {"name": name, "a": asdict(a) if a else None, "b": asdict(b) if b else None} for name, a, b in self.rows
        ]
        told = {"runtime": self.runtime, "threads": self.threads, "batch": self.batch, "tie": self.tie}
        return {**sides, **told, "layers": layers}


def compare(
    a: Side, b: Side, *, runtime: str, threads: int = 1, batch: int = 1, runs: int = 40, budget_s: float = 1.0
) -> Comparison:
    """Time two models side by side, whole and layer by layer.

    Args:
        a, b: name, subject and inputs; layers and latency are found out.
        runtime: of :data:`dimwise.ship.RUNTIMES`, one that runs both. On pytorch-compiled no layers are
            told apart: they are counted, and only the whole is timed.
        threads: of one run.
        batch: rows of one run.
        runs: runs of each with the profiler on, in turns.
        budget_s: seconds of each without it, in turns.

    Raises:
        ModelError: when a subject cannot be run there.

    Example:
        >>> rows = np.zeros((1, 4), np.float32)
        >>> nets = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), nn.Sequential(nn.Linear(4, 2))
        >>> found = compare(*(Side(n, m, rows) for n, m in zip("ab", nets)), runtime="pytorch", budget_s=0.01, runs=5)
        >>> [(name, a and a.params, b and b.params) for name, a, b in found.rows][:2]
        [('0', 40, 10), ('1', 18, None)]
    """
    sides = [replace(side, inputs=_rows(side.inputs, batch)) for side in (a, b)]
    served = [open_runtime(side.subject, runtime, threads=threads, batch=batch) for side in sides]
    found = _whole(served, sides, threads, batch, budget_s)
    timed = _layer_by_layer(sides, found, runtime, threads, runs) if runtime in TELLS_LAYERS else _counted(sides)
    whole = [
        replace(side, layers=rows, latency=latency, size_bytes=_size(side.subject))
        for side, rows, latency in zip(sides, timed, found, strict=True)
    ]
    rows = align(whole[0].layers, whole[1].layers)
    return Comparison(whole[0], whole[1], tuple(rows), runtime, threads, batch, tie(*found))


def _layer_by_layer(
    sides: Sequence[Side], whole: Sequence[Latency], runtime: str, threads: int, runs: int
) -> list[tuple[Layer, ...]]:
    """The layers of each with their times, both watched in turns."""
    watched = [watch(side.subject, runtime, threads=threads) for side in sides]
    for _ in range(runs):
        for one, side in zip(watched, sides, strict=True):
            one.run(side.inputs)
    return [_timed(layers(side), one.ms(), latency) for side, one, latency in zip(sides, watched, whole, strict=True)]


def _counted(sides: Sequence[Side]) -> list[tuple[Layer, ...]]:
    return [tuple(replace(layer, ms=None, share=None) for layer in layers(side)) for side in sides]


def layers(side: Side) -> list[Layer]:
    """The layers of a network or graph in order, without their times."""
    if isinstance(side.subject, nn.Module):
        told = profile(side.subject, torch.from_numpy(side.inputs[:1]))
        return [Layer(r.name, r.kind, r.input_shape[1:], r.output_shape[1:], r.params, r.macs) for r in told.rows]
    return _graph_rows(side.subject)


def align(a: Sequence[Layer], b: Sequence[Layer]) -> list[tuple[str, Layer | None, Layer | None]]:
    """Rows of the layers of both, by name, in the order of A; what only B has stands after its predecessor in B.

    Example:
        >>> rows = align([Layer("x", "Conv"), Layer("y", "ReLU")], [Layer("x.0", "Conv"), Layer("y", "ReLU")])
        >>> [(name, a is not None, b is not None) for name, a, b in rows]
        [('x.0', False, True), ('x', True, False), ('y', True, True)]
    """
    first, second = ({layer.name: layer for layer in side} for side in (a, b))
    order, place = list(first), 0
    for name in second:
        if name in first:
            place = order.index(name) + 1
        else:
            order.insert(place, name)
            place += 1
    return [(name, first.get(name), second.get(name)) for name in order]


def _whole(
    served: Sequence[Any], sides: Sequence[Side], threads: int, batch: int, budget_s: float
) -> tuple[Latency, Latency]:
    """Both in turns, each on inputs of its own."""
    bound = {key: _Bound(one, side.inputs) for key, one, side in zip("ab", served, sides, strict=True)}
    found = measure_on(bound, sides[0].inputs, threads=threads, batch=batch, budget_s=budget_s).latency
    return found["a"], found["b"]


class _Bound:
    """A runner that is always given its own inputs."""

    def __init__(self, served: Any, inputs: np.ndarray) -> None:
        self.runtime, self.threads = served.runtime, served.threads
        self._served, self._inputs = served, inputs

    def run(self, inputs: np.ndarray) -> np.ndarray:
        return self._served.run(self._inputs)

    def close(self) -> None:
        self._served.close()


def _timed(found: Sequence[Layer], ms: Mapping[str, float], latency: Latency) -> tuple[Layer, ...]:
    known = {layer.name for layer in found}
    every = [Layer(name, "") for name in ms if name not in known]  # preprocessing, before all layers
    every += found
    whole = latency.p50_ms
    scale = min(1.0, whole / max(sum(ms.values()), 1e-9))  # watched, a run takes longer
    times = {layer.name: scale * ms.get(layer.name, 0.0) for layer in every}
    every.append(Layer(OUTSIDE, ""))
    times[OUTSIDE] = max(0.0, whole - sum(times.values()))
    return tuple(replace(layer, ms=times[layer.name], share=times[layer.name] / max(whole, 1e-9)) for layer in every)


def _graph_rows(proto: Any) -> list[Layer]:
    counted = _onnx.counts(proto)
    found = graph_layers(proto)
    homes = homes_of_values(proto)
    params: dict[int, int] = {}
    seen: set[str] = set()
    for node in proto.graph.node:
        home = homes.get(node.output[0], frozenset())
        for name in node.input:
            if name in counted.learnt and name not in seen:
                seen.add(name)
                place = max(home) if home else _reader(proto, node.output[0], homes)
                params[place] = params.get(place, 0) + counted.learnt[name]
    rows = []
    for place, layer in enumerate(found):
        source, target = (counted.shapes.get(v, ())[1:] for v in (layer.node.input[0], layer.node.output[0]))
        macs = counted.macs[layer.position]
        rows.append(Layer(layer.name, layer.node.op_type, source, target, params.get(place, 0), macs))
    return rows


def _reader(proto: Any, value: str, homes: Mapping[str, frozenset[int]]) -> int:
    """The layer that reads a converted constant, such as int8 weights."""
    waiting = {value}
    for node in proto.graph.node:
        if not waiting.isdisjoint(node.input):
            if homes.get(node.output[0]):
                return max(homes[node.output[0]])
            waiting.update(node.output)
    return 0


def _rows(inputs: np.ndarray, batch: int) -> np.ndarray:
    return np.ascontiguousarray(inputs[np.arange(batch) % len(inputs)])


def _size(subject: Any) -> int:
    from dimwise.measure import state_size_bytes

    return state_size_bytes(subject) if isinstance(subject, nn.Module) else len(content_of(subject))


__all__ = ["BEFORE", "OUTSIDE", "Comparison", "Layer", "Side", "align", "compare", "layers"]
