"""Whoever can be asked for outputs, a trained network or an exported graph, and how seldom it must be asked."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Normalise, Split
from dimwise.errors import ModelError, UserError, a_kind
from dimwise.fold import _onnx
from dimwise.fold._evidence import Evidence
from dimwise.ort import session_options
from dimwise.tasks import Task
from dimwise.train.evaluate import predict_outputs

Teacher = Callable[[Tensor], Tensor]
"""Normalised inputs (B, ...) → raw scores (B, K) on the same device, without gradient."""

_MOST_BYTES = 1 << 30
"""Answers to augmented views are kept up to this size; beyond it the teacher is asked each time."""

Lesson = Callable[[Tensor, Tensor, Task], tuple[Tensor, Tensor, Task]]
"""(inputs, targets of the batch, task) -> (the teacher's outputs, real targets, real task)."""

_SAMPLED = 512  # values of a batch by which it is known again, beside its rows: a few rows may meet in the same order

_FLOAT32_BYTES = 256 << 20  # up to this size a table is float32; a larger one is float16, with three digits left


def network_teacher(model: nn.Module) -> Teacher:
    """A network as teacher; it is moved to where the batches are, once, and asked in evaluation mode.

    Args:
        model: the teacher's own copy.
    """
    model.eval().requires_grad_(False)
    place: list[torch.device] = []

    def ask(x: Tensor) -> Tensor:
        if place != [x.device]:
            model.to(x.device)
            place[:] = [x.device]
            if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            outputs: Tensor = model(x)
        return outputs

    return ask


def graph_teacher(graph: Any, normalise: nn.Module) -> Teacher:
    """An exported graph as teacher: it takes raw inputs, so the normalisation of a batch is undone.

    A graph of uint8 pixels sees a batch that was augmented rounded to whole ones.

    Args:
        graph: an ``onnx.ModelProto`` with one input; its first output is asked for.
        normalise: raw → network input, a :class:`~dimwise.data.sets.Normalise`.

    Raises:
        ModelError: when onnxruntime cannot run it, or it takes other inputs than the batches.
        UserError: when the normalisation cannot be undone.
    """
    import onnxruntime as ort

    if not isinstance(normalise, Normalise):
        raise UserError(
            f"the data is normalised by {a_kind(normalise)}, which a teacher's graph cannot undo",
            expected="dimwise.data.sets.Normalise",
            next_step="Pass the teacher as a torch.nn.Module.",
        )
    _onnx.session(graph)  # says in one line what is wrong with it
    options = session_options(threads=torch.get_num_threads())
    runner = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    _, dtype, _ = _onnx.input_of(graph)
    factor, offset = normalise.factor.cpu(), normalise.offset.cpu()

    def ask(x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        raw = (x.detach().float().cpu() - offset.view(shape)) / factor.view(shape)
        if np.issubdtype(dtype, np.integer):
            raw = raw.round().clamp(np.iinfo(dtype).min, np.iinfo(dtype).max)
        feeds = _onnx.batches(graph, raw.numpy().astype(dtype), len(raw))
        outputs = np.concatenate([runner.run(None, feed)[0] for feed in feeds])[: len(raw)]
        return torch.from_numpy(outputs).to(x.device)

    return ask


def may_be_asked_once(augment: AugmentConfig | None) -> bool:
    """Whether every epoch shows the teacher the very same inputs, so that its answers can be kept.

    Example:
        >>> may_be_asked_once(None), may_be_asked_once(AugmentConfig(flip=True))
        (True, False)
    """
    return augment is None or augment == AugmentConfig()


def answers(model: Any, evidence: Evidence) -> Tensor:
    """The teacher's outputs for the training split, asked once.

    Args:
        model: a network, or an exported graph.
        evidence: whose training split is read.

    Returns:
        (N, K) float32, or float16 where that would take more than 256 MB, on the CPU.

    Raises:
        ModelError: when an answer is not finite.
    """
    split, normalise = evidence.data.train, evidence.data.normalise
    if isinstance(model, nn.Module):
        table = predict_outputs(model, split.inputs, copy.deepcopy(normalise))
    else:
        table = torch.from_numpy(_onnx.outputs(model, split.inputs.cpu().numpy()))
    if not bool(table.isfinite().all()):
        n_bad = int((~table.isfinite()).flatten(1).any(1).sum())
        raise ModelError(
            f"the teacher's answer is not finite for {n_bad} of {len(table)} training inputs",
            expected="finite outputs",
            next_step="Look at the teacher's weights and the data first.",
        )
    return table if table.numel() * 4 <= _FLOAT32_BYTES else table.half()


def lessons(teacher: Any, ask: Teacher, evidence: Evidence, *, views: int, epochs: int) -> tuple[Evidence, Lesson]:
    """What the student reads and where the teacher's answers come from: asked no more often than they change.

    Args:
        teacher: a network in evaluation mode, or an exported graph.
        ask: how it is asked.
        evidence: data, task and augmentation of the student's training.
        views: augmented views of each input that it is asked about; 0: of every epoch.
        epochs: of that training.

    Returns:
        (the evidence to train with: its targets may be row numbers and its epochs may repeat, the lesson).

    Raises:
        ModelError: when an answer from a table is not finite.
    """
    augment = evidence.augment
    if augment is None or may_be_asked_once(augment):
        return by_row(evidence), by_table(answers(teacher, evidence))
    kept_bytes = 4 * views * len(evidence.data.train) * evidence.data.n_outputs
    blended = augment.mixup or augment.cutmix  # such inputs have no row of their own
    if not 0 < views < epochs or blended or kept_bytes > _MOST_BYTES:
        return evidence, by_asking(ask)
    cycling = dataclasses.replace(evidence, augment=dataclasses.replace(augment, cycle_epochs=views))
    return by_row(cycling), by_memory(ask)


def by_asking(ask: Teacher) -> Lesson:
    """The teacher answers each batch anew."""
    return lambda x, y, task: (ask(x), y, task)


def by_table(table: Tensor) -> Lesson:
    """The teacher's answers are looked up: the batch's targets say which rows of the training split it holds.

    Args:
        table: (N, K) the teacher's outputs; moved once, to where the batches are.
    """
    held = [table]

    def lesson(x: Tensor, y: Tensor, task: Task) -> tuple[Tensor, Tensor, Task]:
        assert isinstance(task, ByIndex)
        if held[0].device != x.device:
            held[0] = held[0].to(x.device)
        return held[0].index_select(0, y), task.look_up(y), task.task

    return lesson


def by_memory(ask: Teacher) -> Lesson:
    """The teacher answers a batch once: the same rows in the same order with the same augmentation come back.

    Args:
        ask: the teacher.
    """
    known: dict[tuple[Any, ...], Tensor] = {}

    def lesson(x: Tensor, y: Tensor, task: Task) -> tuple[Tensor, Tensor, Task]:
        assert isinstance(task, ByIndex)
        sample = x.reshape(-1)[:: max(1, x.numel() // _SAMPLED)].float()
        batch = (tuple(x.shape), y.cpu().numpy().tobytes(), sample.cpu().numpy().tobytes())
        if batch not in known:
            known[batch] = ask(x)
        return known[batch], task.look_up(y), task.task

    return lesson


def by_row(evidence: Evidence) -> Evidence:
    """The same data with row numbers as targets, and the task that knows what they stand for."""
    data = evidence.data
    n_train, n_valid = len(data.train), len(data.valid)
    parts = [data.train.targets, data.valid.targets] if n_valid else [data.train.targets]
    rows = torch.arange(n_train + n_valid)
    train = Split(data.train.inputs, rows[:n_train])
    valid = Split(data.valid.inputs, rows[n_train:]) if n_valid else data.valid
    return dataclasses.replace(
        evidence,
        data=dataclasses.replace(data, train=train, valid=valid),
        task=ByIndex(evidence.task, torch.cat(parts)),
    )


class ByIndex:
    """A task whose targets are row numbers: batches then say which rows they are, and the rest is looked up.

    Args:
        task: the real task.
        targets: (N, ...) the real targets.

    Example:
        >>> from dimwise.tasks import get
        >>> task = ByIndex(get("classification"), torch.tensor([1, 0]))
        >>> task.score(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
        1.0
    """

    def __init__(self, task: Task, targets: Tensor) -> None:
        self.task = task
        self.targets = targets
        self.score_name = task.score_name

    def look_up(self, rows: Tensor) -> Tensor:
        """The real targets of some rows."""
        if self.targets.device != rows.device:
            self.targets = self.targets.to(rows.device)
        return self.targets[rows]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The real task's loss."""
        return self.task.loss(outputs, self.look_up(targets))

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """The real task's score."""
        return self.task.score(outputs, self.look_up(targets))
