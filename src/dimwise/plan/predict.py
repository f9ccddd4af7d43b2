"""Predictions of latency, size and score, each a formula corrected by what was measured.

log y = log formula(x) + residual(x), the residual a Gaussian process over the logarithms of the fractions kept: at
first only the formula speaks, and each measurement pulls it right in its neighbourhood. The formula of latency adds up
what every layer keeps of the time that it was measured to take, see :mod:`dimwise.plan.layer_costs`, in a network whose
widths are known, see :mod:`dimwise.plan.shapes`.

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

from dimwise.plan.formulas import Fractions, Shape, formulas
from dimwise.plan.layer_costs import LatencyTable
from dimwise.plan.record import Line
from dimwise.plan.space import Point, Space

ENOUGH = 6
"""Measurements from which on the process may choose its own length scales."""


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


@dataclass(frozen=True)
class Predictions:
    """What a point will take and give."""

    latency_ms: Callable[[Point], Guess]
    size_bytes: Callable[[Point], Guess]
    loss: Callable[[Point, int], Guess]
    """1 − score at a rung of the ladder."""


def _unknown(point: Point) -> None:
    """Of no point the layers."""


def learn(
    space: Space,
    lines: Sequence[Line],
    n_valid: int,
    tables: Mapping[str, LatencyTable] = MappingProxyType({}),
    shape: Shape = _unknown,
) -> Predictions:
    """Predictions from everything that was measured so far.

    Args:
        space: what points mean.
        lines: of this seed; that of the network as it was trained (no steps) is among them.
        n_valid: size of the validation split, below whose resolution no score can be told.
        tables: composition of numbers -> what each layer takes there; where there is none the original's.
        shape: point -> the layers of its network. Where there is none, or no table, all falls as the operations do.
    """
    least = 0.5 / max(1, n_valid)
    say = formulas(Fractions(space, shape, tables), lines, least)
    features = say.fractions.features
    fast = [line for line in lines if line.point and "latency_ms" in line.measured]
    scored = [line for line in lines if line.point and line.state == "whole" and "score" in line.measured]
    rows = [features(line.point) for line in fast]
    by_latency = Corrected(
        rows,
        [math.log(line.measured["latency_ms"] / say.latency_ms(line.point)) for line in fast],
        log_std=0.4,
        noise=0.03,
    )
    by_size = Corrected(
        rows,
        [math.log(line.measured["size_bytes"] / say.size_bytes(line.point)) for line in fast],
        log_std=0.3,
        noise=0.01,
    )
    by_loss = Corrected(
        [space.features(line.point, line.rung) for line in scored],
        [math.log(max(1 - line.measured["score"], least) / say.loss(line.point, line.rung)) for line in scored],
        log_std=0.7,
        noise=0.15,
    )
    return Predictions(
        lambda point: by_latency.guess(say.latency_ms(point), features(point)),
        lambda point: by_size.guess(say.size_bytes(point), features(point)),
        lambda point, rung: by_loss.guess(say.loss(point, rung), space.features(point, rung)),
    )
