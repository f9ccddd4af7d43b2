"""Structured pruning: whole channels leave, so tensors shrink and every runtime gains.

Idea: a network has more filters than its task needs. Rank them, remove the least, and train a little more, with the
original network as the teacher. What remains is an ordinary, smaller network.

Mathematics: channel c is all that has to leave for it: filters W[c], their norms and biases, and the kernel slices
W'[:, c] that read it; residual additions tie the channels of several layers into one. Importance ``l1``, ``l2``: mean
over its filters of ‖W[c]‖ relative to its layer's mean; ``bn``: |γ| of the BatchNorm that scales c. ``taylor``:
|Σ w · ∂L/∂w| over the slices that read c, mean over batches; Σ w · ∂L/∂w = Σ a · ∂L/∂a, the first-order change of the
loss when activation a of c becomes zero. Allocation ``uniform`` keeps the same share of each group of tied layers,
``global`` the most important channels wherever they are; ``sensitivity`` takes a group's loss as s u² / 2 for a share
u, with s from the validation score without half of it, and makes the marginal losses s u equal; ``latency`` removes
what has the least importance for each millisecond saved, from a table measured group by group, whole residual branches
among it: y = x + f(x) becomes y = x + c. MACs fall with about the
square of the share. A target in ms is met by bisection on the MACs, each time measuring the real cut network. Sparse
training first adds λ Σ_c 2^(4 (max − ‖W[c]‖₂)/(max − min)) ‖W[c]‖₂, with λ growing, so that weak channels empty.

Use when: latency or size must fall on any runtime, and convolutions or dense layers dominate. Before quantizing.

Cost: a trace (1 to 3 s), ``batches`` gradients for ``taylor``, a validation score for each group for ``sensitivity``,
two timings for each for ``latency``, eight for a target in ms; then ``epochs`` of fine-tuning. Half the MACs often
cost less than half a point; below a quarter, distil a narrow network instead.

Pitfalls: MACs are not milliseconds: measure. Kernels work in blocks of channels (``round_to``): a layer of 24 can take
longer than one of 32.
Without fine-tuning scores collapse. After a light cut, deep networks trained with SGD at a large rate want it gentler
(``lr_frac`` = 0.1); after a cut to a quarter they want the full rate and more than half of the training's epochs.
Statistics over channels (LayerNorm, GroupNorm) change when channels leave, so such
groups, a Transformer's residual stream among them, stay whole unless the target needs them (``norms``); attention
heads and hidden units leave first. Heads leave whole; an LSTM's unit leaves in all layers and directions, as a module
has one hidden size. Sizes written into a forward pass (``view(b, t, heads, width)``, ``view(-1, 1600)``, zeros for a
first state) are given other numbers on their way, which costs eager PyTorch microseconds a call;
any other count in the code is found out by running the smaller network against the silenced original, and its layers
are left alone. Packed cross-attention (``nn.TransformerDecoder``) and packed sequences stay whole.

Source: Li et al. 2017, arXiv:1608.08710 (L1, L2); Liu et al. 2017, arXiv:1708.06519 (γ); Molchanov et al. 2019,
arXiv:1906.10771 (first-order Taylor); Fang et al. 2023, arXiv:2301.12900 (dependency graph over whole groups,
group-sparse training). Deviation: dependencies are found by union-find on single channels of the exported graph, not
by rules per module; Taylor is read where channels are read, so that norms and residuals count once.

Evidence: tests/fold/test_prune.py and test_prune_sequences.py (pruned equals silenced for every model of the table,
attention of six makes, recurrent layers, networks as users write them); benchmarks/.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from copy import deepcopy
from operator import attrgetter
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.fold._channels.branches import Constant, Unread, gone
from dimwise.fold._channels.cut import cut, disagreement, guilty
from dimwise.fold._channels.groups import Alive, Axis, Channels
from dimwise.fold._channels.trace import trace
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._modules import working_copy
from dimwise.fold._pruning.allocate import Order, allocate, counting_params, legal, smallest
from dimwise.fold._pruning.importance import Scores, batch_norm_scale, l1, l2, taylor
from dimwise.fold._pruning.sparse import sparse_training
from dimwise.fold._pruning.speed import (
    LatencyOf,
    by_latency,
    by_sensitivity,
    each_alone,
    eager_latency,
    limit_ms,
    one,
    sized,
    to_latency,
)
from dimwise.fold._tune import recover, training_batches
from dimwise.measure import n_params, profile
from dimwise.recipe import config


@config
class PruneConfig:
    """How channels are removed."""

    macs: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest fraction of the multiply-accumulates to keep. Default: half, which rarely costs half a point. Not looked
    at when one of the next three is set."""
    params: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest fraction of the parameters to keep. Default: 1, no limit."""
    latency_ms: Annotated[float, Field(ge=0)] = 0.0
    """Longest time of one input in milliseconds, measured on the cut networks. Default: 0, no limit."""
    latency: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Longest time as a fraction of the original's, measured likewise. Default: 1, no limit."""
    importance: Literal["l1", "l2", "taylor", "bn"] = "taylor"
    """l1, l2: size of the filters; bn: scale of the BatchNorm behind them; taylor: what the loss would change by.
    Default: taylor, which sees the data."""
    allocation: Literal["uniform", "global", "sensitivity", "latency"] = "uniform"
    """uniform: the same share of each layer; global: the best channels of the whole network; sensitivity: layers
    whose loss hurts the validation score less lose more; latency: those with the least importance for each
    millisecond saved leave first. Default: uniform, which spares no layer and starves none."""
    sensitivity_cut: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """For sensitivity: the share that each group loses alone. Default: half, about what most will lose."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Cuts, each followed by its part of the fine-tuning; every one takes the same fraction. Default: all at once; 3
    for a cut below a third."""
    branches: bool = True
    """With allocation = latency: whole residual branches may leave, a constant in their place. Default: on; where
    layers are as thin as a vector register is long, nothing else saves time."""
    norms: Literal["spare", "cut"] = "spare"
    """Groups of channels over which a LayerNorm or GroupNorm takes its statistics, such as the residual stream of a
    Transformer: spare leaves them whole while the others reach the target; cut treats all alike. Default: spare, since
    what such a norm passes on changes when one of its channels leaves."""
    round_to: Annotated[int, Field(ge=0, le=256)] = 0
    """Kept channels are a multiple of this; 4 is finer in thin networks. Default: 0, the block in which kernels work:
    16 where the target can be met so, else 8. Between two blocks a layer pays for the next one, or is slower still."""
    min_channels: Annotated[int, Field(ge=1)] = 8
    """Fewest channels a pruned layer may keep. Default: 8, one vector register of AVX2."""
    batches: Annotated[int, Field(ge=1)] = 16
    """For taylor: training batches of 64 whose gradients are taken. Default: rankings settle at about 1000 inputs."""
    sparse_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of training before the first cut with a penalty on whole channels. Default: none; for l1, l2 and bn."""
    sparse_weight: Annotated[float, Field(gt=0)] = 1e-3
    """Weight of that penalty at its end, in loss per unit of filter norm. Default: small beside a cross-entropy of a
    few tenths; ten times as much for networks with very few channels."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs of fine-tuning; 0 returns the network as cut. Default: short, since most of the score returns at once."""
    lr_frac: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Learning rate of fine-tuning as a fraction of the training rate. Default: a half; gentler for a light cut,
    1 for a deep one with many epochs."""
    teacher: bool = True
    """Fine-tune towards the original's outputs as well as the labels, as distill does. Default: on; it is at hand."""


BLOCKS = (16, 8)
"""Channels in a block of a convolution's kernel, widest first: floats of an AVX-512 register, and of an AVX2 one."""

Tune = Callable[[nn.Module, nn.Module, PruneConfig, Evidence], nn.Module]
"""``tune(small, original, config, evidence) -> small``, trained."""


def prune(
    model: nn.Module,
    config: PruneConfig,
    evidence: Evidence,
    *,
    tune: Tune | None = None,
    latency_of: LatencyOf | None = None,
) -> tuple[nn.Module, FoldReport]:
    """Remove the least important channels until the target is met, and fine-tune.

    Args:
        model: any module with one input that can be traced; it is not changed.
        config: how much, by which measure, what to do afterwards.
        evidence: training data for gradients and fine-tuning, an example for the trace, score and cost for the report.
        tune: what trains the smaller network; default :func:`fine_tune`.
        latency_of: network -> ms, for targets and allocations by latency; default: that of the evidence, or one input
            in eager PyTorch, timed in turns with the original.

    Returns:
        (a new, smaller module in evaluation mode, the report).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced, nothing in it can leave, or the target is out of reach.
        DataError: when taylor is asked for and there is no training data.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("prune", model, evidence.example, evidence.seed)
    clock = latency_of or evidence.latency or eager_latency(original, one(x))
    small, first = original, None
    if config.sparse_epochs:
        small = sparse_training(deepcopy(original), trace(original, x), config, evidence).to(x.device).eval()
    for n in range(config.rounds):
        asked = _asked(config, n, original, small, x, clock)
        channels, alive, asked = _planned(small, asked, evidence, x, clock)
        first = first or (channels, asked)
        small = cut(small, channels, alive)
        epochs = config.epochs * (n + 1) // config.rounds - config.epochs * n // config.rounds
        if epochs and not alive.all():
            settings = dataclasses.replace(config, epochs=epochs)
            small = (tune or fine_tune)(small, original, settings, evidence).to(x.device)
        small.eval()
    assert first is not None
    channels, asked = first
    layers = _rows(original, channels, small, config)
    untouched = channels.untouched | _kept_whole(channels, layers, asked)
    report = compare("prune", config, evidence, model, small, layers=layers, untouched=untouched, started=started)
    if _by_clock(config):
        costs = [dict(c, latency_ms=clock(m)) for m, c in ((original, report.cost_before), (small, report.cost_after))]
        report = dataclasses.replace(report, cost_before=costs[0], cost_after=costs[1])
    return small, report


def sensitivity(
    model: nn.Module, config: PruneConfig, evidence: Evidence, *, limit_s: float = np.inf
) -> list[dict[str, Any]]:
    """What the score loses when each group of tied layers alone is cut, and nothing is trained.

    drop_g = score(model) − score(model without the least important ``config.sensitivity_cut`` of group g)

    Args:
        model: any module with one input that can be traced; it is not changed.
        config: ``sensitivity_cut``, importance and rounding.
        evidence: gives the score.
        limit_s: seconds after which no further group is begun.

    Returns:
        A row for each group: {"layers": names, "kept": share of its channels, "drop": 0 to 1}, the most sensitive
        first; none where nothing can leave.

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced.
        DataError: when taylor is asked for and there is no training data.
    """
    until = time.perf_counter() + limit_s
    model, x = working_copy("prune", model, evidence.example, evidence.seed)
    config = dataclasses.replace(config, round_to=config.round_to or BLOCKS[-1])
    channels = trace(model, x)
    scores = _score(model, channels, config, evidence)
    channels = _barred(model, channels, smallest(channels, scores, config), x)
    rows = []
    for found in each_alone(channels, scores, config, score_without=lambda a: evidence.score(cut(model, channels, a))):
        kept = found.n_kept / len(found.group.classes)
        if kept < 1:
            rows.append({"layers": list(found.group.layers), "kept": kept, "drop": found.drop})
        if time.perf_counter() > until:
            break
    return sorted(rows, key=lambda row: -row["drop"])


def _asked(
    config: PruneConfig, n: int, original: nn.Module, small: nn.Module, x: Tensor, clock: LatencyOf
) -> PruneConfig:
    """The targets of round n as fractions of what is left: every round takes the same fraction of the original."""
    if config.rounds == 1 and not config.sparse_epochs:
        return config
    part = (n + 1) / config.rounds
    if _by_clock(config):
        whole_ms = clock(original)
        goal = whole_ms * (limit_ms(config, whole_ms) / whole_ms) ** part
        config = dataclasses.replace(config, latency_ms=goal, latency=1.0)
    left = [profile(net, x[:1]).macs for net in (original, small)]
    numbers = [n_params(net) for net in (original, small)]
    return dataclasses.replace(
        config,
        macs=min(1.0, config.macs**part * left[0] / max(1, left[1])),
        params=min(1.0, config.params**part * numbers[0] / numbers[1]) if config.params < 1 else 1.0,
    )


def _planned(
    model: nn.Module, config: PruneConfig, evidence: Evidence, x: Tensor, clock: LatencyOf
) -> tuple[Channels, Alive, PruneConfig]:
    """What stays, in the widest blocks of channels that reach the target, and the settings with those blocks."""
    for block in BLOCKS[:-1] if config.round_to == 0 else ():
        blocks = dataclasses.replace(config, round_to=block)
        try:
            return *plan(model, blocks, evidence, x, clock), blocks
        except ModelError:
            continue  # what is wrong with the network itself is told below
    config = dataclasses.replace(config, round_to=config.round_to or BLOCKS[-1])
    return *plan(model, config, evidence, x, clock), config


def plan(
    model: nn.Module, config: PruneConfig, evidence: Evidence, x: Tensor, latency_of: LatencyOf | None = None
) -> tuple[Channels, Alive]:
    """Choose what stays, and see on ``x`` that the smaller network runs and is the one that was meant.

    Layers whose number of channels is written into the forward pass show themselves here; they are barred, and
    the choice is made again without them.

    Returns:
        (the channels of ``model``, (n_classes,) which of them stay).
    """
    channels = trace(model, x)
    scores = _score(model, channels, config, evidence)
    rest_macs = max(0.0, profile(model, x[:1]).macs - channels.macs(channels.all_alive()))  # attention and the like
    clock = latency_of or eager_latency(model, one(x))
    if config.allocation in ("sensitivity", "latency") or _by_clock(config):  # those cut before they choose
        channels = _barred(model, channels, smallest(channels, scores, config), x)
    order = _order(model, channels, scores, config, evidence, clock)

    def within(asked: PruneConfig, channels: Channels) -> Alive:
        if config.norms == "spare" and any(map(channels.is_exact, channels.groups)):
            try:
                return share(asked, sparing(channels))
            except ModelError:
                pass  # the others alone cannot reach it
        return share(asked, channels)

    def share(asked: PruneConfig, channels: Channels) -> Alive:
        kept = {g.name: order[g.name] for g in channels.groups} if order is not None else None
        if asked.params == 1:
            return allocate(channels, scores, asked, rest_macs=rest_macs, order=kept)
        return allocate(channels, scores, asked, params=counting_params(channels, model), order=kept)

    def chosen(channels: Channels) -> Alive:
        if not _by_clock(config):
            return within(config, channels)
        alive = to_latency(
            model, channels, config, latency_of=clock, choose=lambda macs: within(sized(config, macs), channels)
        )
        return alive & within(config, channels) if config.params < 1 else alive

    while True:
        alive = chosen(channels)
        left = _barred(model, channels, alive, x)
        if left is channels:
            return channels, alive
        channels = left


def sparing(channels: Channels) -> Channels:
    """The same channels without the groups over which a norm takes its statistics."""
    for group in channels.groups:
        if not channels.is_exact(group):
            channels = channels.without(group.name, "a norm takes its statistics over its channels")
    return channels


def _barred(model: nn.Module, channels: Channels, alive: Alive, x: Tensor) -> Channels:
    """The same channels if they can be cut as planned, else without the groups that cannot."""
    problem = disagreement(model, channels, alive, x)
    if problem is None:
        return channels
    found = guilty(model, channels, alive, x)
    if not found:
        raise ModelError(
            f"{type(model).__name__} computes something else once pruned: {problem}",
            expected="the outputs of the network with the same channels at zero",
            next_step="It can still be quantized or distilled.",
        )
    whole = {g.name for g in gone(channels, alive)}.intersection(found)
    if whole:  # perhaps some of their channels can leave
        return channels.with_branches_kept(whole)
    for name, trouble in found.items():
        channels = channels.without(name, f"its number of channels is written into the forward pass ({trouble})")
    return channels


def _by_clock(config: PruneConfig) -> bool:
    return config.latency < 1 or config.latency_ms > 0


def _order(
    model: nn.Module,
    channels: Channels,
    scores: Scores,
    config: PruneConfig,
    evidence: Evidence,
    clock: LatencyOf,
) -> Order | None:
    """What the allocation has to measure before it can choose."""
    if config.allocation == "sensitivity":
        return by_sensitivity(
            channels, scores, config, score_without=lambda alive: evidence.score(cut(model, channels, alive))
        )
    if config.allocation == "latency":
        return by_latency(model, channels, scores, config, latency_of=clock)
    return None


def _score(model: nn.Module, channels: Channels, config: PruneConfig, evidence: Evidence) -> Scores:
    if config.importance == "taylor":
        need = "Set importance='l1', which looks at the weights alone."
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        batches = training_batches(evidence, config.batches, fold="prune", need=need)
        scores = taylor(model, channels, ((x.to(device), y.to(device)) for x, y in batches), evidence.task)
    elif config.importance == "bn":
        scores = batch_norm_scale(model, channels)[0]
    else:
        scores = {"l1": l1, "l2": l2}[config.importance](model, channels)
    if not np.isfinite(scores).all():
        raise ModelError(
            f"the {config.importance} importance of {int((~np.isfinite(scores)).sum())} channels is not finite",
            expected="finite weights and gradients",
            next_step="Train the network again, or look for NaN in its inputs.",
        )
    return scores


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


def _rows(model: nn.Module, channels: Channels, small: nn.Module, config: PruneConfig) -> list[dict[str, Any]]:
    """A row for each layer that makes fewer channels than before."""
    by_l1 = batch_norm_scale(model, channels)[1] if config.importance == "bn" else set()
    without_norm = {layer for g in channels.groups if g.name in by_l1 for layer in g.layers}
    inexact = {layer for g in channels.groups if not channels.is_exact(g) for layer in g.layers}
    rows: dict[str, dict[str, Any]] = {}
    for axis in channels.axes:
        n_after = _n_left(small, axis) if axis.role == "makes" else len(axis.labels)
        gates = channels.gates.get(axis.layer, 1)
        if n_after < len(axis.labels):
            row = {
                "name": axis.layer,
                "channels_before": len(axis.labels) // gates,
                "channels_after": n_after // gates,
            }
            row |= {"importance": "l1: no BatchNorm scales it"} if axis.layer in without_norm else {}
            row |= {"exact": False} if axis.layer in inexact else {}
            rows.setdefault(axis.layer, row)
    return list(rows.values())


def _n_left(small: nn.Module, axis: Axis) -> int:
    """Positions of an axis in the smaller network; none where a branch left."""
    module = small.get_submodule(axis.layer) if "." in axis.tensor else small
    if isinstance(module, Unread):
        return 0
    if isinstance(module, Constant):
        return len(module.value)
    return int(attrgetter(axis.tensor)(small).shape[axis.dim])


def _kept_whole(channels: Channels, rows: list[dict[str, Any]], config: PruneConfig) -> dict[str, str]:
    reasons, changed = {}, {row["name"] for row in rows}
    for group in channels.groups:
        if not changed.intersection(group.layers):
            narrow = len(legal(group, config)) == 1
            why = "the target was met without it"
            if narrow:
                why = f"no fewer channels are a multiple of {config.round_to} and at least {config.min_channels}"
            elif config.norms == "spare" and not channels.is_exact(group):
                why = "a norm takes its statistics over its channels, and the target was met without it"
            reasons.update(dict.fromkeys(group.layers, why))
    return reasons
