"""Pruning by the clock: orders of leaving that were measured, and targets in milliseconds.

What is measured is always a real, cut network, by ``latency_of(network) -> ms``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.fold._channels.cut import cut
from dimwise.fold._channels.groups import Alive, Channels, Group
from dimwise.fold._pruning.allocate import Order, Ranked, ranked
from dimwise.fold._pruning.importance import Scores
from dimwise.measure import evaluating
from dimwise.measure.timing import beside

if TYPE_CHECKING:
    from dimwise.fold.prune import PruneConfig

LatencyOf = Callable[[nn.Module], float]
"""Milliseconds that a network takes, on the runtime and with the batch that matter."""

N_TRIALS = 8
"""Networks measured on the way to a latency: bisection then knows the share of MACs to 1 in 256."""


def eager_latency(original: nn.Module, x: Tensor, *, budget_s: float = 0.2) -> LatencyOf:
    """How long networks take in eager PyTorch, each in turns with the original, so that a busy machine slows both.

    Args:
        original: the yardstick; its first measurement fixes what a millisecond is.
        x: the input, as large as the batch that matters.
        budget_s: seconds for each of the two.

    Returns:
        network -> ms: the original's first median times the ratio of the medians side by side.

    Example:
        >>> slow = nn.Sequential(*(nn.Linear(256, 256) for _ in range(40)))
        >>> time_ms = eager_latency(slow, torch.zeros(1, 256), budget_s=0.02)
        >>> time_ms(slow[:1]) < time_ms(slow)
        True
    """
    clock = beside(lambda: original(x), budget_s=budget_s, device=x.device)

    def time_ms(network: nn.Module) -> float:
        with evaluating(original), evaluating(network):
            return clock(lambda: network(x))

    return time_ms


def to_latency(
    model: nn.Module,
    channels: Channels,
    config: PruneConfig,
    *,
    latency_of: LatencyOf,
    choose: Callable[[float], Alive],
) -> Alive:
    """The most MACs whose cut network meets the limit on latency, by bisection on the MACs.

    Args:
        model: the network that was traced.
        channels: its channels, of groups that can be cut.
        config: ``latency_ms``, ``latency``, or both: both are met.
        latency_of: measures.
        choose: share of the MACs -> what stays; raises ModelError below what is possible.

    Raises:
        ModelError: when even the smallest network is too slow.
    """
    known: dict[bytes, float] = {}

    def measured(alive: Alive) -> float:
        key = alive.tobytes()
        if key not in known:
            known[key] = latency_of(cut(model, channels, alive))
        return known[key]

    whole = channels.all_alive()
    limit = limit_ms(config, measured(whole))
    if measured(whole) <= limit:
        return whole
    low, high, best = 0.0, 1.0, None
    impossible: ModelError | None = None
    slowest = np.inf
    for _ in range(N_TRIALS):
        middle = (low + high) / 2
        try:
            alive = choose(middle)
        except ModelError as error:
            low, impossible = middle, error  # no network is that small
            continue
        if measured(alive) <= limit:
            low, best = middle, alive
        else:
            high, slowest = middle, min(slowest, measured(alive))
    if best is None and impossible is not None and slowest == np.inf:
        raise impossible
    if best is None:
        raise ModelError(
            f"pruning to {limit:.3g} ms is out of reach",
            expected=f"at least {slowest:.3g} ms, the fastest that was measured (the original: {measured(whole):.3g})",
            next_step="Set a larger latency, or smaller round_to and min_channels.",
        )
    return best


def limit_ms(config: PruneConfig, original_ms: float) -> float:
    """The stricter of the two limits."""
    absolute = config.latency_ms or np.inf
    return float(min(absolute, config.latency * original_ms if config.latency < 1 else np.inf))


def by_sensitivity(
    channels: Channels, scores: Scores, config: PruneConfig, *, score_without: Callable[[Alive], float]
) -> Order:
    """For each class u · s: s, what the validation score lost when its group alone was cut, and u, the share of the
    group that leaves no later than the class.

    That takes the loss as s u² / 2 per group, so that all groups end with the same marginal loss. No group counts for
    less than a tenth of the mean, since a short validation split cannot see small losses.

    Args:
        channels: groups.
        scores: (n_classes,) importance.
        config: ``sensitivity_cut``, the share each group loses.
        score_without: which classes stay -> score of the network without the others.
    """
    alone = each_alone(channels, scores, config, score_without=score_without)
    drops = [max(0.0, found.drop) for found in alone]
    least = max(0.1 * float(np.mean(drops)), 1e-6)
    shares = [1 - (np.arange(len(g.classes)) + 0.5) / len(g.classes) for g in channels.groups]
    return {g.name: (d + least) * u for g, d, u in zip(channels.groups, drops, shares, strict=True)}


@dataclasses.dataclass(frozen=True)
class CutAlone:
    """A group of tied layers that lost channels alone, without any training."""

    group: Group
    n_kept: int
    """Of its classes."""
    drop: float
    """What the score lost, 0 to 1; negative where it rose."""


def each_alone(
    channels: Channels, scores: Scores, config: PruneConfig, *, score_without: Callable[[Alive], float]
) -> Iterator[CutAlone]:
    """Cut one group after the other by ``config.sensitivity_cut``, the others whole; arguments as before."""
    whole = score_without(channels.all_alive())
    for group, order in zip(channels.groups, ranked(channels, scores, config), strict=True):
        n_kept = order.nearest(round(len(order.classes) * (1 - config.sensitivity_cut)))
        yield CutAlone(group, n_kept, whole - score_without(_alone(channels, order, n_kept)))


def by_latency(
    model: nn.Module, channels: Channels, scores: Scores, config: PruneConfig, *, latency_of: LatencyOf
) -> Order:
    """For each class its importance over the milliseconds it saves, from a table measured group by group.

    A group is measured at all its channels, at the legal number nearest to the half, and at its smallest; what a
    class saves is the slope in between. Slopes below a twentieth of the steepest, noise among them, count as that.

    Args:
        model: the network that was traced.
        channels: its channels, of groups that can be cut.
        scores: (n_classes,) importance.
        config: rounding.
        latency_of: measures.
    """
    groups = ranked(channels, scores, config)
    whole_ms = latency_of(model)
    slopes = []
    for group in groups:
        n, floor = len(group.classes), int(group.legal[0])
        counts = sorted({floor, group.nearest((n + floor) // 2), n})
        times = [latency_of(cut(model, channels, _alone(channels, group, k))) for k in counts[:-1]] + [whole_ms]
        rises = np.diff(times) / np.maximum(np.diff(counts), 1)
        place = np.clip(np.searchsorted(counts, np.arange(n), side="right") - 1, 0, max(len(rises) - 1, 0))
        slopes.append(rises[place] if len(rises) else np.zeros(n))
    least = max(max((float(s.max()) for s in slopes), default=0.0) / 20, 1e-9)
    worth = [scores[g.classes] / np.maximum(s, least) for g, s in zip(groups, slopes, strict=True)]
    return {g.name: w for g, w in zip(channels.groups, worth, strict=True)}


def _alone(channels: Channels, group: Ranked, n_kept: int) -> Alive:
    alive = channels.all_alive()
    alive[group.classes[n_kept:]] = False
    return alive


def sized(config: PruneConfig, macs: float) -> PruneConfig:
    """The same settings with another share of the MACs, and no other target."""
    return dataclasses.replace(config, macs=macs, params=1.0, latency=1.0, latency_ms=0.0)


def one(x: Tensor) -> Tensor:
    """The first input, as contiguous memory of its own."""
    return x[:1].clone(memory_format=torch.contiguous_format)
