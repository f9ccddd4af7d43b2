"""A network that computes in 16 bits inside PyTorch, between float32 inputs and outputs."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Half(nn.Module):
    """A network whose weights and activations have 16 bits; (B, ...) float32 or tokens in, float32 out."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Scores in float32."""
        scores: Tensor = self.network(x.to(self.dtype) if x.is_floating_point() else x)
        return scores.float()


def in_half(network: nn.Module, dtype: str) -> Half:
    """A copy of a network in fp16 or bf16, in evaluation mode.

    Example:
        >>> made = in_half(nn.Linear(4, 2), "bf16")
        >>> made(torch.zeros(1, 4)).dtype, made.network.weight.dtype
        (torch.float32, torch.bfloat16)
    """
    return Half(deepcopy(network).eval().to(DTYPES[dtype]), DTYPES[dtype])
