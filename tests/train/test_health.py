"""Who made the first NaN, how large the gradients are, how far a step went."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dimwise.train import health
from dimwise.train.precision import Arithmetic


class Root(nn.Module):
    """Its own forward makes the NaN, not one of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.layer(x).abs() * 0 - 1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x / 0


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]


def named(model: nn.Module, x: Tensor | None = None) -> str:
    return health.first_bad_module(model, torch.ones(3, 2) if x is None else x, Arithmetic())


def test_the_first_of_several_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    model[1][0].weight.data.fill_(torch.inf)  # type: ignore[index, union-attr, operator]
    assert named(model) == "'1.0' (Linear), whose weights hold NaN or infinity"


def test_a_module_without_bad_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Softplus(beta=1), nn.Linear(2, 2))
    model[0].weight.data.fill_(3e38)
    assert named(model) == "'0' (Linear)"


def test_the_networks_own_forward() -> None:
    assert named(Root()) == "Root.forward"


def test_outputs_that_are_tuples() -> None:
    assert named(nn.Sequential(Pair(), First())) == "'0' (Pair)"


def test_the_input_and_the_loss() -> None:
    assert "the input itself" in named(nn.Linear(2, 2), torch.tensor([[1.0, torch.nan]]))
    assert "the loss itself" in named(nn.Linear(2, 2))


def test_looking_changes_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    named(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model[0]._forward_hooks


def test_gradient_norms_are_those_of_the_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert health.gradient_norms(model) == {}
    model(torch.randn(5, 3)).square().sum().backward()
    found = health.gradient_norms(model)
    assert list(found) == ["0", "2"]
    grads = {name: p.grad for name, p in model.named_parameters()}
    for name, norm in found.items():
        grad = grads[f"{name}.weight"]
        assert grad is not None
        assert norm == pytest.approx(grad.norm().item(), rel=1e-6)


def test_update_ratios() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    before = health.matrices(model)
    model[0].weight.data.mul_(1.5)
    assert health.update_ratios(model, before) == pytest.approx({"0": 0.5, "2": 0.0}, rel=1e-5)
    assert health.update_ratios(model, {}) == {}
    model[2].weight.data.zero_()
    zero = health.matrices(model)
    assert health.update_ratios(model, zero)["2"] == 0.0  # a weight of norm 0 divides nothing


def test_first_bad_parameter() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert health.first_bad_parameter(model) is None
    model[1].bias.data[0] = torch.nan
    assert health.first_bad_parameter(model) == "1.bias"
