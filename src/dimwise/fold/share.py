"""Weight sharing: every weight becomes one of 16 or 256 numbers, and the file holds their places.

Idea: a layer's weights lie close together. A palette of a few numbers, chosen by clustering, stands for all of them;
per weight only its place in the palette is stored, in 4 or 8 bits.

Mathematics: k-means in one dimension, min Σ_i (w_i − c_{p(i)})² over centres c and places p, with w divided by the
root mean square of its output channel when ``scaled``. Bytes per layer: n · bits / 8 + 4 · 2^bits (+ 4 per channel),
from 4 n: 8 times smaller with 4 bits, 4 times with 8. With 4 bits the places are chosen by what the layer is fed,
min ‖(W − W̃) X‖² over a sample X of its inputs: what one weight loses by rounding, those not yet rounded make up for.

Use when: the file must be small (a download, a flash memory) and time does not matter. After pruning and
distilling. After ``quantize`` too: 4-bit places of int8 weights halve the file once more and keep its speed.

Cost: no training; a sort per layer. With 4 bits a sample of training inputs and some tenths of a second per layer, to
invert K × K numbers for K weights of one output. Nothing is gained at run time: the runtime looks the weights up once,
when it loads the file, and then runs the network it always ran, with the same memory and at the same speed.

Pitfalls: 16 numbers cost narrow and depthwise layers accuracy: look at the score, keep layers with ``skip``, or take
8 bits. Tables of words, LSTMs and transposed convolutions take the nearest number whatever they are fed. In layers of
some hundred weights the palette is as large as what it saves; they stay. Tools that fold constants and save the graph
again write the weights out in full.

Source: Han, Mao, Dally 2016, "Deep compression", arXiv:1510.00149, section 3. Deviation: one palette per tensor with a
scale per channel; centres are not trained afterwards; no Huffman code. Places by the inputs: Frantar, Ashkboos,
Hoefler, Alistarh 2023, "GPTQ", arXiv:2210.17323; deviation: a palette instead of an even grid.

Evidence: tests/fold/test_share.py (each weight is its nearest centre; the file is as small as counted),
test_compensate.py (outputs err less than with the nearest centres).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from dimwise.errors import ModelError, UserError, a_kind, nearest
from dimwise.fold import _onnx
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._numbers import compensation, int8
from dimwise.fold._numbers.calibration import calibration_inputs
from dimwise.fold._numbers.palettes import nearest_entry, pack, palette
from dimwise.recipe import config

WORDS: dict[str, dict[str, Any]] = {"palette16": {"bits": 4}, "palette256": {"bits": 8}}
"""Bare words of the composition language."""

_AT_ONCE = 6  # layers that are observed in one run: later ones see what rounding made of the earlier ones a little late


@config
class ShareConfig:
    """How weights are shared."""

    bits: Literal[4, 8] = 8
    """Bits per weight: palettes of 16 or of 256 numbers. Default: 8, which no score notices; 4 is for the smallest
    file, with a look at the score."""
    scaled: bool = True
    """Divide each output channel by its root mean square first, and store that. Default: on; channels differ in size
    once norms are folded in."""
    n_calibration: Annotated[int, Field(ge=0)] = 256
    """With 4 bits: training inputs by which the places are chosen, drawn by seed. Default: 256; 0 takes the nearest
    number for each weight and needs no data."""
    skip: tuple[str, ...] = ()
    """Names of nodes to leave as they are. Default: none."""


def share(model: Any, config: ShareConfig, evidence: Evidence) -> tuple[Any, FoldReport]:
    """Store the weights of an exported graph as places in palettes; the given graph is not changed.

    Args:
        model: an ``onnx.ModelProto``, as ``dimwise.ship.graph`` makes it, or ``quantize`` (int8 weights are shared
            with 4 bits only).
        config: how many numbers, and what to leave alone.
        evidence: score and cost to report.

    Returns:
        (a new ``onnx.ModelProto`` with the same inputs and outputs, the report).

    Raises:
        UserError: when given a network that is not exported.
        ModelError: when ``skip`` names no node, weights are not finite, or no file would become smaller.

    Source: see the card.
    """
    _require_graph(model)
    started = time.perf_counter()
    made = _prepared(model)
    names = [node.name for node in made.graph.node]
    for name in config.skip:
        if name not in names:
            raise ModelError(
                f"share.skip names {name!r}, which is no node of the graph",
                expected="names as the report lists them",
                next_step=nearest(name, names),
            )
    rows, untouched = [], {}
    weights = sorted(_weights(made, config.bits), key=lambda weight: weight.position)
    untouched = {weight.node: "named in share.skip" for weight in weights if weight.node in config.skip}
    weights = [weight for weight in weights if weight.node not in config.skip]
    for weight, moment in _observed(made, weights, config, evidence):
        row = _share_(made, weight, config, moment)
        if row is None:
            untouched.setdefault(weight.node, "a palette would be as large as what it saves")
        else:
            rows.append(row)
    if not rows:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(untouched.items())[:3])
        raise ModelError(
            f"no weights of this graph can be shared with {config.bits} bits" + (f" ({told})" if told else ""),
            expected="layers of at least some hundred float32 weights"
            + (", or int8 weights" if config.bits == 4 else ""),
            next_step="Keep the graph as it is.",
        )
    done = {row["name"] for row in rows}
    untouched = {name: reason for name, reason in untouched.items() if name not in done}
    after = _onnx.compact(made)
    after.producer_name, after.producer_version = model.producer_name, model.producer_version
    report = compare("share", config, evidence, model, after, layers=rows, untouched=untouched, started=started)
    return after, report


def _require_graph(model: Any) -> None:
    import onnx

    if isinstance(model, torch.nn.Module):
        raise UserError(
            f"share was given the network {type(model).__name__}",
            expected="an exported graph (onnx.ModelProto)",
            next_step="First: graph = dimwise.ship.graph(model, data.normalise, example).",
        )
    if not isinstance(model, onnx.ModelProto):
        raise UserError(f"share was given {a_kind(model)}", expected="an onnx.ModelProto")


def _prepared(model: Any) -> Any:
    """A copy with norms folded and nodes named; a quantized one as it is, as folding would undo the rounding."""
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        return _onnx.optimised(model)
    made = type(model)()
    made.CopyFrom(model)
    return made


@dataclass(frozen=True)
class _Weight:
    """A constant that a node multiplies with."""

    node: str
    """The node, or what stands for it where nodes have no name."""
    op: str
    tensor: str
    axis: int | None
    """Of its output channels; None for int8 weights, whose scales are elsewhere."""
    position: int
    """Of the node in the graph."""
    layer: compensation.Layer | None
    """What is known of its inputs' shape; None for kinds that are not looked at."""


def _weights(model: Any, bits: int) -> Iterator[_Weight]:
    """Large weights, each once."""
    import onnx

    constants = {t.name: t for t in model.graph.initializer}
    readers = {name: (i, node) for i, node in enumerate(model.graph.node) for name in node.input}
    seen: set[str] = set()
    for i, node in enumerate(model.graph.node):
        rows = int8.reads_rows(node)
        whole = constants.get(node.input[0]) if rows or node.op_type == "DequantizeLinear" else None
        if bits == 4 and whole is not None and whole.data_type == onnx.TensorProto.INT8 and len(whole.dims) > 1:
            at, reader = (i, node) if rows else readers.get(node.output[0], (i, node))
            index = 0 if reader is node else list(reader.input).index(node.output[0])
            layer = compensation.layer_of(reader, index, whole.dims)
            yield from _once(seen, _Weight(reader.name or whole.name, reader.op_type, whole.name, None, at, layer))
            continue
        for index, axis in int8.weight_axes(node, constants).items():
            name = node.input[index]
            layer = compensation.layer_of(node, index, constants[name].dims)
            yield from _once(seen, _Weight(node.name or name, node.op_type, name, axis, i, layer))


def _once(seen: set[str], weight: _Weight) -> Iterator[_Weight]:
    if weight.tensor not in seen:
        seen.add(weight.tensor)
        yield weight


def _observed(
    model: Any, weights: list[_Weight], config: ShareConfig, evidence: Evidence
) -> Iterator[tuple[_Weight, compensation.Floats | None]]:
    """Each weight with the moments of its inputs, as they are once the layers before it are shared; None without."""
    looked_at = config.bits == 4 and config.n_calibration and len(evidence.data.train)
    if not looked_at:
        yield from ((weight, None) for weight in weights)
        return
    inputs = calibration_inputs(config.n_calibration, evidence, fold="share")
    layers = [weight.layer for weight in weights if weight.layer is not None]
    moment = compensation.observing(model, layers, inputs, most=_AT_ONCE)
    with evidence.progress.stage("share", len(weights)) as bar:
        for done, weight in enumerate(weights):
            bar.update(done, weight.node)
            yield weight, None if weight.layer is None else moment(weight.layer)


def _share_(
    model: Any, weight: _Weight, config: ShareConfig, moment: compensation.Floats | None
) -> dict[str, Any] | None:
    """Put a palette in the place of a tensor, in place; None, and nothing done, when that would take more bytes."""
    import onnx

    graph = model.graph
    tensor = next(t for t in graph.initializer if t.name == weight.tensor)
    values = onnx.numpy_helper.to_array(tensor)
    if not np.isfinite(values).all():
        raise ModelError(f"the weights of node {weight.node!r} are not finite", next_step="Train the network again.")
    scale = _scale(values, weight.axis) if config.scaled and weight.axis is not None else None
    flat = values if scale is None else values / scale
    entries = palette(flat, 2**config.bits)
    if values.dtype == np.int8:
        entries = np.unique(np.round(entries))
    places = nearest_entry(flat if moment is None else _compensated(flat, entries, weight.layer, moment), entries)
    packed = pack(places) if len(entries) <= 16 else None
    constants = {"entries": entries.astype(values.dtype), "places": places if packed is None else packed[0]}
    if scale is not None:
        constants["scale"] = scale
    nodes, made = _look_up(weight.tensor, constants, None if packed is None else packed[1])
    # Names are short in the end, and the two numbers that unpack are there once.
    n_bytes = sum(value.nbytes + 12 for value in constants.values()) + 25 * len(nodes)
    if n_bytes >= values.nbytes + 12:
        return None
    graph.initializer.remove(tensor)
    known = {t.name for t in graph.initializer}
    graph.initializer.extend(t for t in made if t.name not in known)
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
    back = constants["entries"].astype(np.float64)[places] * (1 if scale is None else scale)
    spread = float(np.square(values.astype(np.float64)).mean())
    return {
        "name": weight.node,
        "op": weight.op,
        "weights": list(values.shape),
        "entries": len(entries),
        "bits": 8 if packed is None else 4,
        "error": round((float(np.square(back - values).mean()) / spread) ** 0.5 if spread else 0.0, 6),
        "bytes_before": values.nbytes + 12,
        "bytes_after": n_bytes,
    }


def _compensated(
    values: _onnx.Array, entries: _onnx.Array, layer: compensation.Layer | None, moment: compensation.Floats
) -> _onnx.Array:
    """For each weight the entry that serves the layer's outputs best; where zeros are frequent they stay."""
    assert layer is not None
    rows = layer.rows(values)
    still = rows == 0
    if 0 not in entries or still.mean() * len(entries) < 1:
        still[:] = False

    def nearest_to(column: compensation.Floats, _: int) -> compensation.Floats:
        return entries[nearest_entry(column, entries)].astype(np.float64)

    made = [compensation.compensated(w, m, nearest_to, still=s) for w, m, s in zip(rows, moment, still, strict=True)]
    return layer.values(np.stack(made))


def _scale(values: _onnx.Array, axis: int) -> _onnx.Array:
    """Root mean square of each channel, of a shape that broadcasts; 1 where all is zero."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    size = np.sqrt(np.square(values.astype(np.float64)).mean(axis=others, keepdims=True))
    return np.where(size > 0, size, 1).astype(np.float32)


def _look_up(name: str, constants: dict[str, _onnx.Array], packed_axis: int | None) -> tuple[list[Any], list[Any]]:
    """Nodes that make the tensor ``name`` from its palette, and the constants that they read."""
    import onnx

    at = {key: f"{name}_{key}" for key in (*constants, "high", "low", "whole", "index", "plain")}
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(v), at[key]) for key, v in constants.items()]
    node = onnx.helper.make_node
    nodes, places = [], at["places"]
    if packed_axis is not None:
        four, sixteen = "share_four", "share_sixteen"
        tensors += [
            onnx.numpy_helper.from_array(np.array(number, np.uint8), key) for key, number in ((four, 4), (sixteen, 16))
        ]
        nodes = [
            node("BitShift", [places, four], [at["high"]], direction="RIGHT"),
            node("Mod", [places, sixteen], [at["low"]]),
            node("Concat", [at["high"], at["low"]], [at["whole"]], axis=packed_axis),
        ]
        places = at["whole"]
    nodes.append(node("Cast", [places], [at["index"]], to=onnx.TensorProto.INT32))
    scaled = "scale" in constants
    nodes.append(node("Gather", [at["entries"], at["index"]], [at["plain"] if scaled else name], axis=0))
    if scaled:
        nodes.append(node("Mul", [at["plain"], at["scale"]], [name]))
    return nodes, tensors
