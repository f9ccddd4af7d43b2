"""Fold the trained network in every way the recipe asks for, and look at each result on the runtime that serves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dimwise import fold, measure, models, ship
from dimwise.chain.recipe import Recipe
from dimwise.data.sets import Data, Split
from dimwise.errors import DimwiseError, ModelError, first_line
from dimwise.fold._evidence import Evidence, FoldReport
from dimwise.models.init import he_init_
from dimwise.progress import Progress
from dimwise.seeds import derive
from dimwise.tasks import Task
from dimwise.train import evaluating, guards

TRAINED = "trained"
"""Name of the stage that is the trained network in eager PyTorch."""
ORIGINAL = "onnx"
"""Name of the candidate that is the trained network, unfolded, on the serving runtime."""


@dataclass
class Candidate:
    """A folded network as a graph for the serving runtime, with what was measured about it."""

    name: str
    proto: Any
    """onnx.ModelProto that takes raw inputs."""
    params: int
    macs: int
    reports: list[FoldReport]
    model: nn.Module
    """The float network the graph was made from."""
    exact: bool = True
    """Whether the graph computes what ``model`` computes, up to rounding of float32; an int8 graph does not."""
    size_bytes: int = 0
    valid_score: float = 0.0
    latency: measure.Latency | None = None
    peak_memory_bytes: int | None = None
    """What a fresh process needs to load the graph and run one input; None when that could not be measured."""
    runner: Any = None


@dataclass(frozen=True)
class Skipped:
    """A candidate that cannot be made from this network, and why."""

    name: str
    reason: str


def make(
    network: nn.Module, recipe: Recipe, data: Data, task: Task, model_name: str | None, progress: Progress
) -> Iterator[Candidate | Skipped]:
    """The unfolded network first, then each candidate of the plan; shared beginnings are folded once.

    Each is opened on the serving runtime: validation score and bytes. What cannot be folded, exported or opened costs
    its candidates, not the run, whatever library raised it.
    """
    example = data.normalise(data.train.inputs[:1])
    evidence = fold.evidence(data, task, train=recipe.train, augment=recipe.augment, progress=progress)
    once = _Once()

    def floats(path: str) -> tuple[nn.Module, list[FoldReport]]:
        if not path:
            return network, []
        before, _, word = path.rpartition("+")
        model, reports = floats(before)
        folded, report = once(("fold", path), lambda: _fold_float(word, model, recipe, evidence, model_name))
        return folded, [*reports, report]

    def exported(path: str) -> Candidate:
        model, reports = floats(path)
        proto = ship.graph(model, data.normalise, data.train.inputs[:1], opset=recipe.ship.opset)
        profile = measure.profile(model, example)
        return Candidate(path or ORIGINAL, proto, profile.params, profile.macs, reports, model)

    def graph(path: str) -> Candidate:
        return once(("graph", path), lambda: exported(path))

    def candidate(path: str) -> Candidate:
        if path and not _brings_its_own_network(path, recipe, model_name):
            try:
                graph("")
            except Exception as error:
                raise ModelError(f"{ORIGINAL} cannot be made, and this is made from the same network") from error
        before, _, word = path.rpartition("+")
        if word != "quantize":
            return graph(path)
        base = graph(before)
        proto, report = fold.quantize(base.proto, recipe.fold.quantize, _on_runtime(evidence, recipe, base))
        return replace(base, name=path, proto=proto, reports=[*base.reports, report], exact=False)

    for path in ("", *recipe.fold.candidates):
        try:
            made: Candidate | Skipped = opened(candidate(path), recipe, data, task)
        except DimwiseError as error:
            made = Skipped(path or ORIGINAL, str(error))
        except Exception as error:  # noqa: BLE001  (a fold stands on other libraries, and on the user's own code)
            made = Skipped(path or ORIGINAL, first_line(error))
        yield made


class _Once:
    """Work done once, whatever came of it: a fold may be a whole training, and fails the second time as it did."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def __call__(self, key: Any, work: Callable[[], Any]) -> Any:
        if key not in self._made:
            try:
                self._made[key] = work()
            except Exception as error:  # noqa: BLE001  (raised again below)
                self._made[key] = error
        if isinstance(self._made[key], Exception):
            raise self._made[key]
        return self._made[key]


def _brings_its_own_network(path: str, recipe: Recipe, model_name: str | None) -> bool:
    """Whether a candidate begins with a student that is not made from the trained network."""
    return path.split("+")[0] == "distill" and bool(recipe.fold.distill.student or model_name is None)


def _fold_float(
    word: str, model: nn.Module, recipe: Recipe, evidence: Evidence, model_name: str | None
) -> tuple[nn.Module, FoldReport]:
    settings = getattr(recipe.fold, word)
    if word == "distill" and model_name is None and not settings.student:
        return fold.distill(model, settings, evidence, student=_narrower(recipe, evidence))
    return fold.get(word)(model, settings, evidence)


def _narrower(recipe: Recipe, evidence: Evidence) -> nn.Module:
    """The recipe's own network, simply built narrower; its weights follow from the seed alone, whatever ran before."""
    told, data = recipe.model, evidence.data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(evidence.seed, "student"))
        student = models.build(
            told.name,
            data.input_shape,
            data.n_outputs,
            width=told.width * recipe.fold.distill.scale,
            dropout=told.dropout,
        )
        return he_init_(student) if recipe.train.init == "he" else student


def _on_runtime(evidence: Evidence, recipe: Recipe, base: Candidate) -> Evidence:
    """Evidence for graphs: scored by the serving runtime, costed by bytes."""

    def score(proto: Any) -> float:
        runner = ship.session(proto.SerializeToString(), threads=recipe.ship.threads)
        return score_on(runner, evidence.data.valid, evidence.task)

    def cost(proto: Any) -> dict[str, float]:
        return {"params": base.params, "macs": base.macs, "size_bytes": len(proto.SerializeToString())}

    return replace(evidence, score=score, cost=cost)


def score_on(runner: Any, split: Split, task: Task, *, batch_size: int = 500) -> float:
    """The task's score of a runner on a split of raw inputs."""
    return task.score(outputs_of(runner, split, batch_size=batch_size), split.targets.cpu())


def outputs_of(runner: Any, split: Split, *, batch_size: int = 500) -> torch.Tensor:
    """(N, K) float32 outputs of a runner on raw inputs."""
    parts = [torch.from_numpy(runner.run(x.numpy())) for x in split.inputs.cpu().split(batch_size)]
    return torch.cat(parts)


def opened(candidate: Candidate, recipe: Recipe, data: Data, task: Task) -> Candidate:
    """The candidate on the serving runtime: validation score and bytes."""
    content = candidate.proto.SerializeToString()
    runner = ship.session(content, threads=recipe.ship.threads)
    return replace(candidate, size_bytes=len(content), runner=runner, valid_score=score_on(runner, data.valid, task))


def latencies(candidates: list[Candidate], network: nn.Module, recipe: Recipe, data: Data) -> measure.Latency:
    """Measure the latency of each candidate.

    They are taken in turn with that of the trained ``network`` in eager PyTorch, which is returned: a busy moment
    falls on all alike, and their ratios hold.
    """
    raw, normalised = data.valid.inputs[:1].numpy(), data.normalise(data.valid.inputs[:1])
    calls = {c.name: _call(c.runner, raw) for c in candidates} | {TRAINED: lambda: network(normalised)}
    with guards.threads(recipe.ship.threads), evaluating(network):
        found = measure.latency(calls, threads=recipe.ship.threads)
    for candidate in candidates:
        candidate.latency = found[candidate.name]
    return found[TRAINED]


def measure_memory(candidates: list[Candidate], recipe: Recipe) -> None:
    """Measure the peak memory of each candidate in a fresh process, which nothing else has filled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for candidate in candidates:
            path.write_bytes(candidate.proto.SerializeToString())
            candidate.peak_memory_bytes = measure.process_peak_memory(
                "dimwise.ship.runtime:run_once",
                [str(path), str(recipe.ship.threads)],
                imports=["numpy", "onnxruntime", "dimwise.ship.selfcontained"],
            )


def _call(runner: Any, x: Any) -> Any:
    return lambda: runner.run(x)


def sizes_within(n: int) -> tuple[int, ...]:
    """Batch sizes at which throughput is tried, as far as the data reaches.

    Example:
        >>> sizes_within(100)
        (1, 8, 32)
    """
    return tuple(size for size in (1, 8, 32, 128, 512) if size <= max(1, n))
