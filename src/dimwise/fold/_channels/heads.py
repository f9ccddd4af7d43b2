"""PyTorch's attention layer with fewer heads than its width has room for."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FewerHeads(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` whose heads need not fill the width of what flows.

    PyTorch's own forward pass takes ``num_heads · head_dim`` and ``embed_dim`` for one number. This one computes the
    same from the same parameters, with :func:`~torch.nn.functional.scaled_dot_product_attention` unless the weights
    are asked for. It is never built: a layer whose heads were cut becomes one.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``, for inputs with a batch dimension."""
        q, k, v = (self._split(x) for x in self._project(query, key, value))  # (N, heads, T, d)
        mask = self._mask(key_padding_mask, attn_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            out = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        return out if self.batch_first else out.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
            if query is key is value:
                q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
                return q, k, v
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    def _split(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        return x.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def _mask(self, padding: Tensor | None, mask: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as one sum of floats that spreads to (N, heads, T, T)."""
        mask, padding = _as_float(mask, q), _as_float(padding, q)
        if mask is not None and mask.dim() == 3:  # (N · heads of the original, T, T): all the same for each input
            mask = mask.unflatten(0, (len(q), -1))[:, :1]
        if padding is None:
            return mask
        padding = padding[:, None, None, :]
        return padding if mask is None else mask + padding


def _as_float(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """PyTorch's masks say True where nobody may look."""
    if mask is None or mask.is_floating_point():
        return mask
    return like.new_zeros(()).expand(mask.shape).masked_fill(mask, float("-inf"))


def fewer_heads_(module: nn.MultiheadAttention) -> None:
    """Make the record of its sizes agree with its parameters; a layer that is no longer square becomes FewerHeads."""
    packed = module.in_proj_weight
    rows = packed.shape[0] // 3 if packed is not None else module.q_proj_weight.shape[0]
    width = packed.shape[1] if packed is not None else module.q_proj_weight.shape[1]
    if (rows, width) == (module.num_heads * module.head_dim, module.embed_dim):
        return
    module.__class__ = FewerHeads
    module.num_heads, module.embed_dim = rows // module.head_dim, width
    module.kdim = width if packed is not None else module.k_proj_weight.shape[1]
    module.vdim = width if packed is not None else module.v_proj_weight.shape[1]
    module._qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its fused path, which needs the square
