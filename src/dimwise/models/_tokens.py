"""What the networks for texts share: which places hold a token, and the mean over those."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimwise.errors import ModelError


def text_shape(name: str, input_shape: tuple[int, ...], vocabulary: int) -> int:
    """T of an input shape (T,), or an error.

    Example:
        >>> text_shape("lstm", (48,), 1000)
        48
    """
    if len(input_shape) != 1 or input_shape[0] < 1:
        raise ModelError(
            f"{name} takes texts, not input of shape {tuple(input_shape)}",
            expected="(T,), a number of tokens",
            next_step="small_cnn takes images, mlp any numbers." if input_shape else "",
        )
    if vocabulary < 2:
        raise ModelError(
            f"{name} takes tokens and was given a vocabulary of {vocabulary}",
            expected="inputs that are token numbers, as data.source = text and sst2 make them",
            next_step="For a table of numbers take mlp.",
        )
    return input_shape[0]


class Words(nn.Embedding):
    """Embedding of tokens, 0 being padding, drawn from N(0, 0.1²).

    PyTorch's own N(0, 1) drowns what a few thousand texts can teach.
    """

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__(vocabulary, dim, padding_idx=0)

    def reset_parameters(self) -> None:
        """Draw anew; padding stays at zero."""
        with torch.no_grad():
            self.weight.normal_(std=0.1)[0].zero_()


def present(tokens: Tensor) -> Tensor:
    """Where a text has a token: everywhere but at padding (0); the first place always counts.

    Args:
        tokens: (N, T) int64.

    Returns:
        (N, T) bool, at least one True in each row: a softmax or a mean over nothing would be NaN.

    Example:
        >>> present(torch.tensor([[5, 7, 0], [0, 0, 0]])).tolist()
        [[True, True, False], [True, False, False]]
    """
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    return (tokens != 0) | first


def mean_of(x: Tensor, there: Tensor) -> Tensor:
    """The mean of (N, T, D) over the places that are ``there``, (N, T) → (N, D).

    Example:
        >>> mean_of(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    weight = there.unsqueeze(2).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)
