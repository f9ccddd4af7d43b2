"""A small transformer encoder for texts: embedding and positions, pre-norm blocks, the mean, a dense layer.

Source: Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762 (the encoder); the blocks are the pre-norm
ones of Xiong et al. 2020, arXiv:2002.04745, with GELU. Learnt positions and no [CLS] token; sizes are ours.
Deviation: padding is masked as a key and left out of the mean, so it cannot change an output.
"""

from __future__ import annotations

from torch import Tensor, nn

from dimwise.models._attention import Block, Positions
from dimwise.models._parts import scale
from dimwise.models._tokens import Words, mean_of, present, text_shape

N_HEADS, N_BLOCKS = 4, 2


class TextTransformer(nn.Module):
    """Two blocks of 4 heads; dropout acts on the embedded words and before the last layer."""

    def __init__(self, n_tokens: int, vocabulary: int, n_outputs: int, *, width: float, dropout: float) -> None:
        super().__init__()
        dim = N_HEADS * scale(32, width)
        self.embedding = Words(vocabulary, dim)
        self.positions = Positions(n_tokens, dim, token=False)
        self.drop_words = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, N_HEADS, 2 * dim) for _ in range(N_BLOCKS))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(dim, n_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) int64 → (N, n_outputs)."""
        there = present(tokens)
        x = self.drop_words(self.positions(self.embedding(tokens)))  # (N, T, D)
        for block in self.blocks:
            x = block(x, there[:, None, None])
        return self.fc(self.drop(mean_of(self.norm(x), there)))


def transformer(
    input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0, vocabulary: int = 0
) -> TextTransformer:
    """2 blocks, 128 · width wide, 4 heads.

    Args:
        input_shape: (T,), tokens of one text, 0 where it has ended.
        n_outputs: numbers returned for one text.
        width: factor on the size of each head.
        dropout: probability, on embedded words and before the last layer.
        vocabulary: how many different tokens there are, at least 2.

    Example:
        >>> import torch
        >>> net = transformer((4,), 2, width=0.25, vocabulary=10).eval()
        >>> net(torch.tensor([[3, 5, 0, 0], [1, 2, 3, 4]])).shape
        torch.Size([2, 2])
    """
    n_tokens = text_shape("transformer", input_shape, vocabulary)
    return TextTransformer(n_tokens, vocabulary, n_outputs, width=width, dropout=dropout)
