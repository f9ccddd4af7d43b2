"""What a model takes, in one record, and the two numbers that need no run: parameters and bytes on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """What a model takes; None where it was not measured."""

    params: int
    macs: int
    """Multiply-accumulates for one input."""
    size_bytes: int
    """Of the file that would be shipped."""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    throughput_per_s: float | None = None
    best_batch: int | None = None
    peak_memory_bytes: int | None = None
    train_peak_memory_bytes: int | None = None

    def as_dict(self) -> dict[str, float]:
        """What was measured.

        Example:
            >>> Cost(params=10, macs=8, size_bytes=40).as_dict()
            {'params': 10, 'macs': 8, 'size_bytes': 40}
        """
        return {name: value for name, value in asdict(self).items() if value is not None}


def n_params(model: nn.Module) -> int:
    """Numbers that are learnt; a shared tensor is counted once.

    Example:
        >>> n_params(nn.Linear(8, 4))
        36
    """
    return sum(p.numel() for p in model.parameters())


def state_size_bytes(model: nn.Module) -> int:
    """Bytes of the model's safetensors file: parameters, buffers and the header; a shared tensor once.

    Example:
        >>> state_size_bytes(nn.Linear(8, 4)) > 4 * 36
        True
    """
    from safetensors.torch import save

    unique: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        unique.setdefault(place, (name, tensor))
    values = {
        name: torch.empty(t.shape, dtype=t.dtype)
        if t.is_meta
        else t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in unique.values()
    }
    return len(save(values))
