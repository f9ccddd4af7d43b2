"""Regression: mean squared error, coefficient of determination."""

from __future__ import annotations

import math
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
        """outputs (N, K) and targets (N, K), or (N,) when K is 1, float, in the (standardised) unit of the targets."""
        if targets.shape != outputs.shape:
            targets = targets.view_as(outputs)  # (N,) for one output; anything else is an error, not a broadcast
        return F.mse_loss(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """R², no unit; NaN for fewer than two rows, where it has no meaning."""
        from sklearn.metrics import r2_score

        if len(targets) < 2:
            return math.nan
        truth = targets.view_as(outputs).float().cpu().numpy()
        return float(r2_score(truth, outputs.float().cpu().numpy()))
