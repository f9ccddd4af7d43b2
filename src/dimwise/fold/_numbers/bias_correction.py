"""Bias correction: rounding shifts the mean of a layer's outputs; its bias takes the shift back.

b ← b − E[W̃ Q(x) − W x] per output channel, with W̃ the rounded weights, of int8 or as given (:func:`four_bits`), Q(x)
the rounded inputs of the layer, and the mean over calibration inputs and positions. Nothing is added to the graph, so
it costs no time.

Source: Nagel, van Baalen, Blankevoort, Welling 2019, arXiv:1906.04721, section 4.2, in its empirical form.
Deviation: every layer is compared on the float network's own activations, all in one pass, instead of one layer
after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.fold import _onnx
from dimwise.fold._numbers import calibration, compensation, int4, int8

BATCH = 32


def corrected(
    model: Any,
    chosen: set[str],
    inputs: _onnx.Array,
    *,
    ranges: dict[str, calibration.Range] | None = None,
    per_channel: bool = True,
    reduce_range: bool = False,
    signed: bool = False,
    rounded: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> Any:
    """A copy of a float graph whose biases undo the shift that rounding will bring.

    Args:
        model: a float graph with inferred shapes and named nodes; not changed.
        chosen: names of the nodes that will be quantized.
        inputs: (N, ...) raw inputs, N >= 1.
        ranges: tensor -> range, for activations that will be rounded; ``None`` when only weights will be.
        per_channel: as in quantization.
        reduce_range: as in quantization.
        signed: int8 instead of uint8 activations.
        rounded: node -> its weights after rounding, where that is not int8's.
    """
    made = copy.deepcopy(model)
    layers = [node for node in made.graph.node if node.name in chosen and _bias_place(made.graph, node) is not None]
    if not layers:
        return made
    shifts = _shifts(made, layers, inputs, ranges or {}, per_channel, reduce_range, signed, rounded)
    for node, shift in zip(layers, shifts, strict=True):
        _move_bias(made.graph, node, shift)
    return made


def four_bits(
    model: Any,
    few: set[str],
    *,
    block: int,
    moment: Callable[[compensation.Layer], compensation.Floats] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Weights (K, N) of products after rounding to 4 bits, as :func:`dimwise.fold._numbers.int4.weights` makes them.

    Args:
        model: a float graph with named nodes; not changed.
        few: names of products that take 4 bits.
        block: numbers along K that share a scale.
        moment: of a layer's inputs, by which the integers are chosen; None takes the nearest.
    """
    import onnx

    if not few:
        return {}
    graph = int4.weights(copy.deepcopy(model), few, block=block, moment=moment).graph
    constants = {t.name: t for t in graph.initializer}
    behind = {node.output[0]: node.input for node in graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in graph.node:
        if node.name in few:
            whole, scale = (onnx.numpy_helper.to_array(constants[name]) for name in behind[node.input[1]])
            found[node.name] = whole.astype(np.float32) * np.repeat(scale, block, axis=0)[: len(whole)]
    return found


def _bias_place(graph: Any, node: Any) -> tuple[Any, int] | None:
    """(node, index of its input) where the bias of a layer stands or may stand; ``None`` for a layer without."""
    constants = {t.name: t for t in graph.initializer}
    axis = int8.output_axis(node)
    if axis is None or len(node.input) < 2 or node.input[1] not in constants or node.input[0] in constants:
        return None
    if node.op_type != "MatMul":
        return (node, 2) if len(node.input) < 3 or not node.input[2] or node.input[2] in constants else None
    users = [n for n in graph.node if node.output[0] in n.input]
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    index = 1 - list(users[0].input).index(node.output[0])
    n_outputs = constants[node.input[1]].dims[-1]
    bias = constants.get(users[0].input[index])
    return (users[0], index) if bias is not None and list(bias.dims) == [n_outputs] else None


def _move_bias(graph: Any, layer: Any, shift: NDArray[np.float64]) -> None:
    import onnx

    place = _bias_place(graph, layer)
    assert place is not None
    node, index = place
    constants = {t.name: t for t in graph.initializer}
    old = node.input[index] if index < len(node.input) else ""
    before = onnx.numpy_helper.to_array(constants[old]) if old else np.zeros(1, np.float32)
    name = f"{layer.name}_bias_corrected"
    bias = (np.broadcast_to(before.reshape(-1), shift.shape) - shift).astype(np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(bias, name))
    if index < len(node.input):
        node.input[index] = name
    else:
        node.input.append(name)


def _shifts(
    model: Any,
    layers: list[Any],
    inputs: _onnx.Array,
    ranges: dict[str, calibration.Range],
    per_channel: bool,
    reduce_range: bool,
    signed: bool,
    rounded: Mapping[str, NDArray[np.float32]],
) -> list[NDArray[np.float64]]:
    """(channels,) mean of rounded minus exact output, for each layer: beside each runs a twin that rounds."""
    import onnx

    graph = copy.deepcopy(model)
    body, constants = graph.graph, {t.name: t for t in model.graph.initializer}
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*body.value_info, *body.output)}
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    del body.output[:]
    for i, node in enumerate(layers):
        weights = rounded.get(node.name)
        if weights is None:
            weights = onnx.numpy_helper.to_array(constants[node.input[1]])
            axis = int8.weight_axis(node) if per_channel else None
            whole, scale = int8.round_weights(weights, axis, largest=64 if reduce_range else 127)
            weights = whole * scale
        body.initializer.append(onnx.numpy_helper.from_array(weights, f"twin{i}_weight"))
        twin = onnx.NodeProto.FromString(node.SerializeToString())
        twin.name, twin.input[1], twin.output[0] = f"twin{i}", f"twin{i}_weight", f"twin{i}_output"
        if node.input[0] in ranges:
            twin.input[0] = _rounded(body, node.input[0], ranges[node.input[0]], signed=signed)
        body.node.extend([twin, onnx.helper.make_node("Sub", [twin.output[0], node.output[0]], [f"twin{i}_error"])])
        channels = int8.output_axis(node)
        rank = ranks.get(node.output[0], 2 if node.op_type == "Gemm" else weights.ndim)
        axes = [a for a in range(rank) if a != (channels or 0) % rank]
        body.node.append(_mean(body, f"twin{i}_error", f"twin{i}_shift", axes, opset))
        body.output.append(onnx.helper.make_tensor_value_info(f"twin{i}_shift", onnx.TensorProto.FLOAT, None))
    runner = _onnx.session(graph, fuse=False)
    sums = [np.zeros(()) for _ in layers]
    n_seen = 0
    for feed in _onnx.batches(model, inputs, BATCH):
        n = len(next(iter(feed.values())))
        n_seen += n
        sums = [s + n * found.astype(np.float64) for s, found in zip(sums, runner.run(None, feed), strict=True)]
    return [s / n_seen for s in sums]


def _rounded(body: Any, name: str, bounds: calibration.Range, *, signed: bool) -> str:
    """The tensor after Q and DQ over its range; the two nodes are added once."""
    import onnx

    out = f"{name}_rounded"
    if any(out in node.output for node in body.node):
        return out
    low, high = bounds
    scale = max(high - low, 1e-12) / 255
    dtype: Any = np.int8 if signed else np.uint8
    bottom = int(np.iinfo(dtype).min)
    zero = np.clip(round(bottom - low / scale), bottom, bottom + 255)
    body.initializer.append(onnx.numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"))
    body.initializer.append(onnx.numpy_helper.from_array(np.array(zero, dtype), f"{name}_zero"))
    grid = [f"{name}_scale", f"{name}_zero"]
    body.node.extend(
        [
            onnx.helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_whole"]),
            onnx.helper.make_node("DequantizeLinear", [f"{name}_whole", *grid], [out]),
        ]
    )
    return out


def _mean(body: Any, name: str, out: str, axes: list[int], opset: int) -> Any:
    import onnx

    if opset < 18:  # axes were an attribute
        return onnx.helper.make_node("ReduceMean", [name], [out], axes=axes, keepdims=0)
    body.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), f"{out}_axes"))
    return onnx.helper.make_node("ReduceMean", [name, f"{out}_axes"], [out], keepdims=0)
