"""Claims about speed: the verdicts on numbers by hand, and how two files are compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dimwise import fold, ship
from dimwise.data import load
from dimwise.data.config import DataConfig
from dimwise.lab.claims import _served, compression_speed, int8_speed, mobilenet_int8, prune_resnet50


def row(ratio: list[float], network: str = "resnet18") -> dict[str, object]:
    return {"network": network, "batch": 1, "ratio": {"fp32": [1.0] * len(ratio), "int8": ratio}}


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([[3.2, 3.3, 3.25], [3.1, 3.2, 3.15]], "holds"),
        ([[2.0, 2.1, 2.05], [1.5, 1.6, 1.55]], "refuted"),
        ([[3.2, 3.3, 3.25], [1.5, 1.6, 1.55]], "partly"),
        ([[2.0, 4.0, 3.0]], "partly"),
    ],
)
def test_int8_is_three_times_as_fast(rows: list[list[float]], word: str) -> None:
    verdict = int8_speed.decide({"rows": [row(ratio) for ratio in rows]})
    assert verdict.word == word
    assert verdict.reason.startswith("resnet18 at batch 1 ")


@pytest.mark.parametrize(
    ("size", "ratio", "word"),
    [
        (250, [3.1, 3.2, 3.15], "holds"),
        (250, [2.0, 2.1, 2.05], "partly"),
        (400, [3.1, 3.2, 3.15], "partly"),
        (400, [2.0, 2.1, 2.05], "refuted"),
    ],
)
def test_mobilenet_must_be_small_and_fast(size: int, ratio: list[float], word: str) -> None:
    measured = {"size_bytes": {"fp32": 1000, "int8": size}, "ratio": {"int8": ratio}}
    verdict = mobilenet_int8.decide(measured)
    assert verdict.word == word
    assert f"{1 - size / 1000:.1%} smaller" in verdict.reason


@pytest.mark.parametrize(("left", "word"), [(59.0, "holds"), (60.4, "holds"), (62.0, "refuted")])
def test_pruned_operations_are_counted(left: float, word: str) -> None:
    measured = {"macs": {"whole": 100.0, "pruned": left}, "ratio": {"pruned": [1.4, 1.4]}}
    assert prune_resnet50.decide(measured).word == word


@pytest.mark.parametrize(("speed", "word"), [(3.5, "holds"), (2.0, "refuted")])
def test_compression_is_judged_on_the_same_runtime(speed: float, word: str) -> None:
    seeds = [
        {
            "same_runtime": speed + 0.01 * i,
            "against_eager": 20.0,
            "trained": 0.92,
            "compressed": 0.917,
            "way": "quantize(int8)",
        }
        for i in range(3)
    ]
    verdict = compression_speed.decide({"seeds": seeds})
    assert verdict.word == word
    assert "Against eager PyTorch 20×; at most 0.30 points of test accuracy lost" in verdict.reason


def test_two_files_side_by_side() -> None:
    data = load(DataConfig(source="digits", train_limit=64))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    evidence = fold.evidence(data, score=lambda _: 0.0, cost=lambda _: {})
    files = _served.float_and_int8(model, evidence)
    told = _served.speed_ups(files, data, repeats=2, batch=3, budget_s=0.01)
    assert told["size_bytes"]["int8"] < 0.5 * told["size_bytes"]["fp32"]
    assert told["ratio"]["fp32"] == [1.0, 1.0]
    times = told["latency_ms"]
    expected = [a / b for a, b in zip(times["fp32"], times["int8"], strict=True)]
    assert told["ratio"]["int8"] == pytest.approx(expected, abs=1e-4)
    runner = ship.session(files["int8"])
    assert _served.score(files["int8"], data.valid, evidence) == pytest.approx(
        evidence.task.score(torch.from_numpy(runner.run(data.valid.inputs.numpy())), data.valid.targets)
    )


def test_larger_pictures_are_the_same_pictures() -> None:
    data = load(DataConfig(source="digits", train_limit=16))
    larger = _served.enlarged(data, 16, n=4)
    assert larger.train.inputs.shape == (4, 1, 16, 16)
    assert larger.train.inputs.dtype == torch.uint8
    assert larger.train.targets.tolist() == data.train.targets[:4].tolist()
    small = nn.functional.avg_pool2d(larger.train.inputs.float(), 2)
    both = torch.stack([small.flatten(), data.train.inputs[:4].float().flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9
