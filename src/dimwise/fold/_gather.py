"""Evidence for folds, with a score and a cost for networks and for exported graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Data, Split
from dimwise.errors import DataError
from dimwise.fold import _onnx
from dimwise.fold._evidence import Evidence
from dimwise.measure.cost import n_params, state_size_bytes
from dimwise.measure.profiling import profile
from dimwise.progress import SILENT, Progress
from dimwise.tasks import Task, get
from dimwise.train.config import TrainConfig
from dimwise.train.evaluate import evaluate


def evidence(
    data: Data,
    task: Task | str = "",
    *,
    train: TrainConfig | None = None,
    augment: AugmentConfig | None = None,
    example: Tensor | None = None,
    score: Callable[[Any], float] | None = None,
    cost: Callable[[Any], dict[str, float]] | None = None,
    seed: int | None = None,
    progress: Progress = SILENT,
) -> Evidence:
    """What a fold may look at: ``data`` with a default for everything else.

    Args:
        data: its training split is learnt from, its validation split decides; its test split is never seen.
        task: a task or its name; default: the task of ``data``.
        train: how the model was trained; folds that fine-tune start from it.
        augment: what happened to training batches; folds that train treat theirs alike.
        example: (1, ...) normalised float32 input; default: the first of the training split.
        score: default: the task's score on the validation split, of a network or of an exported graph run by
            onnxruntime.
        cost: default: counted parameters, multiply-accumulates and bytes of the file, of either.
        seed: default: that of ``train``.
        progress: where progress is shown.

    Raises:
        DataError: when the validation split is empty and no ``score`` is given, or inputs have no labels.
    """
    train = train or TrainConfig()
    for name, split in (("training", data.train), ("validation", data.valid)):
        _check_labelled(f"the {name} split of {data.name!r}", split)
    if isinstance(task, str):
        task = get(task or data.task, label_smoothing=train.label_smoothing)
    judge = task
    if score is None and not len(data.valid):
        raise DataError(
            f"the validation split of {data.name!r} is empty: a fold cannot be judged",
            expected="held-out samples, since the test split must not choose",
            next_step="Split again with data.valid_frac=0.1, or pass score=.",
        )
    if example is None:
        if not len(data.train):
            raise DataError(f"the training split of {data.name!r} is empty", expected="at least one input")
        example = data.normalise(data.train.inputs[:1])
    counted = example

    def score_of(model: Any) -> float:
        if isinstance(model, nn.Module):
            return evaluate(model, data.valid, data.normalise, judge)[1]
        scores = torch.from_numpy(_onnx.outputs(model, data.valid.inputs.cpu().numpy()))
        return judge.score(scores, data.valid.targets.cpu())

    def cost_of(model: Any) -> dict[str, float]:
        if not isinstance(model, nn.Module):
            return _onnx.cost(model)
        macs = profile(model, counted).macs / len(counted)
        return {"params": n_params(model), "macs": macs, "size_bytes": state_size_bytes(model)}

    return Evidence(
        data=data,
        task=judge,
        example=example,
        score=score or score_of,
        cost=cost or cost_of,
        train=train,
        augment=augment,
        seed=train.seed if seed is None else seed,
        progress=progress,
    )


def _check_labelled(what: str, split: Split) -> None:
    """Told apart from a split that is empty: here there is something to label."""
    n_labels = 0 if split.targets is None else len(split.targets)
    if n_labels != len(split.inputs):
        raise DataError(
            f"{what} has {len(split.inputs)} inputs and {n_labels or 'no'} labels",
            expected="a label for each input",
            next_step="Label them; to copy a network whose data have none, its own answers will do: "
            "targets = model(inputs).argmax(1).",
        )
