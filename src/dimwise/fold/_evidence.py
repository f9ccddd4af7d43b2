"""What a fold may look at, and what it must report: the one shape of all folds.

verb(model, config, evidence) -> (model, FoldReport)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Data
from dimwise.progress import SILENT, Progress
from dimwise.recipe import as_dict
from dimwise.tasks import Task
from dimwise.train.config import TrainConfig


@dataclass(frozen=True)
class Evidence:
    """Data, score and an example input.

    ``score(model)`` must be computed on validation data: folds choose, and choices never see the test split.
    ``cost(model)`` returns at least ``params``, ``macs`` and ``size_bytes``. Both take whatever the fold takes and
    returns: an ``nn.Module`` or an ``onnx.ModelProto``.
    """

    data: Data
    task: Task
    example: Tensor
    """(1, ...) normalised float32 input of the network, or int64 tokens of a text, for tracing."""
    score: Callable[[Any], float]
    cost: Callable[[Any], dict[str, float]]
    train: TrainConfig
    """How the model was trained: folds that fine-tune start from it."""
    augment: AugmentConfig | None = None
    """What happened to training batches: folds that train treat theirs alike."""
    seed: int = 0
    progress: Progress = field(default=SILENT)
    latency: Callable[[Any], float] | None = None
    """Milliseconds of one input on the runtime that will serve, for folds that aim at a latency; None: each fold's own
    clock."""


@dataclass(frozen=True)
class FoldReport:
    """What a fold did: cost and score before and after, per layer, and what it left alone and why."""

    fold: str
    config: dict[str, Any]
    score_before: float
    score_after: float
    cost_before: dict[str, float]
    cost_after: dict[str, float]
    layers: list[dict[str, Any]] = field(default_factory=list)
    """One row per changed layer, such as {"name": "conv1", "channels_before": 32, "channels_after": 20}."""
    untouched: dict[str, str] = field(default_factory=dict)
    """Layer -> why it was left as it was."""
    tried: list[dict[str, Any]] = field(default_factory=list)
    """One row per attempt of a fold that searches, such as {"what": "static, mse", "score": 0.93}."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What whoever reads the numbers should know, a sentence each."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """Numbers of pictures that a page draws: {"scree": {"shares", "kept"}, "projection": {"points", "classes"}}."""


def compare(
    fold: str,
    config: Any,
    evidence: Evidence,
    before: Any,
    after: Any,
    *,
    layers: list[dict[str, Any]],
    untouched: dict[str, str],
    started: float,
    tried: list[dict[str, Any]] | None = None,
) -> FoldReport:
    """The report of a fold: cost and score of what it was given and of what it made.

    Args:
        fold: its name in the table.
        config: its settings, a ``@config``.
        evidence: measures both.
        before: what the fold was given.
        after: what it returns.
        layers: a row for each layer that changed.
        untouched: layer -> why it was left as it was.
        started: ``time.perf_counter()`` when the fold began, s; the measuring counts as part of it.
        tried: a row for each attempt, of a fold that searches.

    Example:
        >>> from types import SimpleNamespace
        >>> from dimwise.fold import PruneConfig
        >>> looks = SimpleNamespace(score=lambda model: 0.9, cost=lambda model: {"params": len(model)})
        >>> report = compare("prune", PruneConfig(), looks, "abc", "ab", layers=[], untouched={}, started=0.0)
        >>> report.score_after, report.cost_before, report.cost_after
        (0.9, {'params': 3}, {'params': 2})
    """
    costs = evidence.cost(before), evidence.cost(after)
    grown = costs[1].get("size_bytes", 0) - costs[0].get("size_bytes", 0)
    return FoldReport(
        fold=fold,
        config=as_dict(config),
        score_before=evidence.score(before),
        score_after=evidence.score(after),
        cost_before=costs[0],
        cost_after=costs[1],
        layers=layers,
        untouched=untouched,
        notes=[f"the file grew by {grown:,.0f} bytes"] if grown > 0 else [],
        tried=tried or [],
        seconds=time.perf_counter() - started,
    )
