"""Losses and scores against closed forms and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch import Tensor

from dimwise.errors import RecipeError
from dimwise.tasks import TASKS, get


def scores(n: int = 40, k: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def labels(n: int = 40, k: int = 5, seed: int = 1) -> Tensor:
    return torch.randint(0, k, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_the_contract(name: str) -> None:
    task = get(name)
    z = scores().float().requires_grad_()
    y = labels() if name == "classification" else (scores(seed=2) > 0).float()
    loss = task.loss(z, y)
    loss.backward()
    assert loss.shape == ()
    assert z.grad is not None
    assert isinstance(task.score(z.detach(), y), float)
    assert task.score_name


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"unknown task 'clasification'; expected one of.*did you mean 'classification'"
    ):
        get("clasification")


@settings(max_examples=30)
@given(eps=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_label_smoothing_in_closed_form(eps: float, seed: int) -> None:
    """q = (1 - ε)·one-hot + ε/K; L = -Σ q log softmax."""
    z, y = scores(seed=seed), labels(seed=seed)
    q = torch.nn.functional.one_hot(y, 5).double() * (1 - eps) + eps / 5
    expected = -(q * (z - z.logsumexp(1, keepdim=True))).sum(1).mean().item()
    assert get("classification", label_smoothing=eps).loss(z, y).item() == pytest.approx(expected, rel=1e-9)


def test_mixed_targets_are_the_mixture_of_losses() -> None:
    z, a, b, task = scores(), labels(), labels(seed=2), get("classification", label_smoothing=0.1)
    one_hot = torch.nn.functional.one_hot
    mixed = 0.3 * one_hot(a, 5).double() + 0.7 * one_hot(b, 5).double()
    expected = 0.3 * task.loss(z, a) + 0.7 * task.loss(z, b)
    assert task.loss(z, mixed).item() == pytest.approx(expected.item())
    assert task.score(z, one_hot(a, 5).double()) == task.score(z, a)


def test_accuracy_is_scikit_learns() -> None:
    z, y = scores(), labels()
    assert get("classification").score(z, y) == pytest.approx(metrics.accuracy_score(y, z.argmax(1)))


def test_multilabel_in_closed_form() -> None:
    z, y = scores(), (scores(seed=2) > 0).double()
    p, eased = z.sigmoid(), y * 0.8 + 0.1
    expected = -(eased * p.log() + (1 - eased) * (1 - p).log()).mean().item()
    assert get("multilabel", label_smoothing=0.2).loss(z, y).item() == pytest.approx(expected)
    hits = ((z > 0) & (y > 0)).sum().item()
    f1 = 2 * hits / ((z > 0).sum() + (y > 0).sum()).item()
    assert get("multilabel").score(z, y) == pytest.approx(f1)


def test_nothing_there_and_nothing_found() -> None:
    assert get("multilabel").score(-torch.ones(3, 2), torch.zeros(3, 2)) == 0.0


def test_regression_in_closed_form() -> None:
    z, y = scores(), scores(seed=2)
    assert get("regression").loss(z, y).item() == pytest.approx((z - y).square().mean().item())
    r2 = 1 - (y - z).square().sum(0) / (y - y.mean(0)).square().sum(0)
    assert get("regression").score(z, y) == pytest.approx(r2.mean().item(), rel=1e-4)


def test_regression_of_one_value_takes_a_plain_row_of_targets() -> None:
    """(N,) against (N, 1) would broadcast to (N, N) and learn nothing, with no more than a warning."""
    z, y = scores(k=1), scores(k=1, seed=2)
    task = get("regression")
    assert task.loss(z, y.view(-1)).item() == task.loss(z, y).item()
    assert task.score(z, y.view(-1)) == task.score(z, y)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        task.loss(scores(k=2), y)


def test_r2_of_one_row_is_not_a_number_and_not_a_warning() -> None:
    assert math.isnan(get("regression").score(torch.ones(1, 1), torch.ones(1, 1)))


def test_smoothing_a_regression_says_so() -> None:
    with pytest.raises(RecipeError, match=r"train\.label_smoothing is set for a regression; expected 0"):
        get("regression", label_smoothing=0.1)
