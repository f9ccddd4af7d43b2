"""Tables of layers: what each takes on the target and smaller networks keep of it, and what the score loses without it.

The time of a whole network does not fall as its operations do: first and last layers lose width on one side only,
depthwise ones lose channels but no kernel, and preprocessing stays. So what a smaller network keeps is added up layer
by layer, from what was measured of each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimwise.data.sets import Data
from dimwise.plan.budget import Target
from dimwise.plan.on_target import Candidate, batch_of, servable
from dimwise.plan.shapes import LayerShape
from dimwise.runs.atomic import write_json
from dimwise.ship.layer_table import Side, layers
from dimwise.ship.runtimes import NETWORK_RUNTIMES
from dimwise.ship.runtimes.layers import BEFORE, TELLS_LAYERS, watch

FILE = "layers.json"
RUNS = 30
"""Runs that are watched for a table."""


@dataclass(frozen=True)
class LayerCost:
    """A layer of the table."""

    name: str
    kind: str
    params: int
    macs: int
    ms: float
    """Of one batch, with the profiler on: only shares of the whole say something."""


@dataclass(frozen=True)
class LatencyTable:
    """All layers of one network, as it is written with one kind of numbers."""

    rows: tuple[LayerCost, ...]

    def kept(self, whole: Sequence[LayerShape], small: Sequence[LayerShape], block: int = 1) -> float:
        """The fraction of the time that a smaller network keeps: sum(ms * work' / work) / sum(ms) over the layers.

        Args:
            whole: the layers of the network that the table is of.
            small: those of the smaller one. A layer that became several, as ``conv`` may become ``conv.0`` and
                ``conv.1``, is known by the beginning of its name; what is in neither of them, such as preprocessing,
                stays.
            block: channels that a kernel takes at once, see :meth:`LayerShape.work`.

        Example:
            >>> table = LatencyTable((LayerCost("a", "Conv", 8, 100, 1.0), LayerCost("b", "Conv", 64, 800, 1.0)))
            >>> whole = LayerShape("a", 8, 100, 1, 8, 50), LayerShape("b", 64, 800, 8, 8, 50)
            >>> table.kept(whole, (LayerShape("a", 4, 50, 1, 4, 25), LayerShape("b", 16, 200, 4, 4, 25)))
            0.375
        """
        before = {layer.name: layer for layer in whole}
        work, outputs = dict.fromkeys(before, 0.0), dict.fromkeys(before, 0)
        for layer in small:
            if name := _ancestor(layer.name, before):
                work[name] += layer.work(block)
                outputs[name] += layer.n_outputs
        n_macs = sum(layer.macs for layer in small)
        if n_macs and sum(layer.macs for layer in small if _ancestor(layer.name, before)) < n_macs / 2:
            return n_macs / max(1, sum(layer.macs for layer in whole))  # a network of its own
        thinner = sum(outputs.values()) / max(1, sum(layer.n_outputs for layer in whole))
        kept, all_ms = 0.0, 0.0
        for row in self.rows:
            was = before.get(row.name)
            if was is None:
                left = thinner if row.kind else 1.0
            elif was.macs:
                left = work[row.name] / was.work(block)
            else:
                left = outputs[row.name] / max(1, was.n_outputs)
            kept, all_ms = kept + row.ms * left, all_ms + row.ms
        return kept / all_ms if all_ms else 1.0


def _ancestor(name: str, known: Mapping[str, Any]) -> str:
    """The layer that a layer was made from.

    Example:
        >>> [_ancestor(name, {"stem": 0, "body.0": 0}) for name in ("stem", "body.0.1", "body")]
        ['stem', 'body.0', '']
    """
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def layer_runtime(runtime: str) -> str:
    """The runtime on which layers are told apart: the target's, or for a compiled network the one of its kind that can.

    Example:
        >>> layer_runtime("openvino"), layer_runtime("pytorch-compiled")
        ('openvino', 'pytorch')
    """
    return runtime if runtime in TELLS_LAYERS else "pytorch"


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
    known = {layer.name for layer in found}
    rows = [LayerCost(name, "", 0, 0, taken) for name, taken in ms.items() if name not in known]  # preprocessing
    rows += [LayerCost(layer.name, layer.kind, layer.params, layer.macs, ms.get(layer.name, 0.0)) for layer in found]
    return LatencyTable(tuple(rows))


def _inside(name: str) -> str:
    """A layer's name in the network itself.

    Example:
        >>> _inside("1.stages.0"), _inside("0")
        ('stages.0', '(before the first layer)')
    """
    return name.removeprefix("1.") if name.startswith("1.") else BEFORE


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
