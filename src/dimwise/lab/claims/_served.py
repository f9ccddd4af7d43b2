"""What claims about speed share: a network as float and as folded graph, timed side by side where it would serve."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dimwise import fold, measure, models, ship
from dimwise.data import load as load_data
from dimwise.data.config import DataConfig
from dimwise.data.sets import Data, Split
from dimwise.fold import Evidence
from dimwise.lab.claims._frame import Setup
from dimwise.plan.on_target import score_on
from dimwise.train import guards

N_CALIBRATION = 32


def pictures(setup: Setup, side: int) -> Data:
    """Some CIFAR-10 images enlarged to ``side`` × ``side``: real values, where only shapes decide the time."""
    data = load_data(DataConfig(source="cifar10", train_limit=400), setup.data_dir, progress=setup.progress)
    return enlarged(data, side)


def enlarged(data: Data, side: int, n: int = N_CALIBRATION) -> Data:
    """The first ``n`` images of each split, ``side`` pixels high and wide."""

    def larger(split: Split) -> Split:
        grown = F.interpolate(split.inputs[:n].float(), size=(side, side), mode="bilinear")
        return Split(grown.round().to(torch.uint8), split.targets[:n])

    splits = larger(data.train), larger(data.valid), larger(data.test)
    return Data(f"{data.name} at {side} × {side}", *splits, data.labels, data.normalise, data.task, data.reading)


def network(name: str, data: Data, seed: int = 0) -> nn.Module:
    """A network of the table with its first weights: what it takes, not what it knows, is asked."""
    torch.manual_seed(seed)
    return models.build(name, data.input_shape, data.n_outputs).eval()


def float_and_int8(model: nn.Module, evidence: Evidence) -> dict[str, bytes]:
    """Both files: float32, and static int8 with one scale per output channel."""
    data = evidence.data
    proto = ship.graph(model, data.normalise, data.train.inputs[:1])
    rounded, _ = fold.quantize(proto, fold.QuantizeConfig(n_calibration=N_CALIBRATION), evidence)
    return {"fp32": proto.SerializeToString(), "int8": rounded.SerializeToString()}


def speed_ups(
    files: dict[str, bytes], data: Data, *, repeats: int, batch: int = 1, threads: int = 1, budget_s: float = 1.0
) -> dict[str, Any]:
    """Milliseconds of each file and how often the second fits into the first, in interleaved repeats.

    Args:
        files: name -> bytes of an ONNX file; the first is what the others are compared with.
        data: gives the inputs.
        repeats: measurements, each of both, one after the other.
        batch: inputs of one call.
        threads: threads of one call.
        budget_s: seconds for each file in each repeat.

    Returns:
        {"latency_ms": {name: [...]}, "ratio": {name: [...]}, "size_bytes": {name: n}, ...}, one number a repeat.
    """
    runners = {name: ship.session(content, threads=threads) for name, content in files.items()}
    raw = data.test.inputs[torch.arange(batch) % len(data.test)].numpy()
    calls: dict[str, Any] = {name: (lambda runner=runner: runner.run(raw)) for name, runner in runners.items()}
    latency: dict[str, list[float]] = {name: [] for name in files}
    with guards.threads(threads):
        for _ in range(repeats):
            for name, found in measure.latency(calls, budget_s=budget_s, threads=threads).items():
                latency[name].append(round(found.p50_ms, 5))
    first = latency[next(iter(files))]
    ratio = {name: [round(a / b, 4) for a, b in zip(first, taken, strict=True)] for name, taken in latency.items()}
    return {
        "runtime": "onnxruntime",
        "batch": batch,
        "threads": threads,
        "latency_ms": latency,
        "ratio": ratio,
        "size_bytes": {name: len(content) for name, content in files.items()},
    }


def score(content: bytes, split: Split, evidence: Evidence) -> float:
    """The task's score of a file on a split."""
    return score_on(ship.session(content, threads=torch.get_num_threads()), split, evidence.task)


def evidence_of(data: Data, setup: Setup) -> Evidence:
    """Evidence for a network that was not trained: its score is not asked for."""
    return fold.evidence(data, score=lambda _: 0.0, cost=lambda _: {}, progress=setup.progress)
