"""Layers as products of thinner ones: exact at full rank, and off by what was cut below it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests._networks import network, shown, small_shape
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import DataError, ModelError, UserError
from dimwise.fold import _factor
from dimwise.fold._evidence import Evidence
from dimwise.fold._factorable import look
from dimwise.fold._modules import difference
from dimwise.fold.lowrank import LowrankConfig, lowrank
from dimwise.measure import profile
from dimwise.models import MODELS
from dimwise.train.config import TrainConfig


def looks(shape: tuple[int, ...], n: int = 80) -> Evidence:
    """Two classes that differ by their mean; a test split that must not be read."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randn(n, *shape, generator=generator) + y.view(-1, *[1] * len(shape))
    split, none = Split(x, y), Split(torch.zeros(0), torch.zeros(0))
    data = Data("made", split, split, none, ("a", "b"), Normalise(1.0, (0.5,) * shape[0], (1.1,) * shape[0]))
    train = TrainConfig(epochs=2, batch_size=16, lr=0.01, precision="fp32", layout="contiguous", threads=1)
    return fold.evidence(data, train=train, example=data.normalise(torch.ones(1, *shape)))


def config(**more: Any) -> LowrankConfig:
    return LowrankConfig(**({"epochs": 0, "round_to": 1, "data": False} | more))


def spread(layer: Any, decay: float = 0.7) -> Any:
    """The layer with singular values that fall: what a trained one looks like."""
    with torch.no_grad():
        u, sigma, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
        layer.weight.copy_(((u * decay ** torch.arange(len(sigma))) @ v).view_as(layer.weight))
    return layer


# The mathematics ------------------------------------------------------------------------------------------------------


CASES = [
    (nn.Linear(6, 9), (3, 6)),
    (nn.Linear(6, 4, bias=False), (3, 5, 6)),
    (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    (nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2), (2, 3, 11, 9)),
    (nn.Conv2d(3, 5, (3, 5), padding="same", padding_mode="circular"), (2, 3, 8, 8)),
    (nn.Conv2d(3, 5, 1, bias=False), (2, 3, 4, 4)),
    (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
]


def ways(layer: Any) -> list[_factor.Factors]:
    if isinstance(layer, nn.Linear):
        return [_factor.of_linear(layer)]
    found = [_factor.channel(layer)]
    return [*found, _factor.spatial(layer, 8, 8)] if isinstance(layer, nn.Conv2d) else found


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_full_rank_is_the_layer_itself(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for way in ways(layer):
        made = way.build(way.full_rank)
        torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)
        assert (made[1].bias is None) == (layer.bias is None)


def product(layer: Any, made: nn.Sequential) -> Tensor:
    """The weight that two layers have together, from their answers to unit inputs."""
    a, b = (part.weight.detach().double() for part in made)
    if isinstance(layer, nn.Linear):
        return b @ a
    if a.shape[2:] == layer.weight.shape[2:]:
        return torch.einsum("or,ri...->oi...", b.flatten(1), a)
    return torch.einsum("orx,riy->oiyx", b[:, :, 0], a[..., 0])


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_the_error_is_the_sum_of_the_squares_that_were_cut(layer, shape):
    for way in ways(layer):
        for rank in range(1, way.full_rank):
            error = (product(layer, way.build(rank)) - layer.weight.double()).square().sum()
            cut = way.squares[rank:].sum()
            assert error.item() == pytest.approx(cut.item(), rel=1e-4, abs=1e-9)
            assert way.energy(rank) == pytest.approx(1 - (cut / layer.weight.double().square().sum()).item())


def test_an_embedding_is_factorised_row_by_row():
    layer = nn.Embedding(20, 6, padding_idx=0)
    way = _factor.of_embedding(layer)
    words = torch.tensor([[0, 3], [19, 7]])
    torch.testing.assert_close(way.build(6)(words), layer(words), rtol=1e-5, atol=1e-5)
    error = (way.build(4)(torch.arange(20)) - layer.weight).square().sum()
    assert error.item() == pytest.approx(way.squares[4:].sum().item(), rel=1e-4)


@pytest.mark.parametrize("layer", [nn.Linear(6, 9), nn.Conv2d(6, 9, 1)])
def test_with_data_the_error_of_the_outputs_is_the_variance_that_was_cut(layer):
    """Where inputs are uneven, the outputs' own axes lose less than the weights'."""
    told = looks((6,) if isinstance(layer, nn.Linear) else (6, 3, 3))
    net = nn.Sequential(layer)
    x = told.data.normalise(told.data.train.inputs)
    _, (found,), _ = look(net, config(data=True, batches=99), told, x[:2])
    (way,) = found.ways
    y, axes = layer(x), [0, *range(2, x.dim())]
    with torch.no_grad():
        for rank in (2, 4, 6):
            error = (way.build(rank)(x) - y).square().sum(1).mean()
            assert error.item() == pytest.approx(way.squares[rank:].sum().item(), rel=1e-3, abs=1e-6)
            plain = _factor.of_linear(layer) if isinstance(layer, nn.Linear) else _factor.channel(layer)
            if rank < 6:
                assert error < (plain.build(rank)(x) - y).square().sum(1).mean()
    assert way.squares.sum().item() == pytest.approx(y.var(axes, correction=0).sum().item(), rel=1e-4)


def test_rank_for_energy_by_hand():
    way = _factor.Factors("linear", torch.tensor([6.0, 3.0, 1.0]).double(), 0.1, lambda rank: nn.Sequential())
    assert [way.rank_for(e) for e in (0.0, 0.6, 0.61, 0.9, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert [way.rank_for(e, 2) for e in (0.5, 0.95)] == [2, 3]
    assert (way.energy(1), way.energy(3)) == (0.6, 1.0)


# The fold -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_table_meets_its_budget(name):
    torch.manual_seed(0)
    shape = small_shape(name)
    net = network(name, shape, 5, width=0.25).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    told = dataclasses.replace(
        fold.evidence(shown(name, shape, n=4)),
        score=lambda _: 1.0,
        cost=lambda m: {"macs": profile(m, told.example).macs},
    )
    if name == "lstm":  # almost all of its products are inside nn.LSTM, which stays whole
        with pytest.raises(ModelError, match="factorising to 80% of the MACs is out of reach"):
            lowrank(net, config(macs=0.8, round_to=2), told)
        return
    made, report = lowrank(net, config(macs=0.8, round_to=2), told)
    assert report.cost_after["macs"] <= 0.8 * report.cost_before["macs"]
    assert report.layers
    assert made(told.example).shape == (1, 5)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    layers = {n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))}
    assert layers <= {row["name"] for row in report.layers} | set(report.untouched)


def wide(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        spread(nn.Conv2d(3, 24, 3, padding=1)),
        nn.ReLU(),
        spread(nn.Conv2d(24, 24, 3, padding=1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        spread(nn.Linear(24, 2)),
    ).eval()


@pytest.mark.parametrize("data", [False, True])
def test_by_energy_every_replaced_layer_keeps_its_share_and_costs_less(data):
    net, told = wide(), looks((3, 8, 8))
    made, report = lowrank(net, config(by="energy", energy=0.97, data=data), told)
    assert report.layers
    for row in report.layers:
        assert row["energy"] >= 0.97
        assert row["macs_frac"] < 1
    rows = {row.name: row.macs for row in profile(net, told.example).rows}
    for row in report.layers:
        inside = [r.macs for r in profile(made, told.example).rows if r.name.startswith(row["name"] + ".")]
        assert sum(inside) == pytest.approx(row["macs_frac"] * rows[row["name"]], rel=1e-3)
    assert report.untouched.keys() | {row["name"] for row in report.layers} == {"0", "2", "6"}


def test_the_budget_is_used_up_to_one_step():
    net, told = wide(), looks((3, 8, 8))
    made, report = lowrank(net, config(macs=0.45, round_to=4, convolutions="channel"), told)
    whole, got = profile(net, told.example).macs, profile(made, told.example).macs
    macs = {row.name: row.macs for row in profile(net, told.example).rows}
    steps = [4 * r["macs_frac"] / r["rank"] * macs[r["name"]] for r in report.layers if r["rank"] < r["full_rank"]]
    assert got <= 0.45 * whole < got + min(steps)
    more, _ = lowrank(net, config(macs=0.7), told)
    x = torch.randn(4, 3, 8, 8)
    assert difference(net, more, x) < difference(net, made, x)


def test_ways_are_chosen():
    told = looks((3, 8, 8))
    for convolutions in ("channel", "spatial", "best"):
        _, report = lowrank(wide(), config(by="energy", energy=0.9, convolutions=convolutions), told)
        used = {row["way"] for row in report.layers if row["name"] in ("0", "2")}
        assert used <= ({"channel", "spatial"} if convolutions == "best" else {convolutions})
        assert used
    _, report = lowrank(wide(), config(by="energy", energy=0.5, convolutions="none"), told)
    assert report.untouched["0"] == report.untouched["2"] == "lowrank.convolutions is none"
    assert [row["name"] for row in report.layers] == ["6"]


class Odd(nn.Module):
    """Layers that must stay, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.good = spread(nn.Linear(12, 12))
        self.read, self.tied_a, self.tied_b, self.idle = (spread(nn.Linear(12, 12)) for _ in range(4))
        self.tied_b.weight = self.tied_a.weight
        self.depthwise, self.back = nn.Conv1d(12, 12, 3, padding=1, groups=12), nn.ConvTranspose1d(12, 12, 1)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied_b(self.tied_a(self.good(x))) @ self.read.weight.T
        x = self.back(self.depthwise(x.unsqueeze(2))).transpose(1, 2)
        return self.attention(x, x, x)[0].squeeze(1)


def test_where_it_cannot_be_the_layer_stays_and_the_reason_is_told():
    torch.manual_seed(0)
    net = Odd().eval()
    made, report = lowrank(net, config(by="energy", energy=0.8, skip=()), looks((12,)))
    assert [row["name"] for row in report.layers] == ["good"]
    assert report.untouched == {
        "read": "it does not run as a layer",
        "idle": "it does not run as a layer",
        "tied_a": "its weights are used by another layer too",
        "tied_b": "its weights are used by another layer too",
        "depthwise": "a grouped convolution",
        "back": "a ConvTranspose1d is not taken apart",
        "attention.out_proj": "a NonDynamicallyQuantizableLinear is not taken apart",
    }
    assert difference(net, made, torch.randn(3, 12)) < 1.0


def test_a_layer_that_is_also_read_by_name_is_put_back():
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = spread(nn.Linear(12, 12)), spread(nn.Linear(12, 12))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) * self.a.weight.norm()

    _, report = lowrank(Peeks(), config(by="energy", energy=0.8), looks((12,)))
    assert [row["name"] for row in report.layers] == ["b"]
    assert "has no attribute 'weight'" in report.untouched["a"]


def test_embeddings_only_when_asked_for():
    torch.manual_seed(0)
    net = nn.Sequential(spread(nn.Embedding(50, 16)), nn.Flatten(), spread(nn.Linear(64, 16), 0.5)).eval()
    told = dataclasses.replace(
        looks((4,)), example=torch.tensor([[1, 2, 3, 49]]), score=lambda _: 1.0, cost=lambda m: {}
    )
    _, report = lowrank(net, config(by="energy", energy=0.9), told)
    assert [row["name"] for row in report.layers] == ["2"]
    made, report = lowrank(net, config(by="energy", energy=0.9, embeddings=True), told)
    assert [row["way"] for row in report.layers] == ["embedding", "linear"]
    assert sum(p.numel() for p in made[0].parameters()) < 50 * 16


def test_timed_puts_back_what_is_not_faster():
    def faster(new: nn.Module, old: nn.Module, x: Tensor) -> bool:
        assert new(x).shape == old(x).shape
        return isinstance(old, nn.Linear)

    _, report = lowrank(wide(), config(by="energy", energy=0.5, timed=True), looks((3, 8, 8)), faster=faster)
    assert [row["name"] for row in report.layers] == ["6"]
    assert report.untouched["2"] == "its factors are not faster here (lowrank.timed)"


def counted(calls):
    """A clock that counts multiplications instead of milliseconds."""
    found = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        found[name] = float(counter.get_total_flops())
    return found


def test_by_gain_the_time_is_met_with_the_least_energy_lost():
    net, told = wide(), looks((3, 8, 8))
    whole = counted({"": lambda: net(told.example)})[""]
    lost = []
    for latency in (0.8, 0.6):
        made, report = lowrank(net, config(by="gain", latency=latency), told, clock=counted)
        assert counted({"": lambda made=made: made(told.example)})[""] <= latency * whole
        assert all(row["macs_frac"] < 1 - 0.05 for row in report.layers), "what gains less is left alone"
        lost.append(1 - min(row["energy"] for row in report.layers))
    assert 0 < lost[0] < lost[1]
    _, same = lowrank(net, config(by="macs", macs=0.6), told)
    assert lost[1] < 0.01 + (1 - min(row["energy"] for row in same.layers)), "as MACs say where these are the time"


def test_by_gain_a_layer_that_is_not_faster_stays_whatever_its_macs_say():
    def clock(calls):
        taken = counted(calls)  # two convolutions take longer than one
        return {name: ms + (1e9 if ms > 100 and name.isdigit() else 0) for name, ms in taken.items()}

    net, told = wide(), looks((3, 8, 8))
    _, report = lowrank(net, config(by="gain", latency=0.99995), told, clock=clock)
    assert [row["name"] for row in report.layers] == ["6"]
    assert report.untouched["2"] == "none of its ranks was faster here"
    with pytest.raises(ModelError, match=r"factorising to 10% of the time is out of reach; expected at least 100\.0%"):
        lowrank(net, config(by="gain", latency=0.1), told, clock=clock)


class Repeated(nn.Module):
    """One layer called twice on positions that are rows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = spread(nn.Linear(24, 24)), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 24)
        rows = self.body(self.body(rows).relu())
        return self.head(rows.view(len(x), -1, 24).mean(1))


def test_by_gain_a_layer_is_timed_at_what_one_input_gives_it_as_often_as_it_runs():
    net, told = Repeated().eval(), looks((30, 24))
    made, report = lowrank(net, config(by="gain", latency=0.5), told, clock=counted)
    assert [row["name"] for row in report.layers] == ["body"]
    whole = counted({"": lambda: net(told.example)})[""]
    assert counted({"": lambda: made(told.example)})[""] <= 0.5 * whole
    with pytest.raises(ModelError, match="no layer of Repeated is faster when it is factorised, timed here"):
        lowrank(net, config(by="gain"), told, clock=lambda calls: dict.fromkeys(calls, 1.0))


def test_by_gain_the_clock_of_this_machine_is_asked():
    net = nn.Sequential(spread(nn.Linear(1024, 1024), 0.2), nn.ReLU(), nn.Linear(1024, 2)).eval()
    made, report = lowrank(net, config(by="gain", latency=0.95, data=False), looks((1024,)))
    assert "0" in {row["name"] for row in report.layers}
    assert profile(made, torch.zeros(1, 1024)).macs < 0.6 * profile(net, torch.zeros(1, 1024)).macs


def test_layers_behind_tokens_are_timed_on_numbers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), spread(nn.Linear(64, 16), 0.5)).eval()
    told = dataclasses.replace(
        looks((4,)), example=torch.tensor([[1, 2, 3, 49]]), score=lambda _: 1.0, cost=lambda m: {}
    )

    def faster(new: nn.Module, old: nn.Module, x: Tensor) -> bool:
        return new(x).shape == old(x).shape == (1, 16)

    _, report = lowrank(net, config(by="energy", energy=0.9, timed=True), told, faster=faster)
    assert [row["name"] for row in report.layers] == ["2"]


@pytest.mark.parametrize("n", [1, 12, 60])
def test_few_inputs_say_nothing_of_how_outputs_vary(n):
    """Of one input the covariance is 0, and rank 1 would be perfect: the weights are looked at instead."""
    torch.manual_seed(0)
    net, told = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2)).eval(), looks((12,), n)
    made, report = lowrank(net, config(by="energy", energy=0.7, data=True, skip=("2",)), told)
    plain, _ = lowrank(net, config(by="energy", energy=0.7, skip=("2",)), told)
    same = all(torch.equal(a, b) for a, b in zip(made.parameters(), plain.parameters(), strict=False))
    assert same == (n < 60)
    assert any("'0' by its weights alone" in note and f"{n} outputs" in note for note in report.notes) == (n < 60)


def test_fine_tuning_learns_and_skip_names_what_stays():
    net, told = wide(), looks((3, 8, 8))
    made, report = lowrank(net, config(macs=0.5, epochs=4, lr_frac=1.0, data=True, skip=("0",)), told)
    assert report.score_after > 0.9
    assert report.untouched["0"] == "named in lowrank.skip"
    again, _ = lowrank(net, config(macs=0.5, epochs=4, lr_frac=1.0, data=True, skip=("0",)), told)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    assert not made.training


def test_a_network_that_is_one_layer_can_be_factorised():
    torch.manual_seed(0)
    net = spread(nn.Linear(12, 12))
    made, report = lowrank(net, config(by="energy", energy=0.8), looks((12,)))
    assert isinstance(made, nn.Sequential)
    assert isinstance(net, nn.Linear)
    assert report.layers[0]["way"] == "linear"


def test_mistakes_are_told_in_one_line():
    told = looks((12,))
    with pytest.raises(UserError, match=r"lowrank was given a str; expected a torch.nn.Module"):
        lowrank("net", config(), told)  # type: ignore[arg-type]
    with pytest.raises(
        ModelError, match=r"no layer of Sequential can be factorised \(no layer with weights\); expected"
    ):
        lowrank(nn.Sequential(nn.ReLU()), config(), told)
    with pytest.raises(ModelError, match=r"factorising to 1% of the MACs is out of reach; expected at least \d+\.\d%"):
        lowrank(nn.Linear(12, 12), config(macs=0.01), told)
    bad = nn.Linear(12, 12)
    bad.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="the weights of layer '0' are not finite"):
        lowrank(nn.Sequential(bad), config(), told)
    empty = dataclasses.replace(told.data, train=Split(torch.zeros(0, 12), torch.zeros(0)))
    with pytest.raises(DataError, match=r"made has no training inputs; .* Set data=false, which looks at the weights"):
        lowrank(nn.Linear(12, 12), config(data=True), dataclasses.replace(told, data=empty))
    sick = dataclasses.replace(told.data, train=Split(torch.full((8, 12), torch.nan), torch.zeros(8)))
    with pytest.raises(ModelError, match="puts out NaN or infinity on training inputs"):
        lowrank(nn.Sequential(nn.Linear(12, 12)), config(data=True), dataclasses.replace(told, data=sick))
    with pytest.raises(ModelError, match=r"lowrank.skip names 'fc'"):
        lowrank(nn.Sequential(nn.Linear(12, 12)), config(skip=("fc",)), told)
