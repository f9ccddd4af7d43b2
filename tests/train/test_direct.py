"""Gradients and updates without the layers around them: the same numbers, and nobody who watches misses a step."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from dimwise.train import TrainConfig, direct
from dimwise.train.direct import backward, updater
from dimwise.train.optimizer import optimizer

KINDS = ("sgd", "nesterov", "adam", "adamw")


def made(kind: str = "adamw", **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 4))
    return model, optimizer(model, TrainConfig(optimizer=kind, lr=0.05, **settings))  # type: ignore[arg-type]


def give_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the calls of the launches below ``updater``."""
    counted = {"n": 0}

    def counting(launch: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            counted["n"] += 1
            launch(*args)

        return call

    monkeypatch.setattr(direct, "_LAUNCH", {kind: counting(f) for kind, f in direct._LAUNCH.items()})
    return counted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weights_and_state_are_those_of_step(kind: str, weight_decay: float, kernels: dict[str, int]) -> None:
    """Bit for bit, also where the rate changes and a parameter has no gradient for a while."""
    (ours, mine), (theirs, own) = (made(kind, weight_decay=weight_decay) for _ in range(2))
    update = updater(mine)
    for step in range(6):
        for model in (ours, theirs):
            give_gradients(model, step)
            if step in (2, 3):
                next(model.parameters()).grad = None
        for group in (*mine.param_groups, *own.param_groups):
            group["lr"] = 0.05 / (1 + step)
        update()
        own.step()
    assert kernels["n"] == 5 * len(mine.param_groups)  # all but the first step, which makes the state
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert mine.state[p].keys() == own.state[q].keys()
        for key, value in mine.state[p].items():
            assert torch.equal(value, own.state[q][key]), key


def test_a_parameter_that_comes_late_gets_its_state(kernels: dict[str, int]) -> None:
    (ours, mine), (theirs, own) = made("adam"), made("adam")
    update = updater(mine)
    for step in range(4):
        for model in (ours, theirs):
            give_gradients(model, step)
            if step < 2:
                model[0].weight.grad = None  # type: ignore[index]
        update()
        own.step()
    assert kernels["n"] == 2
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


@contextmanager
def _instance(o: torch.optim.Optimizer, seen: Callable[..., None], *, post: bool) -> Iterator[None]:
    handle = (o.register_step_post_hook if post else o.register_step_pre_hook)(seen)
    yield
    handle.remove()


@contextmanager
def _global(_o: torch.optim.Optimizer, seen: Callable[..., None], *, post: bool) -> Iterator[None]:
    handle = (register_optimizer_step_post_hook if post else register_optimizer_step_pre_hook)(seen)
    yield
    handle.remove()


@contextmanager
def _replaced(o: torch.optim.Optimizer, seen: Callable[..., None], *, post: bool) -> Iterator[None]:
    """On the instance, as a scheduler does, or on the class."""
    place: Any = type(o) if post else o
    own = place.step

    def step(*args: Any) -> None:
        seen()
        own(*args)

    place.step = step
    yield
    if post:
        place.step = own
    else:
        del place.step


@pytest.mark.parametrize("watch", [_instance, _global, _replaced])
@pytest.mark.parametrize("post", [False, True])
def test_whoever_watches_sees_every_step(watch: Callable[..., Any], post: bool, kernels: dict[str, int]) -> None:
    """Also when they come after training has begun, and only as long as they stay."""
    model, o = made()
    seen: list[int] = []
    update = updater(o)

    def step(number: int) -> None:
        give_gradients(model, number)
        update()

    step(0)
    step(1)
    with watch(o, lambda *_: seen.append(1), post=post):
        step(2)
        step(3)
    step(4)
    assert len(seen) == 2
    assert kernels["n"] == 2


def test_what_is_not_fused_or_not_alike_takes_its_own_step(kernels: dict[str, int]) -> None:
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(weights[:1], lr=0.1, momentum=0.9),
        torch.optim.SGD(weights, lr=0.1, momentum=0.9, fused=True),
        torch.optim.RMSprop(weights[:1], lr=0.1),
    ]
    for o in optimizers:
        before = copy.deepcopy(weights)
        update = updater(o)
        for _ in range(2):
            for w in weights:
                w.grad = torch.ones_like(w)
            update()
        assert not torch.equal(weights[0], before[0])
    assert kernels["n"] == 0


def loss_and_model(dtype: torch.dtype = torch.float32) -> tuple[Tensor, nn.Module]:
    model = made()[0].to(dtype)
    return model(torch.linspace(-1, 1, 6, dtype=dtype).view(2, 3)).square().mean(), model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_those_of_backward(dtype: torch.dtype) -> None:
    """Also added to those that are there already."""
    (mine, ours), (own, theirs) = loss_and_model(dtype), loss_and_model(dtype)
    for _ in range(2):
        backward(mine)
        own.backward()
        (mine, own) = (model(torch.ones(1, 3, dtype=dtype)).sum() for model in (ours, theirs))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("place", [Tensor, torch.autograd])
def test_a_replaced_backward_is_called(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = place.backward, []

    def replaced(*args: Any, **settings: Any) -> None:
        seen.append(1)
        own(*args, **settings)

    monkeypatch.setattr(place, "backward", replaced)
    loss, model = loss_and_model()
    backward(loss)
    assert seen == [1]
    assert next(model.parameters()).grad is not None


def test_hooks_in_the_graph_are_called() -> None:
    loss, model = loss_and_model()
    seen: list[str] = []
    loss.register_hook(lambda _: seen.append("loss"))
    weight = next(model.parameters())
    weight.register_hook(lambda _: seen.append("weight"))
    weight.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
    backward(loss)
    assert seen == ["loss", "weight", "accumulated"]


def test_a_hook_that_changes_a_gradient_in_place_changes_this_one_only() -> None:
    (first, model), (second, other) = loss_and_model(), loss_and_model()
    first.register_hook(lambda grad: grad.mul_(2))
    backward(first)
    backward(second)
    p, q = next(model.parameters()).grad, next(other.parameters()).grad
    assert p is not None
    assert q is not None
    torch.testing.assert_close(p, 2 * q)


def test_a_loss_of_several_numbers_says_so_as_ever() -> None:
    with pytest.raises(RuntimeError, match="scalar outputs"):
        backward(made()[0](torch.ones(2, 3)))
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(torch.ones(()))


class _Own(Tensor):
    """A tensor class of somebody's own, whose operations go through its ``__torch_function__``."""


def test_a_class_of_ones_own_takes_its_own_backward() -> None:
    loss, model = loss_and_model()
    backward(loss.as_subclass(_Own))
    assert next(model.parameters()).grad is not None


def test_imported_under_somebodys_watch_it_goes_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = torch.autograd.backward, []

    def watched(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        original(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "backward", watched)
    spec = importlib.util.spec_from_file_location("direct_again", direct.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    weight = torch.nn.Parameter(torch.tensor(3.0))
    again.backward(weight * weight)
    assert calls == [1]
    assert weight.grad == 6.0
