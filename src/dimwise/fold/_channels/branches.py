"""Whole residual branches leave: y = x + f(x) becomes y = x + c, c being f with its inner channels silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.fold._channels.groups import Alive, Axis, Branch, Channels, Group


class Constant(nn.Module):
    """What is left of a branch: the same number for each channel, whatever comes in.

    Example:
        >>> Constant(torch.tensor([1.0, 2.0]))(torch.zeros(5, 3))
        Parameter containing:
        tensor([1., 2.], requires_grad=True)
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, _: Tensor) -> Tensor:
        """(N, ...) → (C, 1, ..., 1), to be added."""
        return self.value


class Unread(nn.Module):
    """In the place of a layer whose output nobody reads; a copy, since the forward pass may change it in place."""

    def forward(self, x: Tensor) -> Tensor:
        """The input again; an exported graph drops it."""
        return x.clone()


def branches(
    model: nn.Module,
    axes: Sequence[Axis],
    groups: Sequence[Group],
    added: Sequence[tuple[str, ...]],
    calls: Sequence[str],
) -> tuple[Group, ...]:
    """The groups, with their branch where they are the inside of one.

    Args:
        model: the traced network.
        axes: of all its tensors.
        groups: of channels that may leave.
        added: layers, from the last one that reads channels to the last norm, whose output is added to something.
        calls: tensors of the weights that were used, as often as they were.
    """
    found = []
    for group in groups:
        reads = [a for a in axes if a.role == "reads" and bool((a.labels[:, None] == group.classes).any())]
        ends = [chain for chain in added if reads and chain[0] == reads[0].layer]
        inside = [a for a in axes if a.role != "reads" and bool((a.labels[:, None] == group.classes).any())]
        names = tuple(dict.fromkeys(a.layer for a in inside))
        fits = (
            len(reads) == len(ends) == 1
            and calls.count(reads[0].tensor) == 1
            and set(reads[0].labels.tolist()) == set(group.classes.tolist())
            and all(set(a.labels.tolist()) <= set(group.classes.tolist()) for a in inside)
            and all(_is_simple(model, name) for name in (*names, *ends[0]))
        )
        found.append(replace(group, branch=Branch(names, ends[0])) if fits else group)
    return tuple(found)


def _is_simple(model: nn.Module, name: str) -> bool:
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)
    try:
        return isinstance(model.get_submodule(name), kinds)
    except AttributeError:
        return False


def gone(channels: Channels, alive: Alive) -> list[Group]:
    """The groups of which nothing is left, with all of their branch."""
    return [g for g in channels.groups if g.branch is not None and not alive[g.classes].any()]


def shut_(model: nn.Module, group: Group) -> None:
    """Put a constant in the place of a branch; the channels inside it are still there, and are no longer computed.

    Args:
        model: the cut network; changed.
        group: the inside of the branch.
    """
    assert group.branch is not None
    parts: list[Any] = [model.get_submodule(name) for name in group.branch.ends]
    last, *norms = parts
    weight = last.weight
    value = weight.new_zeros(len(weight)) if last.bias is None else last.bias.detach()
    spatial = weight.dim() - 2
    with torch.no_grad():
        for norm in norms:
            value = _normed(norm, value)
    for name in group.branch.inside + group.branch.ends[1:]:
        model.set_submodule(name, Unread() if name in group.branch.inside else nn.Identity())
    model.set_submodule(group.branch.ends[0], Constant(value.detach().reshape(-1, *[1] * spatial)))


def _normed(norm: Any, value: Tensor) -> Tensor:
    value = (value - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return value if norm.weight is None else value * norm.weight + norm.bias
