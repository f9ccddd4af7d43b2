"""Vision transformers: an image is cut into patches, which look at each other.

``vit`` is for images of CIFAR's size (patches of 4 pixels, 6 blocks), ``deit_tiny`` the smallest published one for
photographs (patches of 16 pixels, 12 blocks).

Source: Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929; Touvron et al. 2021, "Training
data-efficient image transformers", arXiv:2012.12877, table 1 (192 wide, 3 heads, MLP 4 times as wide).
Deviation: q, k and v are three layers instead of one, so that a head can be cut out; the numbers are the same. Patches
start at the upper left, and the image's sides must be multiples of them.
"""

from __future__ import annotations

from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.models._attention import Block, Positions
from dimwise.models._parts import image_shape, scale

N_HEADS, HEAD_DIM = 3, 64


class VisionTransformer(nn.Module):
    """Patches, class token and positions, blocks, norm, and a dense layer on the token.

    ``width`` ≤ 1 narrows the heads, above 1 it adds heads: 2 gives DeiT-S's 6 heads of 64, 4 gives DeiT-B's 12.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        patch: int,
        depth: int,
        width: float,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, width_px = input_shape
        n_heads = max(N_HEADS, round(N_HEADS * width))
        dim = n_heads * scale(HEAD_DIM, min(1.0, width))
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.flatten = nn.Flatten(2)
        self.positions = Positions((height // patch) * (width_px // patch), dim, token=True)
        self.blocks = nn.Sequential(*(Block(dim, n_heads, 4 * dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(dim, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, n_outputs)."""
        x = self.flatten(self.patches(x)).transpose(1, 2)  # (N, T, D)
        x = self.norm(self.blocks(self.positions(x)))
        return self.head(self.drop(x[:, 0]))


def vit(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> VisionTransformer:
    """6 blocks of 192 on patches of 4 × 4 pixels: 2,693,578 parameters at (3, 32, 32) with 10 outputs.

    Example:
        >>> import torch
        >>> vit((3, 8, 8), 10, width=0.25)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _build("vit", input_shape, n_outputs, patch=4, depth=6, width=width, dropout=dropout)


def deit_tiny(
    input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0
) -> VisionTransformer:
    """12 blocks of 192 on patches of 16 × 16 pixels: 5,717,416 parameters at (3, 224, 224) with 1000 outputs.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     sum(p.numel() for p in deit_tiny((3, 224, 224), 1000).parameters())
        5717416
    """
    return _build("deit_tiny", input_shape, n_outputs, patch=16, depth=12, width=width, dropout=dropout)


def _build(
    name: str, input_shape: tuple[int, ...], n_outputs: int, *, patch: int, depth: int, width: float, dropout: float
) -> VisionTransformer:
    shape = image_shape(name, input_shape, least=patch)
    if shape[1] % patch or shape[2] % patch:
        raise ModelError(
            f"{name} cannot cut images of {shape[1]} × {shape[2]} pixels into patches of {patch} × {patch}",
            expected=f"multiples of {patch}",
            next_step="Resize the images.",
        )
    return VisionTransformer(shape, n_outputs, patch=patch, depth=depth, width=width, dropout=dropout)
