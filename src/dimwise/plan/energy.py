"""A proxy for energy: counted multiply-accumulates, each weighted by the bits of its two factors.

Bit operations = Σ over layers of MACs · b_w · b_x, where b is the width of the numbers that are multiplied: 32 for
float32, 16 for float16 and bfloat16, 8 where both factors come as 8-bit integers. Weights that are stored in 8 or 4
bits and unpacked before a float product count as 32: what is stored small is not computed small.

Source: bit operations as in Baskin et al. 2021, "UNIQ", arXiv:1804.10969; that energy follows them closely is shown in
Horowitz 2014, "Computing's energy problem", ISSCC. It is a count, not a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dimwise.fold import EITHER_FOLDS, FoldReport, _onnx

_INTEGER = {"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM", "QLinearConv", "QLinearMatMul"}


def bit_operations(proto: Any) -> float:
    """Of one input through a graph.

    Args:
        proto: an ``onnx.ModelProto``.

    Example:
        >>> import torch
        >>> from dimwise import ship
        >>> bit_operations(ship.graph(torch.nn.Linear(4, 2), torch.nn.Identity(), torch.zeros(1, 4)))  # 8 MACs
        8192.0
    """
    import onnx

    graph = _onnx._inferred(proto).graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {t.name: t for t in graph.initializer}
    shapes = {name: tuple(t.dims) for name, t in constants.items()}
    kinds = {name: t.data_type for name, t in constants.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes.setdefault(value.name, tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim))
        kinds.setdefault(value.name, value.type.tensor_type.elem_type)

    def is_integer(name: str) -> bool:
        maker = makers.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear"

    total = 0.0
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for node in graph.node:
        macs = _onnx._macs(node, shapes)
        if not macs:
            continue
        integers = node.op_type in _INTEGER or all(is_integer(name) for name in list(node.input)[:2])
        bits = 8 if integers else 16 if kinds.get(node.output[0]) in half else 32
        total += float(macs) * bits * bits
    return total


def bits_of_network(reports: Sequence[FoldReport]) -> int | None:
    """Bits of the numbers that a network multiplies inside PyTorch, by what its folds report; None where they differ.

    Example:
        >>> bits_of_network([])
        32
    """
    rounding = [report for report in reports if report.fold in EITHER_FOLDS]
    if not rounding:
        return 32
    widths = {row["bits"] for row in rounding[-1].layers}
    return widths.pop() if len(widths) == 1 and not rounding[-1].untouched else None
