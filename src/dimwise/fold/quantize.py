"""Int8 quantization after training, on the exported graph.

Idea: weights and activations are rounded to 8-bit integers. The file shrinks about four times, and a processor with
integer dot products (VNNI, AMX, NEON) multiplies four numbers where it multiplied one. The ranges of activations are
measured on a few hundred training inputs.

Mathematics: x ≈ s (q − z), q = clip(round(x / s) + z, q_min, q_max), s = (high − low) / 255. Weights: z = 0 and one s
per output channel, s_c ≈ max |w_c| / 127. Activations: one s and z per tensor. A sum of products stays in integers,
Σ q_w (q_x − z_x) in int32, and is scaled once at the end by s_w s_x / s_y; the bias is int32 with scale s_w s_x.

Use when: the graph is served by ONNX Runtime (or OpenVINO, which reads the same QDQ form). ``static`` for
convolutional networks on a processor with int8 instructions; ``dynamic`` (ranges found while serving, nothing
to calibrate) for linear layers and LSTMs; ``weights`` when only the size must shrink: what runs is the float
graph, at its speed.

Cost: no training; two forward passes over the calibration inputs and some ms per layer. The file becomes 3 to 4
times smaller.

Pitfalls: very small networks lose time by ``static``: rounding is one more pass over each tensor, so measure,
or use ``weights``. Outliers stretch the range of a whole tensor: try ``percentile`` or ``mse``. Depthwise
layers need one scale per channel. On x86 without VNNI, uint8 × int8 products saturate: set ``reduce_range``.
Softmax, LayerNorm, GELU and attention products stay float. A score that collapses is reported, not repaired.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference" (the arithmetic); Krishnamoorthi 2018, arXiv:1806.08342 (weights per channel); Migacz 2017, "8-bit
inference with TensorRT" (entropy calibration); Nagel et al. 2021, arXiv:2106.08295 (practice).

Evidence: tests/fold/test_quantize.py (rounding against NumPy, real digits within one point); size and latency
in benchmarks/.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from dimwise.errors import DataError, ModelError, UserError, nearest
from dimwise.fold import _calibrate, _int8, _onnx
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.recipe import config
from dimwise.seeds import derive


@config
class QuantizeConfig:
    """How a graph is quantized."""

    mode: Literal["static", "dynamic", "weights"] = "static"
    """static: ranges of activations are calibrated beforehand; dynamic: found while serving; weights:
    activations stay float. Default: static, the fastest on convolutions."""
    per_channel: bool = True
    """One weight scale per output channel instead of one per tensor. Default: on; it saves depthwise layers."""
    calibration: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    """How a range follows from the observed values: all of them, all but the tails, least KL divergence, least
    squared error. Default: minmax, which has nothing to tune and suits activations without outliers."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """For calibration = percentile: percent of the observed values inside the range. Default: one in 10,000 is
    clipped."""
    n_calibration: Annotated[int, Field(ge=1)] = 256
    """Training inputs to calibrate on, drawn by seed. Default: ranges hardly move beyond some hundred."""
    activations: Literal["uint8", "int8"] = "uint8"
    """Type of rounded activations, each tensor with its own zero point. Default: uint8, which x86 needs; int8
    suits ARM."""
    reduce_range: bool = False
    """7-bit weights, so that x86 processors without VNNI do not saturate. Default: off; servers since 2019 have
    VNNI."""
    keep_first_last: bool = False
    """Leave the first and the last layer with weights in float32. Default: off; they cost accuracy in few
    networks."""
    skip: tuple[str, ...] = ()
    """Names of nodes to leave in float32. Default: none."""


WORDS: dict[str, dict[str, Any]] = {"int8": {}, "dynamic": {"mode": "dynamic"}, "weights": {"mode": "weights"}}
"""What a bare word in a composition means, as in ``quantize(int8)``."""


def quantize(model: Any, config: QuantizeConfig, evidence: Evidence) -> tuple[Any, FoldReport]:
    """Quantize an exported graph to int8; the given graph is not changed.

    Args:
        model: an ``onnx.ModelProto`` that takes raw inputs, as ``dimwise.ship.graph`` makes it.
        config: mode, calibration, what to leave alone.
        evidence: training inputs to calibrate on; the score and cost to report.

    Returns:
        (a new ``onnx.ModelProto`` with the same inputs and outputs, the report).

    Raises:
        UserError: when given a network that is not exported.
        ModelError: when the graph cannot be run, or holds nothing to quantize.
        DataError: when there is nothing to calibrate on, or it is not finite.

    Source: see the card. Deviation: the ranges come from our own calibration; onnxruntime places the Q and DQ nodes.
    """
    import onnx

    if isinstance(model, torch.nn.Module):
        raise UserError(
            f"quantize was given the network {type(model).__name__}",
            expected="an exported graph (onnx.ModelProto)",
            next_step="First: graph = dimwise.ship.graph(model, data.normalise, example).",
        )
    if not isinstance(model, onnx.ModelProto):
        raise UserError(f"quantize was given a {type(model).__name__}", expected="an onnx.ModelProto")
    started = time.perf_counter()
    before = _onnx.optimised(model)
    if config.mode == "dynamic":
        _int8.split_gemms(before)
    chosen, untouched = plan(before, config)
    rows = _rows(before, chosen, config)
    after = _onnx.compact(_rewrite(before, chosen, config, evidence))
    after.producer_name, after.producer_version = model.producer_name, model.producer_version
    report = compare("quantize", config, evidence, model, after, layers=rows, untouched=untouched, started=started)
    return after, report


def _rewrite(model: Any, chosen: set[str], config: QuantizeConfig, evidence: Evidence) -> Any:
    if config.mode == "weights":
        return _int8.weights(model, chosen, per_channel=config.per_channel)
    if config.mode == "dynamic":
        return _int8.dynamic(model, chosen, per_channel=config.per_channel, reduce_range=config.reduce_range)
    inputs = _calibration_inputs(config, evidence)
    with evidence.progress.stage("calibrate"):
        ranges = _calibrate.ranges(
            model,
            _int8.tensors_to_calibrate(model, chosen),
            inputs,
            method=config.calibration,
            percentile=config.percentile,
        )
    return _int8.static(
        model,
        chosen,
        ranges,
        per_channel=config.per_channel,
        reduce_range=config.reduce_range,
        signed=config.activations == "int8",
    )


def _calibration_inputs(config: QuantizeConfig, evidence: Evidence) -> _onnx.Array:
    """Raw training inputs, (n, ...), in an order that the seed rules."""
    inputs = evidence.data.train.inputs
    if not len(inputs):
        raise DataError(
            f"the training split of {evidence.data.name!r} is empty: nothing to calibrate on",
            expected="some hundred inputs",
            next_step="Give data, or quantize with mode='dynamic' or 'weights', which need none.",
        )
    generator = torch.Generator().manual_seed(derive(evidence.seed, "calibration"))
    order = torch.randperm(len(inputs), generator=generator)[: config.n_calibration]
    if len(order) < 10:
        evidence.progress.say(f"quantize: calibrating on only {len(order)} inputs; ranges may be too narrow")
    chosen = inputs[order].cpu().numpy()
    _onnx.check_finite(chosen, "calibration input")
    return chosen


def plan(model: Any, config: QuantizeConfig) -> tuple[set[str], dict[str, str]]:
    """Which nodes to quantize, and for every other one why not.

    A layer with weights is quantized when they are constants. Any other operator is quantized only when all
    that flows into it already is, so no island of int8 appears in float surroundings. What comes before the
    first layer with weights (the normalisation of raw inputs) stays exact.

    Args:
        model: a graph with named nodes, in topological order.
        config: mode, ``skip`` and ``keep_first_last``.

    Returns:
        (names of nodes to quantize, name of node -> reason to leave it).

    Raises:
        ModelError: when a name in ``skip`` is unknown, or nothing can be quantized.
    """
    import onnx

    nodes = list(model.graph.node)
    constants = {t.name: t for t in model.graph.initializer}
    _refuse_unknown(config.skip, [node.name for node in nodes])
    layers = [node.name for node in nodes if _int8.weight_axes(node, constants)]
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
        elif node.name in ends:
            why = "first or last layer with weights (quantize.keep_first_last)"
        elif has_weights:
            why = _why_not(node, constants, config.mode)
        elif config.mode != "static":
            continue  # these modes take layers with weights only: no news
        elif not shaped.issuperset(node.output):
            why = "before the first layer with weights: raw inputs are normalised exactly"
        elif node.op_type not in _int8.STATIC_OPS or node.domain not in ("", "ai.onnx"):
            why = f"no int8 kernel for {node.op_type}"
        else:
            why = "" if low.issuperset(flowing) else "some of its input is float"
        if not why:
            chosen.add(node.name)
            low.update(node.output)
        elif kinds.get(node.output[0], onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT:
            untouched[node.name] = why  # arithmetic on shapes is no news either
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
        return "" if _int8.weight_axes(node, constants) else "its weights are few, or not constants"
    if node.op_type not in (_int8.DYNAMIC_OPS if mode == "dynamic" else _int8.STATIC_OPS):
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


def _rows(model: Any, chosen: set[str], config: QuantizeConfig) -> list[dict[str, Any]]:
    """One row per quantized node: its operator, and for weights their shape and how many scales they have."""
    constants = {t.name: t for t in model.graph.initializer}
    rows = []
    for node in model.graph.node:
        if node.name not in chosen:
            continue
        row: dict[str, Any] = {"name": node.name, "op": node.op_type, "bits": 8}
        axes = _int8.weight_axes(node, constants)
        if node.op_type in _onnx.WEIGHTED and len(node.input) > 1 and node.input[1] in constants:
            axes = axes or {1: 0}  # few weights: too few for ``weights`` mode, but quantized in the others
        for index, axis in axes.items():
            shape = list(constants[node.input[index]].dims)
            row |= {"weights": shape, "scales": shape[axis] if config.per_channel else 1}
        rows.append(row)
    return rows
