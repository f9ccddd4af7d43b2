"""Int8 quantization after training, on the exported graph.

Idea: weights and activations are rounded to 8-bit integers. The file shrinks about four times, and a processor with
integer dot products (VNNI, AMX, NEON) multiplies four numbers where it multiplied one. The ranges of activations are
measured on a few hundred training inputs.

Mathematics: x ≈ s (q − z), q = clip(round(x / s) + z, q_min, q_max), s = (high − low) / 255. Weights: z = 0 and one s
per output channel, s_c ≈ max |w_c| / 127. Activations: one s and z per tensor. A sum of products stays in integers,
Σ q_w (q_x − z_x) in int32, and is scaled once at the end by s_w s_x / s_y; the bias is int32 with scale s_w s_x.
4-bit weights share a scale in blocks of 32 and are chosen by what the layer is fed, min ‖(W − W̃) X‖². Bias correction:
b ← b − E[W̃ Q(x) − W x]. Sensitivity of a layer: the signal over noise, 10 log10(Σ y² / Σ (y − ŷ)²), of the network's
outputs y with this layer alone quantized.

Use when: the graph is served by ONNX Runtime (or OpenVINO, which reads the same QDQ form). ``static`` for
convolutional networks on a processor with int8 instructions; ``dynamic`` (ranges found while serving, nothing
to calibrate) for linear layers and LSTMs; ``weights`` when only the size must shrink: what runs is the float
graph, at its speed. ``weights`` with 4 bits: large linear layers, which onnxruntime multiplies without unpacking. A
network itself is quantized by torchao for ``torch.compile``, statically (runtime=pytorch-compiled).

Cost: no training; two forward passes over the calibration inputs and some ms per layer. The file becomes 3 to 4
times smaller (6 to 7 times by 4 bits). Repair, when the score falls: one scoring of the validation split per attempt,
and one small run per layer to rank them.

Pitfalls: very small networks lose time by ``static``: rounding is one more pass over each tensor, so measure,
or use ``weights``. Outliers stretch the range of a whole tensor: try ``percentile`` or ``mse``. Depthwise
layers need one scale per channel. On x86 without VNNI, sums of uint8 × int8 products are cut off at 16 bits, which
costs score: there weights take 7 bits. For another processor than this one, say ``reduce_range``.
Softmax, LayerNorm, GELU and attention products stay float, and of an int8 embedding the rows that are read become so.
Layers that repair keeps float cost time at their borders: measure the latency of what is returned, not of what was
asked for. Repair sees the validation split, never the test.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference" (the arithmetic); Krishnamoorthi 2018, arXiv:1806.08342 (weights per channel); Migacz 2017, "8-bit
inference with TensorRT" (entropy calibration); Nagel et al. 2019, arXiv:1906.04721 (bias correction); Nagel et
al. 2021, arXiv:2106.08295 (practice; layers ranked one by one); Frantar et al. 2023, "GPTQ", arXiv:2210.17323 (4 bits).

Evidence: tests/fold/test_quantize.py (rounding against NumPy, real digits within one point), test_repair.py
(collapses made on purpose and mended), test_int4.py, test_int8_embedding.py; score, size and latency in benchmarks/.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from dimwise.errors import ModelError, RecipeError, UserError, a_kind
from dimwise.fold import _onnx
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._numbers import bias_correction, calibration, compensation, int4, int8, selection
from dimwise.fold._numbers.pt2e import Rounded, quantize_pytorch, rounded_layers
from dimwise.fold._numbers.repairs import Made, Make, Search, repair
from dimwise.fold._numbers.selection import plan
from dimwise.measure import state_size_bytes
from dimwise.ort import int8_products_saturate
from dimwise.recipe import config

SATURATES = "weights have 7 bits: on this processor sums of uint8 × int8 products saturate (quantize.reduce_range)"

OF_GRAPHS = (
    "per_channel",
    "calibration",
    "activations",
    "reduce_range",
    "keep_first_last",
    "skip",
    "bits",
    "bias_correction",
)
"""Settings that a network inside PyTorch does not take."""
N_RANKING = 64
"""Calibration inputs on which layers are ranked."""


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
    """Training inputs to calibrate on, drawn by seed; 4 bits are chosen by them too, where there are any. Default:
    ranges hardly move beyond some hundred."""
    activations: Literal["uint8", "int8"] = "uint8"
    """Type of rounded activations, each tensor with its own zero point. Default: uint8, which x86 needs; int8
    suits ARM."""
    reduce_range: bool | None = None
    """7-bit weights, so that sums of products do not saturate. Default: for uint8 activations where this processor's
    do, which is measured: x86 without VNNI (Intel's servers have it since 2019, AMD's since 2022)."""
    keep_first_last: bool = False
    """Leave the first and the last layer with weights in float32. Default: off; they cost accuracy in few
    networks."""
    skip: tuple[str, ...] = ()
    """Names of nodes to leave in float32. Default: none."""
    bits: Literal[8, 4] = 8
    """For mode = weights: bits of the weights of large matrix products; other layers take 8. Default: 8, which
    rarely costs score."""
    block: Literal[16, 32, 64, 128] = 32
    """For bits = 4: weights that share one scale. Default: 32, 5 bits a weight in all."""
    bias_correction: bool = False
    """Shift biases so that the means of all outputs stay. Default: off; repair tries it."""
    repair: bool = True
    """When the score falls too far, try other settings, then keep guilty layers float. Default: on."""
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Score that may be lost before repair begins, in the score's own unit. Default: half a point of accuracy."""
    repair_layers: Annotated[int, Field(ge=0)] = 16
    """Most layers that repair keeps higher; 0 tries other settings only. Default: 16; more leave little speed."""
    repair_s: Annotated[float, Field(ge=0)] = 300.0
    """Time after which repair begins no further attempt, s. Default: 300, a guard for large validation splits."""


WORDS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {"mode": "weights", "bits": 4},
    "dynamic": {"mode": "dynamic", "bits": 8},
    "weights": {"mode": "weights", "bits": 8},
    "static": {"mode": "static", "bits": 8},
}
"""What a bare word in a composition means, as in ``quantize(int8)``."""


def quantize(model: Any, config: QuantizeConfig, evidence: Evidence) -> tuple[Any, FoldReport]:
    """Quantize an exported graph to int8, or a network for ``torch.compile``; what is given is not changed.

    Args:
        model: an ``onnx.ModelProto`` that takes raw inputs, as ``dimwise.ship.graph`` makes it; or an ``nn.Module`` of
            normalised ones: then of the settings ``n_calibration`` is heeded, ``mode`` must be static, and nothing is
            repaired.
        config: mode, calibration, what to leave alone.
        evidence: training inputs to calibrate on; the score and cost to report.

    Returns:
        (a new ``onnx.ModelProto`` with the same inputs and outputs, or a new module; the report).

    Raises:
        UserError: when given neither.
        MissingExtra: for a network, without torchao.
        ModelError: when the graph cannot be run, or holds nothing to quantize.
        DataError: when there is nothing to calibrate on, or it is not finite.

    Source: see the card. Deviation: the ranges come from our own calibration; onnxruntime places the Q and DQ nodes.
    """
    started = time.perf_counter()
    if isinstance(model, torch.nn.Module):
        return _in_pytorch(model, config, evidence)
    _check(model, config)
    asked, config = config, _for_this_processor(config)
    make, only, inputs = _workshop(_onnx.optimised(model), model, evidence)
    first = make(config, {})
    before = evidence.score(model)
    search = Search(
        make=make,
        score=evidence.score,
        least=before - config.max_drop if math.isfinite(before) else -math.inf,
        until=started + config.repair_s,
        progress=evidence.progress,
    )
    if config.repair:
        search.look(_name(config), first)
        if not search.done:
            repair(search, config, lambda: inputs(config)[:N_RANKING], only)
    made = search.best or first
    known = {id(model): before} | ({id(made.graph): search.best_score} if math.isfinite(search.best_score) else {})
    score = evidence.score
    evidence = replace(evidence, score=lambda graph: known[id(graph)] if id(graph) in known else score(graph))
    report = compare(
        "quantize",
        config,
        evidence,
        model,
        made.graph,
        layers=made.layers,
        untouched=made.untouched | _unrepaired(search, before),
        tried=search.rows,
        started=started,
    )
    if asked.reduce_range is None and config.reduce_range:
        report = replace(report, notes=[*report.notes, SATURATES])
    return made.graph, report


def _in_pytorch(
    model: torch.nn.Module, config: QuantizeConfig, evidence: Evidence
) -> tuple[torch.nn.Module, FoldReport]:
    if isinstance(model, Rounded):
        raise ModelError("the network was quantized before, and computes in int8", expected="a network in float32")
    usual = QuantizeConfig()
    changed = [name for name in OF_GRAPHS if getattr(config, name) != getattr(usual, name)]
    if changed:
        raise RecipeError(
            f"quantize.{changed[0]} is {getattr(config, changed[0])!r} for a network inside PyTorch",
            expected=f"{getattr(usual, changed[0])!r}",
            next_step="There torchao decides; all settings are for runtime=onnxruntime and openvino.",
        )
    if config.mode != "static":
        raise RecipeError(
            f"quantize.mode is {config.mode!r} for a network inside PyTorch",
            expected="mode = 'static'",
            next_step="The others are for runtime=onnxruntime and openvino: dimwise.ship.graph exports a network.",
        )
    started = time.perf_counter()
    made = quantize_pytorch(model, evidence, n_calibration=config.n_calibration)
    layers, untouched = rounded_layers(made, model)
    costs = evidence.cost(model)
    smaller = costs | {"size_bytes": float(state_size_bytes(made))}  # of rounded weights nobody counts parameters
    evidence = replace(evidence, cost=lambda subject: smaller if subject is made else costs)
    report = compare("quantize", config, evidence, model, made, layers=layers, untouched=untouched, started=started)
    return made, report


def _for_this_processor(config: QuantizeConfig) -> QuantizeConfig:
    """The settings with what the processor decides."""
    if config.reduce_range is not None:
        return config
    of_uint8 = config.mode == "dynamic" or (config.mode == "static" and config.activations == "uint8")
    return replace(config, reduce_range=of_uint8 and int8_products_saturate())


def _check(model: Any, config: QuantizeConfig) -> None:
    import onnx

    if not isinstance(model, onnx.ModelProto):
        raise UserError(f"quantize was given {a_kind(model)}", expected="an onnx.ModelProto, or a network")
    if config.bits == 4 and config.mode != "weights":
        raise RecipeError(
            f"quantize.bits is 4 in {config.mode} mode",
            expected="mode = 'weights' for 4 bits",
            next_step="Write quantize(int4), which says both.",
        )


def _name(config: QuantizeConfig) -> str:
    return f"static, {config.calibration}" if config.mode == "static" else f"{config.mode}, {config.bits} bits"


def _unrepaired(search: Search, before: float) -> dict[str, str]:
    """Said of the whole graph when the score did not come back."""
    if search.best is None or search.best_score >= search.least:
        return {}
    late = "; time was up (quantize.repair_s)" if time.perf_counter() > search.until else ""
    why = f"not repaired: the best of {len(search.rows)} attempts scores {search.best_score:.4f}, {before:.4f} before"
    return {"(the graph)": why + late}


def _workshop(
    graph: Any, given: Any, evidence: Evidence
) -> tuple[Make, Callable[[QuantizeConfig], dict[str, Callable[[], Any]]], Callable[[QuantizeConfig], _onnx.Array]]:
    """What quantizes: ``make(config, kept)``, ``only(config)`` for one layer at a time, and its inputs.

    Calibration inputs are drawn, and activations observed, once for all attempts.
    """

    @functools.cache
    def prepared(split: bool) -> Any:
        ready = copy.deepcopy(graph)
        if split:
            int8.split_gemms(ready)
        return ready

    @functools.cache
    def drawn(n: int) -> _onnx.Array:
        return calibration.calibration_inputs(n, evidence, fold="quantize")

    @functools.cache
    def observer(n: int) -> Callable[[str, float], dict[str, calibration.Range]]:
        inputs = drawn(n)
        everything, _ = plan(graph, QuantizeConfig())
        with evidence.progress.stage("calibrate"):
            return calibration.observer(graph, int8.tensors_to_calibrate(graph, everything), inputs)

    @functools.cache
    def moment(n: int) -> Callable[[compensation.Layer], compensation.Floats] | None:
        if not len(evidence.data.train):
            return None
        ready = prepared(True)
        constants = {t.name: t for t in ready.graph.initializer}
        fits = [node for node in ready.graph.node if int4.fits(node, constants, 1)]
        found = (compensation.layer_of(node, 1, constants[node.input[1]].dims) for node in fits)
        return compensation.observing(ready, [layer for layer in found if layer is not None], drawn(n))

    def start(config: QuantizeConfig) -> Any:
        return prepared(config.mode == "dynamic" or config.bits == 4)

    def inputs(config: QuantizeConfig) -> _onnx.Array:
        return drawn(config.n_calibration)

    def rewritten(config: QuantizeConfig, chosen: set[str], kept: Container[str]) -> Any:
        before = start(config)
        ranges = None
        if config.mode == "static":
            ranges = observer(config.n_calibration)(config.calibration, config.percentile)
        seen = moment(config.n_calibration) if config.bits == 4 else None
        if config.bias_correction:
            few = selection.four_bits(before, chosen, config, kept)
            rounded = bias_correction.four_bits(before, few, block=config.block, moment=seen)
            before = bias_correction.corrected(
                before, chosen, inputs(config), ranges=ranges, rounded=rounded, **_grid(config)
            )
        return _rewrite(copy.deepcopy(before), chosen, config, ranges, kept, seen)

    def make(config: QuantizeConfig, kept: dict[str, str]) -> Made:
        before = start(config)
        chosen, untouched = plan(before, config, {} if config.bits == 4 else kept)
        rows = selection.rows(before, chosen, config, kept)
        after = _onnx.compact(rewritten(config, chosen, kept))
        after.producer_name, after.producer_version = given.producer_name, given.producer_version
        return Made(after, config, rows, untouched, tuple(kept))

    def only(config: QuantizeConfig) -> dict[str, Callable[[], Any]]:
        before = start(config)
        chosen, _ = plan(before, config)
        names = [n.name for n in before.graph.node if n.name in chosen and n.op_type not in int8.MOVERS]
        if config.bits == 4:
            names = [row["name"] for row in selection.rows(before, chosen, config, {}) if row["bits"] == 4]
        alone = {name: functools.partial(rewritten, config, {name}, ()) for name in names}
        return {"": lambda: before} | alone

    return make, only, inputs


def _grid(config: QuantizeConfig) -> dict[str, bool]:
    """Settings of the integer grid, where activations are rounded too."""
    return {
        "per_channel": config.per_channel,
        "reduce_range": bool(config.reduce_range) and config.mode == "static",
        "signed": config.activations == "int8",
    }


def _rewrite(
    model: Any,
    chosen: set[str],
    config: QuantizeConfig,
    ranges: dict[str, calibration.Range] | None,
    kept: Container[str],
    moment: Callable[[compensation.Layer], compensation.Floats] | None,
) -> Any:
    chosen = chosen - int8.embeddings(model, chosen, per_channel=config.per_channel)
    if not chosen:  # to onnxruntime no names mean all of them
        return model
    if ranges is not None:
        return int8.static(model, chosen, ranges, **_grid(config))
    if config.mode == "dynamic":
        return int8.dynamic(model, chosen, per_channel=config.per_channel, reduce_range=bool(config.reduce_range))
    few = selection.four_bits(model, chosen, config, kept)
    made = int8.weights(model, chosen - few, per_channel=config.per_channel)
    return int4.weights(made, few, block=config.block, moment=moment) if few else made
