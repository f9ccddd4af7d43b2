"""Rules for what moves channels about: reshapes, slices, matrix products, attention.

A reshape may lay channels out along two dimensions, as (heads, inner width). They are kept as a grid until an
operator says which way they may leave: attention takes whole heads; a concatenation of q, k and v that is taken apart
again ties the three. A smaller network must find a rectangle there, so that every grid ends as a line of slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dimwise.fold._channels.flow import Flow, Grid, Op, Value
from dimwise.fold._channels.groups import Labels, Site

SIZED = {"view": "size", "reshape": "shape", "expand": "size", "unflatten": "sizes"}
"""Operators that are given the sizes of their result, and the name of that argument."""
PARTS = ("chunk", "split", "split_with_sizes")


def movement(flow: Flow, op: Op) -> Any:
    """Reshape, permute, slice, split, expand: the operator itself is applied to a tensor of atoms."""
    name, x = next((k, v) for k, v in op.args.items() if isinstance(v, Value))
    x = flow.adopt(x)
    if x.atoms is None and not isinstance(x, Grid):
        return flow.unknown(op)
    grid = flow.grid_of(x)
    pieces = _moved(op, name, x, grid)
    before = set(grid.ravel().tolist())
    if any(set(p.ravel().tolist()) not in (before, {-1}) for p in pieces):
        dim = op.args.get("dim", 0) % len(x.shape)
        if isinstance(x, Grid) and grid.shape[dim] > 1:  # q, k and v side by side: position i of all three leaves
            pieces = _moved(op, name, x, flow.even(grid, dim))
        elif op.name not in PARTS or len({p.shape for p in pieces}) > 1:
            return flow.unknown(op, f"its channels are cut by {op.name} at positions written in the code")
        else:
            first, *others = pieces
            for other in others:  # equal parts stay equal if position i of all of them leaves together
                flow.atoms.unite(
                    first.ravel(), other.ravel(), "it is cut into parts that must stay equal, and some of one stay"
                )
    values = [_read_off(flow, op, x, piece) for piece in pieces]
    _name_sizes(flow, op, values)
    return values if len(values) > 1 or op.name in (*PARTS, "unbind") else values[0]


def _moved(op: Op, name: str, x: Value, grid: Labels) -> list[Labels]:
    atoms = torch.from_numpy(np.ascontiguousarray(grid)).expand(x.shape).contiguous()
    moved = op.target(**{**op.args, name: atoms})
    return [piece.numpy() for piece in ([moved] if isinstance(moved, Tensor) else moved)]


def _read_off(flow: Flow, op: Op, x: Value, atoms: Labels) -> Value:
    """Back from a full tensor of atoms to the dimensions along which they vary."""
    varies = [n > 1 and bool((atoms != atoms.take([0], d)).any()) for d, n in enumerate(atoms.shape)]
    if not any(varies):
        if (atoms >= 0).any():
            flow.fix(x, f"a single channel passes through {op.name}")
        return Value(atoms.shape)
    return flow.shaped(atoms.shape, atoms[tuple(slice(None) if v else slice(1) for v in varies)])


def _name_sizes(flow: Flow, op: Op, values: list[Value]) -> None:
    """Remember a call that names sizes which will change, unless it leaves them open (−1)."""
    sizes: Sequence[int]
    if op.name in SIZED:
        sizes = op.args[SIZED[op.name]]
        offset = op.args["dim"] % (len(op.shape) - len(sizes) + 1) if op.name == "unflatten" else 0
        kind, rank, lines = op.name, len(sizes), _lines(flow, values[0])
        counts = [(d - offset, line) for d, line in lines if 0 <= d - offset < rank and sizes[d - offset] != -1]
    elif op.name in ("split", "split_with_sizes"):
        dim = op.args.get("dim", 0) % len(op.shapes[0])
        kind, rank = "split", len(values)
        counts = [(i, line) for i, v in enumerate(values) for d, line in _lines(flow, v) if d == dim]
    else:
        return
    if counts:
        flow.sites.append(Site(op.module, kind, rank, tuple(counts), flow.n_inputs))


def _lines(flow: Flow, value: Value) -> list[tuple[int, Labels]]:
    """For each dimension along which channels vary, (size, others) the channels of each slice."""
    grid = flow.grid_of(value)
    return [(d, np.moveaxis(grid, d, 0).reshape(n, -1)) for d, n in enumerate(grid.shape) if n > 1]


def zeros(flow: Flow, op: Op) -> Any:
    """A tensor of zeros, perhaps the first state of a recurrent layer: where its size is named is remembered."""
    flow.sites.append(Site(op.module, "zeros", len(op.shape), (), flow.n_inputs))
    return Value(op.shape, site=len(flow.sites) - 1)


def meet(flow: Flow, op: Op, values: Sequence[Value]) -> Value:
    """Grids element by element with anything: numbers that differ along a dimension hold it together."""
    rank = len(op.shape)
    merged = np.full((1,) * rank, -1)
    grids = []
    for v in values:
        grid = flow.grid_of(v)
        grids.append(grid.reshape((1,) * (rank - grid.ndim) + grid.shape))
    for v, grid in zip(values, grids, strict=True):
        if v.tensor is None and (grid >= 0).any():
            continue
        for d, n in enumerate(v.shape, rank - len(v.shape)):  # constants, masks, parameters
            if n > 1:
                grids = [flow.even(g, d) if (g >= 0).any() and g.shape[d] > 1 else g for g in grids]
    for grid in grids:
        if (grid < 0).all():
            continue
        if (merged >= 0).any():
            a, b = np.broadcast_arrays(merged, grid)
            flow.atoms.unite(a.ravel(), b.ravel(), f"its channels meet by {op.name} others that cannot leave")
            merged = np.array(np.where(a < 0, b, a))
        else:
            merged = grid
    for v in values:
        if v.tensor is not None:
            flow.fix(v, f"its numbers are shared by all channels of {op.name}")
    return flow.shaped(op.shape, merged)


def matrix_product(flow: Flow, op: Op) -> Any:
    """a (..., M, K) times b (..., K, N): what lies along K leaves on both sides; heads are batch dimensions of both."""
    *added, a, b = op.values()
    if min(len(a.shape), len(b.shape)) < 2 or a.tensor is not None or b.tensor is not None:
        return flow.unknown(op)
    left, right = flow.grid_of(a), flow.grid_of(b)
    batches = _heads(flow, op, (a, left), (b, right))
    if batches is not None:
        out = flow.shaped(op.shape, batches)
    else:
        left, right = _inner(flow, left, -1), _inner(flow, right, -2)
        _contract(flow, op, (a, left), (b, right))
        out = _outer(flow, op, left, right)
    return flow.join(op, [flow.settle(v) for v in (*added, out)], op.shape) if added else out


def _heads(flow: Flow, op: Op, *sides: tuple[Value, Labels]) -> Labels | None:
    """What lies along the batch dimensions of matrices, the inside of each tied to it; None if nothing does."""
    rank = len(op.shape)
    if not any(n > 1 for _, grid in sides for n in grid.shape[:-2]):
        return None
    merged: Labels | None = None
    for value, grid in sides:
        if (grid < 0).all() and all(n == 1 for n in value.shape[:-2]):
            continue
        for dim in (-2, -1):
            grid = flow.even(grid, dim % grid.ndim)
        grid = grid.reshape((1,) * (rank - grid.ndim) + grid.shape)
        if merged is not None:
            one, two = np.broadcast_arrays(merged, grid)
            flow.atoms.unite(one.ravel(), two.ravel(), f"heads meet by {op.name} others that cannot leave")
        merged = grid if merged is None else np.array(np.where(merged < 0, grid, merged))
    if merged is not None:
        flow.heads.update(merged.ravel().tolist())
    return merged


def _inner(flow: Flow, grid: Labels, keep: int) -> Labels:
    """A matrix whose rows and columns both vary: only the dimension that is summed over may stay uneven."""
    keep, other = keep % grid.ndim, (-3 - keep) % grid.ndim
    return flow.even(grid, other) if grid.shape[keep] > 1 and grid.shape[other] > 1 else grid


def _contract(flow: Flow, op: Op, a: tuple[Value, Labels], b: tuple[Value, Labels]) -> None:
    one, two = a[1].shape[-1] > 1, b[1].shape[-2] > 1
    if one and two:
        flow.atoms.unite(a[1].ravel(), b[1].ravel(), f"it is summed over by {op.name} with others that stay")
    elif one or two:
        flow.fix(a[0] if one else b[0], f"it is summed over by {op.name} with numbers that stay")


def _outer(flow: Flow, op: Op, left: Labels, right: Labels) -> Value:
    """Rows of the left and columns of the right side go on in the product."""
    rows = left if left.shape[-2] > 1 else None
    columns = right if right.shape[-1] > 1 else None
    if rows is not None and columns is not None:
        flow.atoms.fix((*rows.ravel().tolist(), *columns.ravel().tolist()), f"{op.name} pairs each with all others")
        return Value(op.shape)
    one = rows if rows is not None else columns
    rank = len(op.shape)
    return Value(op.shape) if one is None else flow.shaped(op.shape, one.reshape((1,) * (rank - one.ndim) + one.shape))


def attention(flow: Flow, op: Op) -> Any:
    """softmax(q kᵀ / √d) v with q, k, v (..., heads, T, d): whole heads leave, with all that is inside them."""
    q, k, v, mask = op.args["query"], op.args["key"], op.args["value"], op.args.get("attn_mask")
    sides = [(x, flow.grid_of(x)) for x in (q, k, v)]
    if len({x.shape[:-2] for x, _ in sides}) > 1:
        return flow.unknown(op, "its heads are shared by several others")
    batches = _heads(flow, op, *sides)
    if batches is None:
        for x in (q, k):
            flow.fix(x, "it is the inside of attention without heads, which divides by its width")
        return flow.shaped(op.shape, flow.grid_of(v))
    if mask is not None:
        for d, n in enumerate(mask.shape, len(op.shape) - len(mask.shape)):
            if n > 1 and batches.shape[d] > 1:
                flow.fix(mask, "it is the mask of heads")
                flow.atoms.fix(batches.ravel().tolist(), "its heads have a mask of their own")
    return flow.shaped(op.shape, batches)
