"""Single-label classification: cross-entropy, accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Classification:
    """L = −Σ_k q_k log softmax(z)_k, with q the label, smoothed by ``label_smoothing`` (0 ≤ ε < 1).

    Source: Szegedy et al. 2016, section 7 (label smoothing).

    Example:
        >>> import torch
        >>> z, y = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
        >>> round(Classification().loss(z, y).item(), 4), Classification().score(z, y)
        (1.1269, 0.5)
    """

    label_smoothing: float = 0.0
    score_name: str = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs (N, K) raw scores; targets (N,) int64, or (N, K) float probabilities. In nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Fraction of inputs whose largest output is their label; outputs (N, K), targets as for the loss."""
        targets = targets.argmax(1) if targets.dim() == 2 else targets
        return (outputs.argmax(1) == targets).double().mean().item()
