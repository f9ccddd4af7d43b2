"""Channels of recurrent layers: unit j of an LSTM, GRU or RNN, in all its gates, layers and directions at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dimwise.fold._channels.flow import Flow, Op, Value, carrying
from dimwise.fold._channels.groups import Labels, Product

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(flow: Flow, op: Op) -> Any:
    """x (B, T, C), weights (G H, C) and (G H, H) for each layer and direction.

    A module has one hidden size, so unit j of all its layers and directions leaves at once: its row in each of the G
    gates, its column in the recurrent weights, and what the next layer reads of it. Silenced, all its gates are at
    rest and its state stays at zero, as in a network without it.
    """
    parts = op.args.get("params", ())
    if "input" not in op.args or not parts or any(not isinstance(p, Value) or p.tensor is None for p in parts):
        return flow.unknown(op)
    x, n_layers, biases = op.args["input"], op.args["num_layers"], op.args["has_biases"]
    n_directions = 2 if op.args["bidirectional"] else 1
    per_cell = 4 if biases else 2
    if len(parts) != per_cell * n_layers * n_directions:
        return flow.unknown(op, "its channels are read by an LSTM with projections")
    n_units = parts[1].shape[1]
    made = flow.atoms.fresh(n_units, _layer(parts[0]))
    n_steps = math.prod(x.shape[:-1])
    read = flow.along(x, -1, "a recurrent layer runs over its channels as positions")
    for layer in range(n_layers):
        for direction in range(n_directions):
            start = (layer * n_directions + direction) * per_cell
            _cell(flow, parts[start : start + per_cell], read, made, n_gates=GATES[op.name], n_steps=n_steps)
        read = np.tile(made, n_directions)
    states = op.args["hx"] if isinstance(op.args["hx"], (list, tuple)) else [op.args["hx"]]
    _begin(flow, states, made)
    return [carrying(op.shapes[0], -1, read), *(carrying(shape, -1, made) for shape in op.shapes[1:])]


def recurrent_cell(flow: Flow, op: Op) -> Any:
    """x (B, C), a state (B, H) or two, weights (G H, C) and (G H, H): one step of the same."""
    x, parts = op.args["input"], [op.args.get(n) for n in ("w_ih", "w_hh", "b_ih", "b_hh")]
    weights = [p for p in parts if p is not None]
    if len(weights) < 2 or any(p.tensor is None for p in weights):
        return flow.unknown(op)
    known = flow.axes.get((weights[1].tensor or "", 1))  # a cell is called again at every step
    made = flow.atoms.fresh(weights[1].shape[1], _layer(weights[0])) if known is None else known[0]
    read = flow.along(x, -1, "a recurrent cell runs over its channels as positions")
    _cell(flow, weights, read, made, n_gates=GATES[op.name.removesuffix("_cell")], n_steps=len(x.shape) and x.shape[0])
    states = op.args["hx"] if isinstance(op.args["hx"], (list, tuple)) else [op.args["hx"]]
    _begin(flow, states, made)
    values = [carrying(shape, -1, made) for shape in op.shapes]
    return values if len(values) > 1 else values[0]


def _cell(flow: Flow, parts: Sequence[Value], read: Labels, made: Labels, *, n_gates: int, n_steps: int) -> None:
    rows = np.tile(made, n_gates)
    flow.gates[_layer(parts[0])] = n_gates
    inward, recurring, *biases = parts
    for weight, along in ((inward, read), (recurring, made)):
        assert weight.tensor is not None
        flow.tie(weight.tensor, 0, rows, "makes")
        flow.tie(weight.tensor, 1, along, "reads")
        flow.products.append(Product(weight.tensor, n_steps / flow.n_inputs, math.prod(weight.shape)))
    for bias in biases:
        assert bias.tensor is not None
        flow.tie(bias.tensor, 0, rows, "scales")


def _begin(flow: Flow, states: Sequence[Value], made: Labels) -> None:
    """The first state: zeros made in the code get a new size, learnt or computed ones lose the same units."""
    for state in states:
        if state.tensor is not None:
            flow.tie(state.tensor, len(state.shape) - 1, made, "scales")
        elif state.site is not None:
            flow.count(state.site, len(state.shape) - 1, made)
        elif state.atoms is not None:
            flow.atoms.unite(made, flow.along(state, -1, "it is a first state"), "its first state stays")


def _layer(weight: Value) -> str:
    assert weight.tensor is not None
    return weight.tensor.rpartition(".")[0] or weight.tensor
