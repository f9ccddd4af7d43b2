"""Networks of the table and inputs that fit them, for tests that run every row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimwise.data.sets import Data, Normalise, Split
from dimwise.models import TOKENS, USUAL, build

VOCABULARY = 40
_LARGE = ("guide_cnn", "lenet5", "fast_cnn")


def small_shape(name: str) -> tuple[int, ...]:
    """An input small enough for a quick test, large enough for the network."""
    if name in TOKENS:
        return (12,)
    return (1, 28, 28) if name in _LARGE else (3, 16, 16)


def network(
    name: str, shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0
) -> nn.Module:
    """``build`` for a test: networks for texts get a small vocabulary."""
    vocabulary = VOCABULARY if name in TOKENS else 0
    return build(name, shape, n_outputs, width=width, dropout=dropout, vocabulary=vocabulary)


def usual(name: str, *, width: float = 1.0) -> nn.Module:
    """The network for the input it was published with."""
    shape, n_outputs = USUAL[name]
    return build(name, shape, n_outputs, width=width, vocabulary=TOKENS.get(name, 0))


def inputs(name: str, n: int, *shape: int) -> Tensor:
    """(n, *shape) from the global generator: normal numbers, or tokens of texts of different lengths."""
    if name not in TOKENS:
        return torch.randn(n, *shape)
    tokens = torch.randint(1, VOCABULARY, (n, *shape))
    lengths = torch.randint(1, shape[0] + 1, (n, 1))
    return torch.where(torch.arange(shape[0]) < lengths, tokens, 0)


def zeros(name: str, n: int, *shape: int) -> Tensor:
    """(n, *shape) of zeros, of the type that the network reads."""
    return torch.zeros((n, *shape), dtype=torch.int64 if name in TOKENS else torch.float32)


def shown(name: str, shape: tuple[int, ...], n: int) -> Data:
    """Data of two classes that are cheap to learn: inputs that differ by their mean, texts by their first words."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    if name in TOKENS:
        x = torch.randint(4, VOCABULARY, (n, *shape), generator=generator)
        x[:, : shape[0] // 3] = 2 + y[:, None]
        x[:, -(shape[0] // 3) :] = 0
        split = Split(x, y)
        words = ["<pad>", "<unk>", *map(str, range(2, VOCABULARY))]
        reading = {"kind": "text", "max_tokens": shape[0], "columns": [], "vocabulary": words}
        return Data("made", split, split, split, ("a", "b"), nn.Identity(), reading=reading)
    x = torch.randn(n, *shape, generator=generator) + y.view(-1, *[1] * len(shape))
    split = Split(x, y)
    return Data("made", split, split, split, ("a", "b"), Normalise(1.0, (0.5,) * shape[0], (1.1,) * shape[0]))
