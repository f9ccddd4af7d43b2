"""What is learnt: one file per task; each says what the loss is and what the score is.

A task is a plain object with three members (see :class:`Task`). Adding one: its file, its test, its line here.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dimwise.errors import RecipeError, nearest
from dimwise.lookup import resolve

TASKS = {
    "classification": "dimwise.tasks.classification:Classification",
    "multilabel": "dimwise.tasks.multilabel:MultiLabel",
    "regression": "dimwise.tasks.regression:Regression",
}


class Task(Protocol):
    """The contract: the name of the score, a loss to minimise, a score to report."""

    @property
    def score_name(self) -> str:
        """Such as ``accuracy``."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Scalar mean over the batch; mixed (float) targets are allowed."""
        ...

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """One number for a whole split, 1 is perfect."""
        ...


def get(name: str, *, label_smoothing: float = 0.0) -> Task:
    """The task of that name.

    Example:
        >>> get("classification").score_name
        'accuracy'
    """
    if name not in TASKS:
        raise RecipeError(
            f"unknown task {name!r}", expected="one of: " + ", ".join(TASKS), next_step=nearest(name, TASKS)
        )
    made: Task = resolve(TASKS[name])(label_smoothing=label_smoothing)
    return made
