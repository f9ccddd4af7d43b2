"""A candidate where it will serve: its score, bytes, latency and memory on the runtime of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dimwise import measure, ship
from dimwise.data.sets import Data, Split
from dimwise.errors import ModelError
from dimwise.fold import FoldReport
from dimwise.measure.timing import beside
from dimwise.plan.budget import Target
from dimwise.plan.energy import bit_operations, bits_of_network
from dimwise.ship.runtimes import NETWORK_RUNTIMES
from dimwise.ship.runtimes.fresh import peak_memory_on
from dimwise.ship.runtimes.side_by_side import SETTLE_S
from dimwise.tasks import Task
from dimwise.train import evaluating, guards

TRAINED = "trained"
"""Name of the stage that is the trained network in eager PyTorch."""


@dataclass
class Candidate:
    """A folded network as a graph for the serving runtime, with what was measured about it."""

    name: str
    proto: Any
    """onnx.ModelProto that takes raw inputs; None where PyTorch serves and nothing was exported."""
    params: int
    macs: int
    reports: list[FoldReport]
    model: nn.Module | None
    """The float network the graph was made from, or where PyTorch serves the network itself; None when there was only
    a graph."""
    exact: bool = True
    """Whether what serves computes what ``model`` computes, up to rounding of float32; an int8 graph does not."""
    size_bytes: int = 0
    valid_score: float = 0.0
    latency: measure.Latency | None = None
    peak_memory_bytes: int | None = None
    """What a fresh process needs to load the graph and run one input; None when that could not be measured."""
    runner: Any = field(default=None, repr=False)


def opened(candidate: Candidate, data: Data, task: Task, target: Target, *, scored: bool = True) -> Candidate:
    """The candidate on the serving runtime: validation score and bytes.

    Args:
        candidate: with its graph.
        data: its validation split is scored.
        task: gives the score.
        target: runtime and threads.
        scored: False leaves the score at NaN: a network that was not trained has none worth knowing.
    """
    runner = ship.open_runtime(
        servable(candidate, data, target), target.runtime, threads=target.threads, batch=target.batch
    )
    score = score_on(runner, data.valid, task) if scored else float("nan")
    return replace(candidate, size_bytes=size_of(candidate), runner=runner, valid_score=score)


def servable(candidate: Candidate, data: Data, target: Target) -> Any:
    """What the target's runtime opens: the graph's bytes, or the network behind its preprocessing.

    Raises:
        ModelError: for a folded graph where PyTorch serves, or a runtime of graphs where nothing was exported.
    """
    if target.runtime in NETWORK_RUNTIMES:
        if candidate.model is None:
            raise ModelError(
                f"{candidate.name} is a folded graph, which {target.runtime} does not run",
                expected="runtime=onnxruntime or runtime=openvino, or folds of the network alone",
            )
        return nn.Sequential(data.normalise, candidate.model)
    return candidate.proto.SerializeToString()


def serving_clock(
    original: Any, data: Data, target: Target, *, opset: int = 18, budget_s: float = 0.2
) -> Callable[[nn.Module], float]:
    """How long networks take on the runtime that will serve, each in turns with the original.

    Args:
        original: the yardstick, a network or its graph; its first measurement fixes what a millisecond is.
        data: gives preprocessing and inputs.
        target: runtime, threads and batch.
        opset: of the graphs, where the runtime opens graphs.
        budget_s: seconds for each of the two.

    Returns:
        network -> ms; each call exports the network, which takes seconds.
    """

    def opened(network: Any) -> Any:
        if not isinstance(network, nn.Module):
            return ship.open_runtime(network, target.runtime, threads=target.threads, batch=target.batch)
        served: Any = nn.Sequential(data.normalise, network)
        if target.runtime not in NETWORK_RUNTIMES:
            served = ship.graph(network, data.normalise, data.train.inputs[:1], opset=opset).SerializeToString()
        return ship.open_runtime(served, target.runtime, threads=target.threads, batch=target.batch)

    raw = batch_of(data, target.batch)[0].numpy()
    clock = beside(_call(opened(original), raw), budget_s=budget_s, threads=target.threads)

    def time_ms(network: nn.Module) -> float:
        call = _call(opened(network), raw)
        with guards.threads(target.threads):
            return clock(call)

    return time_ms


def size_of(candidate: Candidate) -> int:
    """Bytes of the file that is shipped: the graph, or the weights where PyTorch serves."""
    if candidate.proto is not None:
        return len(candidate.proto.SerializeToString())
    assert candidate.model is not None
    return measure.state_size_bytes(candidate.model)


def score_of(proto: Any, split: Split, task: Task, target: Target) -> float:
    """The task's score of a graph on the target's runtime, or on onnxruntime where PyTorch serves."""
    runtime = "onnxruntime" if target.runtime in NETWORK_RUNTIMES else target.runtime
    return score_on(ship.open_runtime(proto, runtime, threads=target.threads), split, task)


def score_on(runner: Any, split: Split, task: Task, *, batch_size: int = 500) -> float:
    """The task's score of a runner on a split of raw inputs."""
    return task.score(outputs_of(runner, split, batch_size=batch_size), split.targets.cpu())


def outputs_of(runner: Any, split: Split, *, batch_size: int = 500) -> Tensor:
    """(N, K) float32 outputs of a runner on raw inputs."""
    parts = [torch.from_numpy(runner.run(x.numpy())) for x in split.inputs.cpu().split(batch_size)]
    return torch.cat(parts)


def latencies(
    candidates: Sequence[Candidate],
    data: Data,
    target: Target,
    network: nn.Module | None = None,
    *,
    runs: int = 100,
    budget_s: float = 0.5,
) -> dict[str, measure.Latency]:
    """Measure the latency of each candidate, and write it into it.

    They are taken in turn, with that of the trained ``network`` in eager PyTorch when it is given: a busy moment falls
    on all alike, and their ratios hold.

    Args:
        candidates: opened ones.
        data: gives the inputs.
        target: threads and batch.
        network: the trained network.
        runs: most samples of each.
        budget_s: seconds for each.

    Returns:
        name -> latency; that of the network under ``trained``.
    """
    raw, normalised = batch_of(data, target.batch)
    calls = {c.name: _call(c.runner, raw.numpy()) for c in candidates}
    if network is not None:
        calls[TRAINED] = lambda: network(normalised)
    spins = target.threads > 1 and network is not None and target.runtime not in NETWORK_RUNTIMES
    with guards.threads(target.threads), evaluating(network) if network is not None else nullcontext():
        found = measure.latency(
            calls, runs=runs, budget_s=budget_s, threads=target.threads, settle_s=SETTLE_S if spins else 0.0
        )
    for candidate in candidates:
        candidate.latency = found[candidate.name]
    return found


def batch_of(data: Data, batch: int) -> tuple[Tensor, Tensor]:
    """A batch of held-out inputs, repeated when there are fewer.

    Returns:
        ((batch, ...) raw, (batch, ...) normalised).
    """
    inputs = data.valid.inputs if len(data.valid) else data.train.inputs
    chosen = inputs[torch.arange(batch) % len(inputs)]
    return chosen, data.normalise(chosen)


def measure_memory(candidates: Sequence[Candidate], data: Data, target: Target) -> None:
    """Measure the peak memory of each candidate in a fresh process, which nothing else has filled."""
    inputs = batch_of(data, 1)[0].numpy()
    for candidate in candidates:
        candidate.peak_memory_bytes = peak_memory_on(
            servable(candidate, data, target), target.runtime, inputs, threads=target.threads, batch=target.batch
        )


def told(candidate: Candidate) -> dict[str, float]:
    """What was measured of a candidate, as a line keeps it."""
    latency = candidate.latency
    assert latency is not None
    found = {
        "latency_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "latency_iqr_ms": latency.iqr_ms,
        "size_bytes": float(candidate.size_bytes),
        "params": float(candidate.params),
        "macs": float(candidate.macs),
    }
    if candidate.proto is None:
        bits = bits_of_network(candidate.reports)
        if bits is not None:
            found["bit_operations"] = float(bits * bits * candidate.macs)
    else:
        with suppress(Exception):  # a graph that cannot be counted can still be served
            found["bit_operations"] = bit_operations(candidate.proto)
    if candidate.valid_score == candidate.valid_score:
        found["score"] = candidate.valid_score
    if candidate.peak_memory_bytes is not None:
        found["memory_bytes"] = float(candidate.peak_memory_bytes)
    return found


def _call(runner: Any, x: Any) -> Any:
    return lambda: runner.run(x)
