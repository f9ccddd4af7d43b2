"""Pruning towards parameters and milliseconds, in orders that were measured, in rounds, after sparse training."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import ModelError
from dimwise.fold._channels.cut import cut
from dimwise.fold._channels.trace import trace
from dimwise.fold._evidence import Evidence
from dimwise.fold._gather import evidence as gathered
from dimwise.fold._pruning.allocate import allocate, counting_params
from dimwise.fold._pruning.importance import batch_norm_scale, l1, l2
from dimwise.fold._pruning.sparse import penalising_step, sparse_training
from dimwise.fold._pruning.speed import by_latency, by_sensitivity, eager_latency
from dimwise.fold.prune import PruneConfig, prune, sensitivity
from dimwise.measure import n_params, profile
from dimwise.models import build
from dimwise.tasks import get
from dimwise.train.config import TrainConfig
from dimwise.train.loop import plain_step


def told(n: int = 80) -> Evidence:
    """Images of two classes that differ by their mean."""
    y = torch.arange(n) % 2
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + y.view(-1, 1, 1, 1)
    data = Data("made", Split(x, y), Split(x, y), Split(x, y), ("a", "b"), Normalise(1.0, (0.5,) * 3, (1.1,) * 3))
    train = TrainConfig(epochs=6, batch_size=16, lr=0.01, precision="fp32", layout="contiguous")
    return gathered(data, train=train)


def config(**more: Any) -> PruneConfig:
    given: dict[str, Any] = {"epochs": 0, "importance": "l1", "round_to": 2, "min_channels": 2} | more
    return PruneConfig(**given)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("small_cnn", (3, 8, 8), 2, width=0.5).eval()


def macs(net: nn.Module) -> float:
    """A clock that never lies: a millisecond for each thousand MACs."""
    return profile(net, torch.zeros(1, 3, 8, 8)).macs / 1000


# Importance ---------------------------------------------------------------------------------------------------------


def test_l2_is_the_euclidean_norm_relative_to_its_layer() -> None:
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 6.0], [1.0, 0.0]]))
    channels = trace(net, torch.zeros(2, 2))
    assert l2(net, channels) == pytest.approx([5 / 4, 6 / 4, 1 / 4])
    assert l1(net, channels) == pytest.approx([7 / (14 / 3), 6 / (14 / 3), 1 / (14 / 3)])


class Scaled(nn.Module):
    """A layer scaled by a BatchNorm, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.n(self.a(x)).relu().mean((2, 3))).relu())


def test_bn_takes_the_scale_and_says_where_there_is_none() -> None:
    net = Scaled()
    with torch.no_grad():
        net.n.weight.copy_(torch.tensor([0.4, -3.0, 0.1, 0.5]))
    channels = trace(net, torch.zeros(2, 3, 8, 8))
    scores, by_l1 = batch_norm_scale(net, channels)
    assert by_l1 == {"b"}
    first, second = (g.classes for g in channels.groups)
    assert scores[first] == pytest.approx([0.4, 3.0, 0.1, 0.5])  # their mean is 1
    assert scores[second] == pytest.approx(l1(net, channels)[second])
    pruned, report = prune(net, config(importance="bn", params=0.5), told())
    assert pruned.n.weight.tolist() == pytest.approx([-3.0, 0.5])  # type: ignore[union-attr]
    assert {row["name"]: row.get("importance") for row in report.layers} == {
        "a": None,
        "b": "l1: no BatchNorm scales it",
    }


# Targets ------------------------------------------------------------------------------------------------------------


def test_parameters_are_counted_as_they_are() -> None:
    net = small()
    channels = trace(net, torch.randn(2, 3, 8, 8))
    counted = counting_params(channels, net)
    for seed in range(3):
        alive = np.random.default_rng(seed).random(channels.n_classes) < 0.6
        alive[[g.classes[0] for g in channels.groups]] = True
        assert counted.macs(alive) == pytest.approx(n_params(cut(net, channels, alive)))


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_fraction_of_the_parameters(allocation: str) -> None:
    net = small()
    pruned, report = prune(net, config(params=0.4, allocation=allocation), told())
    assert 0.3 * n_params(net) < n_params(pruned) <= 0.4 * n_params(net)
    assert report.config["params"] == 0.4


def test_the_fastest_clock_decides_how_much_leaves() -> None:
    net = small()
    whole = macs(net)
    for asked in ({"latency": 0.5}, {"latency_ms": 0.5 * whole}, {"latency": 0.9, "latency_ms": 0.5 * whole}):
        pruned, report = prune(net, config(**asked), told(), latency_of=macs)
        assert 0.4 * whole < macs(pruned) <= 0.5 * whole
        assert report.cost_before["latency_ms"] == whole
        assert report.cost_after["latency_ms"] == macs(pruned)


def test_the_clock_of_the_evidence_is_used() -> None:
    seen = dataclasses.replace(told(), latency=lambda net: 2 * macs(net))
    net = small()
    assert 0.8 * macs(net) < prune(net, config(latency=0.5), seen)[1].cost_after["latency_ms"] <= macs(net)


def test_a_limit_that_is_met_already_changes_nothing() -> None:
    net = small()
    pruned, report = prune(net, config(latency_ms=2 * macs(net)), told(), latency_of=macs)
    assert n_params(pruned) == n_params(net)
    assert report.layers == []


def test_latency_and_parameters_together() -> None:
    net = small()
    pruned, _ = prune(net, config(latency=0.9, params=0.3), told(), latency_of=macs)
    assert n_params(pruned) <= 0.3 * n_params(net)
    pruned, _ = prune(net, config(latency=0.4, params=0.9), told(), latency_of=macs)
    assert macs(pruned) <= 0.4 * macs(net)


def test_targets_out_of_reach() -> None:
    with pytest.raises(ModelError, match=r"pruning to 0% of the parameters is out of reach; expected at least \d"):
        prune(small(), config(params=0.0001), told())
    with pytest.raises(
        ModelError, match=r"pruning to 0\.001 ms is out of reach; expected at least \d\.\d+ ms, the fastest"
    ):
        prune(small(), config(latency_ms=0.001), told(), latency_of=lambda net: 1.0 + macs(net))


def test_where_nothing_can_leave_a_target_in_ms_says_so_too() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    with pytest.raises(ModelError) as by_macs:
        prune(net, config(macs=0.5), told())
    with pytest.raises(ModelError) as by_time:
        prune(net, config(latency=0.5), told(), latency_of=macs)
    assert "inf ms" not in str(by_time.value)
    assert "can leave" in str(by_macs.value)
    assert "can leave" in str(by_time.value)


def test_the_default_clock_is_the_eager_network() -> None:
    deep = nn.Sequential(*(nn.Linear(64, 64) for _ in range(30)))
    time_ms = eager_latency(deep, torch.zeros(1, 64), budget_s=0.01)
    assert 0 < time_ms(deep[:2]) < time_ms(deep)


# Allocation ---------------------------------------------------------------------------------------------------------


def test_groups_that_hurt_less_lose_more() -> None:
    net = small()
    channels = trace(net, torch.randn(2, 3, 8, 8))
    scores = np.random.default_rng(0).random(channels.n_classes)
    tender = channels.groups[1]

    def score_without(alive: Any) -> float:
        return 0.9 - 0.5 * float(not alive[tender.classes].all())

    settings = config(allocation="sensitivity", macs=0.5)
    order = by_sensitivity(channels, scores, settings, score_without=score_without)
    alive = allocate(channels, scores, settings, order=order)
    shares = {g.name: alive[g.classes].mean() for g in channels.groups}
    assert channels.macs(alive) <= 0.5 * channels.macs(channels.all_alive())
    assert shares.pop(tender.name) > 0.9
    assert max(shares.values()) < 0.6
    kept = alive[channels.groups[0].classes]
    assert scores[channels.groups[0].classes][kept].min() > scores[channels.groups[0].classes][~kept].max()


def test_equal_hurt_means_equal_shares() -> None:
    channels = trace(small(), torch.randn(2, 3, 8, 8))
    scores = np.random.default_rng(0).random(channels.n_classes)
    settings = config(allocation="sensitivity", macs=0.4)
    order = by_sensitivity(channels, scores, settings, score_without=lambda alive: 0.5 + 0.1 * alive.all())
    alive = allocate(channels, scores, settings, order=order)
    shares = [alive[g.classes].mean() for g in channels.groups]
    assert max(shares) - min(shares) < 0.15


def test_where_the_clock_gains_nothing_nothing_leaves() -> None:
    net = small()
    channels = trace(net, torch.randn(2, 3, 8, 8))
    fast = channels.groups[0]  # its channels cost no time

    def clock(network: nn.Module) -> float:
        return sum(m.out_channels for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and n != fast.name)

    scores = np.ones(channels.n_classes) + 0.01 * np.random.default_rng(0).random(channels.n_classes)
    settings = config(allocation="latency", macs=0.6)
    order = by_latency(net, channels, scores, settings, latency_of=clock)
    alive = allocate(channels, scores, settings, order=order)
    assert alive[fast.classes].all()
    assert channels.macs(alive) <= 0.6 * channels.macs(channels.all_alive())


@pytest.mark.parametrize("allocation", ["sensitivity", "latency"])
def test_measured_allocations_from_end_to_end(allocation: str) -> None:
    net = small()
    pruned, report = prune(net, config(allocation=allocation, macs=0.5), told(), latency_of=macs)
    assert 0.35 * macs(net) < macs(pruned) <= 0.5 * macs(net)
    assert report.layers


# In rounds, and after sparse training -------------------------------------------------------------------------------


def test_rounds_share_the_cut_and_the_epochs() -> None:
    net, seen = small(), []

    def tune(pruned: nn.Module, original: nn.Module, settings: PruneConfig, _: Evidence) -> nn.Module:
        seen.append((macs(pruned) / macs(original), settings.epochs))
        return pruned

    pruned, report = prune(net, config(macs=0.3, rounds=3, epochs=5, round_to=1), told(), tune=tune)
    assert [epochs for _, epochs in seen] == [1, 2, 2]
    assert [share for share, _ in seen] == pytest.approx([0.3 ** (1 / 3), 0.3 ** (2 / 3), 0.3], abs=0.04)
    for row in report.layers:
        assert net.get_submodule(row["name"]).out_channels == row["channels_before"]
        assert pruned.get_submodule(row["name"]).out_channels == row["channels_after"]
    assert macs(pruned) <= 0.3 * macs(net)


def test_rounds_towards_milliseconds_and_parameters() -> None:
    net = small()
    pruned, _ = prune(net, config(latency=0.5, rounds=2), told(), latency_of=macs)
    assert 0.4 * macs(net) < macs(pruned) <= 0.5 * macs(net)
    pruned, _ = prune(net, config(params=0.4, rounds=2), told())
    assert 0.3 * n_params(net) < n_params(pruned) <= 0.4 * n_params(net)


def test_sparse_training_empties_channels_before_they_leave() -> None:
    seen, net = told(), small()
    channels = trace(net, torch.randn(2, 3, 8, 8))
    weak = []
    for weight in (1e-9, 0.02):
        settings = config(sparse_epochs=6, sparse_weight=weight, lr_frac=1.0)
        sizes = l2(sparse_training(deepcopy(net), channels, settings, seen), channels)
        weak.append(np.mean([np.sort(sizes[g.classes])[: len(g.classes) // 2].mean() for g in channels.groups]))
    assert weak[1] < 0.9 * weak[0]


def test_sparse_training_leaves_the_original_alone() -> None:
    net = small()
    whole = {k: v.clone() for k, v in net.state_dict().items()}
    pruned, _ = prune(net, config(macs=0.5, sparse_epochs=1), told())
    assert 0.35 * macs(net) < macs(pruned) <= 0.5 * macs(net)
    assert all(torch.equal(whole[k], v) for k, v in net.state_dict().items())


def test_the_penalty_grows_and_pulls_the_small_most() -> None:
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 3.0], [1.0, 0.0]]))
    step = penalising_step(net, trace(net, torch.zeros(2, 2)), 0.1, 2)
    x, y, task = torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), get("classification")
    added = [step(net, x, y, task).item() - plain_step(net, x, y, task).item() for _ in range(3)]
    full = 0.1 * (5 * 1 + 3 * 4 + 1 * 16)
    assert added == pytest.approx([full / 2, full, full], rel=1e-5)


# Sensitivity --------------------------------------------------------------------------------------------------------


def test_sensitivity_is_what_the_score_loses_without_a_group_alone() -> None:
    net, looks = small(), told()
    before = deepcopy(net.state_dict())
    seen = []

    def score(network: nn.Module) -> float:
        seen.append([m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)])
        return float(sum(w**2 for w in seen[-1]))

    rows = sensitivity(net, config(), dataclasses.replace(looks, score=score))
    whole, others = seen[0], seen[1:]
    assert [sum(a != b for a, b in zip(whole, other, strict=True)) for other in others] == [1] * len(whole)
    drops = sorted((sum(w**2 for w in whole) - sum(w**2 for w in other) for other in others), reverse=True)
    assert [row["drop"] for row in rows] == drops
    assert all(row["kept"] == 0.5 for row in rows)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_sensitivity_stops_in_time_and_has_no_row_where_nothing_can_leave() -> None:
    assert len(sensitivity(small(), config(), told(), limit_s=0.0)) == 1
    assert sensitivity(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), config(), told()) == []
