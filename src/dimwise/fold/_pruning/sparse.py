"""Group-sparse training: channels are pushed towards zero together, before any of them leaves."""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.fold._channels.groups import Channels
from dimwise.fold._evidence import Evidence
from dimwise.fold._tune import grown
from dimwise.seeds import derive
from dimwise.tasks import Task
from dimwise.train.fit import fit
from dimwise.train.loop import StepFunction, plain_step

if TYPE_CHECKING:
    from dimwise.fold.prune import PruneConfig


def sparse_training(model: nn.Module, channels: Channels, config: PruneConfig, evidence: Evidence) -> nn.Module:
    """Train ``model`` in place with a penalty on its channels that grows from 0 to ``config.sparse_weight``."""
    settings = dataclasses.replace(
        evidence.train,
        epochs=config.sparse_epochs,
        lr=evidence.train.lr * config.lr_frac,
        seed=derive(evidence.seed, "prune", "sparse"),
    )
    n_steps = config.sparse_epochs * max(1, len(evidence.data.train) // settings.batch_size)
    step = penalising_step(model, channels, config.sparse_weight, n_steps)
    return fit(
        model, evidence.data, evidence.task, settings, step=step, augment=grown(evidence), progress=evidence.progress
    ).model


def penalising_step(network: nn.Module, channels: Channels, weight: float, n_steps: int) -> StepFunction:
    """A training step whose loss has the penalty added, a little more of it at each step.

    Args:
        network: whose parameters are trained, whatever face of it the step is given.
        channels: what the trace found in it.
        weight: of the penalty at the last step.
        n_steps: steps over which it grows.
    """
    taken = 0
    pull = torch.from_numpy(_pull(network, channels))

    def step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        nonlocal taken
        taken += 1
        loss = plain_step(model, x, y, task)
        return loss + weight * min(1.0, taken / n_steps) * penalty(network, channels, pull)

    return step


def penalty(network: nn.Module, channels: Channels, pull: Tensor) -> Tensor:
    """Σ_c pull_c · ‖W[c]‖₂, the norm over all filters that make channel c.

    Args:
        network: whose filters are meant.
        channels: which of them make which class.
        pull: (n_classes,) how strongly each is pulled.

    Returns:
        () float, with gradient.

    Source: Wen et al. 2016, arXiv:1608.03665 (group lasso over filters).

    Example:
        >>> from dimwise.fold._channels.trace import trace
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> round(penalty(net, trace(net, torch.zeros(2, 2)), torch.tensor([1.0, 2.0])).item(), 4)
        7.0
    """
    squares: Tensor | None = None
    for axis in channels.axes:
        if axis.role != "makes":
            continue
        made = attrgetter(axis.tensor)(network).movedim(axis.dim, 0).flatten(1).square().sum(1)  # (channels,)
        if squares is None:
            squares = made.new_zeros(channels.n_classes)
        leaving = np.flatnonzero(axis.labels >= 0)
        index = torch.from_numpy(axis.labels[leaving]).to(made.device)
        squares = squares.index_add(0, index, made[torch.from_numpy(leaving).to(made.device)])
    if squares is None:
        return torch.zeros(())
    return (pull.to(squares) * (squares + 1e-12).sqrt()).sum()  # √ has no gradient at 0


def _pull(network: nn.Module, channels: Channels) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """2^(4 (max − n_c) / (max − min)) in each group: the smallest channel is pulled sixteen times as hard as the
    largest, as in Fang et al. 2023, equation 4."""
    from dimwise.fold._pruning.importance import l2

    norms, pull = l2(network, channels), np.ones(channels.n_classes)
    for group in channels.groups:
        n = norms[group.classes]
        pull[group.classes] = 2.0 ** (4 * (n.max() - n) / max(n.max() - n.min(), 1e-12))
    return pull
