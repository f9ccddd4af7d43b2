"""Weights in 16 bits: half of the file, the same arithmetic, no calibration and next to no risk.

Idea: trained weights hardly use the digits of float32. Stored in 16 bits the file is half as large, and the scores
stay the same to three digits.

Mathematics: fp16 keeps 11 significant bits between 6.1e-5 and 65504, so |Δw| ≤ 2⁻¹¹ |w|, and below |Δw| ≤ 2⁻²⁵, which
is little beside larger weights: max |Δw| ≤ 2⁻¹¹ max |w| of each tensor is checked. bf16 keeps 8 significant bits over
the range of float32, |Δw| ≤ 2⁻⁸ |w|.

Use when: int8 costs too much score, or calibration data is missing; after ``quantize`` for what it left float.
``arithmetic`` computes in 16 bits as well: bf16 on a CPU that has it (AVX512-BF16, AMX) and is served by OpenVINO, with
no calibration; fp16 for accelerators.

Cost: some ms. Without ``arithmetic`` it saves size, not time: a Cast to float32 stands before each weight and is folded
into a constant when the graph is loaded, so loading takes a little longer and what runs is the float graph, in as much
memory and time.

Pitfalls: tensors with weights beyond 65504, or with none above 6.1e-5, do not fit fp16 and stay float32; with
``arithmetic`` their operators compute in float32 too. In fp16 it is slower on CPUs than float32, where onnxruntime has
few such kernels and casts around them; activations beyond 65504 overflow, far below 6.1e-5 they vanish. In bf16 it is a
wish in the graph's metadata, which onnxruntime does not grant: it computes in float32. A network inside PyTorch has no
other way than ``arithmetic``. Measure.

Source: IEEE 754-2019 (binary16); Micikevicius et al. 2018, arXiv:1710.03740 (half-precision storage); Kalamkar et al.
2019, arXiv:1905.12322 (bfloat16).

Evidence: tests/fold/test_cast.py (the bits against NumPy, outputs, size); latency in benchmarks/.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dimwise.errors import ModelError, RecipeError, UserError, a_kind, first_line
from dimwise.fold import _onnx
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._numbers.half import in_half
from dimwise.fold._numbers.pt2e import Rounded
from dimwise.ort import ARITHMETIC
from dimwise.recipe import config


@config
class CastConfig:
    """How weights are stored in 16 bits."""

    dtype: Literal["fp16", "bf16"] = "fp16"
    """fp16: more digits; bf16: more range. Default: fp16, eight times finer, and trained weights are small."""
    arithmetic: bool = False
    """Compute in 16 bits too, inputs and outputs in float32; in bf16 only OpenVINO does, where the processor can.
    Default: off; on CPUs fp16 is slower than float32."""


WORDS: dict[str, dict[str, Any]] = {"fp16": {"dtype": "fp16"}, "bf16": {"dtype": "bf16"}}
"""What a bare word in a composition means, as in ``cast(bf16)``."""

GRANTED = "bf16 arithmetic is OpenVINO's (runtime=openvino) on a processor that has it; others compute in float32"

SMALLEST = 64
"""Constants of fewer numbers stay float32: the Cast would take as many bytes as it saves."""
LARGEST = 65504.0
"""The largest number of fp16."""
_NOT_WEIGHTS = frozenset(
    ["QuantizeLinear", "DequantizeLinear", "Resize", "Clip", "Pad", "MatMulInteger", "DynamicQuantizeLSTM"]
)
"""Operators whose float constants are scales and bounds."""


def cast(model: Any, config: CastConfig, evidence: Evidence) -> tuple[Any, FoldReport]:
    """Store the weights of an exported graph, or of a network, in 16 bits; what is given is not changed.

    Args:
        model: an ``onnx.ModelProto``, float or already quantized in part; or an ``nn.Module``, with ``arithmetic``.
        config: which 16 bits, and whether to compute in them.
        evidence: the score and cost to report.

    Returns:
        (a new ``onnx.ModelProto`` or ``nn.Module`` with the same inputs and outputs, the report).

    Raises:
        UserError: when given neither.
        RecipeError: for a network without ``arithmetic``.
        ModelError: when the graph holds no float32 weights, or what is given cannot be run so.

    Source: see the card.
    """
    import onnx

    if isinstance(model, nn.Module):
        return _in_pytorch(model, config, evidence)
    if not isinstance(model, onnx.ModelProto):
        raise UserError(f"cast was given {a_kind(model)}", expected="an onnx.ModelProto, or a network")
    started = time.perf_counter()
    before = copy.deepcopy(model)
    rows, untouched, whole = _look(before, config)
    if not rows:
        reasons = "; ".join(f"{name}: {why}" for name, why in untouched.items())
        raise ModelError(
            "the graph holds no weights to cast" + (f" ({reasons})" if reasons else ""),
            expected=f"float32 constants of at least {SMALLEST} numbers",
            next_step="Keep the graph as it is.",
        )
    halves, wishes = (config.arithmetic and config.dtype == dtype for dtype in ("fp16", "bf16"))
    after = _in_half(before, whole) if halves else _stored(before, config, {row["tensor"] for row in rows})
    after = _onnx.compact(after)
    if wishes:
        onnx.helper.set_model_props(after, {p.key: p.value for p in after.metadata_props} | {ARITHMETIC: "bf16"})
    _onnx.session(after)
    layers = [{key: value for key, value in row.items() if key != "tensor"} for row in rows]
    report = compare("cast", config, evidence, model, after, layers=layers, untouched=untouched, started=started)
    if wishes:
        report = replace(report, notes=[*report.notes, GRANTED])
    return after, report


def _in_pytorch(model: nn.Module, config: CastConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    if not config.arithmetic:
        raise RecipeError(
            "cast.arithmetic is off for a network inside PyTorch, which has no weights that are only stored so",
            expected="arithmetic = true",
            next_step="Weights are only stored in 16 bits for runtime=onnxruntime and openvino.",
        )
    if isinstance(model, Rounded):
        raise ModelError("the network was quantized, and computes in int8", expected="a network in float32")
    started = time.perf_counter()
    made = in_half(model, config.dtype)
    try:
        with torch.no_grad():
            made(evidence.example.to(next(made.parameters(), evidence.example).device))
    except Exception as error:  # a user's forward may raise anything
        raise ModelError(
            f"{type(model).__name__} does not run in {config.dtype}: {first_line(error)}",
            expected="a forward pass that makes no float32 numbers of its own",
            next_step="Leave cast out, or export the network: runtime=openvino computes in bf16 where it can.",
        ) from error
    layers = [
        {"name": name, "op": type(module).__name__, "bits": 16, "weights": list(own[0].shape)}
        for name, module in model.named_modules()
        if (own := list(module.parameters(recurse=False)))
    ]
    return made, compare("cast", config, evidence, model, made, layers=layers, untouched={}, started=started)


def _look(model: Any, config: CastConfig) -> tuple[list[dict[str, Any]], dict[str, str], set[str]]:
    """The constants to cast under the names of their nodes, layers that keep some of theirs, with the reason, and the
    names of those of them whose numbers do not fit.
    """
    import onnx

    constants = {t.name: t for t in model.graph.initializer}
    rows: dict[str, dict[str, Any]] = {}
    untouched: dict[str, str] = {}
    whole: set[str] = set()
    for position, node in enumerate(model.graph.node):
        name, found = _name(node, position), {}
        for tensor in (constants[n] for n in node.input if n in constants):
            if tensor.name in rows or node.op_type in _NOT_WEIGHTS:
                continue
            if tensor.data_type != onnx.TensorProto.FLOAT:
                if len(tensor.dims) > 1 and node.op_type in (*_onnx.WEIGHTED, "Cast"):
                    untouched[name] = "its weights are not float32"
            elif np.prod(tensor.dims) >= SMALLEST:
                why = _misfit(onnx.numpy_helper.to_array(tensor)) if config.dtype == "fp16" else ""
                if why:
                    untouched[name] = why
                    whole.add(name)
                else:
                    found[tensor.name] = {
                        "name": name,
                        "op": node.op_type,
                        "bits": 16,
                        "weights": list(tensor.dims),
                        "tensor": tensor.name,
                    }
        if not (config.arithmetic and name in whole):  # which computes in float32, with all of its constants
            rows |= found
    return list(rows.values()), untouched, whole


def _name(node: Any, position: int) -> str:
    return node.name or f"{node.op_type}_{position}"


def _misfit(value: _onnx.Array) -> str:
    """Why an array cannot be had in fp16; empty when it can."""
    largest = float(np.abs(value).max())
    if not largest <= LARGEST:
        return f"a number of it is beyond {LARGEST:.0f}, the largest of fp16"
    if float(np.abs(value - value.astype(np.float16).astype(np.float32)).max()) > 2.0**-11 * largest:
        return f"its largest number is {largest:.1g}, too small for fp16, which has fewer digits below 6.1e-5"
    return ""


def _stored(model: Any, config: CastConfig, names: set[str]) -> Any:
    """The constants of these names in 16 bits, each with a Cast that brings it back. In place."""
    import ml_dtypes
    import onnx

    dtype: Any = np.float16 if config.dtype == "fp16" else ml_dtypes.bfloat16
    new = []
    for tensor in model.graph.initializer:
        if tensor.name in names:
            name, small = tensor.name, onnx.numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(small, f"{name}_16"))
            new.append(onnx.helper.make_node("Cast", [f"{name}_16"], [name], to=onnx.TensorProto.FLOAT))
    for position, node in enumerate(new):
        model.graph.node.insert(position, node)
    return model


def _in_half(model: Any, whole: set[str]) -> Any:
    """The graph computing in fp16 with float32 at its borders, and in the nodes of these names. In place."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for position, node in enumerate(model.graph.node):
        node.name = _name(node, position)
    return convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(whole))
