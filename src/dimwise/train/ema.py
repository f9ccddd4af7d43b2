"""A running average of the weights, which often scores better than the last weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """w̄ ← d·w̄ + (1 − d)·w after each step, with d = min(decay, (1 + t) / (10 + t)) so that early weights fade.

    Args:
        model: whose floating-point parameters and buffers are averaged.
        decay: d in (0, 1), per step.

    Source: Polyak & Juditsky 1992; the early warm-up as in TensorFlow's ExponentialMovingAverage.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(layer, 0.9)
        >>> torch.equal(average.state()["weight"], layer.weight)
        True
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
        self._average = {k: v.detach().clone() for k, v in self._live.items()}
        floating = {k: None for k, v in self._live.items() if v.is_floating_point()}
        self._ours = [self._average[k] for k in floating]
        self._theirs = [self._live[k].detach() for k in floating]
        self._counters = [k for k in self._live if k not in floating]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)
        for name in self._counters:
            self._average[name].copy_(self._live[name])

    def state(self) -> dict[str, Tensor]:
        """The averaged state dict (live tensors: clone to keep)."""
        return self._average

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved average."""
        for name, value in state.items():
            self._average[name].copy_(value)
