"""How important is a channel? One number per class, from the weights alone or from what the loss says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dimwise.fold._channels.groups import Channels, Labels
from dimwise.tasks import Task

Scores = npt.NDArray[np.float64]


def l1(model: nn.Module, channels: Channels) -> Scores:
    """I(c) = mean over the filters m that make c of ‖W_m[c]‖₁ / mean_k ‖W_m[k]‖₁; 1 is average in its layer.

    Returns:
        (n_classes,) no unit, comparable between layers.

    Source: Li et al. 2017, section 3.1. Deviation: relative to the layer's mean, so that layers compare.
    """
    return _filters(model, channels, lambda rows: rows.abs().sum(1))


def l2(model: nn.Module, channels: Channels) -> Scores:
    """As :func:`l1`, with the Euclidean norm ‖W_m[c]‖₂: large single weights count for more.

    Source: Li et al. 2017, section 4.1, compares both.
    """
    return _filters(model, channels, lambda rows: rows.norm(dim=1))


def _filters(model: nn.Module, channels: Channels, size: Callable[[Tensor], Tensor]) -> Scores:
    total, members = np.zeros(channels.n_classes), np.zeros(channels.n_classes)
    for axis in channels.axes:
        if axis.role == "makes":
            sizes = size(attrgetter(axis.tensor)(model).detach().movedim(axis.dim, 0).flatten(1))  # (channels,)
            _add(total, axis.labels, sizes / sizes.mean().clamp_min(1e-30))
            _add(members, axis.labels, torch.ones_like(sizes))
    return total / members.clip(1)


def batch_norm_scale(model: nn.Module, channels: Channels) -> tuple[Scores, set[str]]:
    """I(c) = mean |γ| of the BatchNorms that scale c, relative to the mean of all |γ| of the network.

    Channels that no BatchNorm scales have their :func:`l1` instead, whose average is 1 as well.

    Returns:
        ((n_classes,) no unit, names of the groups that had to be judged by l1).

    Source: Liu et al. 2017, arXiv:1708.06519. Deviation: nothing is trained towards small γ here.
    """
    total, members = np.zeros(channels.n_classes), np.zeros(channels.n_classes)
    for axis in channels.axes:
        owner, _, name = axis.tensor.rpartition(".")
        if name == "weight" and isinstance(model.get_submodule(owner), nn.modules.batchnorm._BatchNorm):
            gamma = attrgetter(axis.tensor)(model).detach().abs()
            _add(total, axis.labels, gamma)
            _add(members, axis.labels, torch.ones_like(gamma))
    found = members > 0
    scores = l1(model, channels)
    if found.any():
        scale = total[found].sum() / members[found].sum()
        scores[found] = total[found] / members[found] / max(scale, 1e-30)
    return scores, {g.name for g in channels.groups if not found[g.classes].all()}


def taylor(model: nn.Module, channels: Channels, batches: Iterable[tuple[Tensor, Tensor]], task: Task) -> Scores:
    """I(c) = mean over batches of |Σ w · ∂L/∂w|, the sum over all kernel slices that read c.

    Args:
        model: in evaluation mode, so that norms are constants.
        channels: what the trace found.
        batches: pairs of network input (B, ...) and targets.
        task: whose loss L is meant.

    Returns:
        (n_classes,) in the unit of the loss: about what the loss changes by when c becomes zero.

    Source: Molchanov et al. 2019, equation 8, at the gate of a channel. Deviation: absolute value, not square.
    """
    model = deepcopy(model).requires_grad_(True)
    readers = [axis for axis in channels.axes if axis.role == "reads"]
    weights: dict[str, Tensor] = {axis.tensor: attrgetter(axis.tensor)(model) for axis in readers}
    total, n_batches = np.zeros(channels.n_classes), 0
    for x, y in batches:
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN has no gradient of an LSTM in evaluation mode
            gradients = torch.autograd.grad(task.loss(model(x), y), list(weights.values()), allow_unused=True)
        change = np.zeros(channels.n_classes)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is None:
                continue
            for axis in (a for a in readers if a.tensor == name):
                _add(change, axis.labels, (weight * gradient).detach().movedim(axis.dim, 0).flatten(1).sum(1))
        total += np.abs(change)
        n_batches += 1
    return total / max(1, n_batches)


def _add(total: Scores, labels: Labels, values: Tensor) -> None:
    """total[labels[i]] += values[i] where labels[i] can leave."""
    leaving = labels >= 0
    np.add.at(total, labels[leaving], values.double().cpu().numpy()[leaving])
