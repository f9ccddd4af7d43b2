"""How many channels does each group keep? The most that fit a limit, in an order that the allocation decides."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from dimwise.errors import ModelError
from dimwise.fold._channels.groups import Alive, Channels, Group, Labels, Product
from dimwise.fold._pruning.importance import Scores

if TYPE_CHECKING:
    from dimwise.fold.prune import PruneConfig

Order = Mapping[str, Scores]
"""Group name -> for each of its classes, from the most important down, how much speaks for keeping it."""


def counting_params(channels: Channels, model: nn.Module) -> Channels:
    """The same channels with parameters for products: its ``macs(alive)`` counts the parameters that are left.

    Example:
        >>> from dimwise.fold._channels.trace import trace
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> counted = counting_params(trace(net, torch.zeros(2, 4)), net)
        >>> counted.macs(counted.all_alive())  # 4 · 6 + 6 and 6 · 2 + 2
        44.0
    """
    return replace(channels, products=tuple(Product(n, 1.0, p.numel()) for n, p in model.named_parameters()))


def allocate(
    channels: Channels,
    scores: Scores,
    config: PruneConfig,
    *,
    rest_macs: float = 0.0,
    params: Channels | None = None,
    order: Order | None = None,
) -> Alive:
    """The most channels, by rank, whose cost is within the target.

    Every group of tied layers keeps its best classes; how many follows from one number, the share of all ranks that
    stay, found by bisection. What rounding left over is then given back, best rank first, as long as it fits:
    afterwards no group could grow by one more step.

    Args:
        channels: groups and costs.
        scores: (n_classes,) importance.
        config: target (``config.params`` of the parameters when ``params`` is given, else ``config.macs`` of the
            MACs), allocation, rounding.
        rest_macs: multiply-accumulates that no pruning changes.
        params: the channels with parameters for products, when parameters are the target.
        order: what allocations that look further than importance found out.

    Returns:
        (n_classes,) which classes stay.

    Raises:
        ModelError: when nothing can leave, or even the smallest network is above the target.
    """
    if not channels.groups:
        told = "; ".join(f"{layer}: {reason}" for layer, reason in list(channels.untouched.items())[:3])
        raise ModelError(
            f"no channel of this network can leave ({told})",
            next_step="It can still be quantized or distilled.",
        )
    groups = ranked(channels, scores, config)
    ranks = _ranks(groups, scores, config, order)
    counted, rest, frac = (channels, rest_macs, config.macs) if params is None else (params, 0.0, config.params)
    whole = counted.macs(channels.all_alive()) + rest
    budget = frac * whole * (1 + 1e-9)
    n_levels = len(scores)

    def cost(kept: list[int]) -> float:
        return counted.macs(_alive(channels, groups, kept)) + rest

    def kept_at(level: int) -> list[int]:
        return [g.nearest((rank < level / n_levels).sum()) for g, rank in zip(groups, ranks, strict=True)]

    level = bisect.bisect_right(range(n_levels + 1), budget, key=lambda n: cost(kept_at(n))) - 1
    if level < 0:
        what = "MACs" if params is None else "parameters"
        raise ModelError(
            f"pruning to {frac:.0%} of the {what} is out of reach",
            expected=f"at least {cost(kept_at(0)) / whole:.1%}, what is left with every group at its smallest",
            next_step=f"Set a larger {'macs' if params is None else 'params'}, round_to below {config.round_to}, "
            "or smaller min_channels.",
        )
    return _alive(channels, groups, _refill(kept_at(level), groups, ranks, fits=lambda kept: cost(kept) <= budget))


def smallest(channels: Channels, scores: Scores, config: PruneConfig) -> Alive:
    """Every group at its smallest: what no target can go below."""
    groups = ranked(channels, scores, config)
    return _alive(channels, groups, [int(g.legal[0]) for g in groups])


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A group's classes from the most to the least important, and how many of them may be kept."""

    classes: Labels
    legal: Labels

    def nearest(self, wanted: int) -> int:
        """The number nearest to what is wanted that may be kept."""
        return int(self.legal[np.abs(self.legal - wanted).argmin()])

    def above(self, kept: int) -> int | None:
        """The next larger number, if there is one."""
        more = self.legal[self.legal > kept]
        return int(more[0]) if len(more) else None


def ranked(channels: Channels, scores: Scores, config: PruneConfig) -> list[Ranked]:
    """The groups, their classes in the order of importance."""
    return [Ranked(g.classes[np.argsort(-scores[g.classes], kind="stable")], legal(g, config)) for g in channels.groups]


def legal(group: Group, config: PruneConfig) -> Labels:
    """Numbers of classes that give whole multiples of ``round_to`` channels, not too few; and all of them.

    Where whole branches may leave, also none.
    """
    n = len(group.classes)
    widths = [(k, k * group.unit) for k in range(1, n)]
    some = [k for k, w in widths if group.heads or (w % config.round_to == 0 and w >= config.min_channels)]
    none = [0] if group.branch is not None and config.branches and config.allocation == "latency" else []
    return np.array([*none, *some, n])


def _ranks(groups: list[Ranked], scores: Scores, config: PruneConfig, order: Order | None) -> list[Scores]:
    """The place of each class in the order of leaving, from 0 (last) to 1 (first): in its group, or in the network."""
    if config.allocation == "uniform":
        return [(np.arange(len(g.classes)) + 0.5) / len(g.classes) for g in groups]
    if order is None:
        keys = [scores[g.classes] for g in groups]
    else:  # within a group the less important leaves first, whatever else is said
        keys = [np.minimum.accumulate(found) for found in order.values()]
    worth = np.concatenate(keys)
    place = np.empty(len(worth))
    place[np.argsort(-worth, kind="stable")] = (np.arange(len(worth)) + 0.5) / len(worth)
    return np.split(place, np.cumsum([len(g.classes) for g in groups])[:-1])


def _refill(
    kept: list[int], groups: list[Ranked], ranks: list[Scores], *, fits: Callable[[list[int]], bool]
) -> list[int]:
    """Give back one step at a time, to the group whose next class ranks best, until nothing fits any more."""
    open_groups = set(range(len(groups)))
    while open_groups:
        i = min(open_groups, key=lambda i: (ranks[i][kept[i]] if kept[i] < len(ranks[i]) else 1.0, i))
        more = groups[i].above(kept[i])
        tried = [*kept[:i], more, *kept[i + 1 :]] if more is not None else None
        if tried is not None and fits(tried):
            kept = tried
        else:
            open_groups.discard(i)  # the others only grow, so what does not fit now never will
    return kept


def _alive(channels: Channels, groups: list[Ranked], kept: list[int]) -> Alive:
    alive = channels.all_alive()
    for group, n in zip(groups, kept, strict=True):
        alive[group.classes[n:]] = False
    return alive
