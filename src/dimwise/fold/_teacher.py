"""Whoever can be asked for outputs: a trained network, or an exported graph run by onnxruntime."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Normalise
from dimwise.errors import ModelError, UserError
from dimwise.fold import _onnx
from dimwise.fold._evidence import Evidence
from dimwise.ort import session_options
from dimwise.tasks import Task
from dimwise.train.evaluate import predict_outputs

Teacher = Callable[[Tensor], Tensor]
"""Normalised inputs (B, ...) → raw scores (B, K) on the same device, without gradient."""

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
            f"the data is normalised by a {type(normalise).__name__}, which a teacher's graph cannot undo",
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


def check_sizes(graph: Any, augment: AugmentConfig | None) -> None:
    """A graph for images of one size cannot be asked about smaller ones.

    Raises:
        UserError: when augmentation shrinks the batches.
    """
    sizes = _onnx.input_of(graph)[2][2:]
    if augment is not None and augment.grow_from < 1 and any(size is not None for size in sizes):
        raise UserError(
            f"augment.grow_from is {augment.grow_from:g} and the teacher's graph takes images of {sizes} pixels only",
            expected="images of full size from the start",
            next_step="Set augment.grow_from=1, or pass the teacher as a torch.nn.Module.",
        )


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
