"""From real inputs to the range of every activation: the calibration of static quantization.

A range (low, high) always holds 0, since padding and ReLU produce it. Two passes over the inputs bound memory:
one for the extremes, one for histograms, which the simple method does not need.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dimwise.errors import DataError, ModelError
from dimwise.fold import _onnx
from dimwise.fold._evidence import Evidence
from dimwise.seeds import derive

Floats = NDArray[np.float64]
Range = tuple[float, float]

N_BINS = 2048
"""Bins of a histogram between the extremes; TensorRT uses as many."""
MAX_BYTES = 128 * 2**20
"""Memory that the observed activations of one batch may take."""


def ranges(
    model: Any, tensors: list[str], inputs: _onnx.Array, *, method: str, percentile: float, levels: int = 255
) -> dict[str, Range]:
    """The range of each named float tensor over all inputs.

    Args:
        model: a float graph with inferred shapes; not changed.
        tensors: names of tensors inside the graph.
        inputs: (N, ...) raw inputs, N >= 1.
        method: ``minmax`` | ``percentile`` | ``entropy`` | ``mse``.
        percentile: for ``percentile``: percent of all values that stay inside, 50 < p <= 100.
        levels: steps of the integer grid over the range.

    Returns:
        Tensor name -> (low <= 0, high >= 0), in the tensor's own unit.

    Raises:
        ModelError: when an activation is not finite, naming the tensor.
    """
    return observer(model, tensors, inputs, levels=levels)(method, percentile)


def calibration_inputs(n: int, evidence: Evidence, *, fold: str) -> _onnx.Array:
    """Raw training inputs in an order that the seed rules.

    Args:
        n: how many, at most; fewer where there are fewer.
        evidence: whose training split is read.
        fold: who asks, for messages.

    Returns:
        (n, ...) as the data has them.

    Raises:
        DataError: when the training split is empty, or inputs are not finite.
    """
    inputs = evidence.data.train.inputs
    if not len(inputs):
        raise DataError(
            f"the training split of {evidence.data.name!r} is empty: nothing to calibrate on",
            expected="some hundred inputs",
            next_step="Give data, or quantize with mode='dynamic' or 'weights', which need none.",
        )
    generator = torch.Generator().manual_seed(derive(evidence.seed, "calibration"))
    order = torch.randperm(len(inputs), generator=generator)[:n]
    if len(order) < 10:
        evidence.progress.say(f"{fold}: calibrating on only {len(order)} inputs; what they show may be too little")
    chosen = inputs[order].cpu().numpy()
    _onnx.check_finite(chosen, "calibration input")
    return chosen


def activations(
    model: Any, tensors: Sequence[str], inputs: _onnx.Array, *, fuse: bool
) -> Callable[[], Iterator[dict[str, _onnx.Array]]]:
    """A pass over the inputs, each time it is called: tensors inside a graph, in batches that memory allows.

    Args:
        model: a graph; not changed.
        tensors: names of float tensors in it, each once.
        inputs: (N, ...) raw inputs, N >= 1.
        fuse: run it as it is served; otherwise node by node as written.
    """
    import onnx

    graph = copy.deepcopy(model)
    known = {v.name: v for v in (*model.graph.value_info, *model.graph.output, *model.graph.input)}
    del graph.graph.output[:]
    for name in tensors:
        unknown = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        graph.graph.output.append(known.get(name, unknown))
    runner = _onnx.session(graph, fuse=fuse)
    first = runner.run(None, next(_onnx.batches(model, inputs[:1], 1))) if _free_batch(model) else []
    per_input = sum(value.nbytes for value in first) or MAX_BYTES
    size = int(np.clip(MAX_BYTES // per_input, 1, 64))

    def passes() -> Iterator[dict[str, _onnx.Array]]:
        for feed in _onnx.batches(model, inputs, size):
            yield dict(zip(tensors, runner.run(None, feed), strict=True))

    return passes


def observer(
    model: Any, tensors: list[str], inputs: _onnx.Array, *, levels: int = 255
) -> Callable[[str, float], dict[str, Range]]:
    """A function from (method, percentile) to ranges; extremes and histograms are taken once, when first asked for.

    Arguments, results and errors are those of :func:`ranges`.
    """
    passes = activations(model, tensors, inputs, fuse=False)

    @functools.cache
    def extremes() -> dict[str, Range]:
        return _extremes(passes(), model)

    @functools.cache
    def histograms() -> dict[str, tuple[Floats, Floats]]:
        return _histograms(passes(), extremes())

    @functools.cache
    def found(method: str, percentile: float) -> dict[str, Range]:
        if method == "minmax":
            return extremes()
        choose: Callable[[Floats, Floats], Range]
        if method == "percentile":
            choose = functools.partial(cut_tails, percentile=percentile)
        else:
            choose = functools.partial(least_divergence if method == "entropy" else least_error, levels=levels)
        return {name: choose(*histogram) for name, histogram in histograms().items()}

    return found


def _free_batch(model: Any) -> bool:
    return _onnx.input_of(model)[2][0] is None


def _extremes(observed: Iterable[dict[str, _onnx.Array]], model: Any) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for values in observed:
        for name, value in values.items():
            low, high = float(value.min()), float(value.max())
            if not np.isfinite((low, high)).all():
                node = next((n.name for n in model.graph.node if name in n.output), name)
                raise ModelError(
                    f"node {node!r} returns NaN or infinity for a calibration input",
                    expected="finite activations",
                    next_step="Look at the weights of the layers before it: training may have diverged.",
                )
            before = found.get(name, (0.0, 0.0))
            found[name] = (min(before[0], low), max(before[1], high))
    return found


def _histograms(
    observed: Iterable[dict[str, _onnx.Array]], extremes: dict[str, Range]
) -> dict[str, tuple[Floats, Floats]]:
    edges = {
        name: np.linspace(low, high if high > low else low + 1.0, N_BINS + 1) for name, (low, high) in extremes.items()
    }
    counts = {name: np.zeros(N_BINS) for name in extremes}
    for values in observed:
        for name, value in values.items():
            some = value[value != 0]  # zero is on every grid; ReLU's heap of zeros would hide the rest
            counts[name] += np.histogram(some, N_BINS, (edges[name][0], edges[name][-1]))[0]
    return {name: (counts[name], edges[name]) for name in extremes}


def cut_tails(counts: Floats, edges: Floats, percentile: float) -> Range:
    """The range that leaves (100 − percentile)/2 percent of the values outside at either end.

    Args:
        counts: (B,) values per bin.
        edges: (B + 1,) increasing.
        percentile: percent kept.

    Example:
        >>> cut_tails(np.ones(100), np.linspace(-50, 50, 101), 90.0)
        (-45.0, 45.0)
    """
    if not counts.sum():
        return 0.0, 0.0  # nothing was seen
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()  # (B + 1,) share left of each edge
    tail = (100 - percentile) / 200
    low = edges[max(int(np.searchsorted(below, tail + 1e-12, side="right")) - 1, 0)]
    high = edges[min(int(np.searchsorted(below, 1 - tail - 1e-12, side="left")), len(edges) - 1)]
    return min(float(low), 0.0), max(float(high), 0.0)


def _candidates(edges: Floats) -> list[Range]:
    """Ranges from 3 % to all of the extremes; both ends are cut at the same magnitude."""
    low, high = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
    largest = max(-low, high)
    return [(max(low, -t), min(high, t)) for t in largest * np.linspace(1.0, 0.03, 98)]


def least_error(counts: Floats, edges: Floats, *, levels: int = 255) -> Range:
    """The range with the least mean squared rounding and clipping error, argmin Σ n_i (x_i − Q(x_i))².

    Args:
        counts: (B,) values per bin.
        edges: (B + 1,) increasing; a bin stands for its middle.
        levels: steps of the grid, 255 for 8 bits.

    Source: Banner, Nahshan, Soudry 2019 (ACIQ) minimise the same error for assumed densities; here the
    histogram is used.
    """
    middle = (edges[:-1] + edges[1:]) / 2  # (B,)

    def error(low: float, high: float) -> float:
        step = max(high - low, 1e-30) / levels
        rounded = np.clip(np.round((middle - low) / step), 0, levels) * step + low
        return float(counts @ (middle - rounded) ** 2)

    return min(_candidates(edges), key=lambda bounds: error(*bounds))


def least_divergence(counts: Floats, edges: Floats, *, levels: int = 255) -> Range:
    """The range whose quantized distribution is nearest in the sense of KL(P ‖ Q).

    P: the histogram with what is clipped added to the outermost bins. Q: the clipped histogram with each group of
    bins that share one integer replaced by its mean over the bins that are not empty.

    Source: Migacz 2017, "8-bit inference with TensorRT". Deviation: one grid for both signs, since zero points
    are free.
    """
    middle = (edges[:-1] + edges[1:]) / 2  # (B,)

    def divergence(low: float, high: float) -> float:
        inside = (middle >= low) & (middle <= high)
        if inside.sum() <= levels or not counts[inside].any():
            return np.inf  # fewer bins than integers: nothing to compare
        n = counts[inside]
        p = n.copy()
        p[0] += counts[middle < low].sum()
        p[-1] += counts[middle > high].sum()
        group = np.clip((middle[inside] - low) / (high - low) * levels, 0, levels - 1).astype(np.int64)
        mass = np.bincount(group, n, levels)
        filled = np.bincount(group, n > 0, levels)
        q = np.where(n > 0, mass[group] / np.maximum(filled[group], 1), 0.0)
        return _kl(p, q)

    return min(_candidates(edges), key=lambda bounds: divergence(*bounds))


def _kl(p: Floats, q: Floats) -> float:
    """KL in nats of two histograms; mass of p where q has none counts as lost at a small floor."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-30)
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-9))).sum())
