"""Tables of layers: what each takes on the target and smaller networks keep of it, and what the score loses without it.

The time of a whole network does not fall as its operations do: first and last layers lose width on one side only,
depthwise ones lose channels but no kernel, and preprocessing stays. So what a composition keeps is added up layer by
layer, from what was measured of each.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dimwise.data.sets import Data
from dimwise.fold._steps import Step
from dimwise.plan.budget import Target
from dimwise.plan.on_target import Candidate, batch_of, servable
from dimwise.runs.atomic import write_json
from dimwise.ship.layer_table import Layer, Side, layers
from dimwise.ship.runtimes import NETWORK_RUNTIMES
from dimwise.ship.runtimes.layers import BEFORE, watch

FILE = "layers.json"
RUNS = 30
"""Runs that are watched for a table."""
Cost = Literal["ms", "params", "macs"]


@dataclass(frozen=True)
class LayerCost:
    """A layer of the table, and how it shrinks."""

    name: str
    kind: str
    params: int
    macs: int
    ms: float
    """Of one batch, with the profiler on: only shares of the whole say something."""
    power: int = 0
    """Of the width: 2 where inputs and outputs of a layer shrink, 1 where one side does, 0 where nothing does."""
    separable: float = 1.0
    """What stays of its operations as a depthwise and a pointwise convolution."""


@dataclass(frozen=True)
class LatencyTable:
    """All layers of one network, as it is written with one kind of numbers."""

    rows: tuple[LayerCost, ...]

    def kept(self, steps: Sequence[Step], cost: Cost = "ms") -> float:
        """The fraction of a cost that is left after folds of the network, each as its settings promise.

        Args:
            steps: students, lighter blocks and cuts; others change nothing here.
            cost: ms, params or macs.

        Example:
            >>> from dimwise.fold._steps import parse
            >>> ends = LayerCost("a", "Conv", 8, 100, 1.0, power=1), LayerCost("b", "Conv", 64, 800, 1.0, power=2)
            >>> table = LatencyTable(ends)
            >>> table.kept(parse("distill(scale=0.5)")), table.kept(parse("distill(scale=0.5)"), "macs")
            (0.375, 0.2777777777777778)
        """
        return _kept(self.rows, tuple(steps), cost)


@lru_cache(maxsize=4096)
def _kept(rows: tuple[LayerCost, ...], steps: tuple[Step, ...], cost: Cost) -> float:
    factors = [1.0] * len(rows)
    for step in steps:
        if change := _CHANGES.get(step.name):
            left = change(rows, factors, step.config)
            factors = [f * g for f, g in zip(factors, left, strict=True)]
    whole = sum(getattr(row, cost) for row in rows)
    return sum(getattr(row, cost) * f for row, f in zip(rows, factors, strict=True)) / whole if whole else 1.0


def _distilled(rows: Sequence[LayerCost], factors: Sequence[float], config: Any) -> list[float]:
    return [config.scale**row.power * (config.depth if row.power == 2 else 1.0) for row in rows]


def _pruned(rows: Sequence[LayerCost], factors: Sequence[float], config: Any) -> list[float]:
    """The width at which the operations are what is asked, the same for all layers."""
    macs = [row.macs * f for row, f in zip(rows, factors, strict=True)]
    goal, low, high = config.macs * sum(macs), 0.0, 1.0
    for _ in range(20):
        width = (low + high) / 2
        if sum(m * width**row.power for m, row in zip(macs, rows, strict=True)) > goal:
            high = width
        else:
            low = width
    return [low**row.power for row in rows]


def _factorised(rows: Sequence[LayerCost], factors: Sequence[float], config: Any) -> list[float]:
    """What the operations are asked to be is taken from the layers in the middle, as far as they go."""
    macs = [row.macs * f for row, f in zip(rows, factors, strict=True)]
    inner = sum(m for m, row in zip(macs, rows, strict=True) if row.power == 2)
    share = max(0.0, 1 - (1 - config.macs) * sum(macs) / inner) if inner else 1.0
    return [share if row.power == 2 else 1.0 for row in rows]


def _separated(rows: Sequence[LayerCost], factors: Sequence[float], config: Any) -> list[float]:
    return [row.separable for row in rows]


_CHANGES: Mapping[str, Callable[[Sequence[LayerCost], Sequence[float], Any], list[float]]] = {
    "distill": _distilled,
    "prune": _pruned,
    "lowrank": _factorised,
    "separable": _separated,
}


def layer_runtime(runtime: str) -> str:
    """The runtime on which layers are told apart: the target's, or the one of its kind that can.

    Example:
        >>> layer_runtime("openvino"), layer_runtime("pytorch-compiled")
        ('onnxruntime', 'pytorch')
    """
    return "pytorch" if runtime in NETWORK_RUNTIMES else "onnxruntime"


def table_of(candidate: Candidate, data: Data, target: Target, *, runs: int = RUNS) -> LatencyTable | None:
    """Where a candidate's time goes, layer by layer, on :func:`layer_runtime`; None when nothing can be told."""
    try:
        subject = servable(candidate, data, target) if target.runtime in NETWORK_RUNTIMES else candidate.proto
        inputs = batch_of(data, target.batch)[0].numpy()
        watched = watch(subject, layer_runtime(target.runtime), threads=target.threads)
        for _ in range(runs):
            watched.run(inputs)
        ms = watched.ms()
        found = layers(Side(candidate.name, subject, inputs))
        if target.runtime in NETWORK_RUNTIMES:  # behind its preprocessing
            ms = {_inside(name): taken for name, taken in ms.items()}
            found = [dataclasses.replace(layer, name=_inside(layer.name)) for layer in found]
    except Exception:  # noqa: BLE001  (a table beside a search must not cost the search)
        return None
    return LatencyTable(tuple(_costs(found, ms, math.prod(data.input_shape))))


def _inside(name: str) -> str:
    """A layer's name in the network itself.

    Example:
        >>> _inside("1.stages.0"), _inside("0")
        ('stages.0', '(before the first layer)')
    """
    return name.removeprefix("1.") if name.startswith("1.") else BEFORE


def _costs(found: Sequence[Layer], ms: Mapping[str, float], n_inputs: int) -> list[LayerCost]:
    """Rows of the table; the last layer's outputs stay whole, and what the first reads if that is the input itself."""
    known = {layer.name for layer in found}
    rows = [LayerCost(name, "", 0, 0, taken) for name, taken in ms.items() if name not in known]  # preprocessing
    multiply = [layer.name for layer in found if layer.macs]
    for layer in found:
        power, separable = _shrinks(layer)
        reads_input = layer.name in multiply[:1] and math.prod(layer.input_shape) == n_inputs
        power = max(0, power - reads_input - (layer.name in multiply[-1:]))
        taken = ms.get(layer.name, 0.0)
        rows.append(LayerCost(layer.name, layer.kind, layer.params, layer.macs, taken, power, separable))
    return rows


def _shrinks(layer: Layer) -> tuple[int, float]:
    """(power of the width, what is left when it becomes separable) of a layer in the middle of a network.

    Example:
        >>> _shrinks(Layer("dense 3x3", "Conv", (16, 8, 8), (32, 8, 8), params=4640, macs=16 * 9 * 32 * 64))
        (2, 0.142...)
        >>> _shrinks(Layer("depthwise 3x3", "Conv", (8, 4, 4), (8, 4, 4), params=80, macs=9 * 8 * 16))
        (1, 1.0)
    """
    if not layer.macs or not layer.params or not layer.input_shape or not layer.output_shape:
        return 1, 1.0  # element by element, or a product of two activations
    convolution = "Conv" in layer.kind
    n_in, n_out = (shape[0 if convolution else -1] for shape in (layer.input_shape, layer.output_shape))
    each = layer.macs / max(1, math.prod(layer.output_shape))  # multiplications of one output
    if not convolution:
        return 2, 1.0
    taps, rest = divmod(each, n_in)
    if rest or not taps:
        return 1, 1.0  # each output reads few channels
    return 2, 1.0 if taps == 1 else min(1.0, 1 / taps + 1 / n_out)


@dataclass
class Layers:
    """What a search knows of the original's layers."""

    tables: dict[str, LatencyTable] = field(default_factory=dict)
    """Composition of numbers -> what each layer takes when it is written so."""
    sensitivity: list[dict[str, Any]] = field(default_factory=list)
    """Rows of :func:`dimwise.fold.prune.sensitivity`."""

    def shown(self) -> list[dict[str, Any]]:
        """[{"name", "kind", "params", "macs", "ms", "share", "drop"}] of the original as it was trained, the slowest
        first; ``drop`` is the score lost when channels of this layer alone leave, None where that was not measured."""
        table = self.tables.get("")
        if table is None:
            return []
        whole = sum(row.ms for row in table.rows) or 1.0
        drops = {name: row["drop"] for row in self.sensitivity for name in row["layers"]}
        keys = ("name", "kind", "params", "macs", "ms")
        rows = [
            {key: getattr(row, key) for key in keys} | {"share": row.ms / whole, "drop": drops.get(row.name)}
            for row in table.rows
        ]
        return sorted(rows, key=lambda row: -row["ms"])


def read(folder: Path) -> Layers:
    """What earlier sittings measured; nothing of what cannot be read."""
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        told = json.loads((folder / FILE).read_text("utf-8"))
        tables = {n: LatencyTable(tuple(LayerCost(**row) for row in rows)) for n, rows in told["latency"].items()}
        rows = [{"layers": list(r["layers"]), "kept": r["kept"], "drop": r["drop"]} for r in told["sensitivity"]]
        return Layers(tables, rows)
    return Layers()


def write(folder: Path, known: Layers) -> None:
    """Put them where the next sitting reads them, beside what other processes found."""
    tables = {**read(folder).tables, **known.tables}
    latency = {text: [dataclasses.asdict(row) for row in table.rows] for text, table in tables.items()}
    write_json(folder / FILE, {"latency": latency, "sensitivity": known.sensitivity})
