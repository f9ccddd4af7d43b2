"""The range test against training with the rates it names, and against curves whose answer is known."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.data import DataConfig, load
from dimwise.data.sets import Data
from dimwise.errors import DataError, ModelError, NonFiniteLoss, UserError
from dimwise.models import build
from dimwise.train import LrRange, LrRangeConfig, TrainConfig, fit, lr_range
from dimwise.train.lr_range import read, smooth

TEST = LrRangeConfig(n_steps=140)
X = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(16, 4, generator=torch.Generator().manual_seed(1))).argmax(1)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(DataConfig(source="digits"))


def network(data: Data) -> nn.Module:
    torch.manual_seed(0)
    return build("small_cnn", data.input_shape, data.n_outputs, width=0.5)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def final_loss(data: Data, optimizer: Literal["sgd", "adam"], lr: float) -> float:
    config = TrainConfig(
        optimizer=optimizer, lr=min(lr, 100.0), epochs=3, precision="fp32", layout="contiguous", threads=1, keep="last"
    )
    try:
        return float(fit(network(data), data, config=config).history[-1]["train_loss"])
    except NonFiniteLoss:  # the worst of all
        return math.inf


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rates_inside_train_and_rates_far_above_do_not(digits: Data, optimizer: Literal["sgd", "adam"]) -> None:
    config = TrainConfig(optimizer=optimizer, threads=1)
    found = lr_range(network(digits), digits, config=config, test=TEST)
    assert found.interval is not None
    assert found.suggested is not None
    low, high = found.interval
    assert low < found.suggested < high
    first = found.losses[0]
    inside = {rate: final_loss(digits, optimizer, rate) for rate in (low, found.suggested, high)}
    assert max(inside.values()) < first / 2, inside
    assert final_loss(digits, optimizer, 10 * high) > 2 * min(inside.values())
    assert final_loss(digits, optimizer, low / 100) > 2 * min(inside.values())


def test_the_model_and_the_random_numbers_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = lr_range(model, (X, Y), config=TrainConfig(optimizer="sgd"), test=TEST)
    assert found.interval is not None
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_same_seed_gives_the_same_curve_and_another_one_another() -> None:
    config = TrainConfig(optimizer="sgd", threads=1)
    one, two = (lr_range(mlp(), (X, Y), config=config, test=TEST) for _ in range(2))
    assert one == two
    other = lr_range(mlp(), (X, Y), config=TrainConfig(optimizer="sgd", threads=1, seed=1), test=TEST)
    assert other.losses != one.losses


def test_a_loader_and_a_data_set_do_as_well() -> None:
    rows = TensorDataset(X, Y)
    for data in (rows, DataLoader(rows, batch_size=64, shuffle=True)):
        found = lr_range(mlp(), data, config=TrainConfig(optimizer="sgd"), test=TEST)
        assert found.interval is not None
        assert 1e-3 < found.interval[1] < 10


def test_a_step_of_ones_own_and_regression() -> None:
    def step(model: nn.Module, x: Tensor, y: Tensor, task: object) -> Tensor:
        return (model(x) - y).square().mean()

    target = X @ torch.ones(16, 1)
    found = lr_range(nn.Linear(16, 1), (X, target), "regression", TrainConfig(optimizer="sgd"), test=TEST, step=step)
    assert found.interval is not None
    # Plain gradient descent on this loss bears rates up to 2/(2·λ), λ ≈ 1; with momentum 0.9 the mean over steps less.
    assert 0.003 < found.interval[1] < 2


class Constant(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 4), self.value) + 0 * self.unused


def test_a_constant_loss_has_no_clear_answer() -> None:
    found = lr_range(Constant(), (X, Y), test=TEST)
    assert found.interval is None
    assert found.suggested is None
    assert "no clear answer: the loss does not fall by more than its noise" in found.reason
    assert found.losses == pytest.approx([math.log(4)] * len(found.losses))


def test_noise_alone_has_no_clear_answer() -> None:
    """The outputs are random, and no parameter matters."""

    class Noise(Constant):
        def forward(self, x: Tensor) -> Tensor:
            return torch.randn(len(x), 4) + 0 * self.unused

    for seed in range(5):
        found = lr_range(Noise(), (X, Y), config=TrainConfig(seed=seed), test=TEST)
        assert found.interval is None, found.reason


def test_nan_at_once_says_so() -> None:
    found = lr_range(Constant(math.nan), (X, Y), test=TEST)
    assert found.interval is None
    assert "the loss is not finite before the first step" in found.reason
    assert found.rates == ()


def test_a_range_that_ends_too_early_is_extended_once() -> None:
    config = TrainConfig(optimizer="sgd")
    short = LrRangeConfig(low=1e-5, high=0.01, n_steps=60)
    found = lr_range(mlp(), (X, Y), config=config, test=short)
    assert found.extended
    assert found.interval is not None
    assert found.interval[1] > 0.01
    shorter = LrRangeConfig(low=1e-8, high=1e-6, n_steps=60)
    found = lr_range(nn.Linear(16, 4), (X, Y), config=config, test=shorter)
    assert found.extended
    assert found.interval is None
    assert found.rates[-1] <= 1e-3


def test_a_range_that_begins_too_late_is_extended_downwards() -> None:
    late = LrRangeConfig(low=3.0, high=3000.0, n_steps=60)
    found = lr_range(mlp(), (X, Y), config=TrainConfig(optimizer="sgd"), test=late)
    assert found.extended
    assert found.rates[0] == pytest.approx(0.003)


def valley(bottom: float = 0.01, edge: float = 0.5, noise: float = 0.01, seed: int = 0) -> list[float]:
    """A curve of the usual form: flat, falling to ``bottom``, rising steeply from ``edge``."""
    rates = np.geomspace(TEST.low, TEST.high, TEST.n_steps)
    fall = 1 / (1 + (rates / (bottom / 5)) ** 1.5)
    values = 0.3 + 2 * fall + (rates / edge) ** 3
    values += noise * np.random.default_rng(seed).standard_normal(len(rates))
    kept = values[: int(np.argmax(values > 7)) + 1] if (values > 7).any() else values
    return [2.3, *kept.tolist()]


def found_in(curves: list[list[float]]) -> tuple[LrRange, str]:
    return read(TEST, curves)


def test_the_interval_of_a_known_curve() -> None:
    found, side = found_in([valley(seed=s) for s in range(3)])
    assert side == ""
    assert found.interval is not None
    assert found.steepest == pytest.approx(0.002, rel=1.0)
    assert found.edge == pytest.approx(0.3, rel=0.5)
    assert found.interval[1] <= found.edge / 2
    assert found.interval[0] < found.suggested < found.interval[1]  # type: ignore[operator]


def test_seeds_that_disagree_give_no_answer() -> None:
    found, _ = found_in([valley(edge=e) for e in (5e-3, 0.5, 5.0)])
    assert found.interval is None
    assert "no clear answer: the seeds disagree about the highest rate" in found.reason


def test_a_fall_within_the_noise_gives_no_answer() -> None:
    noisy = [[v + 3 * n for v, n in zip(valley(seed=s), noise(s), strict=False)] for s in range(3)]
    assert found_in([valley(seed=s) for s in range(3)])[0].interval is not None
    assert found_in(noisy)[0].interval is None


def noise(seed: int) -> list[float]:
    return [float(v) for v in np.random.default_rng(seed + 10).standard_normal(TEST.n_steps + 1)]


def test_a_curve_that_breaks_at_once_asks_for_lower_rates() -> None:
    found, side = found_in([[2.3, 2.5, 30.0], [2.3, 2.4, math.nan], [2.3, 2.6, 40.0]])
    assert (found.interval, side) == (None, "low")
    assert "the loss breaks within" in found.reason


def test_a_curve_that_falls_to_the_end_asks_for_higher_rates() -> None:
    found, side = found_in([valley(bottom=50.0, edge=1e9, seed=s) for s in range(3)])
    assert (found.interval, side) == (None, "high")
    assert "the loss still falls at the highest rate, 1" in found.reason


def test_smoothing_has_no_lag_and_keeps_a_line() -> None:
    peak = np.zeros(41)
    peak[20] = 1.0
    assert int(smooth(peak, 0.8).argmax()) == 20
    assert smooth(np.full(10, 3.0), 0.9) == pytest.approx([3.0] * 10)


@pytest.mark.parametrize(
    ("model", "data", "test", "error", "line"),
    [
        (mlp(), (X, Y), LrRangeConfig(low=1.0, high=0.1), UserError, "the range begins at 1 and ends at 0.1"),
        (mlp(), (X[:, :3], Y), TEST, ModelError, "the network does not take inputs of shape (B, 3)"),
        (mlp(), (X[:0], Y[:0]), TEST, DataError, "0 inputs and 0 targets"),
        (nn.Linear(16, 2), (X, Y), TEST, DataError, "the classes go from 0 to 3 but the network has 2 outputs"),
        (nn.ReLU(), (X, Y), TEST, ModelError, "the model has no trainable parameter"),
    ],
)
def test_what_cannot_be_tested_is_one_line(
    model: nn.Module, data: tuple[Tensor, Tensor], test: LrRangeConfig, error: type[Exception], line: str
) -> None:
    with pytest.raises(error) as told:
        lr_range(model, data, test=test)
    assert line in str(told.value)
