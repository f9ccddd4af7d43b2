"""What is tried when quantization costs too much score: cheap settings first, then guilty layers kept higher.

1. other calibrations, then bias correction: the graph stays int8 throughout and as fast;
2. layers ranked by what each of them alone does to the outputs; the guiltiest stay float, one more at a time;
3. weights in int8 and activations in float: as small, but as slow as before.

The first attempt within the allowed drop is taken, otherwise the best of all. Everything tried is a row of the report.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.errors import DataError, DimwiseError
from dimwise.fold import _onnx
from dimwise.progress import Progress

CALIBRATIONS = ("minmax", "percentile", "mse", "entropy")
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""How many layers are kept higher, from attempt to attempt; between the last failure and a success each is tried."""


@dataclass(frozen=True)
class Made:
    """A quantized graph and what the report says of it."""

    graph: Any
    config: Any
    layers: list[dict[str, Any]]
    untouched: dict[str, str]
    kept: tuple[str, ...] = ()
    """Layers that repair kept higher."""


Make = Callable[[Any, dict[str, str]], Made]
"""``make(config, kept)``: quantize under these settings, with kept layer -> why it is kept."""


@dataclass
class Search:
    """What was tried so far, and the best of it."""

    make: Make
    score: Callable[[Any], float]
    least: float
    """Score from which on an attempt is good enough."""
    until: float
    """``time.perf_counter()`` after which nothing new is begun."""
    progress: Progress
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: Made | None = None
    best_score: float = -math.inf

    @property
    def done(self) -> bool:
        """Whether the best is good enough, or time is up."""
        return self.best_score >= self.least or time.perf_counter() > self.until

    def attempt(self, what: str, config: Any, kept: dict[str, str] | None = None) -> float:
        """Quantize, score, remember; −inf for what cannot be made."""
        try:
            made = self.make(config, kept or {})
        except DimwiseError as error:
            self.rows.append({"what": what, "error": str(error), "chosen": False})
            return -math.inf
        score = self.look(what, made)
        self.progress.say(f"quantize, repairing: {what}: score {score:.4f}")
        return score

    def look(self, what: str, made: Made) -> float:
        """Score, remember."""
        score = self.score(made.graph)
        score = score if math.isfinite(score) else -math.inf
        row = {"what": what, "score": score, "n_kept": len(made.kept), "size_bytes": made.graph.ByteSize()}
        self.rows.append({**row, "chosen": False})
        fewer = self.best is not None and score >= self.least and len(made.kept) < len(self.best.kept)
        if self.best is None or fewer or (self.best_score < self.least and score > self.best_score):
            self.best, self.best_score = made, score
            for row in self.rows:
                row["chosen"] = row is self.rows[-1]
        return score


def repair(
    search: Search, config: Any, inputs: Callable[[], _onnx.Array], only: Callable[[Any], dict[str, Any]]
) -> None:
    """Try until the score is back, the time is up or nothing is left.

    Args:
        search: holds the first attempt already.
        config: the settings of the first attempt.
        inputs: raw calibration inputs, to tell layers apart by.
        only: layer -> a graph with it alone quantized under the given settings; key "" has none quantized.
    """
    for what, settings in _cheap(search, config):
        search.attempt(what, settings)
        if search.done:
            return
    assert search.best is not None
    start = search.best.config
    if config.repair_layers:
        try:
            seen = inputs()
        except DataError as error:  # what was made without them is not lost
            search.rows.append({"what": "guilty layers kept higher", "error": str(error), "chosen": False})
        else:
            _keep_guilty(search, start, sensitivities(only(start), seen))
    if search.done:
        return
    if config.mode != "weights":
        search.attempt("weights in 8 bits, activations float", replace(config, mode="weights", bias_correction=False))
    elif config.bits == 4:
        search.attempt("all weights in 8 bits", replace(config, bits=8))


def _cheap(search: Search, config: Any) -> Iterator[tuple[str, Any]]:
    """Settings that change neither size nor speed; each starts from the best so far."""
    if not config.per_channel:
        yield "one scale per channel", replace(config, per_channel=True)
    assert search.best is not None
    if config.bits == 4 and config.block > 16:
        yield "blocks of 16", replace(search.best.config, block=16)
    if config.mode == "static":
        for method in CALIBRATIONS:
            if method != config.calibration:
                yield f"calibration {method}", replace(search.best.config, calibration=method)
    if config.mode != "dynamic" and not config.bias_correction:
        yield "bias correction", replace(search.best.config, bias_correction=True)
    if config.mode == "static" and not config.reduce_range:
        yield "7-bit weights", replace(search.best.config, reduce_range=True)


def sensitivities(graphs: dict[str, Callable[[], Any]], inputs: _onnx.Array) -> dict[str, float]:
    """Layer -> signal over noise of the network's outputs with it alone quantized, dB; the guiltiest first.

    10 log10(Σ y² / Σ (y − ŷ)²) over the inputs, with y the outputs of the float graph.

    Args:
        graphs: layer -> what makes the graph with this layer alone quantized; key "" makes the float graph.
        inputs: (N, ...) raw inputs.
    """
    exact = _onnx.outputs(graphs[""](), inputs)
    found = {name: _snr_db(exact, _onnx.outputs(make(), inputs)) for name, make in graphs.items() if name}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _snr_db(exact: NDArray[Any], rounded: NDArray[Any]) -> float:
    y, error = exact.astype(np.float64), rounded.astype(np.float64) - exact
    noise = float((error**2).sum())
    return 10 * math.log10(max(float((y**2).sum()), 1e-30) / noise) if noise > 0 else math.inf


def _keep_guilty(search: Search, config: Any, noise: dict[str, float]) -> None:
    """Keep the guiltiest layers higher, more and more of them; then as few as will do."""
    limit = min(config.repair_layers, len(noise) - 1)
    higher = "at 8 bits" if config.bits == 4 else "float"

    def attempt(n: int) -> float:
        kept = {
            name: f"kept {higher} by repair: alone it leaves the outputs {snr:.1f} dB of signal over noise"
            for name, snr in list(noise.items())[:n]
        }
        return search.attempt(f"{n} guiltiest kept {higher}", config, kept)

    failed = 0
    for n in [n for n in STEPS if n < limit] + [limit] * (limit > 0):
        if search.done:
            return
        if attempt(n) >= search.least:
            good = n
            while good - failed > 1 and time.perf_counter() < search.until:
                middle = (good + failed) // 2
                good, failed = (middle, failed) if attempt(middle) >= search.least else (good, middle)
            return
        failed = n
