"""A candidate where it will serve: its score, bytes, latency and memory on the runtime of the target."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dimwise import measure, ship
from dimwise.data.sets import Data, Split
from dimwise.fold import FoldReport
from dimwise.plan.budget import Target
from dimwise.tasks import Task
from dimwise.train import evaluating, guards

TRAINED = "trained"
"""Name of the stage that is the trained network in eager PyTorch."""


@dataclass
class Candidate:
    """A folded network as a graph for the serving runtime, with what was measured about it."""

    name: str
    proto: Any
    """onnx.ModelProto that takes raw inputs."""
    params: int
    macs: int
    reports: list[FoldReport]
    model: nn.Module | None
    """The float network the graph was made from; None when there was only a graph."""
    exact: bool = True
    """Whether the graph computes what ``model`` computes, up to rounding of float32; an int8 graph does not."""
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
    content = candidate.proto.SerializeToString()
    runner = ship.session(content, threads=target.threads)
    score = score_on(runner, data.valid, task) if scored else float("nan")
    return replace(candidate, size_bytes=len(content), runner=runner, valid_score=score)


def score_of(proto: Any, split: Split, task: Task, target: Target) -> float:
    """The task's score of a graph on the target's runtime."""
    return score_on(ship.session(proto.SerializeToString(), threads=target.threads), split, task)


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
    with guards.threads(target.threads), evaluating(network) if network is not None else nullcontext():
        found = measure.latency(calls, runs=runs, budget_s=budget_s, threads=target.threads)
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


def measure_memory(candidates: Sequence[Candidate], target: Target) -> None:
    """Measure the peak memory of each candidate in a fresh process, which nothing else has filled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for candidate in candidates:
            path.write_bytes(candidate.proto.SerializeToString())
            candidate.peak_memory_bytes = measure.process_peak_memory(
                "dimwise.ship.runtime:run_once",
                [str(path), str(target.threads)],
                imports=["numpy", "onnxruntime", "dimwise.ship.selfcontained"],
            )


def _call(runner: Any, x: Any) -> Any:
    return lambda: runner.run(x)
