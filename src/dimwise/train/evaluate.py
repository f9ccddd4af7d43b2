"""Score a network on a split, in evaluation mode, without touching its mode or its gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimwise.data.sets import Split
from dimwise.measure import evaluating
from dimwise.tasks import Task


def predict_outputs(
    model: nn.Module, inputs: Tensor, normalise: nn.Module | None = None, *, batch_size: int = 500
) -> Tensor:
    """Outputs for all inputs.

    Args:
        model: a network that returns (B, K).
        inputs: (N, ...) raw when ``normalise`` is given, else normalised.
        normalise: raw → network input.
        batch_size: inputs at once; bounds memory, does not change the result.

    Returns:
        (N, K) float32 on the CPU.

    Example:
        >>> predict_outputs(nn.Identity(), torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """
    device = _device(model)
    found = []
    with evaluating(model):
        for x in inputs.split(batch_size):
            x = x if normalise is None else normalise(x.to(_device(normalise)))
            found.append(model(x.to(device)).float().cpu())
    return torch.cat(found)


def _device(module: nn.Module) -> torch.device:
    return next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def evaluate(
    model: nn.Module, split: Split, normalise: nn.Module | None, task: Task, *, batch_size: int = 500
) -> tuple[float, float]:
    """Mean loss and score of a network on a split of raw inputs.

    Returns:
        (loss in the task's unit, score as a fraction).

    Example:
        >>> from dimwise.tasks import get
        >>> split = Split(torch.eye(2), torch.tensor([0, 0]))
        >>> loss, score = evaluate(nn.Identity(), split, None, get("classification"))
        >>> round(loss, 4), score
        (0.8133, 0.5)
    """
    outputs = predict_outputs(model, split.inputs, normalise, batch_size=batch_size)
    targets = split.targets.cpu()
    return task.loss(outputs, targets).item(), task.score(outputs, targets)
