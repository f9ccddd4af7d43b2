"""Which nodes of a graph are quantized, to how many bits, and why the others are not."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dimwise.errors import ModelError, nearest
from dimwise.fold import _onnx
from dimwise.fold._numbers import int4, int8

if TYPE_CHECKING:
    from dimwise.fold.quantize import QuantizeConfig


def plan(
    model: Any, config: QuantizeConfig, kept: Mapping[str, str] = MappingProxyType({})
) -> tuple[set[str], dict[str, str]]:
    """Which nodes to quantize, and for every other one why not.

    A layer with weights is quantized when they are constants. Any other operator is quantized only when all
    that flows into it already is, so no island of int8 appears in float surroundings. What comes before the
    first layer with weights (the normalisation of raw inputs) stays exact.

    Args:
        model: a graph with named nodes, in topological order.
        config: mode, ``skip`` and ``keep_first_last``.
        kept: further nodes to leave -> why.

    Returns:
        (names of nodes to quantize, name of node -> reason to leave it).

    Raises:
        ModelError: when a name in ``skip`` is unknown, or nothing can be quantized.
    """
    import onnx

    nodes = list(model.graph.node)
    constants = {t.name: t for t in model.graph.initializer}
    _refuse_unknown(config.skip, [node.name for node in nodes])
    layers = [node.name for node in nodes if int8.weight_axes(node, constants)]
    ends = {layers[0], layers[-1]} if config.keep_first_last and layers else set()
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    shaped: set[str] = set()  # tensors behind the first layer with weights
    low: set[str] = set()  # tensors that are int8
    chosen: set[str] = set()
    untouched: dict[str, str] = {}
    for node in nodes:
        flowing = [name for name in node.input if name and name not in constants]
        has_weights = node.op_type in _onnx.WEIGHTED or node.name in layers
        if has_weights or any(name in shaped for name in flowing):
            shaped.update(node.output)
        if node.name in config.skip:
            why = "named in quantize.skip"
        elif node.name in kept:
            why = kept[node.name]
        elif node.name in ends:
            why = "first or last layer with weights (quantize.keep_first_last)"
        elif has_weights:
            why = _why_not(node, constants, config.mode)
        elif config.mode != "static":
            continue  # these modes take layers with weights only: no news
        elif not shaped.issuperset(node.output):
            why = "before the first layer with weights: raw inputs are normalised exactly"
        elif node.op_type not in int8.STATIC_OPS or node.domain not in ("", "ai.onnx"):
            why = f"no int8 kernel for {node.op_type}"
        else:
            why = "" if low.issuperset(flowing) else "some of its input is float"
        if not why:
            chosen.add(node.name)
            low.update(() if int8.reads_rows(node) else node.output)  # rows are multiplied out where they are read
        elif kinds.get(node.output[0], onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT:
            untouched[node.name] = why  # arithmetic on shapes is no news either
    if not chosen and any(node.op_type in ("DequantizeLinear", "DynamicQuantizeLinear") for node in nodes):
        raise ModelError(
            "what can be quantized in this graph is int8 already",
            expected="a graph in float32",
            next_step="Quantize the graph that it was made from.",
        )
    if not chosen:
        reasons = "; ".join(f"{name}: {untouched[name]}" for name in layers if name in untouched)
        raise ModelError(
            f"nothing in this graph can be quantized in {config.mode} mode" + (f" ({reasons})" if reasons else ""),
            expected="a convolution or matrix product with constant weights",
            next_step="Keep the graph as it is, or try another quantize.mode.",
        )
    return chosen, untouched


def _refuse_unknown(skip: tuple[str, ...], names: list[str]) -> None:
    for name in skip:
        if name not in names:
            raise ModelError(
                f"quantize.skip names {name!r}, which is no node of the graph",
                expected="names as the report lists them",
                next_step=nearest(name, names),
            )


def _why_not(node: Any, constants: dict[str, Any], mode: str) -> str:
    """Empty when a layer with weights can be quantized in this mode."""
    import onnx

    if mode == "weights":
        return "" if int8.weight_axes(node, constants) else "its weights are few, or not constants"
    if int8.reads_rows(node):
        return "" if int8.weight_axes(node, constants) else "its table is small, or no constant"
    if node.op_type not in (int8.DYNAMIC_OPS if mode == "dynamic" else int8.STATIC_OPS):
        return f"no fast {mode} int8 kernel for {node.op_type}"
    is_constant = [name in constants for name in node.input]
    if node.op_type == "MatMul" and not any(is_constant):
        return "a product of two activations, as in attention: rounding both hurts"
    # a bias is a constant too; the inputs of an LSTM after its weights are its states
    if is_constant[0] or not all(is_constant[1:3]):
        return "its weights are not constants"
    if constants[node.input[1]].data_type != onnx.TensorProto.FLOAT:
        return "its weights are not float32"
    settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    plain = settings.get("alpha", 1.0) == 1.0 and settings.get("beta", 1.0) == 1.0
    if node.op_type == "Gemm" and (not plain or settings.get("transA", 0)):
        return "a Gemm with alpha, beta or a transposed input"
    return ""


def rows(model: Any, chosen: set[str], config: QuantizeConfig, kept: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per quantized node: its operator, and for weights their shape and how many scales they have."""
    few = four_bits(model, chosen, config, kept)
    constants = {t.name: t for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.name not in chosen:
            continue
        row: dict[str, Any] = {"name": node.name, "op": node.op_type, "bits": 8}
        axes = int8.weight_axes(node, constants)
        if node.op_type in _onnx.WEIGHTED and len(node.input) > 1 and node.input[1] in constants:
            axes = axes or {1: 0}  # few weights: too few for ``weights`` mode, but quantized in the others
        for index, axis in axes.items():
            shape = list(constants[node.input[index]].dims)
            row |= {"weights": shape, "scales": shape[axis] if config.per_channel else 1}
        if node.name in few:
            row |= {"bits": 4, "scales": -(-row["weights"][0] // config.block) * row["weights"][1]}
        elif node.name in kept:
            row["why"] = kept[node.name]
        found.append(row)
    return found


def four_bits(model: Any, chosen: set[str], config: QuantizeConfig, kept: Container[str]) -> set[str]:
    """Which of the chosen nodes take 4 bits."""
    if config.bits != 4:
        return set()
    constants = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.name in chosen and n.name not in kept]
    return {n.name for n in nodes if int4.fits(n, constants, config.block)}
