"""Random numbers drawn in evaluation: dropout and noise that people write by hand and do not switch off."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dimwise.doctor.watch import graph, inputs
from dimwise.doctor.watch.live import Live, LiveRoot
from dimwise.doctor.watch.place import here


def may_draw(live: Live, module: nn.Module, args: tuple[Any, ...]) -> None:
    """Remember where PyTorch's random numbers stand before a module of the user's own that maps a tensor, nothing else
    and without weights: what draws there in evaluation is dropout or noise written by hand."""
    live.drawing = None
    made = live.pass_now
    if made is None or made.training or module.training or len(args) != 1 or not isinstance(args[0], Tensor):
        return
    if (
        type(module).__module__.startswith("torch.")
        or next(module.children(), None)
        or any(p is not None for p in module._parameters.values())
    ):
        return
    if args[0].device.type == "cpu" and args[0].is_floating_point() and not inputs.in_transform():
        live.drawing = (id(module), torch.get_rng_state())


def drew(live: Live, root: LiveRoot, args: tuple[Any, ...], output: Any) -> None:
    """The module is done: were random numbers drawn for a tensor like the one it was given?"""
    assert live.drawing is not None
    before, live.drawing = live.drawing[1], None
    if not isinstance(output, Tensor) or not args or output.shape != args[0].shape or graph.probabilities(output):
        return  # a choice among outcomes (Gumbel-softmax) may be drawn on purpose
    if not torch.equal(before, torch.get_rng_state()):
        root.seen.own_noise_in_eval += 1
        root.seen.dropout_place = root.seen.dropout_place or here(4)
