"""Ranks by the clock: each layer is timed at some ranks, and as little energy as can be is given for the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.fold._evidence import Evidence
from dimwise.fold._factor import Factors
from dimwise.fold._factorable import Layer
from dimwise.measure import evaluating, latency

if TYPE_CHECKING:
    from dimwise.fold.lowrank import LowrankConfig

ENERGIES = (0.9999, 0.999, 0.995, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1)
"""Shares of the energy at whose ranks a layer is timed."""
LEAST_GAIN = 0.05
"""Of a layer's time: less may be noise, and is no gain."""
BUDGET_S = 0.02
"""For each network that is timed."""

Calls = Mapping[str, Callable[[], object]]
Clock = Callable[[Calls], Mapping[str, float]]
"""name -> call gives name -> milliseconds, measured in turns."""


@dataclass(frozen=True)
class _Option:
    way: Factors
    rank: int
    energy: float
    saved_ms: float


def by_gain(
    original: nn.Module, layers: list[Layer], config: LowrankConfig, evidence: Evidence, x: Tensor, clock: Clock | None
) -> dict[str, tuple[Factors, int]]:
    """Way and rank of each layer that becomes faster, as little energy lost as leaves ``config.latency`` of the time.

    All layers may lose the same share of their energy; within it each takes the rank that was measured to save most.

    Args:
        original: the network.
        layers: what can be factorised.
        config: target and rounding.
        evidence: shows how far it is.
        x: an example.
        clock: default: medians of calls in turns.

    Raises:
        ModelError: when even the fastest ranks that were timed leave more.
    """
    clock = clock or partial(_clock, device=x.device)
    with evaluating(original):
        whole_ms = clock({"network": lambda: original(x[:1])})["network"]  # one input, as its layers
        options = {}
        with evidence.progress.stage("layers timed", len(layers)) as bar:
            for n, layer in enumerate(layers, 1):
                options[layer.name] = _options(original.get_submodule(layer.name), layer, config, clock)
                bar.update(n, layer.name)
    if not any(options.values()):
        raise ModelError(
            f"no layer of {type(original).__name__} is faster when it is factorised, timed here at one input",
            expected="wide layers",
            next_step="Leave it whole; by = macs or energy makes it smaller all the same.",
        )
    goal_ms, ranks, left_ms = config.latency * whole_ms, {}, whole_ms
    for lost in np.geomspace(1e-6, 1, 400):
        allowed = {name: [o for o in some if o.energy >= 1 - lost] for name, some in options.items()}
        best = {name: max(some, key=lambda o: o.saved_ms) for name, some in allowed.items() if some}
        ranks = {name: (option.way, option.rank) for name, option in best.items()}
        left_ms = whole_ms - sum(option.saved_ms for option in best.values())
        if left_ms <= goal_ms:
            return ranks
    raise ModelError(
        f"factorising to {config.latency:.0%} of the time is out of reach",
        expected=f"at least {max(left_ms, 0.0) / whole_ms:.1%}, what is left with every layer at its fastest rank here",
        next_step="Set a larger latency, or by = macs.",
    )


def _options(old: nn.Module, layer: Layer, config: LowrankConfig, clock: Clock) -> list[_Option]:
    """The ranks that were measured to be faster."""
    if not layer.macs:
        return []  # an embedding only reads
    found = [choice for energy in ENERGIES if (choice := layer.at(energy, config.round_to)) is not None]
    tried = list({(way.kind, rank): (way, rank) for way, rank in found}.values())
    inputs = torch.zeros(layer.one_input).to(next(old.parameters()))  # the network may take tokens
    made = [way.build(rank).eval() for way, rank in tried]

    def call(module: nn.Module) -> Callable[[], object]:
        return lambda: module(inputs)

    taken = clock({"whole": call(old), **{str(n): call(module) for n, module in enumerate(made)}})
    saved = [taken["whole"] - taken[str(n)] for n in range(len(tried))]
    return [
        _Option(way, rank, way.energy(rank), layer.calls * ms)
        for (way, rank), ms in zip(tried, saved, strict=True)
        if ms > LEAST_GAIN * taken["whole"]
    ]


def _clock(calls: Calls, device: torch.device) -> dict[str, float]:
    with torch.no_grad():
        return {name: taken.p50_ms for name, taken in latency(calls, budget_s=BUDGET_S, device=device).items()}
