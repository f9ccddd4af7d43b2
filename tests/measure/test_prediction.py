"""Predictions against the measured peak of real steps, against closed forms, and a model that notices nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.measure import MemoryPrediction, largest_batch, peak_memory, predict_memory
from dimwise.measure._scratch import Recurrent, beside_recurrent, reordered
from dimwise.measure.prediction import HEADROOM_FRAC
from dimwise.models import build

A, B, N = 300, 200, 64


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters())


def fused(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), fused=True)


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(A, B), nn.GELU(), nn.LayerNorm(B), nn.Dropout(0.2), nn.Linear(B, 10))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(A, 3 * A), nn.Linear(A, 10)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x.unflatten(0, (4, -1))).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        return self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("optimizer", [None, sgd, adam, fused])
@pytest.mark.parametrize("make", [dense, Attention])
def test_it_agrees_with_a_real_step(
    make: Callable[[], nn.Module], optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None
) -> None:
    """Networks without forks and convolutions: there the measured live storages are all there is."""
    model, x = make(), torch.randn(N, A)
    found = predict_memory(model, x, optimizer=optimizer)
    assert found.training.total == pytest.approx(peak_memory(model, x, train=True, optimizer=optimizer), rel=0.01)
    assert found.inference.total == pytest.approx(peak_memory(model, x), rel=0.01)


@pytest.mark.parametrize("name", ["guide_cnn", "resnet20"])
def test_convolutions_take_at_least_what_is_live(name: str) -> None:
    shape = (1, 28, 28) if name == "guide_cnn" else (3, 32, 32)
    model, x = build(name, shape, 10), torch.randn(16, *shape)
    found = predict_memory(model, x, optimizer=sgd).training
    measured = peak_memory(model, x, train=True, optimizer=sgd)
    assert found.total - found.workspace <= measured * 1.001
    assert 0.95 * measured <= found.total <= 1.3 * measured


def test_bf16_halves_activations_and_keeps_weights() -> None:
    deep = nn.Sequential(nn.Linear(B, B), *[nn.Tanh() for _ in range(30)])
    wide, narrow = (predict_memory(deep, (4096, B), p, task_loss=Tensor.sum).training for p in ("fp32", "bf16"))
    assert narrow.parameters == wide.parameters == 4 * (B * B + B)
    assert narrow.activations == pytest.approx(wide.activations / 2, rel=0.1)


def test_the_parts_of_one_layer() -> None:
    found = predict_memory(nn.Linear(A, B, bias=False), (1, A), optimizer=adam, task_loss=Tensor.sum)
    training, weights = found.training, 4 * A * B
    assert (training.parameters, training.gradients, training.inputs) == (weights, weights, 4 * A)
    assert training.optimizer_state == pytest.approx(2 * weights, abs=8)
    parts = (training.activations, training.workspace)
    assert training.total == 3 * weights + training.optimizer_state - weights + 4 * A + sum(parts)
    assert found.inference.total == weights + 4 * A + 4 * B


def test_sums_at_forks_are_written_in_place() -> None:
    """y is used twice; the engine writes the sum of both gradients over the first, while nobody watches."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            y = x * self.scale
            return (y * 2).sum() + (y * 3).sum()

    n_bytes = 4 * N * A
    found = predict_memory(Fork(), (N, A), task_loss=lambda loss: loss).training
    assert 3 * n_bytes <= found.total <= 3 * n_bytes + 1000  # x and two gradients
    watched = peak_memory(Fork(), torch.zeros(N, A), train=True, task_loss=lambda loss: loss)
    assert watched >= 4 * n_bytes


def test_nothing_is_allocated_and_nothing_changes() -> None:
    model = nn.Sequential(nn.Linear(A, B), nn.BatchNorm1d(B), nn.Dropout(0.5)).train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = predict_memory(model, torch.empty(10**9, A, device="meta"), optimizer=adam)  # 1.2 terabytes of input
    assert found.training.inputs == 4 * A * 10**9
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [m.training for m in model] == [True, False, True]
    assert torch.equal(torch.get_rng_state(), random)


def test_words_are_integers() -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(8 * 5, 2))
    found = predict_memory(model, torch.empty(N, 5, dtype=torch.long, device="meta"))
    assert found.inference.inputs == 8 * 5 * N


def test_channels_are_filled_up_to_sixteen_unless_they_come_last() -> None:
    x, w, y = torch.empty(2, 6, 8, 8), torch.empty(20, 6, 3, 3), torch.empty(2, 20, 8, 8)
    told = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    backend = torch._C._select_conv_backend(torch.empty(64, 6, 8, 8), w, None, *told)
    if backend.name != "Mkldnn":
        pytest.skip("oneDNN does not compute convolutions here")
    many = [torch.empty(64, *t.shape[1:]) for t in (x, y)]
    assert reordered(many[0], w, many[1], *told, backward=True) == 4 * (64 * 64 * (16 + 32) + 9 * 16 * 32)
    assert reordered(many[0], w, many[1], *told, backward=False) == 4 * (64 * 64 * 32 + 9 * 16 * 32)
    last = [t.contiguous(memory_format=torch.channels_last) for t in many]
    assert reordered(last[0], w, last[1], *told, backward=True) == 0
    assert reordered(many[0], w, many[1], [1, 1], [1, 1], [1, 1], True, [0, 0], 1, backward=True) == 0


def test_notes_of_a_recurrent_layer_are_those_of_the_real_one() -> None:
    args = [torch.zeros(9, 48, 64), *(torch.zeros(s) for s in (*[(256, 64)] * 2, (256,), (256,), (48, 64), (48, 64)))]
    rest: tuple[Any, ...] = (False, [], 2, 64, 1, True, False, False, True)
    real = torch.ops.aten.mkldnn_rnn_layer.default(*args, *rest)[3].untyped_storage().nbytes()
    with torch.enable_grad():
        assert Recurrent().notes_of_rnn((*args, *rest)) == pytest.approx(real, rel=0.02)
    with torch.no_grad():
        assert Recurrent().notes_of_rnn((*args, *rest)) == 0
        assert beside_recurrent(args[0], args[1:5], 64, backward=False) > 0


class Recurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.LSTM(8, 16, 2, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


def test_recurrent_notes_are_workspace_in_training_alone() -> None:
    found = predict_memory(Recurrence(), (N, 20, 8), optimizer=adam)
    assert found.training.workspace > found.training.activations
    assert found.inference.workspace < found.training.workspace


def test_the_fused_encoder_layer_takes_its_wide_layer() -> None:
    """Three of (B, T, D) are seen from outside; inside there are the wide layer's outputs and one more."""
    layer = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True).eval()
    found = predict_memory(layer, (32, 10, 16)).inference
    assert found.workspace == 4 * 32 * 10 * (64 + 16)
    assert found.total - found.parameters >= 7 * 4 * 32 * 10 * 16
    assert predict_memory(layer, (32, 10, 16), "bf16").inference.workspace == found.workspace / 2


def test_fits_leaves_the_headroom() -> None:
    found = predict_memory(nn.Linear(A, B), (N, A), optimizer=adam)
    assert isinstance(found, MemoryPrediction)
    total = found.training.total
    assert found.fits(total, headroom_frac=0)
    assert not found.fits(total - 1, headroom_frac=0)
    assert not found.fits(total)
    assert found.fits(found.inference.total, train=False, headroom_frac=0)


@pytest.mark.parametrize("available_bytes", [1e6, 2e6, 5e6, 3e7])
def test_the_largest_batch_fits_and_hardly_more_does(available_bytes: float) -> None:
    model = dense()
    n = largest_batch(model, (1, A), available_bytes, optimizer=sgd, headroom_frac=0)
    assert predict_memory(model, (n, A), optimizer=sgd).fits(available_bytes, headroom_frac=0)
    more = n + max(1, n // 50)
    assert not predict_memory(model, (more, A), optimizer=sgd).fits(available_bytes, headroom_frac=0)


def test_no_batch_and_every_batch() -> None:
    assert largest_batch(dense(), (1, A), 1000) == 0
    assert largest_batch(nn.Sequential(nn.BatchNorm1d(4)), (1, 4), 100) == 0
    assert largest_batch(dense(), (1, A), 1e15, most=500) == 500


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_example_of_another_device_does(device: str) -> None:
    example = torch.empty(2, A, device=device)
    assert predict_memory(dense(), example) == predict_memory(dense(), (2, A))


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "shape", "precision", "line"),
    [
        (dense(), (2, A), "fp23", "precision is 'fp23'; expected one of: fp32, bf16. did you mean 'fp32'?"),
        (dense(), (2, 7), "fp32", r"the network cannot take input of shape (2, 7) and type float32: "),
        (
            Picky(),
            (2, 7),
            "fp32",
            "expected shapes that follow from the shape of the input. Measure a real step instead",
        ),
        (Branching(), (2, 7), "fp32", "the network's shapes depend on values"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    model: nn.Module, shape: tuple[int, ...], precision: str, line: str
) -> None:
    with pytest.raises(ModelError) as told:
        predict_memory(model, shape, precision)
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_the_headroom_covers_nineteen_of_twenty_resident_sizes_of_the_record() -> None:
    record = json.loads((Path(__file__).parents[2] / "benchmarks" / "records" / "memory.json").read_text("utf-8"))
    ratios = record["figures"]["resident over predicted"]["runs"]
    assert sum(ratio <= 1 + HEADROOM_FRAC for ratio in ratios) >= 0.95 * len(ratios)
