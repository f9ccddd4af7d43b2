"""Rounding that looks at the inputs: what one weight loses, the weights that are not yet rounded make up for.

Letters: R outputs and K weights of each in a group of a layer, G groups, X (K, positions) what a layer multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dimwise.fold import _onnx
from dimwise.fold._numbers import calibration

Floats = NDArray[np.float64]
Nearest = Callable[[Floats, int], Floats]
"""(values (R,) of one column, number of the column) -> the nearest ones that can be stored."""

MAX_POSITIONS = 10_000
"""Positions of a layer's inputs that are looked at in a batch; drawn where there are more."""
MAX_BYTES = 256 * 2**20
"""Memory that the moments of layers that are observed at once may take."""
DAMPING = 0.01
"""Part of the mean second moment that is added to each, so that inputs that are seldom seen do not rule."""
_BLOCK = 64  # columns whose errors are carried to the rest at once


@dataclass(frozen=True)
class Layer:
    """A constant weight and the node that multiplies with it."""

    node: Any
    """Conv, Gemm or MatMul."""
    index: int
    """Which of its inputs is the weight."""
    shape: tuple[int, ...]
    """Of the weight."""

    @property
    def groups(self) -> int:
        """Parts whose inputs have nothing to do with each other: groups of a convolution."""
        return int(_setting(self.node, "group", 1))

    @property
    def n_columns(self) -> int:
        """K: weights of one output."""
        if self.node.op_type == "Conv":
            return int(np.prod(self.shape[1:]))
        return self.shape[0] if self._rows_last else self.shape[1]

    @property
    def _rows_last(self) -> bool:
        return self.index == 1 and not _setting(self.node, "transB", 0)

    def rows(self, values: NDArray[Any]) -> Floats:
        """(G, R, K) the weight with its outputs in rows."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        if self.node.op_type != "Conv" and self._rows_last:
            flat = flat.T
        return flat.reshape(self.groups, -1, self.n_columns)

    def values(self, rows: Floats) -> Floats:
        """The weight in its own shape again."""
        flat = rows.reshape(-1, self.n_columns)
        if self.node.op_type != "Conv" and self._rows_last:
            flat = flat.T
        return flat.reshape(self.shape)

    def columns(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """(G, K, positions) what the weights of an output are multiplied with, from a batch of the layer's inputs."""
        x = torch.from_numpy(np.ascontiguousarray(inputs)).float()
        if self.node.op_type == "Conv":
            found = _patches(x, self.node, self.shape).numpy()
            return found.reshape(self.groups, self.n_columns, -1)
        if self.index == 0:  # weight (R, K) times (..., K, N)
            return x.movedim(-2, 0).reshape(1, self.n_columns, -1).numpy()
        return x.reshape(-1, self.n_columns).T[None].numpy()


def layer_of(node: Any, index: int, shape: Sequence[int]) -> Layer | None:
    """The layer, or None for one whose inputs are not looked at here.

    Args:
        node: any node of a graph.
        index: which of its inputs is the weight.
        shape: of the weight.
    """
    kept = type(node)()
    kept.CopyFrom(node)  # the graph may be rewritten meanwhile
    kind, made = node.op_type, Layer(kept, index, tuple(shape))
    if kind == "Conv":
        plain = _setting(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        return made if index == 1 and plain and len(shape) in (3, 4) else None
    if kind == "Gemm":
        return made if index == 1 and len(shape) == 2 and not _setting(node, "transA", 0) else None
    return made if kind == "MatMul" and index in (0, 1) and len(shape) == 2 else None


def _setting(node: Any, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _patches(x: torch.Tensor, node: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """(C * kh * kw, positions) of images (N, C, H, W) or sequences (N, C, L), as the convolution sees them."""
    flat = len(shape) == 3
    n = len(shape) - 2
    pads = tuple(_setting(node, "pads", [0] * 2 * n))
    stride, dilation = (tuple(_setting(node, name, [1] * n)) for name in ("strides", "dilations"))
    kernel = tuple(shape[2:])
    if flat:
        x = x.unsqueeze(2)
        pads, stride, dilation, kernel = (0, pads[0], 0, pads[1]), (1, *stride), (1, *dilation), (1, *kernel)
    top, left, bottom, right = pads
    x = F.pad(x, (left, right, top, bottom))
    found = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (N, C * kh * kw, positions)
    return found.transpose(0, 1).reshape(found.shape[1], -1)


def moments(model: Any, layers: Sequence[Layer], inputs: _onnx.Array) -> list[Floats]:
    """Second moments of what each layer multiplies, E[x xᵀ], over calibration inputs.

    Args:
        model: a graph, float or quantized, that holds the layers; not changed.
        layers: of this graph.
        inputs: (N, ...) raw inputs, N >= 1.

    Returns:
        (G, K, K) float64 for each layer, in the squared unit of its inputs.
    """
    names = [layer.node.input[1 - layer.index] for layer in layers]
    generator = np.random.default_rng(0)
    sums: list[Any] = [0.0] * len(layers)
    counts = [0] * len(layers)
    for seen in calibration.activations(model, list(dict.fromkeys(names)), inputs, fuse=True)():
        for i, (layer, name) in enumerate(zip(layers, names, strict=True)):
            x = layer.columns(seen[name])
            if x.shape[2] > MAX_POSITIONS:
                x = x[:, :, generator.choice(x.shape[2], MAX_POSITIONS, replace=False)]
            sums[i] = sums[i] + x @ x.transpose(0, 2, 1)
            counts[i] += x.shape[2]
    return [np.asarray(total, np.float64) / n for total, n in zip(sums, counts, strict=True)]


def observing(
    model: Any, layers: Sequence[Layer], inputs: _onnx.Array, *, most: int = 2**31
) -> Callable[[Layer], Floats]:
    """A function from a layer to the moments of its inputs: so many layers are observed in one run as memory allows.

    Args:
        model: the graph; what was changed in it meanwhile is what is run.
        layers: in the order in which they will be asked for.
        inputs: as in :func:`moments`.
        most: layers that are observed in one run, at most.
    """
    held: dict[str, Floats] = {}

    def moment(layer: Layer) -> Floats:
        name = layer.node.output[0]
        if name not in held:
            at = next(i for i, other in enumerate(layers) if other.node.output[0] == name)
            part = layers[at : at + min(most, _at_once(layers[at:]))]
            held.clear()
            held.update(zip((other.node.output[0] for other in part), moments(model, part, inputs), strict=True))
        return held[name]

    return moment


def _at_once(layers: Sequence[Layer]) -> int:
    """How many of the first layers can be observed together in the memory that moments may take; at least one."""
    taken = 0
    for i, layer in enumerate(layers):
        taken += layer.groups * layer.n_columns**2 * 8
        if taken > MAX_BYTES and i:
            return i
    return len(layers)


def compensated(weights: Floats, moment: Floats, nearest: Nearest, *, still: NDArray[np.bool_] | None = None) -> Floats:
    """Weights that can be stored, with the least error of the layer's outputs: min ‖(W − W̃) X‖².

    One column after the other is rounded, those of the largest inputs first; its error goes, through the inverse of
    the moments, to the columns that are still free.

    Args:
        weights: (R, K).
        moment: (K, K) E[x xᵀ] of the inputs.
        nearest: what can be stored.
        still: (R, K) weights that are 0 and stay so; None: none.

    Returns:
        (R, K), each value one that ``nearest`` returned.

    Source: Frantar, Ashkboos, Hoefler, Alistarh 2023, "GPTQ", arXiv:2210.17323, algorithm 1; zeros that stay:
    Frantar, Alistarh 2023, "SparseGPT", arXiv:2301.00774.

    Example:
        >>> x = np.array([[1.0, 1.0]])  # both inputs are always alike, so only the sum of the weights counts
        >>> float(compensated(np.array([[0.4, 0.4]]), x.T @ x, lambda w, _: np.round(w)).sum())
        1.0
    """
    left = np.array(weights, np.float64)
    n = left.shape[1]
    size = float(np.diag(moment).mean())
    still = np.zeros(left.shape, bool) if still is None else still
    if not size > 0:  # inputs that are always 0: nothing tells what an error costs
        return np.where(still, 0.0, np.stack([nearest(left[:, i], i) for i in range(n)], axis=1))
    order = np.argsort(-np.diag(moment), kind="stable")
    left, still = left[:, order], still[:, order]
    damped = moment[np.ix_(order, order)] + DAMPING * size * np.eye(n)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T  # (K, K) inverse = upperᵀ upper
    made = np.empty_like(left)
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        errors = np.empty((len(left), end - start))
        for i in range(start, end):
            made[:, i] = np.where(still[:, i], 0.0, nearest(left[:, i], int(order[i])))
            errors[:, i - start] = (left[:, i] - made[:, i]) / upper[i, i]
            left[:, i + 1 : end] -= np.outer(errors[:, i - start], upper[i, i + 1 : end])
        left[:, end:] -= errors @ upper[start:end, end:]
    back = np.empty_like(made)
    back[:, order] = made
    return back
