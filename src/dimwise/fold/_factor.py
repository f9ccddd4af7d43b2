"""One layer as a product of two thinner ones: singular values, what each rank costs, and the layers themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Moments:
    """What a layer put out on some inputs, channel by channel."""

    mean: Tensor
    """(O,) float64."""
    covariance: Tensor
    """(O, O) float64, about the mean."""


@dataclass(frozen=True)
class Factors:
    """A layer that can be had at any rank."""

    kind: str
    """linear | channel | spatial | embedding"""
    squares: Tensor
    """(R,) float64, falling: squared singular values, or with moments the variance of the outputs, per rank."""
    unit: float
    """Multiply-accumulates of one rank, as a fraction of the layer's; for an embedding, its parameters likewise."""
    build: Callable[[int], nn.Sequential]
    """The two layers at a rank from 1 to R."""

    @property
    def full_rank(self) -> int:
        """The rank at which the layer is exact."""
        return len(self.squares)

    def energy(self, rank: int) -> float:
        """Σ of the first ``rank`` squares over Σ of all, in [0, 1]."""
        total = self.squares.sum()
        return float(self.squares[:rank].sum() / total) if total > 0 else 1.0

    def rank_for(self, energy: float, round_to: int = 1) -> int:
        """The least rank, a multiple of ``round_to``, that keeps a share of the energy."""
        total = self.squares.sum()
        kept = self.squares.cumsum(0)
        least = 1 + int((kept < energy * total * (1 - 1e-12)).sum()) if total > 0 else 1
        return min(self.full_rank, -(-least // round_to) * round_to)


def of_linear(layer: nn.Linear, moments: Moments | None = None) -> Factors:
    """W (O, I) ≈ B A, A (r, I) and B (O, r).

    Without moments: the best approximation of W, W = U diag(σ) Vᵀ, A = √σ Vᵀ, B = U √σ. With them: the best of the
    outputs y = W x + b, A = Pᵀ W and B = P with P the first eigenvectors of their covariance.

    Example:
        >>> layer = nn.Linear(6, 4)
        >>> made = of_linear(layer).build(4)
        >>> [tuple(p.shape) for p in made.parameters()]
        [(4, 6), (4, 4), (4,)]
        >>> x = torch.randn(2, 6)
        >>> torch.allclose(made(x), layer(x), atol=1e-5)
        True
    """
    out, inside = layer.weight.shape
    squares, halves = _halves(layer.weight, layer.bias, moments)

    def build(rank: int) -> nn.Sequential:
        a, b, bias = halves(rank)
        first, second = bare(nn.Linear, inside, rank), bare(nn.Linear, rank, out)
        fill_(first, a, None, layer)
        fill_(second, b, bias if moments is not None or layer.bias is not None else None, layer)
        return nn.Sequential(first, second)

    return Factors("linear", squares, (inside + out) / (inside * out), build)


def of_embedding(layer: nn.Embedding) -> Factors:
    """A table (V, D) ≈ a table (V, r) times a matrix (r, D): fewer numbers, a product more per word.

    Example:
        >>> made = of_embedding(nn.Embedding(50, 8)).build(3)
        >>> made(torch.tensor([[1, 2]])).shape, sum(p.numel() for p in made.parameters())
        (torch.Size([1, 2, 8]), 174)
    """
    words, features = layer.weight.shape
    squares, halves = _halves(layer.weight.detach().T, None, None)

    def build(rank: int) -> nn.Sequential:
        a, b, _ = halves(rank)
        table = bare(nn.Embedding, words, rank, padding_idx=layer.padding_idx)
        fill_(table, a.T, None, layer)
        back = bare(nn.Linear, rank, features)
        fill_(back, b, None, layer)
        return nn.Sequential(table, back)

    return Factors("embedding", squares, (words + features) / (words * features), build)


def channel(layer: _ConvNd, moments: Moments | None = None) -> Factors:
    """A convolution (O, I, k…) as one with r filters and a 1 × 1 convolution (O, r), any number of dimensions.

    Source: Zhang et al. 2016, arXiv:1505.06798, section 3.1 (with moments: their linear case).
    """
    weight = layer.weight.detach()
    out, size = weight.shape[0], weight[0].numel()
    squares, halves = _halves(weight.flatten(1), layer.bias, moments)
    kind = type(layer)

    def build(rank: int) -> nn.Sequential:
        a, b, bias = halves(rank)
        first = _like(layer, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        second = bare(kind, rank, out, 1)
        fill_(first, a.view(rank, *weight.shape[1:]), None, layer)
        bias = bias if moments is not None or layer.bias is not None else None
        fill_(second, b.view(out, rank, *[1] * (weight.dim() - 2)), bias, layer)
        return nn.Sequential(first, second)

    return Factors("channel", squares, (size + out) / (size * out), build)


def spatial(layer: nn.Conv2d, width_in: int, width_out: int) -> Factors:
    """A k × k convolution as a k × 1 and a 1 × k one, with r channels between.

    W[o, i, y, x] ≈ Σ_r H[o, r, x] V[r, i, y]: the singular value decomposition of the matrix (I k) × (O k).

    Args:
        layer: with one group.
        width_in: columns of the input, which the first convolution keeps.
        width_out: columns of the output.

    Source: Jaderberg et al. 2014, arXiv:1405.3866, scheme 2, solved in closed form as Tai et al. 2016,
    arXiv:1511.06067.

    Example:
        >>> layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        >>> made = spatial(layer, 8, 4).build(9)
        >>> [tuple(p.shape) for p in made.parameters()]
        [(9, 3, 3, 1), (4, 9, 1, 3), (4,)]
        >>> x = torch.randn(2, 3, 8, 8)
        >>> torch.allclose(made(x), layer(x), atol=1e-5)
        True
    """
    weight = layer.weight.detach()
    out, inside, high, wide = weight.shape
    squares, halves = _halves(weight.permute(0, 3, 1, 2).reshape(out * wide, inside * high), None, None)
    (down, across), (skip_down, skip_across) = layer.stride, layer.dilation
    pad_down, pad_across = (layer.padding, layer.padding) if isinstance(layer.padding, str) else layer.padding

    def build(rank: int) -> nn.Sequential:
        a, b, _ = halves(rank)
        above = pad_down if isinstance(pad_down, str) else (pad_down, 0)
        beside = pad_across if isinstance(pad_across, str) else (0, pad_across)
        first = _like(layer, rank, (high, 1), (down, 1), above, (skip_down, 1))
        fill_(first, a.view(rank, inside, high, 1), None, layer)
        second = bare(
            nn.Conv2d,
            rank,
            out,
            (1, wide),
            stride=(1, across),
            padding=beside,
            dilation=(1, skip_across),
            padding_mode=layer.padding_mode,
        )
        fill_(second, b.view(out, wide, rank).permute(0, 2, 1).unsqueeze(2), layer.bias, layer)
        return nn.Sequential(first, second)

    unit = (inside * high * width_in + out * wide * width_out) / (out * inside * high * wide * width_out)
    return Factors("spatial", squares, unit, build)


def _halves(
    matrix: Tensor, bias: Tensor | None, moments: Moments | None
) -> tuple[Tensor, Callable[[int], tuple[Tensor, Tensor, Tensor | None]]]:
    """Squares of a matrix (O, I), and its factors A (r, I), B (O, r) and the bias (O,) at a rank."""
    w = matrix.detach().double()
    b = torch.zeros(len(w), dtype=w.dtype, device=w.device) if bias is None else bias.detach().double()
    if moments is None:
        u, sigma, v = torch.linalg.svd(w, full_matrices=False)
        root = sigma.sqrt()

        def plain(rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
            return root[:rank, None] * v[:rank], u[:, :rank] * root[:rank], None if bias is None else b

        return sigma.square(), plain
    values, vectors = torch.linalg.eigh(moments.covariance.to(w.device))  # rising
    mean = moments.mean.to(w.device)
    squares, p = values.flip(0).clamp_min(0)[: min(w.shape)], vectors.flip(1)

    def seen(rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
        kept = p[:, :rank]
        return kept.T @ w, kept, mean + kept @ (kept.T @ (b - mean))

    return squares, seen


def _like(layer: Any, out: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    return bare(
        type(layer),
        layer.in_channels,
        out,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=layer.padding_mode,
    )


def bare(kind: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """A layer whose numbers are not drawn, as they are filled in at once."""
    if kind is not nn.Embedding:
        settings["bias"] = False
    return kind(*args, **settings, device="meta")


def fill_(layer: Any, weight: Tensor, bias: Tensor | None, like: Any) -> None:
    """Set the numbers of a new layer, in the type and on the device of the layer it replaces."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            value = value.detach().to(like.weight).clone(memory_format=torch.contiguous_format)
            setattr(layer, name, nn.Parameter(value, requires_grad=like.weight.requires_grad))
