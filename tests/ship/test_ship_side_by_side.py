"""Many candidates in turns, and what a process needs that serves one."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dimwise.errors import DataError, RecipeError
from dimwise.measure import Latency
from dimwise.ship import SideBySide, graph, measure_on, open_runtime, peak_memory_on
from dimwise.ship.runtimes import side_by_side


class Fake:
    """Looks at what it is given."""

    def __init__(self, runtime: str = "onnxruntime", threads: int = 1) -> None:
        self.runtime, self.threads = runtime, threads
        self.seen: list[tuple[Any, int]] = []

    def run(self, inputs: np.ndarray) -> np.ndarray:
        self.seen.append((inputs.tolist(), torch.get_num_threads()))
        return inputs

    def close(self) -> None:
        pass


def known(monkeypatch: pytest.MonkeyPatch, **ms: float) -> dict[str, Any]:
    """In the place of the clock; returns what it was asked with."""
    asked: dict[str, Any] = {}

    def instead(candidates: Any, **settings: Any) -> dict[str, Latency]:
        asked.update(settings, names=list(candidates))
        for call in candidates.values():
            call()
        return {name: Latency(ms[name], ms[name], 0.1, 9, settings["threads"], "cpu") for name in candidates}

    monkeypatch.setattr(side_by_side, "latency", instead)
    return asked


def test_rows_are_repeated_up_to_the_batch_and_threads_are_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    asked = known(monkeypatch, a=1.0)
    fake = Fake(threads=before + 1)
    found = measure_on({"a": fake}, np.array([[1], [2]]), threads=before + 1, batch=3, budget_s=0.1, runs=7)
    assert fake.seen == 2 * [([[1], [2], [1]], before + 1)]  # once before the clock
    assert torch.get_num_threads() == before
    assert (asked["runs"], asked["budget_s"], asked["threads"]) == (7, 0.1, before + 1)
    assert (found.batch, found.runtimes) == (3, {"a": "onnxruntime"})
    assert measure_on({"a": Fake()}, np.array([[1], [2]]), batch=1).batch == 1


def test_ties_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, a=2.0, b=1.0, c=1.05, d=1.16)
    found = measure_on({n: Fake() for n in "abcd"}, np.zeros((1, 1)))
    assert found.ties == (("b", "c"),)  # medians 0.1 apart overlap; c and d are 0.11 apart
    assert found.fastest() == ("b", "c")
    assert SideBySide({}, 1, {}).fastest() == ()


@pytest.mark.parametrize(
    ("runtimes", "threads", "settles"),
    [
        (("pytorch", "openvino"), 2, True),
        (("pytorch-compiled", "onnxruntime"), 2, True),
        (("pytorch", "pytorch-compiled"), 2, False),
        (("openvino", "onnxruntime"), 2, False),
        (("pytorch", "openvino"), 1, False),
    ],
)
def test_only_pytorchs_threads_beside_others_are_waited_for(
    runtimes: tuple[str, str], threads: int, settles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = known(monkeypatch, a=1.0, b=1.0)
    candidates = {n: Fake(r, threads) for n, r in zip("ab", runtimes, strict=True)}
    measure_on(candidates, np.zeros((1, 1)), threads=threads)
    assert (asked["settle_s"] > 0) is settles


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(RecipeError, match="b was opened with threads=2; expected threads=1"):
        measure_on({"a": Fake(), "b": Fake(threads=2)}, np.zeros((1, 1)))
    with pytest.raises(DataError, match="no inputs to measure with; expected at least one row"):
        measure_on({"a": Fake()}, np.zeros((0, 1)))


def test_real_runtimes_take_turns(net: nn.Module, data: Any, image_proto: Any) -> None:
    candidates = {
        "eager": open_runtime(nn.Sequential(data.normalise, net), "pytorch"),
        "graph": open_runtime(image_proto, "onnxruntime"),
    }
    found = measure_on(candidates, data.test.inputs.numpy(), batch=2, budget_s=0.05, runs=5)
    assert {name: (m.runs, m.threads) for name, m in found.latency.items()} == dict.fromkeys(candidates, (5, 1))
    assert all(m.p50_ms > 0 for m in found.latency.values())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "pytorch"])
def test_a_fresh_process_needs_at_least_the_weights(runtime: str) -> None:
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    net = nn.Linear(1000, 10_000)  # 40 MB
    inputs = torch.zeros(1, 1000)
    subject: Any = net if runtime == "pytorch" else graph(net, nn.Identity(), inputs)
    needed = peak_memory_on(subject, runtime, inputs.numpy())
    assert needed is not None
    assert 40e6 <= needed <= 250e6


def test_memory_that_cannot_be_had_costs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Choosy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x  # cannot be written down

    assert peak_memory_on(Choosy(), "pytorch", np.zeros((1, 2), np.float32)) is None
    assert capfd.readouterr() == ("", "")
