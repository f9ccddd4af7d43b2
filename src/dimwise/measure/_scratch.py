"""What oneDNN takes for itself on a CPU: copies of a convolution's tensors in its order, and notes of recurrent layers.

PyTorch's shape functions know nothing of either, and both can outweigh the activations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

_RNN = torch.ops.aten.mkldnn_rnn_layer.default
_BLOCK = 16
_PLAIN = 3
"""Inputs with so few channels are read as they are."""


def reordered(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    *,
    backward: bool,
) -> int:
    """Bytes that live while a convolution runs: weights and output in blocks of channels, backward the input too.

    Channels are filled up to a multiple of 16, so a layer with 6 of them takes 16/6 of its own size. Channels-last
    tensors are used as they are. Found by comparing with the allocator's own record; transposed convolutions and
    those that oneDNN does not compute count nothing.

    Args:
        x: (B, C, ...) input; only shape, type and layout matter, as for the others.
        weight: (K, C / groups, ...) kernels.
        y: (B, K, ...) output or its gradient.
        stride, padding, dilation, transposed, output_padding, groups: as for ``aten.convolution``.
        backward: which pass.

    Example:
        >>> x, w, y = torch.empty(1, 6, 4, 4), torch.empty(16, 6, 1, 1), torch.empty(1, 16, 4, 4)
        >>> reordered(x, w, y, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, backward=True) in (0, 4 * 3 * 256)
        True
    """
    if x.device.type != "cpu" or transposed or _is_last(x) or _is_last(weight):
        return 0
    told = torch._C._select_conv_backend(x, weight, None, stride, padding, dilation, transposed, output_padding, groups)
    if told.name != "Mkldnn":
        return 0
    values = _blocked(y) + (_blocked(x) if backward else 0)
    values += weight[0, 0].numel() * _filled(weight.shape[0]) * _filled(weight.shape[1])
    return values * x.element_size()


def beside_recurrent(x: Tensor, weights: list[Tensor], n_hidden: int, *, backward: bool) -> int:
    """Bytes that live while one recurrent layer runs: its weights in oneDNN's order, and four gates a step.

    Args:
        x: (T, B, F) input.
        weights: of the layer.
        n_hidden: H. The gates take 4·T·B·H values, in float32 when going backward.
        backward: which pass; forward without gradients copies the input too.

    Deviation: fitted to the allocator's record of five shapes; forward with gradients in bf16 makes no gates.

    Example:
        >>> beside_recurrent(torch.empty(2, 3, 4), [torch.empty(20, 4)], 5, backward=True)  # 4 · (80 + 4·2·3·5)
        800
    """
    n_bytes = sum(w.numel() * w.element_size() for w in weights)
    gates = 4 * x.shape[0] * x.shape[1] * n_hidden
    if backward:
        return n_bytes + gates * 4
    if torch.is_grad_enabled():
        return n_bytes + (gates * 4 if x.dtype == torch.float32 else 0)
    return n_bytes + (gates + x.numel()) * x.element_size()


def inside_encoder_layer(x: Tensor, wide: Tensor, n_bytes: int) -> int:
    """Bytes beyond its result that PyTorch's fused Transformer layer takes in inference: the wide layer, and one more.

    Args:
        x: (B, T, D) input.
        wide: (F, D) weights of the first of its two dense layers.
        n_bytes: of one value inside; autocast's 2 cannot be seen from x.

    Example:
        >>> inside_encoder_layer(torch.empty(2, 3, 4), torch.empty(16, 4), 4)  # 4 · 2·3·(16 + 4)
        480
    """
    return x.numel() // x.shape[-1] * (wide.shape[0] + x.shape[-1]) * n_bytes


def _is_last(tensor: Tensor) -> bool:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return channels_last and not tensor.is_contiguous()


def _blocked(tensor: Tensor) -> int:
    n, c = tensor.shape[:2]
    return 0 if c <= _PLAIN else n * _filled(c) * tensor.shape[2:].numel()


def _filled(n_channels: int) -> int:
    return n_channels if n_channels <= _PLAIN else -(-n_channels // _BLOCK) * _BLOCK


class Recurrent:
    """Sizes of oneDNN's notes, each measured once: bytes(B) = a + b·B from two runs of the real layer."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[float, float]] = {}

    def notes_of_rnn(self, args: Any) -> int:
        """Bytes that one call of ``aten.mkldnn_rnn_layer`` with fake arguments would keep for its backward pass."""
        x = args[0]
        if not torch.is_grad_enabled():  # whether the layer keeps notes follows from this, not from its own flag
            return 0
        key = (tuple(x.shape[::2]), x.dtype, tuple(map(str, args[7:])))
        if key not in self._known:
            few, many = 16, 32
            sizes = [self._measured(args, n) for n in (few, many)]
            slope = (sizes[1] - sizes[0]) / (many - few)
            self._known[key] = sizes[0] - slope * few, slope
        fixed, slope = self._known[key]
        return int(fixed + slope * x.shape[1])

    def _measured(self, args: Any, n: int) -> int:
        with unset_fake_temporarily(), torch.enable_grad():
            real = [torch.zeros(_sized(t, place, n), dtype=t.dtype) for place, t in enumerate(args[:7])]
            return int(_RNN(*real, *args[7:])[3].untyped_storage().nbytes())


def _sized(tensor: Tensor, place: int, n: int) -> tuple[int, ...]:
    """The shape with a batch of n: the input is (T, B, F), the states are (..., B, F), weights have no batch."""
    if place == 0:
        return tensor.shape[0], n, tensor.shape[2]
    return (*tensor.shape[:-2], n, tensor.shape[-1]) if place >= 5 else tuple(tensor.shape)
