"""Low rank: a large layer becomes two thin ones whose product is nearly the same.

Idea: the rows of a trained weight matrix are not independent. A product of two thin matrices, with r channels between
them, keeps most of what the layer does for fewer multiplications.

Mathematics: W = U diag(σ) Vᵀ, W_r = the first r terms; ‖W − W_r‖² = Σ_{i>r} σ_i², the least of all matrices of rank r.
The energy kept is Σ_{i≤r} σ_i² / Σ σ_i². Dense: (O, I) costs O·I, its factors r (O + I). Convolution by ``channel``:
r filters k × k, then 1 × 1; by ``spatial``: k × 1, then 1 × k. With ``data`` the squares are the variances of the
layer's outputs along their principal axes P, y ≈ mean + P Pᵀ (y − mean): the error that is least is that of the
outputs on training inputs, not that of the weights. By ``macs``, all layers lose the same share of their energy.
Outputs no more than min(O, I) say nothing of all axes: such a layer is taken by its weights, and a note says so.

Use when: dense layers or wide convolutions dominate (classifier heads, transformers, VGG), or an embedding table is
most of the file. Before quantizing; instead of, or after, pruning.

Cost: a decomposition per layer (ms to s), ``batches`` forward passes with ``data``, ``epochs`` of fine-tuning; by gain
about a fifth of a second per layer.

Pitfalls: two thin layers are not always faster than one: each writes a tensor of its own; measure, or set ``timed`` or
``by = gain``.
Little is gained where layers are narrow. Depthwise and grouped convolutions, LSTMs and packed attention weights stay.
Without fine-tuning the score falls below about 0.9 of the energy. A factorised embedding has fewer bytes and more MACs.

Source: Denton et al. 2014, arXiv:1404.0736 (the idea); Jaderberg et al. 2014, arXiv:1405.3866 (spatial); Zhang et al.
2016, arXiv:1505.06798 (channel, data-aware); Kim et al. 2016, arXiv:1511.06530 (fine-tuning afterwards). Deviation:
spatial factors are the weights' own singular vectors, also with ``data``.

Evidence: tests/fold/test_lowrank.py (exact at full rank; the error is the sum of what was cut).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._factor import Factors
from dimwise.fold._factorable import Layer, look
from dimwise.fold._gain import Clock, by_gain
from dimwise.fold._modules import require_known, with_those_that_run, working_copy
from dimwise.fold._tune import recover
from dimwise.measure import evaluating, latency, tie
from dimwise.recipe import config


@config
class LowrankConfig:
    """Which layers are factorised, and how far."""

    by: Literal["macs", "energy", "gain"] = "macs"
    """macs: as much energy as a budget of multiply-accumulates allows; energy: the least rank that keeps a share; gain:
    as much as a budget of time allows, every layer timed at some ranks, in PyTorch here at the example's shape.
    Default: macs, as it says what is gained, and says it at once."""
    macs: Annotated[float, Field(gt=0, le=1)] = 0.6
    """For by = macs: largest fraction of the network's multiply-accumulates to keep. Default: six tenths."""
    energy: Annotated[float, Field(gt=0, le=1)] = 0.95
    """For by = energy: share of the energy each layer keeps. Default: what a short fine-tuning makes good."""
    latency: Annotated[float, Field(gt=0, le=1)] = 0.9
    """For by = gain: largest fraction of the network's time to keep. Default: a tenth is the least worth two layers."""
    data: bool = True
    """Factorise the outputs on training inputs instead of the weights. Default: on; it loses less at the same rank."""
    batches: Annotated[int, Field(ge=1)] = 16
    """For data: training batches of 64 that are looked at. Default: 1000 inputs settle a covariance."""
    convolutions: Literal["best", "channel", "spatial", "none"] = "best"
    """How convolutions are factorised; best takes what costs less (with data: channel, as only that sees it)."""
    embeddings: bool = False
    """Factorise embedding tables too: fewer bytes, more multiply-accumulates. Default: off."""
    round_to: Annotated[int, Field(ge=1, le=256)] = 8
    """Ranks are multiples of this. Default: 8, one vector register."""
    skip: tuple[str, ...] = ()
    """Names of layers to leave whole. Default: none."""
    timed: bool = False
    """Put every layer back whose factors are not faster, timed in PyTorch here at the example's shape. Default: off."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs of fine-tuning; 0 returns the network as factorised. Default: as for prune."""
    lr_frac: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Learning rate of fine-tuning as a fraction of the training rate. Default: as for prune."""
    teacher: bool = True
    """Fine-tune towards the original's outputs as well as the labels. Default: on; it is at hand."""


Ranks = dict[str, tuple[Factors, int]]
"""Layer -> how it is factorised, and at which rank."""
Faster = Callable[[nn.Module, nn.Module, Tensor], bool]
"""``faster(new, old, x)``: whether ``new`` takes clearly less time on ``x``."""


def lowrank(
    model: nn.Module,
    config: LowrankConfig,
    evidence: Evidence,
    *,
    faster: Faster | None = None,
    clock: Clock | None = None,
) -> tuple[nn.Module, FoldReport]:
    """Replace layers by two thinner ones wherever that costs less, and fine-tune.

    Args:
        model: any module with one input; it is not changed.
        config: how far, which layers, what to do afterwards.
        evidence: training data for ``data`` and fine-tuning, an example for shapes, score and cost for the report.
        faster: for ``timed``; default: the median of interleaved calls, a tie being no gain.
        clock: for by = gain, name -> call gives name -> ms; default: medians of calls in turns.

    Returns:
        (a new module in evaluation mode, the report).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when it cannot be run, no layer can be factorised, or the target is out of reach.
        DataError: when ``data`` is set and there is no training data.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("lowrank", model, evidence.example, evidence.seed)
    require_known("lowrank", "skip", config.skip, model)
    whole, layers, untouched = look(original, config, evidence, x)
    timed = config.by == "gain"
    ranks = by_gain(original, layers, config, evidence, x, clock) if timed else choose(layers, config, whole)
    no_gain = "none of its ranks was faster here" if timed else "at the rank it needs two layers cost more than one"
    untouched |= {layer.name: no_gain for layer in layers if layer.name not in ranks}
    made, rows = _replace(original, layers, ranks, x, config, faster or _faster, untouched)
    if config.epochs and rows:
        made = recover(
            made,
            original,
            evidence,
            fold="lowrank",
            epochs=config.epochs,
            lr_frac=config.lr_frac,
            teacher=config.teacher,
        ).to(x.device)
    made.eval()
    report = compare("lowrank", config, evidence, model, made, layers=rows, untouched=untouched, started=started)
    return made, replace(report, notes=[*report.notes, *_by_weights(layers, {row["name"] for row in rows})])


# How far? -------------------------------------------------------------------------------------------------------------


def choose(layers: list[Layer], config: LowrankConfig, whole: float) -> Ranks:
    """Way and rank of each layer that is worth it: at one share of the energy, and then what the budget leaves.

    Args:
        layers: what can be factorised.
        config: target and rounding.
        whole: multiply-accumulates of the network.

    Raises:
        ModelError: when even rank ``round_to`` everywhere is above the target.
    """
    if config.by == "energy":
        return _at(layers, config.energy, config)
    budget = config.macs * whole * (1 + 1e-9)

    def macs(ranks: Ranks) -> float:
        saved = sum(layer.macs - layer.cost(*ranks[layer.name]) for layer in layers if layer.name in ranks)
        return whole - saved

    for lost in np.geomspace(1e-6, 1, 400):
        ranks = _at(layers, 1 - lost, config)
        if macs(ranks) <= budget:
            return _refill(layers, ranks, config, fits=lambda r: macs(r) <= budget)
    least = macs(_at(layers, 0.0, config)) / whole if whole else 1.0
    raise ModelError(
        f"factorising to {config.macs:.0%} of the MACs is out of reach",
        expected=f"at least {least:.1%}, what is left with every layer at rank {config.round_to}",
        next_step="Set a larger macs, or a smaller round_to.",
    )


def _at(layers: list[Layer], energy: float, config: LowrankConfig) -> Ranks:
    found = {layer.name: layer.at(energy, config.round_to) for layer in layers}
    return {name: choice for name, choice in found.items() if choice is not None}


def _refill(layers: list[Layer], ranks: Ranks, config: LowrankConfig, *, fits: Callable[[Ranks], bool]) -> Ranks:
    """Give back one step of rank at a time, where most energy is missing, as long as it fits."""
    by_name = {layer.name: layer for layer in layers}
    open_names = set(ranks)
    while open_names:
        name = min(open_names, key=lambda n: (ranks[n][0].energy(ranks[n][1]), n))
        way, rank = ranks[name]
        more = min(way.full_rank, rank + config.round_to)
        tried = ranks | {name: (way, more)}
        if more > rank and by_name[name].macs > by_name[name].cost(way, more) and fits(tried):
            ranks = tried
        else:
            open_names.discard(name)
    return ranks


def _by_weights(layers: list[Layer], replaced: set[str]) -> list[str]:
    """What is to be known of layers whose outputs were too few to factorise."""
    return [
        f"lowrank took {layer.name!r} by its weights alone: {layer.n_seen} outputs on training inputs are too few to "
        f"tell how its outputs vary (lowrank.data)"
        for layer in layers
        if layer.name in replaced and layer.n_seen is not None
    ]


# The new network ------------------------------------------------------------------------------------------------------


def _replace(
    original: nn.Module,
    layers: list[Layer],
    ranks: Ranks,
    x: Tensor,
    config: LowrankConfig,
    faster: Faster,
    untouched: dict[str, str],
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """A copy with the chosen layers replaced, without those that are read by name or not faster."""
    pairs: dict[str, nn.Module] = {name: way.build(rank) for name, (way, rank) in ranks.items()}
    if config.timed:
        for layer in layers:
            if layer.name not in pairs or not layer.macs:
                continue
            old = original.get_submodule(layer.name)
            inputs = torch.zeros(layer.one_input).to(next(old.parameters()))  # the network may take tokens
            if not faster(pairs[layer.name], old, inputs):
                untouched[layer.name] = "its factors are not faster here (lowrank.timed)"
                del pairs[layer.name]
    made = with_those_that_run(original, pairs, x, untouched)
    rows = []
    for layer in layers:
        if layer.name in pairs:
            way, rank = ranks[layer.name]
            rows.append(
                {
                    "name": layer.name,
                    "way": way.kind,
                    "rank": rank,
                    "full_rank": way.full_rank,
                    "energy": round(way.energy(rank), 6),
                    "macs_frac": round(way.unit * rank, 4) if layer.macs else None,
                }
            )
    return made, rows


def _faster(new: nn.Module, old: nn.Module, x: Tensor) -> bool:
    with evaluating(new), evaluating(old):
        taken = latency({"new": lambda: new(x), "old": lambda: old(x)}, budget_s=0.2, device=x.device)
    return taken["new"].p50_ms < taken["old"].p50_ms and not tie(taken["new"], taken["old"])
