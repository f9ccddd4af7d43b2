"""What a fold may look at, and what it must report: the one shape of all folds.

verb(model, config, evidence) -> (model, FoldReport)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Data
from dimwise.progress import SILENT, Progress
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
    """(1, ...) normalised float32 input of the network, for tracing."""
    score: Callable[[Any], float]
    cost: Callable[[Any], dict[str, float]]
    train: TrainConfig
    """How the model was trained: folds that fine-tune start from it."""
    augment: AugmentConfig | None = None
    """What happened to training batches: folds that train treat theirs alike."""
    seed: int = 0
    progress: Progress = field(default=SILENT)


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
    seconds: float = 0.0
