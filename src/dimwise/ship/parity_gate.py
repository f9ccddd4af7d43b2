"""Does the artifact compute what the trained model computes? Measured on the whole test split, or it is not shipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dimwise.data.sets import Split
from dimwise.errors import DataError, ParityError
from dimwise.ship.manifest import Artifact, write
from dimwise.tasks import Task
from dimwise.train.evaluate import predict_outputs

Array = NDArray[Any]
WHOLE = 256
"""Rows at once when the whole split is run: bounds the memory."""


class CanRun(Protocol):
    """Anything that maps raw inputs (N, ...) to outputs (N, K), such as a :class:`dimwise.ship.Runner`."""

    def run(self, inputs: Array, /) -> Array:
        """Outputs of a batch."""
        ...


@dataclass(frozen=True)
class Parity:
    """The verdict and what it rests on."""

    passed: bool
    score_delta: float
    """Score of the artifact minus score of the model, on the test split; below 0 when something was lost."""
    max_scaled_diff: float
    """max_n ‖a_n − r_n‖∞ / mean_n ‖r_n‖∞, over the whole split and every batch size."""
    batches: tuple[int, ...]
    score: float = 0.0
    """Score of the artifact."""
    reference_score: float = 0.0
    n_samples: int = 0
    tolerance: float | None = None
    """Limit of ``max_scaled_diff``; None where only the score counts."""
    max_score_drop: float = 0.0
    """Limit of −``score_delta``."""

    def as_dict(self) -> dict[str, Any]:
        """The four values of the ``--json`` contract."""
        return {
            "passed": self.passed,
            "score_delta": self.score_delta,
            "max_scaled_diff": self.max_scaled_diff,
            "batches": list(self.batches),
        }


def torch_reference(model: nn.Module, normalise: nn.Module, *, batch_size: int = 500) -> Callable[[Tensor], Array]:
    """The trained model as ``parity`` wants it: raw inputs (N, ...) → outputs (N, K) float32.

    Example:
        >>> torch_reference(nn.Identity(), nn.Identity())(torch.ones(2, 3)).shape
        (2, 3)
    """
    return lambda inputs: predict_outputs(model, inputs, normalise, batch_size=batch_size).numpy()


def parity(
    reference: Callable[[Tensor], Array],
    runner: CanRun,
    split: Split,
    task: Task,
    *,
    batches: Sequence[int] = (1, 3, 64),
    tolerance: float | None = 1e-4,
    max_score_drop: float = 0.005,
) -> Parity:
    """Compare an artifact with the model it came from.

    With r_n the model's output for input n and a_n the artifact's:
    max_scaled_diff = max_n ‖a_n − r_n‖∞ / mean_m ‖r_m‖∞. The mean over all inputs makes it a fraction of the usual
    size of an output, so that an input with small scores does not count more. Passed when it is at most ``tolerance``
    and the artifact's score is at most ``max_score_drop`` below the model's. Anything not finite fails.

    Args:
        reference: raw inputs (N, ...) → outputs (N, K); called once, on the whole split. See :func:`torch_reference`.
        runner: the artifact, loaded by :func:`dimwise.ship.session`.
        split: test split: raw inputs and targets, at least one.
        task: gives the score.
        batches: sizes, each ≥ 1, at which samples spread over the split are run again.
        tolerance: limit of the difference, wider where rounding is meant (int8); None where only the score counts.
        max_score_drop: score that may be lost, a fraction ≥ 0.

    Returns:
        The verdict; hand it to :func:`gate`.

    Raises:
        DataError: for an empty split.
        ArtifactError: when the artifact does not take such inputs.
    """
    n = len(split)
    if n == 0:
        raise DataError("the test split is empty: parity cannot be shown", expected="at least one sample")
    inputs = split.inputs.cpu().numpy()  # (N, ...)
    trained = np.asarray(reference(split.inputs))  # (N, K)
    shipped = np.concatenate([runner.run(inputs[at : at + WHOLE]) for at in range(0, n, WHOLE)])  # (N, K)
    diff = _largest(shipped, trained)
    for size in batches:
        rows = _spread(n, size)
        for chosen in (rows[at : at + size] for at in range(0, len(rows), size)):
            diff = max(diff, _largest(runner.run(inputs[chosen]), trained[chosen]))
    scale = float(np.abs(trained).max(axis=1).mean())
    scaled = diff / scale if scale > 0 else diff
    score, reference_score = _score(shipped, split, task), _score(trained, split, task)
    delta = score - reference_score
    return Parity(
        # Written so that NaN, which compares false with everything, fails.
        passed=bool(delta >= -max_score_drop and np.isfinite(scaled) and (tolerance is None or scaled <= tolerance)),
        score_delta=delta,
        max_scaled_diff=scaled,
        batches=tuple(batches),
        score=score,
        reference_score=reference_score,
        n_samples=n,
        tolerance=tolerance,
        max_score_drop=max_score_drop,
    )


def gate(artifact: Artifact, result: Parity) -> Artifact:
    """Write the verdict into the manifest; a failed one is written and raised.

    Returns:
        The artifact with status ``ok``.

    Raises:
        ParityError: when parity failed; the artifact stays, marked ``failed``, so that it can be looked at.
    """
    manifest = dataclasses.replace(
        artifact.manifest, parity=dataclasses.asdict(result), status="ok" if result.passed else "failed"
    )
    marked = write(artifact.folder, manifest)
    if result.passed:
        return marked
    limits = [f"a loss of at most {result.max_score_drop:g}"]
    if result.tolerance is not None:
        limits.append(f"outputs off by at most {result.tolerance:g} of their size")
    raise ParityError(
        f"artifact '{manifest.name}' differs from its model: score {result.score:.4f} against "
        f"{result.reference_score:.4f} on {result.n_samples} samples, outputs off by {result.max_scaled_diff:.2g}",
        expected=" and ".join(limits),
        next_step=f"'{artifact.folder}' is marked as failed and will not be served.",
    )


def _score(outputs: Array, split: Split, task: Task) -> float:
    """NaN for outputs that are not finite: some scores would raise, others would count them as wrong answers."""
    return task.score(torch.from_numpy(outputs), split.targets.cpu()) if np.isfinite(outputs).all() else float("nan")


def _largest(a: Array, b: Array) -> float:
    """Largest absolute difference; infinite when shapes differ or anything is not finite."""
    if a.shape != b.shape:
        return float("inf")
    diff = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
    return diff if np.isfinite(diff) else float("inf")


def _spread(n: int, size: int) -> NDArray[np.int64]:
    """Indices of samples spread over the whole split: two full batches at least, eight samples at least.

    Example:
        >>> _spread(100, 1), len(_spread(10, 64))
        (array([ 0, 14, 28, 42, 56, 70, 84, 99]), 128)
    """
    return np.linspace(0, n - 1, size * max(2, -(-8 // size))).astype(np.int64)
