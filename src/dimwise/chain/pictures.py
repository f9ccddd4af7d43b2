"""What the report draws, computed once and kept as plain arrays: mistakes, confusion, filters, feature maps."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.data.sets import Data
from dimwise.data.text import decode
from dimwise.runs import atomic
from dimwise.train import evaluating

_N_MISTAKES, _N_MAPS, _N_LAYERS = 24, 16, 3


def save(run_dir: Path, model: nn.Module, outputs: Tensor, data: Data) -> None:
    """Write ``pictures.npz`` for a classifier (nothing for other tasks).

    Args:
        run_dir: the run folder.
        model: the trained network, whose filters and feature maps are shown.
        outputs: (N, K) outputs of the chosen artifact on the test split.
        data: the data; images get pictures, texts their words, tables only a confusion matrix.
    """
    if data.task != "classification":
        return
    arrays: dict[str, Any] = {"confusion": confusion(outputs, data.test.targets, data.n_outputs)}
    if data.test.inputs.dim() == 4:
        arrays |= _mistakes(outputs, data)
        with contextlib.suppress(Exception):  # a user's network may bear no watching; the rest is shown all the same
            arrays |= _insides(model, data)
    elif data.vocabulary:
        arrays |= _mistakes(outputs, data)
        known = data.reading["vocabulary"]
        arrays["mistakes_texts"] = np.array([decode(row, known) for row in arrays.pop("mistakes_inputs").tolist()], str)
    with atomic.replacing(run_dir / "pictures.npz") as temp, temp.open("wb") as file:
        np.savez_compressed(file, **arrays)


def confusion(outputs: Tensor, targets: Tensor, n_classes: int) -> np.ndarray:
    """(K, K) counts: row = truth, column = guess.

    Example:
        >>> confusion(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), 2).tolist()
        [[1, 0], [1, 0]]
    """
    pairs = targets.cpu() * n_classes + outputs.argmax(1)
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes).numpy()


def _mistakes(outputs: Tensor, data: Data) -> dict[str, Any]:
    """The surest wrong answers first."""
    probability, guess = outputs.softmax(1).max(1)
    wrong = (guess != data.test.targets.cpu()).nonzero().flatten()
    worst = wrong[probability[wrong].argsort(descending=True)][:_N_MISTAKES]
    return {
        "mistakes_inputs": data.test.inputs.cpu()[worst].numpy(),
        "mistakes_truth": data.test.targets.cpu()[worst].numpy(),
        "mistakes_guess": guess[worst].numpy(),
        "mistakes_prob": probability[worst].numpy(),
    }


def _insides(model: nn.Module, data: Data) -> dict[str, Any]:
    """Filters of the first convolution, and what the first convolutions make of one test image."""
    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        return {}
    arrays: dict[str, Any] = {"filters": convolutions[0][1].weight.detach().float().cpu().numpy()[:64]}
    step = max(1, len(convolutions) // _N_LAYERS)
    shown = convolutions[::step][:_N_LAYERS]
    maps: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            maps[name] = output[0, :_N_MAPS].float().cpu().clone()

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in shown]
    image = data.test.inputs[:1]
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            model(data.normalise(image).to(device))
    finally:
        for handle in handles:
            handle.remove()
    arrays["map_input"] = image[0].cpu().numpy()
    arrays["map_names"] = np.array(list(maps))
    return arrays | {f"maps_{i}": m.numpy() for i, m in enumerate(maps.values())}
