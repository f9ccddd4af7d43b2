"""Latency of a network that was never built, from a table of measured layers.

    ms(network) = Σ_l (a + b · c_l · f_k(l)(l)),    f_k(l) = w_k · (macs, out, in)

k is what kind of work a layer does, such as a depthwise convolution; macs are counted as they are and with the channels
filled up to the width of a vector register, in and out are the values it reads and writes, those of loose channels
once more; c_l corrects a layer by its own measurements, and is 1 for layers that were not there. All weights are at
least 0 and fitted to relative errors: w to layers of a few widths of the network, a and b to the whole of them, timed
in turns.

Source: additive latency models of layers: Cai, Zhu, Han 2019, "ProxylessNAS", arXiv:1812.00332, appendix B; Yang et al.
2018, "NetAdapt", arXiv:1804.03230. Deviation: one table for all widths, by features instead of a row for each width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.fold import student
from dimwise.ship import graph, measure_on, open_runtime
from dimwise.ship.layer_table import Layer, Side, layers
from dimwise.ship.runtimes import NETWORK_RUNTIMES
from dimwise.ship.runtimes.layers import BEFORE, watch

WIDTHS = (1.0, 0.75, 0.6, 0.4, 0.25, 0.125)
"""Of the networks that are measured."""
LANES = 16
"""Values in a vector register of 512 bits; where registers are shorter, a multiple of theirs."""
TELLING = {"pytorch": "pytorch", "pytorch-compiled": "pytorch"}
"""Runtime -> the one that its layers are timed on; all others: onnxruntime."""


@dataclass(frozen=True)
class LatencyTable:
    """What layers cost on one runtime."""

    call_ms: float
    """Of one layer, whatever its width: calls, and its share of what a run takes besides."""
    factor: float
    """Of the work: layers are timed with a profiler on, and not on every runtime."""
    weights: Mapping[str, tuple[float, ...]]
    """Kind of work -> ms for each of :func:`features`."""
    corrections: Mapping[str, float]
    """Layer -> its own ms over those of its kind."""
    runtime: str
    threads: int
    batch: int
    error_frac: float
    """Median relative error on the networks it was fitted to."""

    def layer_ms(self, layer: Layer) -> float:
        """Predicted milliseconds of one layer; those of a kind that was never seen take a call and nothing more."""
        return self.call_ms + self.factor * self.corrections.get(layer.name, 1.0) * _work(self.weights, layer)

    def ms(self, rows: Sequence[Layer]) -> float:
        """Predicted milliseconds of a network with these layers.

        Args:
            rows: of :func:`dimwise.ship.layer_table.layers`, for one input.
        """
        return sum(map(self.layer_ms, rows))

    def predict(self, model: nn.Module, example: Tensor) -> float:
        """Predicted milliseconds of a network of the same build with other widths.

        Args:
            model: on runtimes of networks any; elsewhere the layers are those that its graph will have, so that what
                has no name there, such as an activation, costs nothing by itself.
            example: (1, ...) what it takes.
        """
        return self.ms(rows_of(model, example, self.runtime))


def latency_table(
    model: nn.Module,
    example: Tensor,
    runtime: str = "onnxruntime",
    *,
    threads: int = 1,
    batch: int = 1,
    widths: Sequence[float] = WIDTHS,
    make: Callable[[nn.Module, float], nn.Module] | None = None,
    budget_s: float = 0.5,
) -> LatencyTable:
    """Measure a network at a few widths, whole and layer by layer, and fit the table.

    Args:
        model: is not changed.
        example: (1, ...) normalised input of the network.
        runtime: a name of :data:`dimwise.ship.RUNTIMES`.
        threads: of one run.
        batch: rows of one run.
        widths: shares of the channels, 1 the network itself; those that cannot be made are left out.
        make: (model, width) -> narrower network; default :func:`dimwise.fold.student`.
        budget_s: seconds for each width, whole and layer by layer.

    Raises:
        ModelError: when not even the network itself can be measured.
    """
    rows = np.repeat(example.detach().cpu().numpy(), batch, axis=0)
    narrower = make or (lambda network, width: student(network, width, example))
    networks = _made(model, widths, narrower)
    subjects = [network if runtime in NETWORK_RUNTIMES else _graph(network, example) for network in networks]
    opened = {
        str(i): open_runtime(subject, runtime, threads=threads, batch=batch) for i, subject in enumerate(subjects)
    }
    whole = measure_on(opened, rows, threads=threads, batch=batch, budget_s=budget_s).latency
    for one in opened.values():
        one.close()
    telling = TELLING.get(runtime, "onnxruntime")
    seen = [_seen(subject, telling, rows, threads, budget_s) for subject in subjects]
    return fit(
        seen,
        [whole[str(i)].p50_ms for i in range(len(subjects))],
        runtime=runtime,
        threads=threads,
        batch=batch,
    )


def fit(
    seen: Sequence[tuple[Sequence[Layer], Mapping[str, float]]],
    whole_ms: Sequence[float],
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
) -> LatencyTable:
    """The table that explains measured networks.

    Args:
        seen: for each network its layers and layer -> ms.
        whole_ms: for each network milliseconds of a run.
        runtime, threads, batch: for the record.

    Example:
        >>> conv = lambda c: Layer("c", "Conv", (3, 8, 8), (c, 8, 8), 27 * c, 1728 * c)
        >>> table = fit([([conv(c)], {"c": c / 100}) for c in (16, 32, 64)], [1 + c / 100 for c in (16, 32, 64)])
        >>> round(table.ms([conv(48)]), 2)
        1.48
    """
    points: dict[str, list[tuple[Layer, float]]] = {}
    for rows, ms in seen:
        for layer in rows:
            if ms.get(layer.name, 0.0) > 0:
                points.setdefault(kind_of(layer), []).append((layer, ms[layer.name]))
    weights = {kind: _weights(found) for kind, found in points.items()}
    corrections = _corrections(points, weights)
    bare = LatencyTable(0.0, 1.0, weights, corrections, runtime, threads, batch, 0.0)
    sums = np.array([[float(len(rows)), bare.ms(rows)] for rows, _ in seen])
    call_ms, factor = _relative_nnls(sums, np.asarray(whole_ms, float))
    error = float(np.median(np.abs(sums @ (call_ms, factor) / np.asarray(whole_ms) - 1)))
    return LatencyTable(float(call_ms), float(factor), weights, corrections, runtime, threads, batch, error)


def _corrections(
    points: Mapping[str, Sequence[tuple[Layer, float]]], weights: Mapping[str, tuple[float, ...]]
) -> dict[str, float]:
    """Layer -> its work over that of its kind; a profiler's clock is too coarse for what is beyond a factor of 4."""
    pairs: dict[str, list[float]] = {}
    for kind, found in points.items():
        for layer, ms in found:
            work = _work(weights, layer)
            if work > 0:
                pairs.setdefault(layer.name, []).append((ms - weights[kind][0]) / work)
    return {name: float(np.clip(np.median(ratios), 0.25, 4.0)) for name, ratios in pairs.items()}


def _work(weights: Mapping[str, tuple[float, ...]], layer: Layer) -> float:
    """Milliseconds of what grows with the width."""
    known = weights.get(kind_of(layer))
    return 0.0 if known is None else float(np.dot(known[1:], features(layer)[1:]))


def rows_of(model: nn.Module, example: Tensor, runtime: str) -> list[Layer]:
    """The layers of a network as the runtime will see them; nothing is exported or run for it.

    On runtimes of graphs only layers that multiply have a time of their own.
    """
    rows = layers(Side("model", model, example.detach().cpu().numpy()))
    if runtime in NETWORK_RUNTIMES:
        return rows
    return [layer for layer in rows if layer.macs]


def kind_of(layer: Layer) -> str:
    """What kind of work a layer does, the same for networks and graphs.

    Example:
        >>> (
        ...     kind_of(Layer("c", "Conv2d", (8, 4, 4), (8, 4, 4), 72, 1152)),
        ...     kind_of(Layer("f", "Gemm", (8,), (2,), 18, 16)),
        ... )
        ('Conv depthwise', 'Linear')
    """
    if layer.kind.startswith(("Conv", "QLinearConv")):
        per_output = layer.macs / max(1, math.prod(layer.output_shape))
        n_in = layer.input_shape[0] if layer.input_shape else 1
        if per_output % n_in:  # it reads a part of the channels
            return "Conv depthwise"
        return "Conv pointwise" if per_output == n_in else "Conv spatial"
    if layer.kind in ("Gemm", "MatMul", "Linear", "NonDynamicallyQuantizableLinear"):
        return "Linear"
    return layer.kind


def features(layer: Layer) -> tuple[float, ...]:
    """(1, multiply-accumulates, the same with filled channels, values written, read, written and read unfilled).

    Example:
        >>> features(Layer("f", "Linear", (8,), (32,), 288, 256))
        (1.0, 256.0, 512.0, 32.0, 8.0, 0.0, 8.0)
    """
    written, read = float(math.prod(layer.output_shape)), float(math.prod(layer.input_shape))
    fills = [_fill(shape) for shape in (layer.output_shape, layer.input_shape)]
    alone = kind_of(layer) == "Conv depthwise"  # its channels meet no others
    filled = layer.macs * fills[0] * (1.0 if alone else fills[1])
    loose = [values if fill > 1 else 0.0 for values, fill in zip((written, read), fills, strict=True)]
    return 1.0, float(layer.macs), filled, written, read, *loose


def _fill(shape: tuple[int, ...]) -> float:
    """Channels filled up to whole registers, over channels; the few of an input image are read as they are."""
    n = shape[-1] if len(shape) == 2 else shape[0] if shape else 1
    return 1.0 if n <= 4 else -(-n // LANES) * LANES / n


def _weights(points: Sequence[tuple[Layer, float]]) -> tuple[float, ...]:
    matrix = np.array([features(layer) for layer, _ in points])
    found = _relative_nnls(matrix, np.array([ms for _, ms in points]))
    return tuple(float(w) for w in found)


def _relative_nnls(matrix: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    """argmin over w ≥ 0 of Σ (matrix · w / target − 1)²."""
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    scaled = matrix / target[:, None]
    sizes = np.maximum(np.abs(scaled).max(0), 1e-30)  # columns of like size, or the solver gives up
    return nnls(scaled / sizes, np.ones(len(target)))[0] / sizes


def _made(
    model: nn.Module, widths: Sequence[float], narrower: Callable[[nn.Module, float], nn.Module]
) -> list[nn.Module]:
    networks = []
    for width in widths:
        try:
            networks.append(model if width == 1 else narrower(model, width).eval())
        except ModelError:  # no channel can leave: its own times are all there is
            continue
    return networks


def _graph(network: nn.Module, example: Tensor) -> Any:
    return graph(network, nn.Identity(), example.detach().cpu())


def _seen(
    subject: Any, runtime: str, rows: NDArray[Any], threads: int, budget_s: float
) -> tuple[list[Layer], dict[str, float]]:
    import time

    watched = watch(subject, runtime, threads=threads)
    deadline = time.perf_counter() + budget_s
    n_runs = 0
    with torch.no_grad():
        while n_runs < 8 or (time.perf_counter() < deadline and n_runs < 100):
            watched.run(rows)
            n_runs += 1
    ms = watched.ms()
    ms.pop(BEFORE, None)
    return layers(Side("model", subject, rows)), ms
