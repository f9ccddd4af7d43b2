"""The ways an exported graph is rewritten to 8 bits; which nodes, and why, is decided in ``quantize.py``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.fold._numbers import calibration

# fmt: off
STATIC_OPS = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool",
    "GlobalAveragePool", "Concat", "Split", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice",
    "Resize", "Pad",
})
# fmt: on
"""Operators whose int8 form onnxruntime's CPU kernels really compute in int8, or that only move values."""
MOVERS = frozenset(
    ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "MaxPool", "Relu", "Clip"]
)
"""Those that only pass on what others rounded: no layer to blame."""
DYNAMIC_OPS = frozenset(["MatMul", "LSTM"])
"""Dynamic quantization has fast kernels for products and LSTMs; its convolution (ConvInteger) is slower than float."""
MIN_WEIGHTS = 64
"""Constants smaller than this stay float in ``weights`` mode: their scales would take what they save."""


def static(
    model: Any,
    chosen: set[str],
    ranges: dict[str, calibration.Range],
    *,
    per_channel: bool,
    reduce_range: bool,
    signed: bool,
) -> Any:
    """Q and DQ nodes around the chosen ones, with the given ranges of activations."""
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

    # The quantizer takes both ends for what they are; which method found them no longer matters.
    data = {n: TensorData(lowest=np.float32(a), highest=np.float32(b)) for n, (a, b) in ranges.items()}
    with _quiet():
        made = QDQQuantizer(
            model,
            per_channel,
            reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if signed else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, data),
            sorted(chosen),
            [],
            sorted(STATIC_OPS),
            {},
        ).quantize_model()
    _free_outputs(made)
    return made


def tensors_to_calibrate(model: Any, chosen: set[str]) -> list[str]:
    """Names of the activations that go into or come out of the chosen nodes."""
    constants = {t.name for t in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.name in chosen and not reads_rows(node)]
    return sorted({n for node in nodes for n in (*node.input, *node.output) if n and n not in constants})


def _free_outputs(model: Any) -> None:
    """Let the last layer return float: its scores are not rounded, and one pass less is made. In place.

    Only after Gemm and MatMul, whose int8 kernels can return float; a convolution's cannot.
    """
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    users: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    for value in graph.output:
        back = maker.get(value.name)
        forth = maker.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
        layer = maker.get(forth.input[0]) if forth is not None and forth.op_type == "QuantizeLinear" else None
        if forth is None or layer is None or layer.op_type not in ("Gemm", "MatMul"):
            continue
        if users[layer.output[0]] == users[forth.output[0]] == 1:
            layer.output[0] = value.name
            graph.node.remove(forth)
            graph.node.remove(back)
    _drop_unused_constants(graph)


def _drop_unused_constants(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def split_gemms(model: Any) -> None:
    """Gemm as MatMul and Add, which is what dynamic quantization knows. In place."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    _drop_unused_constants(wrapped.model.graph)
    model.CopyFrom(onnx.shape_inference.infer_shapes(wrapped.model))


def dynamic(model: Any, chosen: set[str], *, per_channel: bool, reduce_range: bool) -> Any:
    """Integer weights in the chosen nodes; activations are rounded while serving."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    with _quiet():
        quantizer = ONNXQuantizer(
            model,
            per_channel,
            reduce_range,
            QuantizationMode.IntegerOps,
            False,  # not static
            QuantType.QInt8,
            QuantType.QUInt8,
            None,
            sorted(chosen),
            [],
            sorted(DYNAMIC_OPS),
            {"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
    return quantizer.model.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's remarks away from the user, and its handler off the root logger."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [logging.NullHandler()]
    try:
        yield
    finally:
        root.handlers = handlers


def weights(model: Any, chosen: set[str], *, per_channel: bool) -> Any:
    """Weights of the chosen nodes as int8 times scale, multiplied out once when the graph is loaded. In place.

    Cast and Mul of constants are folded by every runtime, so what runs is the float graph with rounded weights.
    """
    import onnx

    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    done: set[str] = set()
    new = []
    for node in graph.node:
        for index, axis in weight_axes(node, constants).items() if node.name in chosen else ():
            name = node.input[index]
            if name in done:
                continue
            done.add(name)
            whole, scale = round_weights(onnx.numpy_helper.to_array(constants[name]), axis if per_channel else None)
            graph.initializer.append(onnx.numpy_helper.from_array(whole, f"{name}_int8"))
            graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
            cast = onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], to=onnx.TensorProto.FLOAT)
            new += [cast, onnx.helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name])]
    for tensor in [t for t in graph.initializer if t.name in done]:
        graph.initializer.remove(tensor)
    for position, node in enumerate(new):
        graph.node.insert(position, node)
    return model


def embeddings(model: Any, chosen: set[str], *, per_channel: bool) -> set[str]:
    """Tables whose rows are read by index as int8 times a scale a row, multiplied out for what is read. In place.

    The table stays int8 in memory too, which a table that is multiplied out when the graph is loaded would not.

    Returns:
        Names of the nodes that were rewritten.
    """
    import onnx

    graph, make = model.graph, onnx.helper.make_node
    constants = {t.name: t for t in graph.initializer}
    found = {n.name for n in graph.node if n.name in chosen and reads_rows(n) and weight_axes(n, constants)}
    known = set(constants)
    nodes = []
    for node in graph.node:
        if node.name not in found:
            nodes.append(node)
            continue
        table, rows = node.input[:2]
        out, ints, scale = node.output[0], f"{table}_rows_int8", f"{table}_rows_scale"
        if ints not in known:
            whole, steps = round_weights(onnx.numpy_helper.to_array(constants[table]), 0 if per_channel else None)
            steps = steps if per_channel else steps.reshape(())
            graph.initializer.extend([onnx.numpy_helper.from_array(v, n) for v, n in ((whole, ints), (steps, scale))])
            known.add(ints)
        nodes.append(make("Gather", [ints, rows], [f"{out}_int8"], f"{node.name}_rows"))
        nodes.append(make("Cast", [f"{out}_int8"], [f"{out}_whole"], f"{node.name}_whole", to=onnx.TensorProto.FLOAT))
        if per_channel:
            nodes.append(make("Gather", [scale, rows], [f"{out}_scale"], f"{node.name}_scale"))
            scale = f"{out}_scale"
        nodes.append(make("Mul", [f"{out}_whole", scale], [out], f"{node.name}_scaled"))
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused_constants(graph)
    return found


def reads_rows(node: Any) -> bool:
    """Whether a node takes whole rows of its first input by their number."""
    return node.op_type == "Gather" and not any(a.name == "axis" and a.i for a in node.attribute)


def output_axis(node: Any) -> int | None:
    """Axis of the output along which the channels of a layer lie; ``None`` for what is no such layer."""
    return {"Conv": 1, "Gemm": 1, "MatMul": -1}.get(node.op_type)


def weight_axis(node: Any) -> int:
    """Axis of the second input of Conv, Gemm or MatMul along which the output channels lie."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def weight_axes(node: Any, constants: dict[str, Any]) -> dict[int, int]:
    """Inputs of a node that are large float32 weights -> the axis along which each has its own scale."""
    import onnx

    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    known: dict[str, dict[int, int]] = {
        "Conv": {1: 0},
        "ConvTranspose": {1: 1},
        "Gemm": {1: 0 if transposed else 1},
        "MatMul": {0: 0, 1: -1},
        "LSTM": {1: 1, 2: 1},  # (directions, 4 H, I) and (directions, 4 H, H)
        "GRU": {1: 1, 2: 1},
        "RNN": {1: 1, 2: 1},
        "Gather": {0: 0},  # rows of an embedding
    }
    found = {}
    for index, axis in known.get(node.op_type, {}).items():
        tensor = constants.get(node.input[index]) if index < len(node.input) else None
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        if np.prod(tensor.dims) >= MIN_WEIGHTS:
            found[index] = axis % len(tensor.dims)
    return found


def round_weights(
    weights: NDArray[np.float32], axis: int | None, *, largest: int = 127
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Nearest int8 multiples of a scale: w ≈ s q, s = max |w| / 127 over each slice along ``axis``.

    Args:
        weights: any shape.
        axis: the axis of the channels, or ``None`` for one scale in all.
        largest: the integer that max |w| becomes, at most 127.

    Returns:
        (q of the same shape, s that broadcasts against it).

    Example:
        >>> q, s = round_weights(np.array([[1.0, -0.5], [127.0, 2.0]], dtype=np.float32), 0)
        >>> q.tolist(), (s * 127).ravel().tolist()
        ([[127, -64], [127, 2]], [1.0, 127.0])
    """
    others = tuple(i for i in range(weights.ndim) if i != axis) if axis is not None else None
    top = np.abs(weights).max(axis=others, keepdims=True)
    scale = np.where(top > 0, top / largest, 1).astype(np.float32)
    return np.clip(np.round(weights / scale), -largest, largest).astype(np.int8), scale
