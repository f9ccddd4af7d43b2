"""Channels of one size between two layers: the same outputs, fairer ranges, and int8 that no longer collapses."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests._networks import inputs, network, shown, small_shape
from torch import Tensor, nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import DataError, ModelError, UserError
from dimwise.fold._modules import difference
from dimwise.fold.equalise import EqualiseConfig, Pair, equalise, equalised, find, fuse_norms
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.models import MODELS


def looks(shape: tuple[int, ...], inputs: Tensor | None = None) -> fold.Evidence:
    inputs = torch.zeros(4, *shape) if inputs is None else inputs
    split = Split(inputs, torch.zeros(len(inputs), dtype=torch.long))
    data = Data("made", split, split, split, ("a", "b"), Normalise(1.0, (0.0,) * shape[0], (1.0,) * shape[0]))
    return fold.evidence(
        data, example=torch.zeros(1, *shape), score=lambda _: 1.0, cost=lambda _: {"params": 1.0, "macs": 1.0}
    )


def stretched(net: nn.Module, seed: int = 0, decades: float = 1.0) -> nn.Module:
    """Weights and norms whose channels have very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() >= 1:
            sizes = 10 ** (decades * (2 * torch.rand(len(weight), generator=generator) - 1))
            weight.data *= sizes.view(-1, *[1] * (weight.dim() - 1))
    return net.eval()


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_of_the_table_computes_the_same(name):
    torch.manual_seed(0)
    shape = small_shape(name)
    net = stretched(
        network(name, shape, 5, width=0.25), decades=0.2 if name == "resnet152" else 1.0
    )  # else it overflows
    before = copy.deepcopy(net.state_dict())
    told = fold.evidence(shown(name, shape, 4), score=lambda _: 1.0, cost=lambda _: {"params": 1.0, "macs": 1.0})
    made, report = equalise(net, EqualiseConfig(), told)
    torch.manual_seed(1)
    x = inputs(name, 2, *shape)
    # Stretched 53 layers deep, the rounding of folded norms alone grows to 4e-3: what is added to it counts.
    assert difference(fuse_norms(net, x)[0] if name == "mobilenetv2" else net, made, x) < 1e-4
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    layers = {n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert layers <= {row["name"] for row in report.layers} | set(report.untouched)
    if name in ("mlp", "guide_cnn", "small_cnn", "fast_cnn", "resnet20", "resnet18"):
        assert report.layers
    if name == "mobilenetv2":
        assert any("hardtanh follows" in why for why in report.untouched.values())


# The mathematics


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)),
        (nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6, bias=False)),
        (nn.Conv2d(3, 6, 3), nn.Conv2d(6, 12, 3, groups=6)),
        (nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 4, 3, groups=2)),
        (nn.Conv2d(3, 6, 3), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 6)), nn.Linear(6, 4)),
    ],
)
def test_ranges_meet_at_their_geometric_mean(first, second):
    torch.manual_seed(0)
    net = stretched(nn.Sequential(first, nn.ReLU(), second))
    x = torch.randn(2, 3, 8, 8)
    pairs, _ = find(net, x)
    assert len(pairs) == 1
    made, (s,) = equalised(net, pairs, EqualiseConfig(), looks((3, 8, 8)))
    assert difference(net, made, x) < 1e-5

    def ranges(of: nn.Module) -> tuple[Tensor, Tensor]:
        one, two = (of.get_parameter(f"{n}.weight") for n in (pairs[0].first, pairs[0].second))
        reads = []
        for c in range(6):  # by definition: what of the second layer multiplies channel c
            if isinstance(of.get_submodule(pairs[0].second), nn.Linear):
                n = pairs[0].n_positions
                reads.append(two[:, c * n : (c + 1) * n].abs().max())
            else:
                groups = of.get_submodule(pairs[0].second).groups
                width, high = 6 // groups, len(two) // groups
                g = c // width
                reads.append(two[g * high : (g + 1) * high, c % width].abs().max())
        return one.detach().flatten(1).abs().amax(1), torch.stack(reads).detach()

    r1, r2 = ranges(net)
    after1, after2 = ranges(made)
    torch.testing.assert_close(after1, (r1 * r2).sqrt(), rtol=2e-3, atol=0)
    torch.testing.assert_close(after2, (r1 * r2).sqrt(), rtol=2e-3, atol=0)
    torch.testing.assert_close(s.float(), (r1 / r2).sqrt(), rtol=2e-3, atol=0)


def test_a_chain_settles():
    torch.manual_seed(0)
    net = stretched(nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(8, 8), nn.LeakyReLU())], nn.Linear(8, 2)))
    x = torch.randn(5, 8)
    pairs, untouched = find(net, x[:2])
    assert pairs == [Pair(str(2 * i), str(2 * i + 2)) for i in range(4)]
    assert untouched == {"8": "its output is the network's"}
    made, _ = equalised(net, pairs, EqualiseConfig(rounds=200), looks((8,)))
    assert difference(net, made, x) < 1e-5
    for pair in pairs:
        one, two = made.get_submodule(pair.first).weight, made.get_submodule(pair.second).weight
        torch.testing.assert_close(one.abs().amax(1), two.abs().amax(0), rtol=0.02, atol=0)


def test_measured_activations_replace_the_weights_of_the_first_layer():
    torch.manual_seed(0)
    net = stretched(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)))
    x = torch.randn(100, 8)
    evidence = looks((8,), x)
    made, _ = equalise(net, EqualiseConfig(ranges="activations"), evidence)
    assert difference(net, made, x) < 1e-5
    with torch.no_grad():
        seen, read = made[:2](x).amax(0), made[2].weight.abs().amax(0)
    torch.testing.assert_close(seen, read, rtol=1e-3, atol=0)


@pytest.mark.parametrize("flat", [True, False])
def test_an_activation_is_measured_where_the_next_layer_reads_it(flat):
    """What lies far below zero is never read behind a ReLU: it makes no channel large."""
    torch.manual_seed(0)
    if flat:  # four positions of each channel become neighbours
        net = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
        x = torch.rand(50, 2, 2, 2)
    else:
        net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
        x = torch.rand(50, 2)
    with torch.no_grad():  # channels 0 and 1: down to -1000, and never above 1
        net[0].weight.uniform_(0.1, 1)
        net[0].bias.zero_()
        net[0].weight[:2], net[0].bias[:2] = -1000, 1
        x[:20] *= 1e-4
    made, report = equalise(net, EqualiseConfig(ranges="activations"), looks(tuple(x.shape[1:]), x))
    assert difference(net, made, x) < 1e-5
    with torch.no_grad():
        seen = made[:2](x).movedim(1, 0).flatten(1).amax(1)
        read = made[-1].weight.abs().amax(0).view(6, -1).amax(1)
    torch.testing.assert_close(seen, read, rtol=1e-3, atol=0)
    assert report.layers[0]["largest_scale"] < 10


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([10.0, 1e4]))
def test_dead_and_huge_channels_stay_finite_and_exact(seed, largest):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        net[0].weight[0] = 0
        net[2].weight[:, 1] = 0
        net[0].weight[2] *= 1e6
    made, (s,) = equalised(net, [Pair("0", "2")], EqualiseConfig(largest=largest), looks((4,)))
    assert s[0] == s[1] == 1
    assert 1 / largest <= s.min()
    assert s.max() <= largest * 1.0001
    assert difference(net, made, torch.randn(3, 4)) < 1e-4


# What it is for


def test_int8_no_longer_collapses(network, digits, graph_of, evidence):
    net = copy.deepcopy(network)
    with torch.no_grad():
        net[0].weight[:4] *= 3000
        net[0].bias[:4] *= 3000
        net[2].weight[:4] /= 3000
    plain = QuantizeConfig(repair=False)
    _, broken = quantize(graph_of(net, digits.normalise, (1, 8, 8)), plain, evidence)
    made, report = equalise(net, EqualiseConfig(), evidence)
    _, mended = quantize(graph_of(made, digits.normalise, (1, 8, 8)), plain, evidence)
    assert broken.score_after < broken.score_before - 0.05
    assert mended.score_after > mended.score_before - 0.01
    assert report.score_after == report.score_before
    assert next(row for row in report.layers if row["name"] == "0")["largest_scale"] > 1000


# What stays, and what is told


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.c(F.gelu(self.b(x)) + x)


def test_what_others_read_stays():
    pairs, untouched = find(Residual().eval(), torch.zeros(2, 4))
    assert pairs == []
    assert untouched == {
        "a": "its output is read in several places",
        "b": "gelu follows, which is not homogeneous",
        "c": "its output is the network's",
    }


def test_relu6_is_kept_or_replaced():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 2, 1)).eval()
    made, report = equalise(net, EqualiseConfig(), looks((3, 4, 4)))
    assert report.layers == []
    assert report.untouched["0"] == "hardtanh follows, which is not homogeneous"
    made, report = equalise(net, EqualiseConfig(relu6="relu"), looks((3, 4, 4)))
    assert [type(m).__name__ for m in made.children()] == ["Conv2d", "Identity", "ReLU", "Conv2d"]
    assert [(row["name"], row["into"]) for row in report.layers] == [("0", "3")]
    assert isinstance(net[2], nn.ReLU6)
    x = torch.randn(2, 3, 4, 4)  # small: no bound is met
    assert difference(net, made, x) < 1e-5


class Reading(nn.Module):
    """Reads its own weights in the forward pass: scaling changes what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))) * self.a.bias.sum()


def test_a_pair_that_changes_the_outputs_stays():
    net = stretched(Reading())
    made, report = equalise(net, EqualiseConfig(), looks((4,)))
    assert report.layers == []
    assert "outputs are off by" in report.untouched["a"]
    assert difference(net, made, torch.randn(2, 4)) == 0


class ReadsWhatIsFolded(nn.Module):
    """Reads the bias that folding its norm changes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.norm.running_mean.copy_(torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.norm(self.a(x)))) * self.a.bias.sum()


def test_a_norm_that_cannot_be_folded_stays():
    torch.manual_seed(0)
    net = ReadsWhatIsFolded().eval()
    made, report = equalise(net, EqualiseConfig(), looks((4,)))
    assert "without it outputs are off by" in report.untouched["norm"]
    assert isinstance(made.norm, nn.BatchNorm1d)
    assert difference(net, made, torch.randn(5, 4)) < 1e-5


def test_outputs_that_cannot_be_compared_are_no_agreement():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[0].weight[0, 0] = torch.nan
    _, report = equalise(net, EqualiseConfig(), looks((4,)))
    assert report.layers == []
    assert "off by nan" in report.untouched["0"]


def test_pairs_that_agree_alone_are_compared_together(monkeypatch):
    """Each moves the outputs by less than is allowed, both by more."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    real = sys.modules[equalise.__module__].equalised

    def shifted(model, pairs, config, evidence):
        made, scales = real(model, pairs, config, evidence)
        with torch.no_grad():
            made[-1].bias += 0.7e-2 * len(pairs) * net(torch.zeros(1, 4)).abs().max()
        return made, scales

    monkeypatch.setattr(sys.modules[equalise.__module__], "equalised", shifted)
    _, report = equalise(net, EqualiseConfig(tolerance=1e-2), looks((4,)))
    assert [row["name"] for row in report.layers] == ["0"]
    assert "off by" in report.untouched["2"]


def test_bad_input_is_told():
    with pytest.raises(UserError, match=r"equalise was given a str; expected a torch\.nn\.Module"):
        equalise("model", EqualiseConfig(), looks((4,)))  # type: ignore[arg-type]
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(DataError, match="training split of 'made' is empty: no activation to measure"):
        equalise(net, EqualiseConfig(ranges="activations"), looks((4,), torch.zeros(0, 4)))
    with pytest.raises(ModelError, match="layer '0' returns NaN or infinity"):
        equalise(net, EqualiseConfig(ranges="activations"), looks((4,), torch.full((4, 4), np.nan)))
