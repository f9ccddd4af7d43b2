"""Decoupled distillation: by hand, against the plain divergence it is made of, at its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dimwise.errors import RecipeError
from dimwise.fold._teaching.divergence import decoupled, divergence
from dimwise.fold.distill import DistillConfig, distillation_loss
from dimwise.tasks import get


def pair(n: int = 6, k: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z_s, z_t = torch.randn(2, n, k, generator=generator) * 3
    return z_s, z_t, torch.randint(0, k, (n,), generator=generator)


def dkd(z_s, z_t, y, a=1.0, b=1.0, *, temperature=1.0, standardised=False) -> torch.Tensor:
    return decoupled(z_s, z_t, y, temperature=temperature, standardised=standardised, target_weight=a, others_weight=b)


def test_hand_computed_parts():
    """The teacher says (1/2, 1/3, 1/6), the student (1/4, 1/4, 1/2); the first class is right.

    TCKD: (1/2, 1/2) against (1/4, 3/4) = 1/2 log 2 + 1/2 log 2/3.
    NCKD: (2/3, 1/3) against (1/3, 2/3) = 2/3 log 2 − 1/3 log 2.
    """
    z_t, z_s = torch.tensor([[1 / 2, 1 / 3, 1 / 6]]).log(), torch.tensor([[1 / 4, 1 / 4, 1 / 2]]).log() + 7
    y = torch.tensor([0])
    sure = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    alike = np.log(2) / 3
    assert dkd(z_s, z_t, y, 1, 0).item() == pytest.approx(sure, rel=1e-5)
    assert dkd(z_s, z_t, y, 0, 1).item() == pytest.approx(alike, rel=1e-5)
    assert dkd(2 * z_s, 2 * z_t, y, 3, 5, temperature=2).item() == pytest.approx(4 * (3 * sure + 5 * alike), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("standardised", [True, False])
def test_plain_divergence_is_the_sum_of_its_parts(temperature, standardised):
    """KD = TCKD + (1 − p_y) · NCKD for each sample."""
    z_s, z_t, y = pair(n=8)
    settings = {"temperature": temperature, "standardised": standardised}
    for i in range(8):
        s, t, right = z_s[i : i + 1], z_t[i : i + 1], y[i : i + 1]
        f = (t - t.mean()) / t.std() if standardised else t
        p_y = (f / temperature).softmax(1)[0, right].item()
        expected = divergence(s, t, kind="classification", **settings).item()
        assert dkd(s, t, right, 1, 1 - p_y, **settings).item() == pytest.approx(expected, rel=1e-4)


def test_weights_count_and_equal_answers_cost_nothing():
    z_s, z_t, y = pair()
    sure, alike = dkd(z_s, z_t, y, 1, 0).item(), dkd(z_s, z_t, y, 0, 1).item()
    assert sure > 0.01
    assert alike > 0.01
    assert dkd(z_s, z_t, y, 2, 8).item() == pytest.approx(2 * sure + 8 * alike, rel=1e-5)
    assert dkd(z_t, z_t, y, 2, 8).item() == pytest.approx(0, abs=1e-6)


def test_limits_are_finite_and_have_gradients():
    for scale in (0.0, 1.0, 1e4):
        z_s, z_t, y = pair()
        z_s, z_t = (z_s * scale).requires_grad_(), z_t * scale
        loss = dkd(z_s, z_t, y, 1, 8)
        loss.backward()
        assert loss.isfinite()
        assert z_s.grad is not None
        assert z_s.grad.isfinite().all()
    one = torch.ones(3, 1, requires_grad=True)
    assert dkd(one, torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)).item() == 0
    sure = torch.tensor([[60.0, 0.0, 1.0]])  # 1 − p_y is no float32 any more, the others still differ
    assert dkd(torch.zeros(1, 3), sure, torch.tensor([0]), 0, 1).item() == pytest.approx(
        F.kl_div(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.0, 1.0]).softmax(0), reduction="sum").item(), rel=1e-4
    )


def test_mixed_targets_and_maps_are_taken():
    z_s, z_t, y = pair(n=8)
    mixed = 0.7 * F.one_hot(y, 5).float() + 0.3 * F.one_hot((y + 1) % 5, 5).float()
    assert dkd(z_s, z_t, mixed).item() == pytest.approx(dkd(z_s, z_t, y).item())
    maps = [z.view(2, 2, 2, 5).permute(0, 3, 1, 2) for z in (z_s, z_t)]
    assert dkd(maps[0], maps[1], y.view(2, 2, 2)).item() == pytest.approx(dkd(z_s, z_t, y).item(), rel=1e-5)
    half = dkd(z_s.bfloat16(), z_t.bfloat16(), y)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(dkd(z_s, z_t, y).item(), rel=0.05)


def test_the_loss_of_the_config():
    z_s, z_t, y = pair()
    task = get("classification")

    def loss(config: DistillConfig) -> float:
        return distillation_loss(z_s, z_t, targets=y, task=task, kind="classification", config=config).item()

    config = DistillConfig(
        loss="dkd", weight=0.25, strength=10, temperature=3, standardise=False, target_weight=2, others_weight=6
    )
    soft = dkd(z_s, z_t, y, 2, 6, temperature=3).item()
    expected = 0.75 * F.cross_entropy(z_s, y).item() + 0.25 * 10 * soft
    assert loss(config) == pytest.approx(expected, rel=1e-5)
    alone = DistillConfig(loss="dkd", weight=1, strength=3, standardise=True, others_weight=5)
    soft = dkd(z_s, z_t, y, 1, 5, temperature=4, standardised=True).item()
    assert loss(alone) == pytest.approx(3 * soft, rel=1e-5)


@pytest.mark.parametrize(("standardise", "factor"), [(True, 2.0), (False, 1.0)])
def test_standardised_scores_teach_twice_as_strongly_unless_told_otherwise(standardise, factor):
    z_s, z_t, y = pair()
    task = get("classification")
    config = DistillConfig(weight=0.9, standardise=standardise)
    soft = divergence(z_s, z_t, kind="classification", temperature=4.0, standardised=standardise)
    found = distillation_loss(z_s, z_t, targets=y, task=task, kind="classification", config=config)
    torch.testing.assert_close(found, 0.1 * task.loss(z_s, y) + 0.9 * factor * soft)


def test_tasks_without_a_right_class_are_refused():
    z_s, z_t, y = pair()
    with pytest.raises(RecipeError, match=r"distill\.loss is 'dkd' for the task 'regression'; .*distill\.loss='kd'"):
        distillation_loss(
            z_s, z_t, targets=y, task=get("regression"), kind="regression", config=DistillConfig(loss="dkd")
        )
