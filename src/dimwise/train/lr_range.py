"""The learning-rate range test: train with a growing rate and see where the loss falls, and where it breaks.

The rate grows by a constant factor a step over a few hundred steps, on copies of the model. Where the loss falls
fastest a rate works well, where it rises again it is too high. When the curve does not say, neither does this file:
``interval`` is None and ``reason`` tells why.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Data
from dimwise.errors import UserError
from dimwise.progress import SILENT, Bar, Progress
from dimwise.recipe import config
from dimwise.seeds import derive
from dimwise.tasks import Task, get
from dimwise.train import guards
from dimwise.train.config import TrainConfig
from dimwise.train.feed import Feed, Source, check, device_of, feed, first_batch, require_labels
from dimwise.train.loop import Moving, StepFunction, plain_step, steps, steps_per_epoch
from dimwise.train.optimizer import optimizer
from dimwise.train.precision import Arithmetic

Array = NDArray[np.float64]

_CLEAR_SIGMA = 4.0
"""A fall must be so many standard errors, of the curve and among the seeds; four is past what search over a curve finds
by chance."""
_AGREE_DECADES = 1.0
"""Seeds whose upper ends lie further apart do not agree."""
_EDGE_STEPS = 3
"""A minimum among the last steps of the range may lie beyond it."""
_WINDOW = 12
"""Steps over which a slope is taken: by default half a decade, long enough for a line through noise."""
_EXTEND = 1000.0
"""Factor by which a range that was too short is extended, once."""


@config
class LrRangeConfig:
    """How the range is tested."""

    low: Annotated[float, Field(gt=0, le=100)] = 1e-6
    """First learning rate, no unit. Default: below what any usual optimizer needs."""
    high: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """Last learning rate. Default: above what plain SGD bears on nearly all networks."""
    n_steps: Annotated[int, Field(ge=30, le=100_000)] = 150
    """Optimizer steps from low to high. Default: 21 a decade, enough for a slope."""
    n_seeds: Annotated[int, Field(ge=2, le=20)] = 3
    """Repetitions with other orders and dropout, which must agree. Default: the fewest that show a spread."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.85
    """Decay of the running average of the loss per step. Default: an average over about seven steps, a third of a
    decade."""
    diverged: Annotated[float, Field(gt=1)] = 3.0
    """A test stops when the smoothed loss is so many times its lowest, or has risen twice what it had fallen. Default:
    3; the usual 4 runs longer and shows nothing more."""


@dataclass(frozen=True)
class LrRange:
    """What a range test found."""

    rates: tuple[float, ...]
    """Learning rates of the steps that every seed took, ascending."""
    losses: tuple[float, ...]
    """Mean loss of the seeds right after a step with that rate."""
    smoothed: tuple[float, ...]
    """The same, smoothed."""
    interval: tuple[float, float] | None
    """Lowest and highest rate to try; None: no clear answer."""
    suggested: float | None
    """Where the loss falls fastest, within the interval: the one to begin with."""
    reason: str
    """Why this interval, or why none."""
    steepest: float | None = None
    """Rate in the middle of the stretch along which the loss falls fastest."""
    minimum: float | None = None
    """Rate at which the smoothed loss is lowest."""
    edge: float | None = None
    """Rate from which on the loss is clearly above its lowest; None: not within the range."""
    extended: bool = False
    """Whether the range first asked for was too short and a longer one was taken."""
    n_seeds: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def lr_range(
    model: nn.Module,
    data: Source,
    task: Task | str | None = None,
    config: TrainConfig | None = None,
    *,
    test: LrRangeConfig | None = None,
    augment: AugmentConfig | None = None,
    step: StepFunction = plain_step,
    progress: Progress = SILENT,
) -> LrRange:
    """Find the learning rates with which ``model`` learns from ``data``, by trying.

    Rate of step i: ``low · (high / low)^(i / (n − 1))``. The loss right after each step is smoothed by a running
    average with its bias corrected, run forwards and backwards so that it does not lag.

    - ``minimum``: the rate of the lowest smoothed loss; ``edge``: the first rate after it at which the loss has lost a
      tenth of what it had won.
    - upper end: half the edge, at most the minimum.
    - ``suggested``: the steepest fall, at most a third of the upper end.
    - lower end: a tenth of the minimum, at most a third of ``suggested``.

    Args:
        model: is left as it was; copies are trained, always in the arithmetic that ``config.precision`` names (fp32 for
            auto).
        data: as for :func:`dimwise.train.fit.fit`.
        task: what is learnt; default: what ``data`` says, else classification.
        config: optimizer, batch size, momentum, decay, clipping, seed; its rate and schedule are not used.
        test: range, steps, seeds.
        augment: what happens to training batches on their way.
        step: the loss of one batch.
        progress: where progress is shown.

    Returns:
        Curve and interval; ``interval`` is None when the curve is flat, when its fall drowns in noise, when seeds
        disagree, when the loss is not finite, or when the range, extended once, still ends before the answer.

    Raises:
        ModelError: network, inputs, targets and task do not go together.
        DataError: no rows or no batches.
        UserError: ``test.low`` is not below ``test.high``.

    Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3. Deviations: the rate grows
    exponentially instead of linearly, loss is watched instead of accuracy, several seeds must agree, the interval is
    read from the curve by the rules above.

    Example:
        >>> x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        >>> found = lr_range(nn.Linear(8, 2), (x, (x.sum(1) > 0).long()), config=TrainConfig(optimizer="sgd"))
        >>> found.interval[0] < found.suggested < found.interval[1]
        True
    """
    config, test = config or TrainConfig(), test or LrRangeConfig()
    if test.low >= test.high:
        raise UserError(f"the range begins at {test.low:g} and ends at {test.high:g}", expected="low below high")
    named = task or (data.task if isinstance(data, Data) else "classification")
    task = get(named, label_smoothing=config.label_smoothing) if isinstance(named, str) else named
    guards.require_threads(config.threads)
    device = device_of(config)
    arithmetic = Arithmetic("fp32" if config.precision == "auto" else config.precision, device=device.type)
    with guards.threads(config.threads), guards.own_randomness(device):
        own = copy.deepcopy(model).to(device)
        batch, n_outputs = first_batch(data, config, device), 0
        if batch is not None and step is plain_step:
            targets = data.train.targets if isinstance(data, Data) else data[1]  # type: ignore[index]
            n_outputs = check(own, batch, targets, task)
            require_labels(n_outputs, data)

        def tried(test: LrRangeConfig, bar: Bar) -> list[list[float]]:
            curves = []
            for seed in range(test.n_seeds):
                again = dataclasses.replace(config, seed=derive(config.seed, "lr_range", seed))
                source = feed(
                    data, again, valid=None, augment=augment, arithmetic=arithmetic, device=device, n_outputs=n_outputs
                )
                curves.append(_curve(copy.deepcopy(own), source, task, again, test, arithmetic, step))
                bar.update(seed + 1)
            return curves

        with progress.stage("lr-range", total=test.n_seeds) as bar:
            found, side = read(test, tried(test, bar))
        if side:
            longer = _longer(test, side)
            with progress.stage("lr-range, extended", total=test.n_seeds) as bar:
                found, side = read(longer, tried(longer, bar))
            found = dataclasses.replace(found, extended=True)
    return found


def _longer(test: LrRangeConfig, side: str) -> LrRangeConfig:
    """As many steps a decade, and three decades more on the side where the answer may lie."""
    low, high = (test.low / _EXTEND, test.high) if side == "low" else (test.low, min(1e6, test.high * _EXTEND))
    grown = math.log(high / low) / math.log(test.high / test.low)
    return dataclasses.replace(test, low=low, high=high, n_steps=math.ceil(test.n_steps * grown))


def _rates(test: LrRangeConfig) -> Array:
    return np.geomspace(test.low, test.high, test.n_steps)


def _curve(
    model: nn.Module,
    source: Feed,
    task: Task,
    config: TrainConfig,
    test: LrRangeConfig,
    arithmetic: Arithmetic,
    step: StepFunction,
) -> list[float]:
    """The loss before the first step and after each; it ends with the first that is not finite, or far too high."""
    rates = _rates(test)
    n_epochs = -(-(test.n_steps + 1) // steps_per_epoch(source.batches, config))
    config = dataclasses.replace(config, epochs=min(100_000, n_epochs), schedule="constant", warmup_epochs=0, ema=0)
    moving = Moving(arithmetic.model_(model), optimizer(model, config))
    if arithmetic.precision == "fp16":
        moving.scaler = torch.amp.GradScaler(arithmetic.device)
    losses: list[float] = []
    average, weight, lowest, first = 0.0, 0.0, math.inf, 0.0
    _set(moving, rates[0])
    for record in steps(moving, source.batches, task, config, arithmetic=arithmetic, step_function=step):
        losses.append(record.loss)
        if not math.isfinite(record.loss) or len(losses) > test.n_steps:
            break
        average = test.smoothing * average + (1 - test.smoothing) * record.loss
        weight = test.smoothing * weight + 1 - test.smoothing
        smoothed = average / weight
        lowest, first = min(lowest, smoothed), losses[0]
        limit = max(test.diverged * abs(lowest), lowest + 2 * abs(first - lowest))
        if smoothed > limit and len(losses) > 2:
            break
        if len(losses) < test.n_steps:
            _set(moving, rates[len(losses)])
    return losses


def _set(moving: Moving, rate: float) -> None:
    for group in moving.optimizer.param_groups:
        group["lr"] = float(rate)


def smooth(values: Sequence[float] | Array, decay: float) -> Array:
    """Running averages forwards and backwards, each with its bias corrected, and their mean: smooth without a lag.

    Example:
        >>> smooth([2.0, 2.0, 2.0], 0.5).tolist()
        [2.0, 2.0, 2.0]
    """
    values = np.asarray(values, dtype=float)
    return (_average(values, decay) + _average(values[::-1], decay)[::-1]) / 2


def _average(values: Array, decay: float) -> Array:
    out, total, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        total, weight = decay * total + (1 - decay) * value, decay * weight + 1 - decay
        out[i] = total / weight
    return out


def read(test: LrRangeConfig, curves: Sequence[Sequence[float]]) -> tuple[LrRange, str]:
    """What the curves of all seeds say.

    Args:
        test: as they were made.
        curves: a list a seed: the loss before the first step, then after each step; a last value that is not finite
            ends a curve.

    Returns:
        The finding, and on which side ("low" or "high") a longer range may help; "" for neither.
    """
    rates, n_seeds = _rates(test), len(curves)
    finite = [[v for v in curve if math.isfinite(v)] for curve in curves]
    n = min(len(c) for c in finite) - 1
    blown = any(_broke(row, test) for row in finite)
    more: dict[str, Any] = {}

    def nothing(reason: str, side: str = "") -> tuple[LrRange, str]:
        return LrRange(*_told(rates, finite, n, test), None, None, reason, n_seeds=n_seeds, **more), side

    if n < 0:
        return nothing("no clear answer: the loss is not finite before the first step; look at data, loss and weights")
    if n < 10:
        return nothing(f"no clear answer: the loss breaks within {n + 1} steps of the lowest rate, {test.low:g}", "low")
    together = np.array([c[: n + 1] for c in finite])
    fall = _fall(together, test.smoothing)
    if fall is None:
        text = "no clear answer: the loss does not fall by more than its noise at any rate; is anything learnt?"
        return nothing(text, "" if blown else "high")
    # Each seed is read along all of its own curve: one that breaks early must not hide that the others go on.
    places = [_places(np.array(row), test, rates, _broke(row, test)) for row in finite]
    place = _places(together.mean(0), test, rates, blown)
    more |= {"steepest": place.steepest, "minimum": place.minimum, "edge": place.edge}
    if place.at_start:
        return nothing(f"no clear answer: the loss is falling fastest already at the lowest rate, {rates[0]:g}", "low")
    if place.edge is None:
        return nothing(f"no clear answer: the loss still falls at the highest rate, {rates[n - 1]:g}", "high")
    spread = math.log10(max(p.top for p in places) / min(p.top for p in places))
    if spread > _AGREE_DECADES:
        ends = ", ".join(f"{p.top:.2g}" for p in places)
        return nothing(f"no clear answer: the seeds disagree about the highest rate that works ({ends})")
    suggested = min(place.steepest, place.top / 3)
    low = min(place.minimum / 10, suggested / 3)
    reason = (
        f"the loss falls fastest at {place.steepest:.2g}, is lowest at {place.minimum:.2g} and rises from "
        f"{place.edge:.2g} on; in {n_seeds} seeds the upper end lies within a factor of {10**spread:.1f}"
    )
    found = LrRange(*_told(rates, finite, n, test), (low, place.top), suggested, reason, n_seeds=n_seeds, **more)
    return found, ""


def _broke(finite: Sequence[float], test: LrRangeConfig) -> bool:
    """Whether a curve, its values that are finite, ended before the last rate."""
    return len(finite) <= test.n_steps


def _told(
    rates: Array, finite: Sequence[Sequence[float]], n: int, test: LrRangeConfig
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Rates, mean losses right after their steps, and those smoothed."""
    if n < 1:
        return (), (), ()
    losses = np.array([c[1 : n + 1] for c in finite]).mean(0)
    return tuple(rates[:n].tolist()), tuple(losses.tolist()), tuple(smooth(losses, test.smoothing).tolist())


def _fall(together: Array, decay: float) -> float | None:
    """How far the smoothed loss falls below where it began; None when that is not clear.

    Two errors are looked at: that of each curve about its smoothed self, and that among the seeds.
    """
    smoothed = np.array([smooth(row, decay) for row in together])
    mean = smoothed.mean(0)
    n_first = max(5, round(1 / (1 - decay)))
    lowest = int(mean.argmin())
    falls = together[:, :n_first].mean(1) - smoothed[:, lowest]
    n_values = (1 + decay) / (1 - decay)  # as many values an average of this decay is worth
    noise = float(np.std((together - smoothed)[:, : lowest + 1])) / math.sqrt(len(together))
    error = noise * math.sqrt(1 / n_values + 1 / n_first)
    among = float(falls.std(ddof=1)) / math.sqrt(len(falls)) if len(falls) > 1 else 0.0
    fall = float(falls.mean())
    scale = 1e-6 * max(abs(float(mean[0])), 1e-12)
    return fall if fall > max(_CLEAR_SIGMA * error, 2 * among, scale) else None


@dataclass(frozen=True)
class _Places:
    steepest: float
    minimum: float
    edge: float | None
    top: float
    at_start: bool
    """Whether the fall is steepest at the lowest rates, and surely a fall."""


def _places(values: Array, test: LrRangeConfig, rates: Array, blown: bool) -> _Places:
    """Where one curve falls fastest, is lowest, and rises again; value i + 1 follows the step with rate i."""
    smoothed = smooth(values, test.smoothing)
    lowest = int(smoothed.argmin())
    slopes, errors = slopes_of(values[: lowest + 1])
    steepest = int(slopes.argmin())
    at_start = steepest < _EDGE_STEPS and slopes[steepest] < -_CLEAR_SIGMA * errors[steepest]
    won = smoothed[0] - smoothed[lowest]
    risen = np.flatnonzero(smoothed[lowest:] > smoothed[lowest] + won / 10)

    def rate(i: int) -> float:
        return float(rates[min(max(i - 1, 0), len(rates) - 1)])

    at_end = lowest >= len(smoothed) - 1 - _EDGE_STEPS and not blown
    edge = None if at_end else rate(lowest + int(risen[0])) if len(risen) else rate(len(smoothed)) if blown else None
    top = min(rate(lowest), edge / 2) if edge is not None else rate(lowest)
    middle = steepest + min(len(values[: lowest + 1]), _WINDOW) // 2
    return _Places(rate(middle), rate(lowest), edge, top, bool(at_start))


def slopes_of(values: Sequence[float] | Array) -> tuple[Array, Array]:
    """Slope per step of the straight line through each stretch of values, by least squares, and its standard error.

    Returns:
        Two arrays, one entry for each place where a stretch begins; one stretch when there are fewer values than that.

    Example:
        >>> slopes, errors = slopes_of([2.0 * i for i in range(30)])
        >>> bool(abs(slopes - 2).max() < 1e-9), bool(errors.max() < 1e-6)
        (True, True)
    """
    values = np.asarray(values, dtype=float)
    n = min(_WINDOW, len(values))
    if n < 3:
        return np.zeros(1), np.full(1, np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(values, n)
    x = np.arange(n) - (n - 1) / 2
    slopes = windows @ x / (x @ x)
    rest = windows - windows.mean(1, keepdims=True) - np.outer(slopes, x)
    return slopes, np.sqrt((rest**2).sum(1) / (n - 2) / (x @ x))
