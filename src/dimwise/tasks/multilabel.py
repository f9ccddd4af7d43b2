"""Multi-label classification: one yes/no question per label."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MultiLabel:
    """L = mean binary cross-entropy of sigmoid(z) with targets moved towards 1/2 by ``label_smoothing``.

    The score is the micro-averaged F1 at threshold 1/2: every decision counts once.

    Example:
        >>> import torch
        >>> z, y = torch.tensor([[3.0, -3.0], [3.0, -3.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> MultiLabel().score(z, y)
        0.8
    """

    label_smoothing: float = 0.0
    score_name: str = "micro_f1"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs (N, K) raw scores; targets (N, K) float in [0, 1]."""
        eased = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        return F.binary_cross_entropy_with_logits(outputs, eased)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Micro F1 in [0, 1]; 0 when nothing is there and nothing is found."""
        from sklearn.metrics import f1_score

        truth, guess = (targets > 0.5).cpu().numpy(), (outputs > 0).cpu().numpy()
        return float(f1_score(truth, guess, average="micro", zero_division=0.0))
