"""What each operator does to channels: one small rule per family, and a table from ATen names to rules.

A rule takes the walk and one operator and returns the :class:`~dimwise.fold._channels.flow.Value` of its output. It
ties the axes of the weights it meets and fixes what it cannot follow. To teach the walk a new operator, write its rule
and add its name to :data:`RULES`. Rules of reshaping, matrix products and attention are in ``grids.py``, of recurrent
layers in ``recurrent.py``.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np

from dimwise.fold._channels.flow import Flow, Grid, Op, Rule, Value, carrying
from dimwise.fold._channels.grids import attention, matrix_product, meet, movement, zeros
from dimwise.fold._channels.groups import Labels, Padding, Product
from dimwise.fold._channels.recurrent import recurrent, recurrent_cell

# Layers with weights -----------------------------------------------------------------------------------------------


def conv(flow: Flow, op: Op) -> Any:
    """x (N, C, *positions), weight (K, C/groups, *kernel): K new channels; with one group per channel, the old ones."""
    x, weight, bias, groups = op.args["input"], op.args["weight"], op.args.get("bias"), op.args.get("groups", 1)
    if weight.tensor is None:
        return flow.unknown(op, "a convolution computes its weight in the forward pass")
    dim = len(x.shape) - len(weight.shape) + 1  # 1, or 0 for an input without batch dimension
    read = flow.along(x, dim, "a convolution runs over its channels as positions")
    n_made = weight.shape[0]
    if groups == len(read) > 1:  # depthwise: each channel makes its own
        made = np.repeat(read, n_made // groups)
    else:
        read = _evenly(flow, read, groups)
        made = flow.atoms.fresh(n_made, _layer(weight))
        _evenly(flow, made, groups)
        flow.tie(weight.tensor, 1, read, "reads")
    flow.tie(weight.tensor, 0, made, "makes")
    _tie_vector(flow, bias, made)
    _count(flow, weight, math.prod(op.shape) / n_made)
    return replace(carrying(op.shape, dim, made), layers=_called(op, weight) if groups == 1 else ())


def conv_transpose(flow: Flow, op: Op) -> Any:
    """x (N, C, *positions), weight (C, K, *kernel): K new channels."""
    x, weight, bias = op.args["input"], op.args["weight"], op.args.get("bias")
    if weight.tensor is None or op.args.get("groups", 1) != 1:
        return flow.unknown(op, "its channels are read by a transposed convolution in groups")
    dim = len(x.shape) - len(weight.shape) + 1
    made = flow.atoms.fresh(weight.shape[1], _layer(weight))
    flow.tie(weight.tensor, 0, flow.along(x, dim, "a convolution runs over its channels as positions"), "reads")
    flow.tie(weight.tensor, 1, made, "makes")
    _tie_vector(flow, bias, made)
    _count(flow, weight, math.prod(x.shape) / weight.shape[0])
    return carrying(op.shape, dim, made)


def linear(flow: Flow, op: Op) -> Any:
    """x (..., C), weight (K, C): K new channels along the last dimension."""
    x, weight, bias = op.args["input"], op.args["weight"], op.args.get("bias")
    if weight.tensor is None:
        return flow.unknown(op, "a dense layer computes its weight in the forward pass")
    made = flow.atoms.fresh(weight.shape[0], _layer(weight))
    flow.tie(weight.tensor, 1, flow.along(x, -1, "a dense layer runs over its channels as positions"), "reads")
    flow.tie(weight.tensor, 0, made, "makes")
    _tie_vector(flow, bias, made)
    _count(flow, weight, math.prod(op.shape) / weight.shape[0])
    return replace(carrying(op.shape, -1, made), layers=_called(op, weight))


def embedding(flow: Flow, op: Op) -> Any:
    """weight (V, K), indices (...): K new channels along a new last dimension."""
    weight = op.args["weight"]
    if weight.tensor is None:
        return flow.unknown(op)
    made = flow.atoms.fresh(weight.shape[1], _layer(weight))
    flow.tie(weight.tensor, 1, made, "makes")
    return carrying(op.shape, -1, made)


def batch_norm(flow: Flow, op: Op) -> Any:
    """x (N, C, ...) with four vectors (C,): each channel by itself."""
    atoms = flow.along(op.args["input"], 1, "a batch norm runs over its channels as positions")
    for name in ("weight", "bias", "running_mean", "running_var"):
        _tie_vector(flow, op.args.get(name), atoms)
    before, mean = op.args["input"].layers, op.args.get("running_mean")
    by = _called(op, mean) if before and op.name == "batch_norm" and mean is not None and mean.tensor else ()
    return replace(carrying(op.shape, 1, atoms), layers=(*before, *by) if by else ())


def layer_norm(flow: Flow, op: Op) -> Any:
    """x (..., C) over its last dimension, with vectors (C,): any channel may leave, but the statistics change."""
    x, over = op.args["input"], len(op.args["normalized_shape"])
    if isinstance(x, Grid):  # over the inner width of heads: a head leaves whole
        grid = x.grid
        for dim in range(len(x.shape) - over, len(x.shape)):
            grid = flow.even(grid, dim)
        x = flow.settle(flow.shaped(x.shape, grid))
    if x.atoms is None or x.dim < len(x.shape) - over:  # whole channels are normalised, each by itself
        for vector in (op.args.get("weight"), op.args.get("bias")):
            if vector is not None:
                flow.fix(vector, "it scales positions")
        return carrying(op.shape, x.dim, x.atoms)
    weight = op.args.get("weight")
    if over != 1 or weight is None or weight.tensor is None:
        return flow.unknown(op, "its channels are normalised together without a weight of their own")
    flow.inexact.update(x.atoms[x.atoms >= 0].tolist())
    _tie_vector(flow, weight, x.atoms)
    _tie_vector(flow, op.args.get("bias"), x.atoms)
    return carrying(op.shape, -1, x.atoms)


def group_norm(flow: Flow, op: Op) -> Any:
    """x (N, C, ...) in groups, with vectors (C,): groups lose channels evenly, and their statistics change."""
    n_groups = op.args["num_groups"]
    atoms = flow.along(op.args["input"], 1, "a group norm runs over its channels as positions")
    if n_groups == len(atoms):
        return flow.unknown(op, "it is normalised in as many groups as channels")
    _evenly(flow, atoms, n_groups)
    for name in ("weight", "bias"):
        _tie_vector(flow, op.args.get(name), atoms)
    flow.inexact.update(atoms[atoms >= 0].tolist())
    return carrying(op.shape, 1, atoms)


def prelu(flow: Flow, op: Op) -> Any:
    """x (N, C, ...) with one slope for all or a vector (C,)."""
    x, slope = op.args["self"], op.args["weight"]
    if math.prod(slope.shape) > 1:
        _tie_vector(flow, slope, flow.along(x, 1, "a PReLU runs over its channels as positions"))
    return carrying(op.shape, x.dim, x.atoms)


# Operators without weights -----------------------------------------------------------------------------------------


def pointwise(flow: Flow, op: Op) -> Any:
    """Element by element: activations, sums (residual links), products (gates)."""
    values = op.values()
    if op.name == "add" and len(values) == 2 and op.args.get("alpha", 1) == 1:
        flow.added += [v.layers for v in values if v.layers and v.shape == op.shape]
    return meet(flow, op, values) if any(isinstance(v, Grid) for v in values) else flow.join(op, values, op.shape)


def same(flow: Flow, op: Op) -> Any:
    """One input, unchanged for us: dropout, copies, casts."""
    x = op.values()[0]
    if isinstance(x, Grid):
        return flow.shaped(op.shape, x.grid)
    if x.atoms is None:
        flow.fix(x, f"it passes through {op.name}")
        return Value(op.shape, site=x.site)
    return replace(carrying(op.shape, x.dim, x.atoms), layers=x.layers if x.shape == op.shape else ())


def spatial(flow: Flow, op: Op) -> Any:
    """Pooling, resampling and reflecting pads over the last one to three dimensions, channel by channel."""
    x = op.values()[0]
    n_spatial = int(re.findall(r"(\d)d", op.name)[0])
    if x.atoms is not None and x.dim >= len(x.shape) - n_spatial:
        return flow.unknown(op, f"{op.name} runs over its channels as positions")
    return [carrying(shape, x.dim, x.atoms) for shape in op.shapes] if len(op.shapes) > 1 else same(flow, op)


def reduction(flow: Flow, op: Op) -> Any:
    """Mean, sum, softmax, … over dimensions: fine unless the channels are among them."""
    x = op.values()[0]
    if x.atoms is None:
        return flow.unknown(op)
    given = op.args.get("dim")
    rank = len(x.shape)
    over = set(range(rank)) if given is None else {d % rank for d in np.atleast_1d(given).tolist()}
    if x.dim in over or not over:  # an empty list means all
        return flow.unknown(op, f"{op.name} runs over its channels")
    dim = x.dim if len(op.shape) == rank else x.dim - sum(d < x.dim for d in over)
    values = [carrying(shape, dim, x.atoms) for shape in op.shapes]
    return values if len(values) > 1 else values[0]


def concatenation(flow: Flow, op: Op) -> Any:
    """Along the channels: their atoms one after the other. Along another dimension: they must agree."""
    parts, dim = op.args["tensors"], op.args.get("dim", 0) % len(op.shape)
    if any(p.atoms is not None and p.dim != dim for p in parts):
        return flow.join(op, parts, op.shape)
    for p in parts:
        if p.atoms is None:
            flow.fix(p, "it is concatenated as it is")
    return carrying(
        op.shape, dim, np.concatenate([np.full(p.shape[dim], -1) if p.atoms is None else p.atoms for p in parts])
    )


def padding(flow: Flow, op: Op) -> Any:
    """Constant padding; new channels never leave, except where a module keeps their number and can be told."""
    x, amounts = op.args["self"], op.args["pad"]
    if x.atoms is None:
        return flow.unknown(op)
    place = 2 * (len(x.shape) - 1 - x.dim)  # amounts come in pairs, from the last dimension backwards
    low, high = amounts[place : place + 2] if place < len(amounts) else (0, 0)
    if min(low, high) < 0 or ((low or high) and op.args.get("mode", "constant") != "constant"):
        return flow.unknown(op, f"its channels are cut or mirrored by {op.name}")
    before, after = np.full(low, -1), np.full(high, -1)
    if (low or high) and _keeps_padding(flow, op.module, low, high):
        known = next((p for p in flow.paddings if p.module == op.module), None)
        if known is None:
            known = Padding(op.module, flow.atoms.fresh(low, ""), flow.atoms.fresh(high, ""))
            flow.paddings.append(known)
        before, after = known.before, known.after
    return carrying(op.shape, x.dim, np.concatenate([before, x.atoms, after]))


def nothing(flow: Flow, op: Op) -> Any:
    """Assertions and the like: they return nothing."""
    return None


# Helpers -----------------------------------------------------------------------------------------------------------


def _layer(weight: Value) -> str:
    assert weight.tensor is not None
    return weight.tensor.rpartition(".")[0] or weight.tensor


def _called(op: Op, tensor: Value) -> tuple[str, ...]:
    """The layer, if it was called as a module: then another can be put in its place."""
    return (_layer(tensor),) if op.module == _layer(tensor) else ()


def _tie_vector(flow: Flow, vector: Value | None, atoms: Labels) -> None:
    """A vector with one number per channel goes with its channels; a computed one holds them."""
    if vector is None:
        return
    if vector.tensor is not None:
        flow.tie(vector.tensor, 0, atoms, "scales")
    elif vector.atoms is not None:
        flow.atoms.unite(atoms, vector.atoms, "it meets a computed vector whose numbers stay")
    else:
        flow.atoms.fix(atoms.tolist(), "it meets a vector that is computed in the forward pass")


def _evenly(flow: Flow, atoms: Labels, n_groups: int) -> Labels:
    """Channel i of every group leaves together, so groups stay equal; returns the atoms of the first group."""
    rows = atoms.reshape(n_groups, -1)
    for row in rows[1:]:
        flow.atoms.unite(rows[0], row, "its groups must stay equal, and some of their channels stay")
    return rows[0]


def _count(flow: Flow, weight: Value, positions: float) -> None:
    assert weight.tensor is not None
    flow.products.append(Product(weight.tensor, positions / flow.n_inputs, math.prod(weight.shape)))


def _keeps_padding(flow: Flow, name: str, low: int, high: int) -> bool:
    """Whether a module holds the number of its zero channels where a smaller network can be told another."""
    try:
        module = flow.model.get_submodule(name)
    except AttributeError:
        return False
    return (getattr(module, "zeros_before", None), getattr(module, "zeros_after", None)) == (low, high)


SAME = (
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as"),
)
MOVEMENTS = (
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("permute", "transpose", "movedim", "swapaxes", "t", "numpy_T", "expand", "flip", "repeat"),
    *("slice", "select", "narrow", "chunk", "split", "split_with_sizes", "unbind"),
)
PRODUCTS = ("matmul", "bmm", "baddbmm")
OF_GRIDS = frozenset((*SAME, *MOVEMENTS, *PRODUCTS, "scaled_dot_product_attention", "layer_norm", "rms_norm"))
"""Operators whose rules know channels that lie along several dimensions."""

RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), conv_transpose),
    "linear": linear,
    "embedding": embedding,
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "group_norm": group_norm,
    "prelu": prelu,
    "pointwise": pointwise,
    **dict.fromkeys(SAME, same),
    **{
        f"{family}{n}d{suffix}": spatial
        for n in (1, 2, 3)
        for family, suffix in (
            ("max_pool", ""),
            ("max_pool", "_with_indices"),
            ("avg_pool", ""),
            ("adaptive_avg_pool", ""),
            ("adaptive_max_pool", ""),
            ("reflection_pad", ""),
            ("replication_pad", ""),
            ("upsample_nearest", ""),
            ("_upsample_nearest_exact", ""),
        )
    },
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"), spatial),
    **dict.fromkeys(("mean", "sum", "prod", "amax", "amin", "max", "min", "std", "var", "logsumexp"), reduction),
    **dict.fromkeys(("softmax", "log_softmax", "argmax", "argmin", "cumsum", "linalg_vector_norm"), reduction),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenation),
    **dict.fromkeys(MOVEMENTS, movement),
    **dict.fromkeys(PRODUCTS, matrix_product),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("zeros", "new_zeros"), zeros),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), recurrent_cell),
    **dict.fromkeys(("pad", "constant_pad_nd"), padding),
    "_assert_tensor_metadata": nothing,
}
