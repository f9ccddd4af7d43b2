"""What the folds of exported graphs share: check, optimise, run, count and compact an ``onnx.ModelProto``."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.errors import ArtifactError, DataError, ModelError
from dimwise.ort import session_options

Array = NDArray[Any]

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}
"""Operators that hold the learnt weights."""
MIN_OPSET = 13
"""The first opset whose QuantizeLinear knows one scale per channel."""


def ort_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; the classes have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [getattr(state, name) for name in dir(state)]
    return tuple(c for c in found if isinstance(c, type) and issubclass(c, Exception))


def session(model: Any, *, fuse: bool = True, save_to: Path | None = None) -> Any:
    """An onnxruntime session on one CPU thread that logs nothing.

    ``fuse=False`` runs the graph node by node as written, so every tensor named in it can be an output.
    """
    import onnxruntime as ort

    options = session_options()
    levels = ort.GraphOptimizationLevel
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC
    elif not fuse:
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ort_errors() as error:
        raise ModelError(
            f"onnxruntime cannot run this graph: {str(error).splitlines()[0]}",
            expected="a graph of standard operators with its weights inside",
            next_step="Take custom operators out, or load external weights with onnx.load first.",
        ) from None


def input_of(model: Any) -> tuple[str, np.dtype[Any], list[int | None]]:
    """Name, dtype and shape (``None``: any size) of the one input of a graph.

    Raises:
        ModelError: for a graph with no input or several.
    """
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise ModelError(f"the graph has {len(inputs)} inputs ({names})", expected="exactly one")
    kind = inputs[0].type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    return inputs[0].name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), shape


def batches(model: Any, inputs: Array, batch_size: int) -> Iterator[dict[str, Array]]:
    """Feeds for a session, in order; inputs (N, ...) must be what the graph takes, N >= 1.

    Raises:
        ModelError: when shape or dtype do not fit the graph.
    """
    name, dtype, shape = input_of(model)
    fits = len(shape) == inputs.ndim and all(
        want in (None, have) for want, have in zip(shape[1:], inputs.shape[1:], strict=True)
    )
    if not fits or inputs.dtype != dtype:
        want = "(" + ", ".join(["N", *("?" if d is None else str(d) for d in shape[1:])]) + ")"
        raise ModelError(
            f"the data is {inputs.dtype} {('N', *inputs.shape[1:])}".replace("'", ""),
            expected=f"{dtype} {want}, which is what input {name!r} of the graph takes",
            next_step="Export with dimwise.ship.graph(model, data.normalise, example): it takes raw inputs.",
        )
    size = shape[0] or batch_size
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        if shape[0]:  # a graph with a fixed batch takes no other: the last input is repeated
            part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        yield {name: np.ascontiguousarray(part)}


def outputs(model: Any, inputs: Array, *, batch_size: int = 256) -> Array:
    """First output of the graph for all inputs (N, ...), float32 (N, K)."""
    runner = session(model)
    parts = [runner.run(None, feed)[0] for feed in batches(model, inputs, batch_size)]
    return np.concatenate(parts)[: len(inputs)]


def optimised(model: Any) -> Any:
    """A copy with constants folded, BatchNorm inside the convolutions, all nodes named and all shapes inferred.

    Raises:
        ArtifactError: when the opset is too old.
        ModelError: when onnxruntime cannot run the graph.
    """
    import onnx

    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        raise ArtifactError(
            f"the graph is written in opset {opset}",
            expected=f"at least {MIN_OPSET}",
            next_step="Export it again with dimwise.ship.graph, or use onnx.version_converter.",
        )
    with tempfile.TemporaryDirectory(prefix="dimwise-") as folder:
        target = Path(folder) / "basic.onnx"
        session(model, save_to=target)
        made = onnx.load(target)
    _pool_means(made)
    _name_nodes(made)
    _keep_used_opsets(made)
    return onnx.shape_inference.infer_shapes(made)


def _name_nodes(model: Any) -> None:
    taken = {node.name for node in model.graph.node}
    for position, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}_{position}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def _pool_means(model: Any) -> None:
    """Means over all positions become GlobalAveragePool, which has an int8 kernel; ReduceMean has none."""
    import onnx

    constants = {t.name: t for t in model.graph.initializer}
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in _inferred(model).graph.value_info}
    for position, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type != "ReduceMean" or node.domain not in ("", "ai.onnx"):
            continue
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        axes = settings.get("axes")
        if len(node.input) > 1 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        rank = ranks.get(node.input[0], 0)
        if not axes or rank < 3 or sorted(a % rank for a in axes) != list(range(2, rank)):
            continue
        keep, flat = settings.get("keepdims", 1), node.output[0]
        pooled = flat if keep else flat + "_pooled"
        new = [onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name)]
        if not keep:
            new.append(onnx.helper.make_node("Flatten", [pooled], [flat], node.name + "_flatten", axis=1))
        del model.graph.node[position]
        for offset, made in enumerate(new):
            model.graph.node.insert(position + offset, made)


def _inferred(model: Any) -> Any:
    import onnx

    return onnx.shape_inference.infer_shapes(model)


def _keep_used_opsets(model: Any) -> None:
    used = {node.domain if node.domain != "ai.onnx" else "" for node in model.graph.node} | {""}
    kept = [o for o in model.opset_import if ("" if o.domain == "ai.onnx" else o.domain) in used]
    kept = [(o.domain, o.version) for o in kept]
    del model.opset_import[:]
    for domain, version in kept:
        model.opset_import.add(domain=domain, version=version)


def compact(model: Any) -> Any:
    """Make the file small: no notes, no inferred shapes, short tensor names, equal constants once. In place.

    Names of inputs, outputs and of the nodes that compute are kept: people and reports use them. On a network of
    some 10 kB the names are otherwise half of the file.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).topological_sort()
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return model  # a subgraph sees the outer names: leave them
    same = _share_constants(graph)
    kept = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {"": ""}

    def rename(name: str) -> str:
        name = same.get(name, name)
        if name in kept:
            return name
        if name not in short:
            candidate = _base36(len(short))
            while candidate in kept:
                candidate += "_"
            short[name] = candidate
        return short[name]

    for tensor in graph.initializer:
        tensor.doc_string = ""
        tensor.name = rename(tensor.name)
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
    return model


def _share_constants(graph: Any) -> dict[str, str]:
    """Drop constants equal to an earlier one; returns dropped name -> kept name."""
    import onnx

    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for position, tensor in reversed(list(enumerate(graph.initializer))):
        value = onnx.numpy_helper.to_array(tensor)
        key = (tensor.data_type, value.shape, value.tobytes())
        if key in first:
            same[tensor.name] = first[key]
            del graph.initializer[position]
        else:
            first[key] = tensor.name
    return same


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while True:
        number, rest = divmod(number, 36)
        text = digits[rest] + text
        if not number:
            return text


def check_finite(inputs: Array, what: str) -> None:
    """Raise ``DataError`` naming the first input (N, ...) that holds NaN or infinity."""
    if inputs.dtype.kind != "f":
        return
    bad = ~np.atleast_1d(np.isfinite(inputs.reshape(len(inputs), -1)).all(1))  # (N,)
    if bad.any():
        raise DataError(
            f"{what} {int(bad.argmax())} holds NaN or infinity ({int(bad.sum())} of {len(bad)} do)",
            expected="finite numbers",
            next_step="Fill or drop missing values before the data is loaded.",
        )


@dataclass(frozen=True)
class Counts:
    """What a graph holds and computes, for one input."""

    learnt: dict[str, int]
    """Constant -> how many learnt numbers it holds; scales, zero points and preprocessing hold none."""
    shapes: dict[str, tuple[int, ...]]
    """Value -> its shape, as far as it can be inferred, with 1 for the batch."""
    macs: list[int]
    """Multiply-accumulates of each node."""


def counts(model: Any) -> Counts:
    """Learnt numbers, shapes and multiply-accumulates, node by node.

    Counts what multiplies: convolutions, Gemm, MatMul, recurrent layers, float or int8. Learnt are the constants that
    computing nodes use, without scales and zero points.
    """
    import onnx

    constants = {t.name: t for t in model.graph.initializer}
    other = _scales(model.graph) | _normalisation(model.graph)
    kinds = onnx.TensorProto
    types = (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.INT4, kinds.INT8, kinds.INT32)
    shapes = {n: tuple(t.dims) for n, t in constants.items()}
    graph = _inferred(model).graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes.setdefault(value.name, tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim))
    shared = _looked_up(model.graph, shapes, set(constants))
    learnt = {
        name: shared.get(name, math.prod(t.dims))
        for name, t in constants.items()
        if name not in other and t.data_type in types and len(t.dims)  # numbers without a dimension are bounds
    }
    return Counts(learnt, shapes, [_macs(node, shapes) for node in model.graph.node])


def cost(model: Any) -> dict[str, float]:
    """Parameters, multiply-accumulates for one input, and bytes of the file, counted as :func:`counts` does.

    Returns:
        ``{"params": number, "macs": number per input, "size_bytes": bytes}``.
    """
    found = counts(model)
    params, macs = sum(found.learnt.values()), sum(found.macs)
    return {"params": float(params), "macs": float(macs), "size_bytes": float(model.ByteSize())}


def _scales(graph: Any) -> set[str]:
    """Names of constants that are scales and zero points of other numbers."""
    first = {"QuantizeLinear": 1, "DequantizeLinear": 1, "MatMulInteger": 2, "DynamicQuantizeLSTM": 8}
    found = {name for node in graph.node for name in list(node.input)[first.get(node.op_type, 99) :]}
    constants = {t.name for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}

    def table(name: str) -> str:
        """The constant whose rows a tensor is; empty for anything else."""
        maker = makers.get(name)
        rows = maker is not None and maker.op_type == "Gather" and maker.input[0] in constants
        return str(maker.input[0]) if rows and maker is not None else ""

    for node in graph.node:
        if node.op_type != "Mul":
            continue
        for one, other in (node.input, reversed(node.input)):
            maker = makers.get(one)
            if maker is not None and maker.op_type == "Cast" and table(maker.input[0]):
                found.add(table(other) or other)  # rows of int8 times a scale each, or one for all
            if maker is None or other not in constants:
                continue
            # int8 weights, or those of a palette, times scale
            whole = maker.op_type in ("Cast", "Gather") and maker.input[0] in constants
            if whole or maker.op_type == "DynamicQuantizeLinear":
                found.add(other)
    return found


def _looked_up(graph: Any, shapes: dict[str, tuple[int, ...]], constants: set[str]) -> dict[str, int]:
    """Name of a palette -> how many weights are looked up in it."""
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in constants and len(shapes[node.input[0]]) == 1:
            count = math.prod(shapes.get(node.output[0], ()))
            found[node.input[0]] = found.get(node.input[0], 0) + count
    return found


def _normalisation(graph: Any) -> set[str]:
    """Names of constants that meet the raw input before the first layer with weights."""
    layers = WEIGHTED | {"MatMulInteger", "DynamicQuantizeLSTM"}
    tables = {t.name for t in graph.initializer if len(t.dims) > 1}
    constants = {t.name for t in graph.initializer}
    raw = {value.name for value in graph.input} - constants
    behind: set[str] = set()
    found: set[str] = set()
    for node in graph.node:
        reads_rows = node.op_type == "Gather" and node.input[0] in tables
        if node.op_type in layers or reads_rows or not behind.isdisjoint(node.input):
            behind.update(node.output)
        elif not raw.isdisjoint(node.input):
            raw.update(node.output)
            found.update(constants.intersection(node.input))
    return found


def _macs(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    def shape(index: int) -> tuple[int, ...]:
        return shapes.get(node.input[index], ()) if index < len(node.input) else ()

    out = math.prod(shapes.get(node.output[0], ()))
    if node.op_type in ("Conv", "ConvInteger"):
        return out * math.prod(shape(1)[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shape(0)) * math.prod(shape(1)[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return out * (shape(0)[0 if transposed else -1] if shape(0) else 0)
    if node.op_type in ("MatMul", "MatMulInteger"):
        return out * (shape(0)[-1] if shape(0) else 0)
    if node.op_type in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        steps = math.prod(shape(0)[:-1])  # (T, B, I): one product with W and R per step
        return steps * (math.prod(shape(1)) + math.prod(shape(2)))
    return 0
