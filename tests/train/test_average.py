"""The running average of the weights, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dimwise.train.ema import WeightAverage


def test_closed_form() -> None:
    """w̄ after each step by the formula, with its early warm-up, in float64."""
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(2.0)
    average, expected = WeightAverage(layer, 0.95), 2.0
    for step in range(40):
        value = float(step) ** 0.5
        layer.weight.data.fill_(value)
        average.update(step)
        decay = min(0.95, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert average.state()["weight"].item() == pytest.approx(expected, rel=1e-12)


def test_a_constant_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.9)
    for step in range(5):
        average.update(step)
    assert all(torch.allclose(v, model.state_dict()[k]) for k, v in average.state().items())


def test_counters_are_copied_not_averaged() -> None:
    norm = nn.BatchNorm1d(2)
    average = WeightAverage(norm, 0.9)
    for step in range(3):
        norm(torch.randn(4, 2))
        average.update(step)
    assert average.state()["num_batches_tracked"].item() == 3
    assert average.state()["num_batches_tracked"].dtype == torch.int64


def test_it_takes_no_part_in_the_model() -> None:
    layer = nn.Linear(2, 2)
    average = WeightAverage(layer, 0.5)
    before = layer.weight.clone()
    average.state()["weight"].add_(1)
    assert torch.equal(layer.weight, before)
    assert not average.state()["weight"].requires_grad


def test_load_goes_on_from_there() -> None:
    layer = nn.Linear(2, 2)
    first, second = WeightAverage(layer, 0.9), WeightAverage(layer, 0.9)
    layer.weight.data.add_(1)
    first.update(50)
    second.load({k: v.clone() for k, v in first.state().items()})
    layer.weight.data.add_(1)
    first.update(51)
    second.update(51)
    assert torch.equal(first.state()["weight"], second.state()["weight"])
