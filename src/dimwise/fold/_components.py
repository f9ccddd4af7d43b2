"""Principal components of features, and a linear head on them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimwise.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """Principal components: f ≈ mean + Σ_i z_i · axes[i], with z_i of variance ``variances[i]``."""

    mean: Floats
    """(D,)"""
    axes: Floats
    """(R, D) orthonormal rows, by falling variance."""
    variances: Floats
    """(R,) of the features along each axis, squared units."""

    def explained_variance(self) -> Floats:
        """(R,) the share of the whole variance that each component has; sums to 1.

        Example:
            >>> found = pca(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
            >>> found.explained_variance().round(6).tolist()
            [0.9, 0.1]
        """
        total = self.variances.sum()
        return self.variances / total if total > 0 else np.ones_like(self.variances) / len(self.variances)

    def count_for(self, share: float) -> int:
        """The fewest components that have a share of the variance, at least 1."""
        return int(min(len(self.variances), 1 + (self.explained_variance().cumsum() < share - 1e-12).sum()))

    def project(self, features: Tensor, n: int) -> Floats:
        """(N, n) coordinates along the first n axes."""
        return (_flat(features) - self.mean) @ self.axes[:n].T


def pca(features: Tensor) -> Components:
    """Principal components, exactly: eigenvectors of the covariance, or of the inner products where those are fewer.

    Args:
        features: (N, ...), N ≥ 2; everything but the first dimension is one vector of D numbers.

    Returns:
        min(N − 1, D) components, those without variance left out (one stays in any case).

    Raises:
        DataError: for fewer than two inputs, or values that are not finite.

    Source: Pearson 1901, "On lines and planes of closest fit"; Turk, Pentland 1991 (inner products when N < D).
    """
    x = _flat(features)
    if len(x) < 2:
        raise DataError(f"principal components of {len(x)} inputs", expected="at least 2")
    if not np.isfinite(x).all():
        raise DataError(
            "the features hold NaN or infinity", expected="finite numbers", next_step="Look for them in the inputs."
        )
    mean = x.mean(0)
    centred = x - mean
    if x.shape[1] <= len(x):
        values, vectors = np.linalg.eigh(centred.T @ centred)
        axes = vectors.T
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        axes = vectors.T @ centred
        axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), np.finfo(float).tiny)
    values, axes = values[::-1].clip(0), axes[::-1]
    n = max(1, int((values > 1e-12 * max(values[0], np.finfo(float).tiny)).sum()))
    return Components(mean, axes[:n], values[:n] / (len(x) - 1))


def _flat(features: Tensor) -> Floats:
    array: Floats = features.detach().cpu().flatten(1).double().numpy()
    return array


def linear_head(z: Floats, targets: Tensor, kind: str, n_outputs: int) -> tuple[Floats, Floats]:
    """Weights (K, n) and bias (K,) of the best linear answer to coordinates of unit variance.

    classification: multinomial logistic regression; multilabel: one logistic regression a label; regression: least
    squares. Each with a little L2 (C = 1, α = 1), so that there is one answer.

    Args:
        z: (N, n).
        targets: (N,) classes, or (N, K).
        kind: the task's name.
        n_outputs: K. A class that no target names gets a low score.

    Example:
        >>> z = np.array([[-1.0], [1.0], [-2.0], [2.0]])
        >>> w, b = linear_head(z, torch.tensor([0, 1, 0, 1]), "classification", 3)
        >>> (z @ w.T + b).argmax(1).tolist()
        [0, 1, 0, 1]
    """
    y = targets.cpu().numpy()
    if kind == "regression":
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=1.0).fit(z, y.reshape(len(y), -1))
        return np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if kind == "multilabel":
        pairs = [logistic(z, y[:, k] > 0.5) for k in range(n_outputs)]
        return np.stack([w for w, _ in pairs]), np.array([b for _, b in pairs])
    weight, bias = np.zeros((n_outputs, z.shape[1])), np.full(n_outputs, -UNSEEN)
    present = np.unique(y)
    if len(present) == 1:
        bias[present] = UNSEEN
    elif len(present) == 2:  # scikit-learn gives one row for two classes: half of it to each
        w, b = logistic(z, y == present[1])
        weight[present], bias[present] = [-w / 2, w / 2], [-b / 2, b / 2]
    else:
        model = _regression(z, y)
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias


UNSEEN = 20.0
"""Raw score, without its sign, of what is always or never so: e⁻²⁰ is once in 500 million."""


def logistic(z: Floats, yes: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Weights (n,) and bias of the log odds of ``yes``; constant where all answers are the same."""
    if yes.all() or not yes.any():
        return np.zeros(z.shape[1]), UNSEEN if yes.all() else -UNSEEN
    model = _regression(z, yes)
    return model.coef_[0], float(model.intercept_[0])


def _regression(z: Floats, y: NDArray[Any]) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly separable: more rounds only lengthen the weights
        return LogisticRegression(max_iter=200).fit(z, y)


def merged(
    components: Components, n: int, weight: Floats, bias: Floats
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Head and components as matrices on the features.

    Args:
        components: of the features.
        n: how many are used.
        weight: (K, n) on coordinates of unit variance.
        bias: (K,)

    Returns:
        (((n, D), (n,)) features to coordinates of unit variance, ((K, D), (K,)) features to outputs), float32.
    """
    size = np.sqrt(np.maximum(components.variances[:n], np.finfo(float).tiny))
    down = components.axes[:n] / size[:, None]
    shift = -down @ components.mean
    pairs = ((down, shift), (weight @ down, weight @ shift + bias))
    first, second = ((torch.from_numpy(w).float(), torch.from_numpy(b).float()) for w, b in pairs)
    return first, second
