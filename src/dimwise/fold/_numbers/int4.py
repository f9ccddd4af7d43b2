"""Weights of matrix products as blocks of 4-bit integers, in standard operators.

Each column of a (K, N) weight is cut into blocks of some numbers along K; a block shares one float32 scale. The file
holds two weights a byte. onnxruntime turns DequantizeLinear and MatMul into its MatMulNBits kernel when it loads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.fold._numbers import compensation

OPSET = 21
"""The first opset whose DequantizeLinear knows int4 and blocks."""
SMALLEST = 256
"""Weights of fewer numbers take 8 bits: a scale for each block would eat what is saved."""


def fits(node: Any, constants: dict[str, Any], block: int) -> bool:
    """Whether a node is a product of an activation with a large enough float32 weight (K, N)."""
    import onnx

    if node.op_type != "MatMul" or node.input[0] in constants or node.input[1] not in constants:
        return False
    weight = constants[node.input[1]]
    is_float = weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2
    return bool(is_float and weight.dims[0] >= block and np.prod(weight.dims) >= SMALLEST)


def weights(
    model: Any,
    chosen: set[str],
    *,
    block: int,
    moment: Callable[[compensation.Layer], compensation.Floats] | None = None,
) -> Any:
    """The graph with the weights of the chosen products in 4 bits; a new graph, of opset 21 at least.

    Args:
        model: a float graph with named nodes.
        chosen: names of products that fit.
        block: numbers along K that share a scale.
        moment: of a layer's inputs, by which the integers are chosen; None takes the nearest.
    """
    import onnx

    if max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    done: dict[str, str] = {}
    new = []
    for node in graph.node:
        if node.name not in chosen:
            continue
        name = node.input[1]
        if name not in done:
            layer = compensation.layer_of(node, 1, constants[name].dims) if moment is not None else None
            seen = moment(layer) if moment is not None and layer is not None else None
            whole, scale = round_blocks(onnx.numpy_helper.to_array(constants[name]), block, seen)
            done[name] = f"{name}_4bit"
            tensor = onnx.TensorProto(name=f"{name}_int4", data_type=onnx.TensorProto.INT4, dims=whole.shape)
            tensor.raw_data = pack(whole)
            graph.initializer.extend([tensor, onnx.numpy_helper.from_array(scale, f"{name}_scale")])
            parts = [tensor.name, f"{name}_scale"]
            new.append(onnx.helper.make_node("DequantizeLinear", parts, [done[name]], axis=0, block_size=block))
        node.input[1] = done[name]
    for position, made in enumerate(new):
        graph.node.insert(position, made)
    used = {name for node in graph.node for name in node.input}
    for old in [t for t in graph.initializer if t.name in done and t.name not in used]:
        graph.initializer.remove(old)
    return model


def round_blocks(
    weights: NDArray[np.float32], block: int, moment: compensation.Floats | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Nearest multiples, −8 to 7, of one scale per block: w ≈ s q, s = w* / −8 with w* the largest |w| of the block.

    The sign of the scale lets the largest weight fall on −8, so that all 16 integers are used.

    Args:
        weights: (K, N).
        block: numbers along K that share a scale.
        moment: (1, K, K) of the inputs: the multiples that serve the outputs best instead of the nearest; None: those.

    Returns:
        (q (K, N), s (⌈K / block⌉, N)).

    Example:
        >>> q, s = round_blocks(np.array([[4.0], [-2.0], [1.0], [0.5]], dtype=np.float32), 2)
        >>> q.ravel().tolist(), s.ravel().tolist()
        ([-8, 4, -8, -4], [-0.5, -0.125])
    """
    n_rows, n_columns = weights.shape
    n_blocks = -(-n_rows // block)
    padded = np.zeros((n_blocks * block, n_columns), np.float32)
    padded[:n_rows] = weights
    blocks = padded.reshape(n_blocks, block, n_columns)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)[:, 0]  # (blocks, N), with its sign
    scale = np.where(largest != 0, largest / -8, 1).astype(np.float32)
    if moment is None:
        whole = np.clip(np.round(blocks / scale[:, None]), -8, 7).astype(np.int8)
        return whole.reshape(-1, n_columns)[:n_rows], scale

    def nearest(column: compensation.Floats, row: int) -> compensation.Floats:
        step = scale[row // block].astype(np.float64)
        return np.clip(np.round(column / step), -8, 7) * step

    made = compensation.compensated(weights.T.astype(np.float64), moment[0], nearest).T  # (K, N)
    steps = np.repeat(scale, block, axis=0)[:n_rows]
    return np.round(made / steps).astype(np.int8), scale


def pack(whole: NDArray[np.int8]) -> bytes:
    """Two 4-bit integers a byte, the first in the lower half, as ONNX stores them.

    Example:
        >>> pack(np.array([1, -1, 7], np.int8)).hex()
        'f107'
    """
    flat = whole.reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, np.int8))
    return ((flat[0::2] & 0xF) | ((flat[1::2] & 0xF) << 4)).astype(np.uint8).tobytes()
