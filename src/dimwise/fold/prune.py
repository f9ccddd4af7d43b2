"""Structured pruning: whole channels leave, so tensors shrink and every runtime gains.

Idea: a network has more filters than its task needs. Rank them, remove the least, and train a little more, with the
original network as the teacher. What remains is an ordinary, smaller network.

Mathematics: channel c is all that has to leave for it: filters W[c], their norms and biases, and the kernel slices
W'[:, c] that read it; residual additions tie the channels of several layers into one. Importance ``l1``: mean over
its filters of ‖W[c]‖₁ relative to its layer's mean. Importance ``taylor``: |Σ w · ∂L/∂w| over the slices that read c,
mean over batches; Σ w · ∂L/∂w = Σ a · ∂L/∂a, the first-order change of the loss when activation a of c becomes zero.
Allocation ``uniform`` keeps the same share of each group of tied layers, ``global`` keeps the most important channels
wherever they are. MACs fall with about the square of the share.

Use when: latency or size must fall on any runtime, and convolutions or dense layers dominate. Before quantizing.

Cost: a trace (1 to 3 s), ``batches`` gradients for ``taylor``, then ``epochs`` of fine-tuning. Half the MACs often
cost less than half a point; below a quarter, distil a narrow network instead.

Pitfalls: MACs are not milliseconds: measure. Narrow layers need multiples of 8 (``round_to``) to fill vector registers.
Without fine-tuning scores collapse. Statistics over channels (LayerNorm, GroupNorm) change when channels leave.
Attention and LSTMs stay whole for now. A forward pass with channel counts written into its code is found out by
running the smaller network against the silenced original; its layers are left alone.

Source: Li et al. 2017, arXiv:1608.08710 (L1); Molchanov et al. 2019, arXiv:1906.10771 (first-order Taylor); Fang et
al. 2023, arXiv:2301.12900 (dependency graph over whole groups). Deviation: dependencies are found by union-find on
single channels of the exported graph, not by rules per module; Taylor is read where channels are read, so that norms
and residuals count once.

Evidence: tests/fold/test_prune.py (pruned equals silenced for every model of the table); benchmarks/.
"""

from __future__ import annotations

import bisect
import dataclasses
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dimwise.errors import DataError, ModelError, UserError
from dimwise.fold._channels import Alive, Channels, Group, Labels, stays
from dimwise.fold._cut import cut, disagreement, guilty
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._importance import Scores, l1, taylor
from dimwise.fold._trace import trace
from dimwise.fold._tune import recover
from dimwise.measure import profile
from dimwise.recipe import config
from dimwise.seeds import derive


@config
class PruneConfig:
    """How channels are removed."""

    macs: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest fraction of the multiply-accumulates to keep. Default: half, which rarely costs half a point."""
    importance: Literal["l1", "taylor"] = "taylor"
    """l1: size of the filters; taylor: what the loss would change by. Default: taylor, which sees the data."""
    allocation: Literal["uniform", "global"] = "uniform"
    """uniform: the same share of each layer; global: the best channels of the whole network. Default: uniform,
    which spares no layer and starves none."""
    round_to: Annotated[int, Field(ge=1, le=256)] = 8
    """Kept channels are a multiple of this. Default: 8, one vector register; 4 is finer in thin networks."""
    min_channels: Annotated[int, Field(ge=1)] = 8
    """Fewest channels a pruned layer may keep. Default: 8, as above."""
    batches: Annotated[int, Field(ge=1)] = 16
    """For taylor: training batches of 64 whose gradients are taken. Default: rankings settle at about 1000 inputs."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs of fine-tuning; 0 returns the network as cut. Default: short, since most of the score returns at once."""
    lr_frac: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Learning rate of fine-tuning as a fraction of the training rate. Default: a half; gentler for a light cut."""
    teacher: bool = True
    """Fine-tune towards the original's outputs as well as the labels, as distill does. Default: on; it is at hand."""


Tune = Callable[[nn.Module, nn.Module, PruneConfig, Evidence], nn.Module]
"""``tune(small, original, config, evidence) -> small``, trained."""


def prune(
    model: nn.Module, config: PruneConfig, evidence: Evidence, *, tune: Tune | None = None
) -> tuple[nn.Module, FoldReport]:
    """Remove the least important channels until ``config.macs`` of the MACs are left, and fine-tune.

    Args:
        model: any module with one input that can be traced; it is not changed.
        config: how much, by which measure, what to do afterwards.
        evidence: training data for gradients and fine-tuning, an example for the trace, score and cost for the report.
        tune: what trains the smaller network; default :func:`fine_tune`.

    Returns:
        (a new, smaller module in evaluation mode, the report).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced, nothing in it can leave, or the target is out of reach.
        DataError: when taylor is asked for and there is no training data.

    Source: see the card.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"prune was given a {type(model).__name__}",
            expected="a torch.nn.Module",
            next_step="Prune before exporting.",
        )
    started = time.perf_counter()
    original = deepcopy(model).eval()
    device = next((p.device for p in original.parameters()), torch.device("cpu"))
    x = _two(evidence.example, evidence.seed).to(device)
    channels, alive = plan(original, config, evidence, x)
    small = cut(original, channels, alive)
    if config.epochs and not alive.all():
        small = (tune or fine_tune)(small, original, config, evidence).to(device)
    small.eval()
    layers, untouched = _rows(channels, alive), channels.untouched | _kept_whole(channels, alive, config)
    report = compare("prune", config, evidence, model, small, layers=layers, untouched=untouched, started=started)
    return small, report


def plan(model: nn.Module, config: PruneConfig, evidence: Evidence, x: Tensor) -> tuple[Channels, Alive]:
    """Choose what stays, and see on ``x`` that the smaller network runs and is the one that was meant.

    Layers whose number of channels is written into the forward pass show themselves here; they are barred, and
    the choice is made again without them.

    Returns:
        (the channels of ``model``, (n_classes,) which of them stay).
    """
    channels = trace(model, x)
    scores = _score(model, channels, config, evidence)
    rest_macs = max(0.0, profile(model, x[:1]).macs - channels.macs(channels.all_alive()))  # attention and the like
    while True:
        alive = allocate(channels, scores, config, rest_macs=rest_macs)
        problem = disagreement(model, channels, alive, x)
        if problem is None:
            return channels, alive
        found = guilty(model, channels, alive, x)
        if not found:
            raise ModelError(
                f"{type(model).__name__} computes something else once pruned: {problem}",
                expected="the outputs of the network with the same channels at zero",
                next_step="It can still be quantized or distilled.",
            )
        for name, trouble in found.items():
            channels = channels.without(name, f"its number of channels is written into the forward pass ({trouble})")


def _score(model: nn.Module, channels: Channels, config: PruneConfig, evidence: Evidence) -> Scores:
    if config.importance == "l1":
        scores = l1(model, channels)
    else:
        scores = taylor(model, channels, _batches(model, config.batches, evidence), evidence.task)
    if not np.isfinite(scores).all():
        raise ModelError(
            f"the {config.importance} importance of {int((~np.isfinite(scores)).sum())} channels is not finite",
            expected="finite weights and gradients",
            next_step="Train the network again, or look for NaN in its inputs.",
        )
    return scores


def _batches(model: nn.Module, n_batches: int, evidence: Evidence) -> Iterable[tuple[Tensor, Tensor]]:
    """Training inputs in a seeded order, 64 at a time."""
    data = evidence.data
    if len(data.train) == 0:
        raise DataError(
            f"{data.name} has no training inputs, which taylor needs for its gradients",
            next_step="Set importance='l1', which looks at the weights alone.",
        )
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(derive(evidence.seed, "prune", "batches"))
    order = torch.randperm(len(data.train), generator=generator)[: 64 * n_batches]
    for rows in order.split(64):
        yield data.normalise(data.train.inputs[rows]).to(device), data.train.targets[rows].to(device)


# How many channels does each layer keep? ------------------------------------------------------------------------------


def allocate(channels: Channels, scores: Scores, config: PruneConfig, *, rest_macs: float = 0.0) -> Alive:
    """The most channels, by rank, whose MACs are within ``config.macs`` of the whole.

    Every group of tied layers keeps its best classes; how many follows from one number, the share of all ranks that
    stay, found by bisection. What rounding left over is then given back, best rank first, as long as it fits:
    afterwards no group could grow by one more step.

    Args:
        channels: groups and costs.
        scores: (n_classes,) importance.
        config: target, allocation, rounding.
        rest_macs: multiply-accumulates that no pruning changes.

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
    groups = [
        _Ranked(g.classes[np.argsort(-scores[g.classes], kind="stable")], _legal(g, config)) for g in channels.groups
    ]
    ranks = _ranks(groups, scores, config)
    whole = channels.macs(channels.all_alive()) + rest_macs
    budget = config.macs * whole * (1 + 1e-9)
    n_levels = len(scores)

    def macs(kept: list[int]) -> float:
        return channels.macs(_alive(channels, groups, kept)) + rest_macs

    def kept_at(level: int) -> list[int]:
        return [g.nearest((rank < level / n_levels).sum()) for g, rank in zip(groups, ranks, strict=True)]

    level = bisect.bisect_right(range(n_levels + 1), budget, key=lambda n: macs(kept_at(n))) - 1
    if level < 0:
        raise ModelError(
            f"pruning to {config.macs:.0%} of the MACs is out of reach",
            expected=f"at least {macs(kept_at(0)) / whole:.1%}, what is left with every group at its smallest",
            next_step="Set a larger macs, or smaller round_to and min_channels.",
        )
    return _alive(channels, groups, _refill(kept_at(level), groups, ranks, fits=lambda kept: macs(kept) <= budget))


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """A group's classes from the most to the least important, and how many of them may be kept."""

    classes: Labels
    legal: Labels

    def nearest(self, wanted: int) -> int:
        return int(self.legal[np.abs(self.legal - wanted).argmin()])

    def above(self, kept: int) -> int | None:
        more = self.legal[self.legal > kept]
        return int(more[0]) if len(more) else None


def _legal(group: Group, config: PruneConfig) -> Labels:
    """Numbers of classes that give whole multiples of ``round_to`` channels, not too few; and all of them."""
    n = len(group.classes)
    widths = [(k, k * group.unit) for k in range(1, n)]
    return np.array([k for k, w in widths if w % config.round_to == 0 and w >= config.min_channels] + [n])


def _ranks(groups: list[_Ranked], scores: Scores, config: PruneConfig) -> list[Scores]:
    """The place of each class in the order of leaving, from 0 (last) to 1 (first): in its group, or in the network."""
    if config.allocation == "uniform":
        return [(np.arange(len(g.classes)) + 0.5) / len(g.classes) for g in groups]
    order = np.concatenate([g.classes for g in groups])
    place = np.empty(len(scores))
    place[order[np.argsort(-scores[order], kind="stable")]] = (np.arange(len(order)) + 0.5) / len(order)
    return [place[g.classes] for g in groups]


def _refill(
    kept: list[int], groups: list[_Ranked], ranks: list[Scores], *, fits: Callable[[list[int]], bool]
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


def _alive(channels: Channels, groups: list[_Ranked], kept: list[int]) -> Alive:
    alive = channels.all_alive()
    for group, n in zip(groups, kept, strict=True):
        alive[group.classes[n:]] = False
    return alive


# After the cut --------------------------------------------------------------------------------------------------------


def fine_tune(small: nn.Module, original: nn.Module, config: PruneConfig, evidence: Evidence) -> nn.Module:
    """Train the smaller network as the original was, more shortly and gently, towards the original's outputs."""
    return recover(
        small,
        original,
        evidence,
        fold="prune",
        epochs=config.epochs,
        lr_frac=config.lr_frac,
        teacher=config.teacher,
    )


def _rows(channels: Channels, alive: Alive) -> list[dict[str, Any]]:
    rows = []
    for axis in channels.axes:
        n_after = int(stays(axis.labels, alive).sum())
        if axis.role == "makes" and n_after < len(axis.labels):
            rows.append({"name": axis.layer, "channels_before": len(axis.labels), "channels_after": n_after})
    return rows


def _kept_whole(channels: Channels, alive: Alive, config: PruneConfig) -> dict[str, str]:
    reasons = {}
    for group in channels.groups:
        if alive[group.classes].all():
            narrow = len(_legal(group, config)) == 1
            few = f"no fewer channels are a multiple of {config.round_to} and at least {config.min_channels}"
            reasons.update(dict.fromkeys(group.layers, few if narrow else "the target was met without it"))
    return reasons


def _two(example: Tensor, seed: int) -> Tensor:
    """Two different inputs like the example, so that the batch is no dimension of size one."""
    if not example.is_floating_point():
        return torch.cat([example[:1], example[:1]])
    noise = torch.randn(example[:1].shape, generator=torch.Generator().manual_seed(derive(seed, "prune", "probe")))
    return torch.cat([example[:1], example[:1] + noise.to(example)])
