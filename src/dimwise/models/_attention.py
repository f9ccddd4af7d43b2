"""Attention and the blocks made of it, in plain layers whose heads can leave one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Each of T places looks at all others: y = W_o [softmax(q_h k_hᵀ / √d) v_h for each head h].

    q, k and v are three layers, and the number of heads follows from their width: a network whose heads were cut
    out of the four layers runs as it is.

    Args:
        dim: width D of what flows.
        n_heads: heads of D / n_heads each.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // n_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, T, D) → (N, T, D); ``mask`` is True where a key may be looked at, and spreads to (N, heads, T, T)."""
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))  # (N, heads, T, d)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.head_dim)).transpose(1, 2)


class Block(nn.Module):
    """x + Attention(norm(x)), then x + MLP(norm(x)) with GELU inside: the pre-norm order, which trains without tricks.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, equations 2 and 3; Xiong et al. 2020, arXiv:2002.04745.
    """

    def __init__(self, dim: int, n_heads: int, n_hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, n_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, n_hidden)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(n_hidden, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, T, D) → (N, T, D)."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class Positions(nn.Module):
    """A learnt vector for each place is added, behind a learnt class token where there is one.

    Args:
        n_places: T, the token not counted.
        dim: width D.
        token: whether a class token is put first.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, equation 1; drawn as there, N(0, 0.02²).
    """

    def __init__(self, n_places: int, dim: int, *, token: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, dim)) if token else None
        self.places = nn.Parameter(torch.empty(1, n_places + token, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both anew."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) → (N, T, D), or (N, 1 + T, D) with the token."""
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.places
