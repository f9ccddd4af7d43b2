"""Pruning as a whole: which channels go, how many, and what comes back."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tests._networks import inputs, network, shown
from torch import Tensor, nn

from dimwise.data.sets import Split
from dimwise.errors import DataError, ModelError, UserError
from dimwise.fold._channels.cut import silence
from dimwise.fold._channels.groups import Alive, Channels
from dimwise.fold._channels.trace import trace
from dimwise.fold._evidence import Evidence
from dimwise.fold._pruning.allocate import allocate
from dimwise.fold._pruning.importance import l1, taylor
from dimwise.fold.prune import PruneConfig, plan, prune
from dimwise.measure import n_params, profile, state_size_bytes
from dimwise.models import MODELS, TOKENS, build
from dimwise.tasks import get
from dimwise.train.config import TrainConfig
from dimwise.train.evaluate import evaluate
from dimwise.train.fit import fit


def evidence(
    shape: tuple[int, ...] = (3, 32, 32), n: int = 80, *, epochs: int = 2, name: str = "small_cnn"
) -> Evidence:
    """Two classes that are cheap to learn, as inputs of the named network."""
    data = shown(name, shape, n)
    task = get("classification")
    example = data.normalise(data.train.inputs[:1])
    return Evidence(
        data=data,
        task=task,
        example=example,
        score=lambda m: evaluate(m, data.valid, data.normalise, task)[1],
        cost=lambda m: {"params": n_params(m), "macs": profile(m, example).macs, "size_bytes": state_size_bytes(m)},
        train=TrainConfig(epochs=epochs, batch_size=16, lr=0.01, precision="fp32", layout="contiguous"),
    )


def config(**more: Any) -> PruneConfig:
    given: dict[str, Any] = {"epochs": 0, "importance": "l1", "round_to": 2, "min_channels": 2} | more
    return PruneConfig(**given)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("small_cnn", (3, 8, 8), 2, width=0.5).eval()


# Importance ---------------------------------------------------------------------------------------------------------


def test_l1_picks_the_smallest_filters() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 2)).eval()
    with torch.no_grad():
        for i, size in enumerate((3.0, 1.0, 4.0, 2.0)):
            net[0].weight[i] = size * (-1) ** i  # type: ignore[index]
    kept, report = prune(net, config(macs=0.5), evidence((1, 4, 4)))
    assert report.layers == [{"name": "0", "channels_before": 4, "channels_after": 2}]
    assert kept[0].weight.flatten(1).abs().mean(1).tolist() == [3.0, 4.0]  # type: ignore[index]
    torch.testing.assert_close(kept[3].weight, net[3].weight.view(2, 4, 4)[:, [0, 2]].flatten(1))  # type: ignore[index]


def test_l1_is_the_mean_over_tied_filters_relative_to_their_layers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x) + self.b(x))

    net = Two()
    scores = l1(net, trace(net, torch.zeros(2, 2)))
    sizes = [layer.weight.detach().abs().sum(1) for layer in (net.a, net.b)]
    assert scores == pytest.approx(sum(s / s.mean() for s in sizes).numpy() / 2, rel=1e-6)  # type: ignore[union-attr]


def test_taylor_on_a_linear_network_by_hand() -> None:
    """z = v·(W x), L = mean (z − y)²: I(c) = |mean 2 (z − y) v_c h_c|, and one more batch enters by the mean."""
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)).double()
    generator = torch.Generator().manual_seed(1)
    pairs = [
        (torch.randn(5, 2, generator=generator).double(), torch.randn(5, 1, generator=generator).double())
        for _ in range(2)
    ]
    with torch.no_grad():
        wanted = []
        for x, y in pairs:
            h = net[0](x)  # (5, 3)
            wanted.append((2 * (net[1](h) - y) * net[1].weight * h).mean(0).abs())
    scores = taylor(net, trace(net, torch.zeros(2, 2).double()), pairs, get("regression"))
    assert scores == pytest.approx(((wanted[0] + wanted[1]) / 2).numpy(), rel=1e-9)
    assert all(p.grad is None for p in net.parameters())


class Block(nn.Module):
    """Convolution, norm, residual convolution, mean, dense layer; a gate may stand wherever a channel is read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor, gate: Tensor | float = 1.0) -> Tensor:
        h = F.relu(self.n(self.a(x)))
        return self.out(((h + self.b(h * gate)) * gate).mean((2, 3)))


def test_taylor_is_the_slope_towards_silence() -> None:
    """Through norms and residuals: |∂L/∂g| at g = 1, where g multiplies a channel wherever it is read."""
    torch.manual_seed(0)
    net = Block().double().eval()
    nn.init.normal_(net.n.bias)
    x, y = torch.randn(6, 3, 5, 5).double(), torch.arange(6) % 2
    scores = taylor(net, trace(net, x[:2]), [(x, y)], get("classification"))
    gate = torch.ones(4, 1, 1).double().requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(net(x, gate), y), gate)
    assert scores == pytest.approx(slope.flatten().abs().numpy(), rel=1e-9)


def test_taylor_takes_batches_by_seed() -> None:
    told, net = evidence((3, 8, 8)), small()
    one, two, three = (
        plan(net, config(importance="taylor", batches=1), dataclasses.replace(told, seed=seed), torch.randn(2, 3, 8, 8))
        for seed in (1, 1, 2)
    )
    assert (one[1] == two[1]).all()
    assert (one[1] != three[1]).any()


# Allocation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("macs", [0.15, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("round_to", [1, 4])
def test_the_target_is_met_within_one_step(allocation: str, macs: float, round_to: int) -> None:
    net, x = small(), torch.randn(2, 3, 8, 8)
    channels = trace(net, x)
    scores = np.random.default_rng(0).random(channels.n_classes)
    told = config(macs=macs, allocation=allocation, round_to=round_to)
    alive = allocate(channels, scores, told)
    whole = channels.macs(channels.all_alive())
    assert channels.macs(alive) <= macs * whole * (1 + 1e-6)
    for group in channels.groups:
        kept = alive[group.classes]
        assert kept.sum() % round_to == 0
        assert kept.sum() >= 2
        if kept.all():
            continue
        assert scores[group.classes][kept].min() >= scores[group.classes][~kept].max()
        more = alive.copy()
        more[group.classes[~kept][:round_to]] = True
        assert channels.macs(more) > macs * whole, "a further step would still have fitted"


def test_uniform_keeps_equal_shares_and_global_the_best() -> None:
    net, x = small(), torch.randn(2, 3, 8, 8)
    channels = trace(net, x)
    scores = np.random.default_rng(0).random(channels.n_classes)
    last = channels.groups[-1].classes
    scores[last] += 1  # far more important
    shares = {}
    for allocation in ("uniform", "global"):
        alive = allocate(channels, scores, config(macs=0.4, allocation=allocation))
        shares[allocation] = [alive[g.classes].mean() for g in channels.groups]
    assert max(shares["uniform"]) - min(shares["uniform"]) < 0.15
    assert shares["global"][-1] == 1
    assert max(shares["global"][:-1]) < min(shares["uniform"])


def test_all_of_the_macs_is_the_network_itself() -> None:
    net, told = small(), evidence((3, 8, 8))
    same, report = prune(net, config(macs=1.0, epochs=3), told, tune=lambda *_: pytest.fail("nothing to recover"))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True))
    assert report.layers == []
    assert report.untouched["conv1"] == "the target was met without it"


def test_macs_outside_convolutions_count_as_fixed() -> None:
    net, x = small(), torch.randn(2, 3, 8, 8)
    channels = trace(net, x)
    whole, scores = channels.macs(channels.all_alive()), np.random.default_rng(0).random(channels.n_classes)
    alive = allocate(channels, scores, config(macs=0.8, round_to=1), rest_macs=whole)
    assert 0.55 < channels.macs(alive) / whole <= 0.6


# Every network of the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[tuple[Channels, Alive]] = []

    def planning(*given: Any) -> tuple[Channels, Alive]:
        plans.append(plan(*given))
        return plans[-1]

    monkeypatch.setattr(sys.modules[prune.__module__], "plan", planning)
    shape = (12,) if name in TOKENS else (1, 32, 32) if name == "lenet5" else (3, 32, 32)
    told = evidence(shape, n=4, name=name)
    torch.manual_seed(0)
    net = network(name, shape, 10, width=0.25 if name != "lenet5" else 1.0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    pruned, report = prune(net, config(macs=0.6, importance="taylor", batches=1), told)
    assert report.cost_after["macs"] <= 0.6 * report.cost_before["macs"]
    assert report.cost_after["macs"] > 0.4 * report.cost_before["macs"]
    assert report.cost_after["params"] < report.cost_before["params"]
    assert pruned(inputs(name, 1, *shape)).shape == (1, 10)
    assert pruned(inputs(name, 3, *shape)).shape == (3, 10)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training
    assert not pruned.training
    channels, alive = plans[0]
    if not channels.inexact[~alive].any():  # else a LayerNorm measures over fewer channels
        x = told.data.normalise(told.data.train.inputs[:2])
        torch.testing.assert_close(pruned(x), silence(net.eval(), channels, alive)(x), rtol=1e-4, atol=1e-5)


def test_the_table_was_not_empty() -> None:
    assert len(MODELS) >= 10


@pytest.mark.parametrize("name", ["guide_cnn", "resnet20"])
def test_the_pruned_network_exports(name: str) -> None:
    net = build(name, (3, 32, 32), 10, width=0.25)
    pruned, _ = prune(net, config(macs=0.5), evidence())
    x = torch.randn(2, 3, 32, 32)
    program = torch.export.export(pruned, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    y = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(y), pruned(y), rtol=1e-4, atol=1e-5)


# Fine-tuning --------------------------------------------------------------------------------------------------------


def test_fine_tuning_brings_the_score_back() -> None:
    told = evidence((3, 8, 8), epochs=6)
    net = fit(small(), told.data, told.task, told.train).model
    told_config = config(macs=0.3, importance="taylor")
    _, cut_only = prune(net, told_config, told)
    for teacher in (True, False):
        tuned, report = prune(net, dataclasses.replace(told_config, epochs=4, teacher=teacher), told)
        assert report.score_before > 0.9
        assert report.score_after > max(0.85, cut_only.score_after)
        assert report.cost_after == cut_only.cost_after
        assert not tuned.training


def test_what_fine_tuning_is_given() -> None:
    told, net = evidence((3, 8, 8)), small()
    given: dict[str, Any] = {}

    def tune(pruned: nn.Module, original: nn.Module, settings: PruneConfig, seen: Evidence) -> nn.Module:
        given.update(params=n_params(pruned), settings=settings, evidence=seen, same=original is net)
        torch.testing.assert_close(original(seen.example), net(seen.example))
        return pruned.train()

    pruned, report = prune(net, config(epochs=7), told, tune=tune)
    assert given == {
        "params": report.cost_after["params"],
        "settings": config(epochs=7),
        "evidence": told,
        "same": False,
    }
    assert not pruned.training


def test_the_report() -> None:
    told, net = evidence((3, 8, 8)), small()
    pruned, report = prune(net, config(macs=0.5), told)
    assert (report.fold, report.config["macs"], report.config["importance"]) == ("prune", 0.5, "l1")
    assert report.score_before == told.score(net)
    assert report.score_after == told.score(pruned)
    assert report.cost_before == told.cost(net)
    assert report.cost_after == told.cost(pruned)
    for row in report.layers:
        assert net.get_submodule(row["name"]).out_channels == row["channels_before"]
        assert pruned.get_submodule(row["name"]).out_channels == row["channels_after"] < row["channels_before"]
    assert report.untouched["fc"] == "they are the network's outputs"
    assert report.seconds > 0


def test_the_same_seed_prunes_alike() -> None:
    told, net = evidence((3, 8, 8)), small()
    a, b = (prune(net, config(importance="taylor", epochs=1, batches=2), told)[0].state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


# What is not possible -----------------------------------------------------------------------------------------------


class Hard(nn.Module):
    """The first layer's channels are counted in the code, the second's are not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.hidden, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] and self.a.out_channels != 8:
            raise RuntimeError("8 channels are expected")
        return self.out(F.relu(self.hidden(F.relu(self.a(x)).flatten(1))))


def test_layers_counted_in_the_code_are_left_alone() -> None:
    pruned, report = prune(Hard(), config(macs=0.9), evidence((3, 8, 8)))
    assert [row["name"] for row in report.layers] == ["hidden"]
    assert "its number of channels is written into the forward pass (RuntimeError" in report.untouched["a"]
    assert pruned(torch.randn(3, 3, 8, 8)).shape == (3, 2)


def test_thin_layers_are_left_alone() -> None:
    _, report = prune(small(), config(macs=0.9, round_to=8, min_channels=24), evidence((3, 8, 8)))
    assert report.untouched["conv1"] == "no fewer channels are a multiple of 8 and at least 24"


@pytest.mark.parametrize(("macs", "block"), [(0.6, 16), (0.1, 8)])
def test_channels_stay_in_the_widest_blocks_that_reach_the_target(macs: float, block: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 2),
    )
    told = PruneConfig(macs=macs, importance="l1", epochs=0)
    pruned, report = prune(net, told, evidence((3, 8, 8)))
    left = [m.out_channels for m in pruned.modules() if isinstance(m, nn.Conv2d)]
    assert report.config["round_to"] == 0
    assert report.cost_after["macs"] <= macs * report.cost_before["macs"]
    assert left != [32, 48]
    assert all(n % block == 0 for n in left)
    assert block == 16 or any(n % 16 for n in left)


def test_out_of_reach_in_blocks_is_told_of_the_narrowest() -> None:
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 2))
    with pytest.raises(ModelError, match=r"10% of the MACs is out of reach; expected at least 40\.0%"):
        prune(net, PruneConfig(macs=0.1, importance="l1", epochs=0), evidence((3, 8, 8)))


def test_out_of_reach() -> None:
    with pytest.raises(ModelError, match=r"pruning to 10% of the MACs is out of reach; expected at least (\d+\.\d)%, "):
        prune(small(), config(macs=0.1, round_to=8, min_channels=16), evidence((3, 8, 8)))


def test_nothing_can_leave() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(ModelError, match=r"no channel of this network can leave \(1: they are the network's outputs\)"):
        prune(net, config(), evidence((3, 8, 8)))


def test_no_data_for_gradients() -> None:
    told = evidence((3, 8, 8))
    empty = dataclasses.replace(told.data, train=Split(told.data.train.inputs[:0], told.data.train.targets[:0]))
    told = dataclasses.replace(told, data=empty)
    with pytest.raises(DataError, match=r"made has no training inputs; .*importance='l1'"):
        prune(small(), config(importance="taylor"), told)
    assert prune(small(), config(), told)[1].layers


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_weights_that_are_not_finite(importance: str) -> None:
    net = small()
    with torch.no_grad():
        net.get_submodule("conv1").weight[0] = float("nan")
    with pytest.raises(ModelError, match=rf"the {importance} importance of \d+ channels is not finite"):
        prune(net, config(importance=importance), evidence((3, 8, 8)))


def test_what_cannot_be_traced() -> None:
    class Branch(Hard):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ModelError, match=r"Branch cannot be traced: .*it can still be distilled into"):
        prune(Branch(), config(), evidence((3, 8, 8)))


def test_an_exported_graph_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"prune was given a bytes; expected a torch.nn.Module. Apply prune before exporting."
    ):
        prune(b"onnx", config(), evidence((3, 8, 8)))  # type: ignore[arg-type]


def test_a_disagreement_without_a_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[prune.__module__]
    monkeypatch.setattr(module, "disagreement", lambda *_: "outputs off by 0.3 of their largest")
    monkeypatch.setattr(module, "guilty", lambda *_: {})
    with pytest.raises(ModelError, match=r"Sequential computes something else once pruned: outputs off by 0\.3"):
        prune(small(), config(), evidence((3, 8, 8)))


@pytest.mark.parametrize(
    "wrong", [{"macs": 0.0}, {"macs": 1.1}, {"round_to": -1}, {"importance": "l3"}, {"lr_frac": 0.0}, {"epochs": -1}]
)
def test_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PruneConfig(**wrong)
