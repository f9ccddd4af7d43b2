"""What is thought of a point where nothing near it was measured: its latency, its size and what it loses.

What is left of a network is added up layer by layer, see :mod:`dimwise.plan.layer_costs` and
:mod:`dimwise.plan.shapes`; where its layers are not known, all falls as the operations do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from dimwise.plan.layer_costs import LatencyTable
from dimwise.plan.record import Line
from dimwise.plan.shapes import LayerShape
from dimwise.plan.space import RUNGS, Point, Space, is_whole, key_of

USUAL = {
    "": (1.0, 1.0),
    "quantize": (0.8, 0.28),
    "qat quantize": (0.8, 0.28),
    "quantize(weights)": (1.0, 0.27),
    "quantize(int4)": (1.0, 0.15),
    "share(palette16)": (1.0, 0.15),
}
"""Numbers -> (latency, size) of a small convolutional network against float32, until they are measured."""
CALL_MS = 0.01
"""What a call of a runtime takes at least, about, until a small network is measured."""
BLOCKS = (1, 4, 8, 16)
"""Channels that kernels may take at once, 1 for any number."""
ENOUGH = 6
"""Smaller networks from which on measurements tell which block it is."""
WHOLE: Point = MappingProxyType({"student": 0, "cut": 0, "numbers": 0})

Number = Callable[[Point], float]
Shape = Callable[[Point], Sequence[LayerShape] | None]
"""The layers of a point's network, None where they are not known."""


@dataclass(frozen=True)
class Fractions:
    """What is left of the network in a point."""

    space: Space
    shape: Shape
    tables: Mapping[str, LatencyTable]
    block: int = 1
    _times: dict[tuple[int, tuple[int, int, int]], float] = field(default_factory=dict, repr=False, compare=False)

    def time(self, point: Point) -> float:
        """Of the time that calls do not take."""
        key = self.block, key_of(point)
        if key not in self._times:  # a search asks thousands of times
            table = self.tables.get(self.space.numbers[point["numbers"]]) or self.tables.get("")
            whole, small = self.shape(WHOLE), self.shape(point)
            if table is None or not whole or not small:
                return self.space.operations(point)  # for now: its layers may be known later
            self._times[key] = max(table.kept(whole, small, self.block), 1e-6)
        return self._times[key]

    def params(self, point: Point) -> float:
        """Of the weights."""
        whole, small = self.shape(WHOLE), self.shape(point)
        if not whole or not small:
            return self.space.operations(point)
        return sum(layer.params for layer in small) / max(1, sum(layer.params for layer in whole))

    def features(self, point: Point) -> list[float]:
        """Numbers that a model of latency or size can learn from: what is left, how full blocks are, kinds of folds."""
        plain = replace(self, block=1).time(point)
        return [math.log2(plain), math.log2(self.time(point) / plain), *self.space.kinds(point)]


@dataclass(frozen=True)
class Formulas:
    """One for each thing that is predicted, and the fractions that they are made of."""

    latency_ms: Callable[[Point], float]
    size_bytes: Callable[[Point], float]
    loss: Callable[[Point, int], float]
    """1 − score at a rung of the ladder."""
    fractions: Fractions


def formulas(fractions: Fractions, lines: Sequence[Line], least: float) -> Formulas:
    """The formulas as far as measurements of the whole network, with its numbers written in all ways, tell them.

    Args:
        fractions: of the networks of points; their block is set here.
        lines: that of the network as it was trained (no steps) is among them.
        least: 1 − score below which nothing can be told.
    """
    space = fractions.space
    original = next(line for line in lines if not line.steps)
    whole = (line for line in lines if line.point and line.measured and is_whole(line.point))
    alone = {line.point["numbers"]: line for line in whole}

    def ratio(numbers: int, what: str) -> float:
        line = alone.get(numbers)
        if line is None or what not in line.measured:
            fast, small = USUAL.get(space.numbers[numbers], (1.0, 1.0))
            return fast if what == "latency_ms" else small
        return line.measured[what] / original.measured[what]

    whole_ms = {n: original.measured["latency_ms"] * ratio(n, "latency_ms") for n in range(len(space.numbers))}
    fractions = _of_kernels(fractions, lines, whole_ms)

    def size(point: Point) -> float:
        kept = 0.05 + 0.95 * fractions.params(point)
        return original.measured["size_bytes"] * kept * ratio(point["numbers"], "size_bytes")

    def loss(point: Point, rung: int) -> float:
        lost = 1 - original.measured["score"]
        away = -math.log2(space.operations(point)) if space.operations(point) < 1 else 0.0
        short = -math.log(RUNGS[rung], 3) if away else 0.0
        return max((lost + least) * (1 + 0.15 * away * 2**short) + 0.002 * (point["numbers"] > 0), least)

    return Formulas(_latency(fractions.time, lines, whole_ms), size, loss, fractions)


def _of_kernels(fractions: Fractions, lines: Sequence[Line], whole_ms: Mapping[int, float]) -> Fractions:
    """The same for the block of channels with which measurements agree best."""
    small = [line for line in lines if line.point and "latency_ms" in line.measured and not is_whole(line.point)]
    if len(small) < ENOUGH:
        return fractions

    def spread(block: int) -> float:
        say = _latency(replace(fractions, block=block).time, lines, whole_ms)
        return float(np.std([math.log(line.measured["latency_ms"] / say(line.point)) for line in small]))

    return replace(fractions, block=min(BLOCKS, key=spread))


def _latency(kept_of: Number, lines: Sequence[Line], whole_ms: Mapping[int, float]) -> Number:
    """Calls take time however little they compute, and numbers that are written shorter do not shorten them."""
    floors = _floors_ms(kept_of, lines, whole_ms)

    def say(point: Point) -> float:
        whole = whole_ms[point["numbers"]]
        floor = min(max(floors[point["numbers"]], 0.02 * whole), 0.9 * whole)
        return floor + (whole - floor) * kept_of(point)

    return say


def _floor_ms(kept_of: Number, lines: Sequence[Line], numbers: int, whole_ms: float) -> float | None:
    """Milliseconds that no fold takes away where numbers are written so; None until a small network of that kind was
    measured."""
    found = []
    for line in lines:
        if line.point and line.point["numbers"] == numbers and "latency_ms" in line.measured:
            kept = kept_of(line.point)
            if kept < 0.5:
                found.append((line.measured["latency_ms"] - kept * whole_ms) / (1 - kept))
    return sorted(found)[len(found) // 2] if found else None


def _floors_ms(kept_of: Number, lines: Sequence[Line], whole_ms: Mapping[int, float]) -> dict[int, float]:
    """Numbers -> milliseconds that no fold takes away where they are written so.

    Where no small network of a kind was measured, those of the kind that takes the most similar time on the whole
    network: int8 of a training that knew of it runs as int8 does.
    """
    known = {n: floor for n in whole_ms if (floor := _floor_ms(kept_of, lines, n, whole_ms[n])) is not None}
    if not known:
        return dict.fromkeys(whole_ms, CALL_MS)

    def alike(n: int) -> int:
        return n if n in known else min(known, key=lambda m: abs(math.log(whole_ms[m] / whole_ms[n])))

    return {n: known[alike(n)] for n in whole_ms}
