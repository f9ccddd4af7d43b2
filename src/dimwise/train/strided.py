"""Depthwise convolutions with a stride, trained fast: the gradient of their input by a convolution without one.

oneDNN has no fast kernel for that gradient: in bf16 it takes 70 times as long as with stride 1, in fp32 twice, and one
such layer then takes longer than all the rest of a MobileNet's step. The gradient is that of a convolution with
stride 1 whose output was read at every s-th place, so it is put back there, among zeros, and convolved with the kernel
turned round: more arithmetic, all of it fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


def is_strided_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution that :class:`Dilating` computes.

    Example:
        >>> [is_strided_depthwise(nn.Conv2d(8, 8, 3, s, 1, groups=g)) for s, g in ((2, 8), (1, 8), (2, 4))]
        [True, False, False]
    """
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return False
    return _fits(module.weight, module.stride, module.padding, module.dilation, module.groups)


class Dilating(TorchFunctionMode):
    """While this is open, strided depthwise convolutions that are called as ``nn.Conv2d`` calls them compute their
    gradients so.

    Example:
        >>> x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(2, 1, 3, 3)
        >>> with Dilating():
        ...     y = F.conv2d(x, w, None, 2, 1, 1, 2)
        >>> (dx,) = torch.autograd.grad(y.sum(), x)
        >>> (want,) = torch.autograd.grad(F.conv2d(x, w, None, 2, 1, 1, 2).sum(), x)
        >>> torch.allclose(dx, want, atol=1e-6)
        True
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and len(args) == 7 and not kwargs and torch.is_grad_enabled():
            x, weight, bias, stride, padding, dilation, groups = args
            stride, padding, dilation = map(_pair, (stride, padding, dilation))
            if x.dim() == 4 and x.device.type == "cpu" and _fits(weight, stride, padding, dilation, groups):
                tensors = [x, weight, bias]
                if torch.is_autocast_enabled("cpu"):
                    dtype = torch.get_autocast_dtype("cpu")
                    tensors = [t if t is None else t.to(dtype) for t in tensors]
                return _StridedDepthwise.apply(*tensors, stride, padding, groups)
        return func(*args, **(kwargs or {}))


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _fits(weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    depthwise = groups == len(weight) > 1 == weight.shape[1]
    inside = not isinstance(padding, str) and all(p < k for p, k in zip(padding, weight.shape[2:], strict=True))
    return depthwise and inside and max(stride) > 1 == max(dilation)


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.stride, ctx.padding = bias is not None, stride, padding
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        (n_rows, n_columns), (step_down, step_right) = ctx.padding, ctx.stride
        groups, (height, width) = len(weight), weight.shape[2:]
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            sides = (x.shape[2] + 2 * n_rows - height + 1, x.shape[3] + 2 * n_columns - width + 1)
            spread = dy.new_zeros(*dy.shape[:2], *sides)
            if dy.is_contiguous(memory_format=torch.channels_last):
                spread = spread.contiguous(memory_format=torch.channels_last)
            spread[..., ::step_down, ::step_right] = dy
            back = (height - 1 - n_rows, width - 1 - n_columns)
            dx = F.conv2d(spread, weight.flip(2, 3), None, 1, back, 1, groups)
        if ctx.needs_input_grad[1]:
            no_dilation, no_output_padding, only_weight = [1, 1], [0, 0], [False, True, False]
            dw = torch.ops.aten.convolution_backward(
                dy, x, weight, None, ctx.stride, ctx.padding, no_dilation, False, no_output_padding, groups, only_weight
            )[1]
        if ctx.has_bias and ctx.needs_input_grad[2]:
            db = dy.sum((0, 2, 3))
        return dx, dw, db, None, None, None
