"""How important is a channel? One number per class, from the weights alone or from what the loss says."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dimwise.fold._channels import Channels, Labels
from dimwise.tasks import Task

Scores = npt.NDArray[np.float64]


def l1(model: nn.Module, channels: Channels) -> Scores:
    """I(c) = mean over the filters m that make c of ‖W_m[c]‖₁ / mean_k ‖W_m[k]‖₁; 1 is average in its layer.

    Returns:
        (n_classes,) no unit, comparable between layers.

    Source: Li et al. 2017, section 3.1. Deviation: relative to the layer's mean, so that layers compare.
    """
    total, members = np.zeros(channels.n_classes), np.zeros(channels.n_classes)
    for axis in channels.axes:
        if axis.role == "makes":
            size = attrgetter(axis.tensor)(model).detach().abs().movedim(axis.dim, 0).flatten(1).sum(1)  # (channels,)
            _add(total, axis.labels, size / size.mean().clamp_min(1e-30))
            _add(members, axis.labels, torch.ones_like(size))
    return total / members.clip(1)


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
