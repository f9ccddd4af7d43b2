"""Peaks against closed forms, and a model that notices nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dimwise.measure import peak_memory, process_peak_memory

A, B, C, N = 300, 200, 100, 64


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(A, B, bias=False), nn.Linear(B, C, bias=False))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_inference_holds_the_weights_the_input_and_two_activations(device: str) -> None:
    model, example = chain().to(device), torch.zeros(N, A, device=device)
    assert peak_memory(model, example) == 4 * (A * B + B * C + N * (A + B + C))


def test_activations_are_freed_on_the_way() -> None:
    deep = nn.Sequential(*[nn.ReLU() for _ in range(20)])
    assert peak_memory(deep, torch.zeros(N, A)) == 4 * N * A * 3  # caller's input, a layer's input, its output


def test_views_and_shared_tensors_count_once() -> None:
    first, second = nn.Linear(A, A, bias=False), nn.Linear(A, A, bias=False)
    second.weight = first.weight
    model = nn.Sequential(nn.Flatten(), first, nn.Identity(), second)
    assert peak_memory(model, torch.zeros(N, 3, A // 3)) == 4 * (A * A + 3 * N * A)


def test_buffers_count() -> None:
    model = nn.BatchNorm1d(A)
    assert peak_memory(model, torch.zeros(1, A)) - peak_memory(nn.Identity(), torch.zeros(1, A)) >= 4 * (4 * A + A) + 8


def sum_of(outputs: Tensor) -> Tensor:
    return outputs.sum()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_training_step_of_one_layer(device: str) -> None:
    """At the end of backward: weight, its gradient, input; the output went with the loss, which is one number."""
    model, example = nn.Linear(A, B, bias=False).to(device), torch.zeros(1, A, device=device)
    found = peak_memory(model, example, train=True, task_loss=sum_of)
    assert 4 * (2 * A * B + A) <= found <= 4 * (2 * A * B + A + 3 * B) + 64


def test_outputs_are_gone_before_gradients_come() -> None:
    """Weight and output in the forward pass, then weight and gradient: never all three."""
    model = nn.Linear(1, 1000, bias=False)
    found = peak_memory(model, torch.zeros(1, 1), train=True, task_loss=sum_of)
    assert 8000 <= found <= 8064


def test_training_keeps_what_backward_needs() -> None:
    """20 tanh layers each keep their output, and inference keeps two."""
    deep = nn.Sequential(nn.Linear(A, A, bias=False), *[nn.Tanh() for _ in range(20)])
    example = torch.zeros(N, A)
    weights = 4 * A * A
    found = peak_memory(deep, example, train=True, task_loss=sum_of)
    assert found >= weights + 4 * N * A * 22
    assert found <= 2 * weights + 4 * N * A * 25


def test_optimizer_state_counts() -> None:
    model, example = nn.Linear(A, A, bias=False), torch.zeros(1, A)

    def peak(optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> int:
        return peak_memory(model, example, train=True, optimizer=optimizer)

    weights = 4 * A * A
    without = peak_memory(model, example, train=True)
    plain = peak(lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    momentum = peak(lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))
    adam = peak(lambda m: torch.optim.Adam(m.parameters()))
    assert without == pytest.approx(2 * weights, rel=0.05)
    assert plain == pytest.approx(without, rel=0.05)
    assert momentum - plain == pytest.approx(weights, rel=0.05)
    # weight, gradient, two moments, and at most two temporaries of the update
    assert 4 * weights <= adam <= 6.1 * weights


def test_the_state_is_there_while_activations_are() -> None:
    """The first step has none yet; every later one has."""
    model = nn.Sequential(nn.Linear(A, A, bias=False), *[nn.Tanh() for _ in range(20)])
    example = torch.zeros(4 * N, A)
    plain = peak_memory(model, example, train=True)
    adam = peak_memory(model, example, train=True, optimizer=lambda m: torch.optim.Adam(m.parameters()))
    assert adam - plain == pytest.approx(2 * 4 * A * A, abs=64)


def test_the_model_and_the_random_numbers_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    example = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    peak_memory(model, example, train=True, optimizer=lambda m: torch.optim.Adam(m.parameters(), lr=1.0))
    peak_memory(model, example)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [m.training for m in model] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), random)


def test_a_training_step_is_possible_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert peak_memory(nn.Linear(A, B), torch.zeros(1, A), train=True) > 2 * 4 * A * B


def test_task_loss_is_used() -> None:
    """Targets and what the loss makes are live too."""
    model, example, targets = nn.Linear(4, 1000, bias=False), torch.zeros(N, 4), torch.zeros(N, 1000)

    def loss(outputs: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    with_targets = peak_memory(model, example, train=True, task_loss=loss)
    assert with_targets >= peak_memory(model, example, train=True, task_loss=sum_of) + 4 * N * 1000


@pytest.fixture
def eater(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eater.py").write_text(
        "import time\n"
        "def eat(n_bytes):\n    return bytearray(b'x') * int(n_bytes)\n"
        "def nibble(n_bytes):\n    eat(n_bytes)\n"
        "def sleep(seconds):\n    time.sleep(float(seconds))\n"
    )
    (tmp_path / "fat_import.py").write_text("held = bytearray(b'x') * 50_000_000\n")
    (tmp_path / "greedy_import.py").write_text("freed = bytearray(b'x') * 100_000_000\ndel freed\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("eater")
@pytest.mark.parametrize("function", ["eat", "nibble"])
def test_a_process_needs_what_its_call_takes_at_the_peak(function: str) -> None:
    peak = process_peak_memory(f"eater:{function}", ["50000000"])
    assert peak is not None
    assert 49e6 < peak < 60e6  # the kernel counts pages in bundles


@pytest.mark.usefixtures("eater")
def test_imports_are_not_counted() -> None:
    peak = process_peak_memory("eater:eat", ["20000000"], imports=["fat_import"])
    assert peak is not None
    assert 19e6 < peak < 30e6


@pytest.mark.usefixtures("eater")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget the peak of the imports")
def test_what_an_import_freed_is_not_counted() -> None:
    peak = process_peak_memory("eater:eat", ["20000000"], imports=["greedy_import"])
    assert peak is not None
    assert 19e6 < peak < 30e6


@pytest.mark.usefixtures("eater")
def test_a_process_that_fails_measures_nothing() -> None:
    assert process_peak_memory("eater:eat", ["much"]) is None
    assert process_peak_memory("eater:gone", []) is None
    assert process_peak_memory("eater:sleep", ["30"], timeout_s=0.5) is None
