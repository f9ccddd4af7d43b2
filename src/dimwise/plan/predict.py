"""Predictions of latency, size and score, each a formula corrected by what was measured.

log y = log formula(x) + residual(x), the residual a Gaussian process over the logarithms of the fractions kept: at
first only the formula speaks, and each measurement pulls it right in its neighbourhood. The formula of latency adds up
what every layer keeps of the time that it was measured to take, see :mod:`dimwise.plan.layer_costs`.

Source: Rasmussen, Williams 2006, "Gaussian processes for machine learning", chapter 2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from dimwise.plan.layer_costs import LatencyTable
from dimwise.plan.record import Line
from dimwise.plan.space import RUNGS, Point, Space, is_whole

ENOUGH = 6
"""Measurements from which on the process may choose its own length scales."""


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


@dataclass(frozen=True)
class Guess:
    """A number and how sure it is: log y is normal with this deviation."""

    value: float
    log_std: float

    def below(self, limit: float) -> float:
        """Probability of being at most ``limit``.

        Example:
            >>> Guess(1.0, 0.5).below(1.0)
            0.5
        """
        if limit <= 0 or self.value <= 0:
            return float(self.value <= limit)
        z = (math.log(limit) - math.log(self.value)) / max(self.log_std, 1e-6)
        return 0.5 * (1 + math.erf(z / math.sqrt(2)))


class Corrected:
    """A formula corrected by measurements."""

    def __init__(self, rows: Sequence[Sequence[float]], residuals: Sequence[float], *, log_std: float, noise: float):
        """Fit the residual.

        Args:
            rows: features of what was measured.
            residuals: log(measured / formula) of each.
            log_std: how far off the formula may be where nothing was measured.
            noise: deviation of a measurement repeated, in log space.
        """
        self._log_std, self._process = log_std, None
        if rows:
            self._process = _fit(np.asarray(rows), np.asarray(residuals), log_std, noise)

    def guess(self, formula: float, row: Sequence[float]) -> Guess:
        """The formula's value, corrected for these features."""
        if self._process is None:
            return Guess(formula, self._log_std)
        mean, std = self._process.predict(np.asarray([row]), return_std=True)
        return Guess(formula * math.exp(float(np.clip(mean[0], -5, 5))), max(float(std[0]), 1e-3))


def _fit(x: Any, y: Any, log_std: float, noise: float) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    variance = log_std**2
    kernel = ConstantKernel(variance, (variance / 100, variance * 25)) * RBF([1.5] * x.shape[1], (0.5, 20.0))
    kernel += WhiteKernel(noise**2, (noise**2 / 4, 25 * noise**2))
    optimizer = "fmin_l_bfgs_b" if len(x) >= ENOUGH else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound is no news
        return GaussianProcessRegressor(kernel, optimizer=optimizer, alpha=1e-10).fit(x, y)


Kept = Callable[[Point], float]
"""The fraction of the time that is left of a point's network when calls take none."""


def _floor_ms(kept_of: Kept, lines: Sequence[Line], numbers: int, whole_ms: float) -> float | None:
    """Milliseconds that no fold takes away where numbers are written so; None until a small network of that kind was
    measured."""
    found = []
    for line in lines:
        if line.point and line.point["numbers"] == numbers and "latency_ms" in line.measured:
            kept = kept_of(line.point)
            if kept < 0.5:
                found.append((line.measured["latency_ms"] - kept * whole_ms) / (1 - kept))
    return sorted(found)[len(found) // 2] if found else None


def _floors_ms(kept_of: Kept, lines: Sequence[Line], whole_ms: Mapping[int, float]) -> dict[int, float]:
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


@dataclass(frozen=True)
class Predictions:
    """What a point will take and give."""

    latency_ms: Callable[[Point], Guess]
    size_bytes: Callable[[Point], Guess]
    loss: Callable[[Point, int], Guess]
    """1 − score at a rung of the ladder."""


@dataclass(frozen=True)
class _Formulas:
    """What is thought of a point where nothing near it was measured."""

    latency_ms: Callable[[Point], float]
    size_bytes: Callable[[Point], float]
    loss: Callable[[Point, int], float]


def _formulas(space: Space, lines: Sequence[Line], least: float, tables: Mapping[str, LatencyTable]) -> _Formulas:
    original = next(line for line in lines if not line.steps)
    whole = (line for line in lines if line.point and line.measured and is_whole(line.point))
    alone = {line.point["numbers"]: line for line in whole}

    def ratio(point: Point, what: str) -> float:
        line = alone.get(point["numbers"])
        if line is None or what not in line.measured:
            fast, small = USUAL.get(space.numbers[point["numbers"]], (1.0, 1.0))
            return fast if what == "latency_ms" else small
        return line.measured[what] / original.measured[what]

    whole_ms = {
        n: original.measured["latency_ms"] * ratio({"numbers": n}, "latency_ms") for n in range(len(space.numbers))
    }

    def kept(point: Point) -> float:
        table = tables.get(space.numbers[point["numbers"]]) or tables.get("")
        return space.operations(point) if table is None else table.kept(space.on_network(point))

    floors = _floors_ms(kept, lines, whole_ms)
    weights = tables.get("")
    if weights is not None and sum(row.params for row in weights.rows) < 0.9 * original.measured.get("params", 0.0):
        weights = None  # most of it, such as a table of words, is in no layer

    def latency(point: Point) -> float:
        # Calls take time however little they compute, and numbers that are written shorter do not shorten them.
        whole, floor = whole_ms[point["numbers"]], floors[point["numbers"]]
        floor = min(max(floor, 0.02 * whole), 0.9 * whole)
        return floor + (whole - floor) * kept(point)

    def size(point: Point) -> float:
        left = space.operations(point) if weights is None else weights.kept(space.on_network(point), "params")
        return original.measured["size_bytes"] * (0.05 + 0.95 * left) * ratio(point, "size_bytes")

    def loss(point: Point, rung: int) -> float:
        lost = 1 - original.measured["score"]
        away = -math.log2(space.operations(point)) if space.operations(point) < 1 else 0.0
        short = -math.log(RUNGS[rung], 3) if away else 0.0
        return (lost + least) * (1 + 0.15 * away * 2**short) + 0.002 * (point["numbers"] > 0)

    return _Formulas(latency, size, loss)


def learn(
    space: Space, lines: Sequence[Line], n_valid: int, tables: Mapping[str, LatencyTable] = MappingProxyType({})
) -> Predictions:
    """Predictions from everything that was measured so far.

    Args:
        space: what points mean.
        lines: of this seed; that of the network as it was trained (no steps) is among them.
        n_valid: size of the validation split, below whose resolution no score can be told.
        tables: composition of numbers -> what each layer takes there; where there is none the original's, and without
            that time falls as the operations do.
    """
    least = 0.5 / max(1, n_valid)
    say = _formulas(space, lines, least, tables)
    fast = [line for line in lines if line.point and "latency_ms" in line.measured]
    scored = [line for line in lines if line.point and line.state == "whole" and "score" in line.measured]
    by_latency = Corrected(
        [space.features(line.point) for line in fast],
        [math.log(line.measured["latency_ms"] / say.latency_ms(line.point)) for line in fast],
        log_std=0.4,
        noise=0.03,
    )
    by_size = Corrected(
        [space.features(line.point) for line in fast],
        [math.log(line.measured["size_bytes"] / say.size_bytes(line.point)) for line in fast],
        log_std=0.3,
        noise=0.01,
    )
    by_loss = Corrected(
        [space.features(line.point, line.rung) for line in scored],
        [
            math.log(max(1 - line.measured["score"], least) / max(say.loss(line.point, line.rung), least))
            for line in scored
        ],
        log_std=0.7,
        noise=0.15,
    )
    return Predictions(
        lambda point: by_latency.guess(say.latency_ms(point), space.features(point)),
        lambda point: by_size.guess(say.size_bytes(point), space.features(point)),
        lambda point, rung: by_loss.guess(max(say.loss(point, rung), least), space.features(point, rung)),
    )
