"""Look at a model and leave it as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without gradients inside; afterwards each module has the mode it had before.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model) as inside:
        ...     inside.training, torch.is_grad_enabled()
        (False, False)
        >>> model.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        # Not inference_mode: there composite operators hide their parts from a counter, and what a module caches
        # would not be fit for training.
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes.items():
            module.training = training


def on_meta(model: nn.Module) -> nn.Module:
    """A copy with shapes and no values: it takes no memory and computes nothing."""
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors inside tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
