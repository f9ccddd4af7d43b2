"""One step: accumulation, clipping, decay, dropout's seed; against closed forms and plain PyTorch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dimwise.data.batches import TensorBatches
from dimwise.errors import ModelError
from dimwise.tasks import Task, get
from dimwise.train import Moving, TrainConfig, steps
from dimwise.train.loop import steps_per_epoch
from dimwise.train.optimizer import optimizer
from dimwise.train.precision import Arithmetic

TASK = get("classification")


def net(*, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 4))


def rows(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, generator=generator), torch.randint(0, 4, (n,), generator=generator)


def run(model: nn.Module, data: tuple[Tensor, Tensor], config: TrainConfig, *, shuffle: bool = True) -> list[float]:
    batches = TensorBatches(*data, config.batch_size, seed=config.seed, shuffle=shuffle)
    moving = Moving(model, optimizer(model, config))
    return [record.loss for record in steps(moving, batches, TASK, config, arithmetic=Arithmetic())]


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 4), b=st.integers(2, 5), rest=st.integers(0, 4))
def test_k_passes_of_b_give_the_gradient_of_one_pass(k: int, b: int, rest: int) -> None:
    """Also when the last pass is smaller: each sample weighs the same."""
    n = max(2, k * b - rest)
    n -= n % b == 1 and n > 1  # a single left-over sample would be left out
    data = rows(n)
    whole = net()
    F.cross_entropy(whole(data[0]), data[1]).backward()
    parts = net()
    config = TrainConfig(epochs=1, batch_size=b, accumulate=-(-n // b), optimizer="sgd", lr=1e-9)
    (loss,) = run(parts, data, config)
    assert loss == pytest.approx(F.cross_entropy(whole(data[0]), data[1]).item(), rel=1e-5)
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_steps_are_grouped_and_numbered() -> None:
    config = TrainConfig(epochs=2, batch_size=2, accumulate=3)
    model, data = net(), rows(10)  # 5 batches: windows of 3 and 2
    batches = TensorBatches(*data, 2, seed=0)
    moving = Moving(model, optimizer(model, config))
    found = list(steps(moving, batches, TASK, config, arithmetic=Arithmetic()))
    assert [(r.step, r.epoch, r.n_samples, r.ends_epoch) for r in found] == [
        (0, 0, 6, False),
        (1, 0, 4, True),
        (2, 1, 6, False),
        (3, 1, 4, True),
    ]
    assert moving.step == 4
    assert steps_per_epoch(batches, config) == 2


def test_one_plain_step_is_pytorchs() -> None:
    """The loop against the few lines everybody knows."""
    data = rows(6)
    config = TrainConfig(epochs=3, batch_size=6, optimizer="nesterov", lr=0.1, momentum=0.9, weight_decay=0.01)
    ours, theirs = net(), net()
    losses = run(ours, data, config, shuffle=False)
    decays = [p for p in theirs.parameters() if p.dim() > 1]
    others = [p for p in theirs.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": 0.01}, {"params": others}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for expected in losses:
        sgd.zero_grad()
        loss = F.cross_entropy(theirs(data[0]), data[1])
        loss.backward()
        sgd.step()
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    for mine, own in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, own)


@pytest.mark.parametrize("clip_norm", [0.01, 0.3])
def test_clipping_really_clips(clip_norm: float) -> None:
    model, data = net(), rows(8)
    config = TrainConfig(epochs=1, batch_size=8, optimizer="sgd", momentum=0, lr=1.0, clip_norm=clip_norm)
    before = copy.deepcopy(list(model.parameters()))
    run(model, data, config)
    moved = torch.cat([(p - q).flatten() for p, q in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(clip_norm, rel=1e-3)


def test_a_small_gradient_is_not_clipped() -> None:
    runs = [run(net(), rows(8), TrainConfig(epochs=2, batch_size=8, lr=0.1, clip_norm=c)) for c in (0.0, 1e6)]
    assert runs[0] == runs[1]


def test_dropout_follows_from_seed_and_step() -> None:
    data, config = rows(12), TrainConfig(epochs=2, batch_size=4, lr=0.01)
    first = run(net(dropout=0.5), data, config)
    torch.rand(17)  # what others draw in between makes no difference
    assert run(net(dropout=0.5), data, config) == first
    assert run(net(dropout=0.5), data, TrainConfig(epochs=2, batch_size=4, lr=0.01, seed=1)) != first


def test_a_loss_that_is_not_finite_is_yielded_before_its_step() -> None:
    model, data = net(), rows(8)
    data[0][5] = torch.inf
    config = TrainConfig(epochs=1, batch_size=2, accumulate=2)
    moving = Moving(model, optimizer(model, config))
    before = copy.deepcopy(model.state_dict())
    batches = TensorBatches(*data, 2, seed=0, shuffle=False)
    found = list(steps(moving, batches, TASK, config, arithmetic=Arithmetic()))
    assert [r.step for r in found] == [0, 1]
    assert found[0].loss < 100
    assert not found[1].loss < 100
    assert torch.equal(found[1].x, data[0][4:6])  # the batch at fault, not the last of its window
    assert moving.step == 1
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())  # the first step was taken
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_norms_and_biases_do_not_decay() -> None:
    """With zero gradients only decay moves weights: w ← w · (1 − lr · λ)."""
    for name in ("sgd", "nesterov", "adamw"):
        model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Linear(2, 2))
        for p in model.parameters():
            p.data.fill_(1.0)
            p.grad = torch.zeros_like(p)
        config = TrainConfig(optimizer=name, lr=0.5, momentum=0.0, weight_decay=0.1)  # type: ignore[arg-type]
        optimizer(model, config).step()
        for key, p in model.named_parameters():
            expected = 0.95 if key in ("0.weight", "2.weight") else 1.0
            torch.testing.assert_close(p.detach(), torch.full_like(p, expected), msg=f"{name}: {key}")


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("nesterov", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_optimizers_are_pytorchs(name: str, kind: str) -> None:
    made = optimizer(nn.Linear(2, 2), TrainConfig(optimizer=name, momentum=0.8))  # type: ignore[arg-type]
    assert type(made).__name__ == kind
    assert made.defaults.get("nesterov", False) == (name == "nesterov")
    assert made.defaults.get("betas", (0.8,))[0] == made.defaults.get("momentum", 0.8) == 0.8


def test_nothing_to_train_says_so() -> None:
    with pytest.raises(ModelError, match="no trainable parameter"):
        optimizer(nn.ReLU(), TrainConfig())
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable parameter"):
        optimizer(frozen, TrainConfig())


def test_frozen_parameters_stay() -> None:
    model, data = net(), rows(8)
    model[0].requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    run(model, data, TrainConfig(epochs=2, batch_size=4, weight_decay=0.5))
    assert all(torch.equal(v, before[k]) for k, v in model[0].state_dict().items())


def test_a_step_function_of_ones_own() -> None:
    def doubled(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        return 2 * task.loss(model(x), y)

    model, config = net(), TrainConfig(epochs=1, batch_size=8)
    batches, moving = TensorBatches(*rows(8), 8, seed=0), Moving(model, optimizer(model, config))
    (record,) = steps(moving, batches, TASK, config, arithmetic=Arithmetic(), step_function=doubled)
    x, y = rows(8)
    assert record.loss == pytest.approx(2 * F.cross_entropy(net()(x), y).item(), rel=1e-5)
