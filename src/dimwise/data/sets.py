"""What the house calls data: three splits of tensors, their labels, and the preprocessing that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Raw input to network input: ``y = (x · scale − mean) / std``, per channel (or per feature).

    It is part of what is exported, so the served model takes what the file holds.

    Args:
        scale: factor that brings raw values to their natural unit, such as 1/255.
        mean: (C,) mean of each channel after scaling.
        std: (C,) deviation of each channel after scaling, > 0.

    Returns of ``forward``: float32 of the shape of ``x``, (N, C, ...).

    Example:
        >>> Normalise(1 / 255, (0.5,), (0.5,))(torch.tensor([[255, 0]], dtype=torch.uint8).view(2, 1)).flatten()
        tensor([ 1., -1.])
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        deviation = torch.tensor(std, dtype=torch.float64)
        centre = torch.tensor(mean, dtype=torch.float64)
        self.register_buffer("factor", (scale / deviation).float())
        self.register_buffer("offset", (-centre / deviation).float())

    def forward(self, x: Tensor) -> Tensor:
        """One multiplication and one addition per value."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x.float() * self.factor.view(shape) + self.offset.view(shape)


@dataclass(frozen=True)
class Split:
    """A part of the data, raw: images uint8 (N, C, H, W), tables and arrays float32 (N, F...), texts int64 (N, T).

    ``targets``: (N,) int64 for classification, (N, K) float32 of 0/1 for multi-label, (N, K) float32 for regression.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Data:
    """Train, valid and test splits with everything needed to read them.

    Choices are made on ``valid``; ``test`` only reports.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    labels: tuple[str, ...]
    """Class names in the order of the outputs; target names for regression."""
    normalise: nn.Module
    """Raw input to network input: a :class:`Normalise` with statistics of the training split alone; for texts, whose
    tokens are names and no quantities, ``nn.Identity``."""
    task: str = "classification"
    """classification | multilabel | regression"""
    reading: dict[str, Any] = field(default_factory=dict)
    """How a file becomes a raw input, as plain JSON: it travels in the manifest of the artifact.
    Images: {"kind": "image", "channels": 1, "height": 8, "width": 8};
    tables: {"kind": "table", "columns": [...], "encoder": {...}}; arrays: {"kind": "array", "shape": [...]};
    texts: {"kind": "text", "max_tokens": 48, "columns": [...], "vocabulary": [...]}.
    For regression also "target": {"mean": [K numbers], "std": [K numbers]}: a value is output · std + mean."""
    notes: tuple[str, ...] = ()
    """What a reader should know: skipped files, subsets, imputed values."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input without the batch dimension."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def vocabulary(self) -> int:
        """How many different tokens an input may hold; 0 where inputs are no tokens."""
        return len(self.reading.get("vocabulary", ()))

    @property
    def n_outputs(self) -> int:
        """How many numbers the network returns for one input."""
        return len(self.labels)
