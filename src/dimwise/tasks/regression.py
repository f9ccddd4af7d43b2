"""Regression: mean squared error, coefficient of determination."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """L = mean (z − y)²; the score is R² = 1 − Σ(y − z)² / Σ(y − ȳ)², averaged over the outputs.

    ``label_smoothing`` has no meaning here and must stay 0. R² is 1 for a perfect fit, 0 for the mean, and may be
    negative for less than that.

    Example:
        >>> import torch
        >>> y = torch.tensor([[0.0], [1.0], [2.0]])
        >>> Regression().score(y + 0.0, y), Regression().loss(y + 1.0, y).item()
        (1.0, 1.0)
    """

    label_smoothing: float = 0.0
    score_name: str = "r2"

    def __post_init__(self) -> None:
        if self.label_smoothing:
            from dimwise.errors import RecipeError

            raise RecipeError("train.label_smoothing is set for a regression", expected="0 for this task")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs and targets (N, K) float, in the (standardised) unit of the targets."""
        return F.mse_loss(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """R², no unit."""
        from sklearn.metrics import r2_score

        return float(r2_score(targets.float().cpu().numpy(), outputs.float().cpu().numpy()))
