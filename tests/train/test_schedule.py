"""Learning rates against their closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimwise.train.config import TrainConfig
from dimwise.train.schedule import learning_rate


def rates(n_steps: int, config: TrainConfig, *, per_epoch: int = 10) -> list[float]:
    return [learning_rate(s, n_steps, per_epoch, config) for s in range(n_steps)]


def test_constant() -> None:
    assert rates(5, TrainConfig(lr=0.3)) == [0.3] * 5


def test_cosine_is_half_a_cosine() -> None:
    found = rates(8, TrainConfig(lr=2.0, schedule="cosine"))
    assert found == pytest.approx([1 + math.cos(math.pi * s / 8) for s in range(8)])


def test_warm_up_rises_in_a_straight_line_and_joins() -> None:
    found = rates(30, TrainConfig(lr=1.0, schedule="cosine", warmup_epochs=1))
    assert found[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert found[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * s / 20)) for s in range(20)])
    constant = rates(30, TrainConfig(lr=1.0, warmup_epochs=0.5))
    assert constant[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(constant[5:]) == {1.0}


def test_one_cycle_is_two_straight_lines() -> None:
    found = rates(20, TrainConfig(lr=1.0, schedule="onecycle", peak_frac=0.25))
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5:] == pytest.approx([1 - i / 16 for i in range(1, 16)])


@given(
    n_steps=st.integers(1, 400),
    per_epoch=st.integers(1, 50),
    schedule=st.sampled_from(["constant", "cosine", "onecycle"]),
    warmup=st.floats(0, 5),
    peak_frac=st.floats(0.01, 0.99),
)
def test_never_negative_never_above_the_peak(
    n_steps: int, per_epoch: int, schedule: str, warmup: float, peak_frac: float
) -> None:
    config = TrainConfig(lr=0.7, schedule=schedule, warmup_epochs=warmup, peak_frac=peak_frac)  # type: ignore[arg-type]
    found = rates(n_steps, config, per_epoch=per_epoch)
    assert all(0 < r <= 0.7 * (1 + 1e-12) for r in found)
    if schedule != "constant" and n_steps > per_epoch * 5 + 1:
        assert max(found) == pytest.approx(0.7)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_ends_near_zero(schedule: str) -> None:
    found = rates(200, TrainConfig(lr=1.0, schedule=schedule))  # type: ignore[arg-type]
    assert 0 < found[-1] < 0.01
    steps = [abs(a - b) for a, b in itertools.pairwise(found)]
    assert max(steps) < 0.025  # no jump anywhere
