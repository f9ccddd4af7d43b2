"""The channels of a network: who leaves with whom, and is the smaller network the one that was meant?"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.fold._channels.cut import cut, disagreement, guilty, silence
from dimwise.fold._channels.flow import Atoms
from dimwise.fold._channels.groups import Alive, Channels, stays
from dimwise.fold._channels.trace import trace
from dimwise.measure import profile
from dimwise.models._parts import chain
from dimwise.models.resnet_cifar import PadShortcut

# Small networks, one for each way in which channels meet ------------------------------------------------------------


class Net(nn.Module):
    """Layers by name and a forward pass written below as a plain function."""

    def __init__(self, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def conv(n_in: int, n_out: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, groups=groups)


class Plain(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 8), na=nn.BatchNorm2d(8), b=conv(8, 6), nb=nn.BatchNorm2d(6), out=nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.na(self.a(x))), 2)
        return self.out(F.relu(self.nb(self.b(x))).mean((2, 3)))


class Flat(Net):
    """Maps flattened by hand: each channel becomes H·W features."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 6), hidden=nn.Linear(6 * 4 * 4, 10), n=nn.BatchNorm1d(10), out=nn.Linear(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.hardswish(self.a(x)), 4)
        return self.out(F.dropout(F.elu(self.n(self.hidden(x.view(x.size(0), -1)))), 0.5, self.training))


class Residual(Net):
    """One identity shortcut, one projection; in-place additions as in many user networks."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 8),
            a1=conv(8, 6),
            a2=conv(6, 8),
            n=nn.BatchNorm2d(8),
            b1=conv(8, 10, stride=2),
            b2=conv(10, 12),
            project=nn.Conv2d(8, 12, 1, stride=2, bias=False),
            out=nn.Linear(12, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.n(self.a2(F.relu(self.a1(x), inplace=True)))
        y += x
        y = F.relu_(y)
        z = self.b2(torch.sigmoid(self.b1(y))) + self.project(y)
        return self.out(z.mean(dim=[2, 3]))


class Inverted(Net):
    """MobileNetV2's block: up, per channel, down, added."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 6),
            up=nn.Conv2d(6, 12, 1),
            n1=nn.BatchNorm2d(12),
            deep=conv(12, 24, groups=12),
            n2=nn.BatchNorm2d(24),
            down=nn.Conv2d(24, 6, 1),
            out=nn.Linear(6, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu6(self.n2(self.deep(F.relu6(self.n1(self.up(x))))))
        return self.out((x + self.down(y)).amax((2, 3)))


class Dense(Net):
    """DenseNet: each layer reads all before it, the norm too."""

    def __init__(self, sizes: tuple[int, int, int] = (4, 5, 6), pixels: int = 4) -> None:
        a, b, c = sizes
        super().__init__(
            a=conv(3, a),
            b=conv(a, b),
            n=nn.BatchNorm2d(a + b),
            c=conv(a + b, c),
            out=nn.Linear((a + b + c) * pixels * pixels, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.cat([x, F.relu(self.b(x))], 1)
        x = torch.cat((F.relu(self.c(self.n(x))), x), dim=1)
        return self.out(torch.flatten(x, 1))


class Grouped(Net):
    """A grouped convolution, a group norm behind it, a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 8),
            g=conv(8, 12, groups=4),
            down=nn.Conv2d(12, 3, 1),
            up=nn.Conv2d(3, 12, 1),
            slope=nn.PReLU(12),
            out=nn.Linear(12, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.g(self.a(x)))
        gate = self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.out((x * gate).sum((2, 3)))


class Halves(Net):
    """A gated unit by ``chunk``, a scale per channel as a bare parameter, a layer called twice."""

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 16),
            scale=nn.Parameter(torch.randn(8)),
            twice=conv(8, 8),
            out=nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.a(x).chunk(2, dim=1)
        x = value * gate.sigmoid() * self.scale[:, None, None]
        x = self.twice(F.relu(self.twice(x)))
        return self.out(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]).mean(1))


class UShape(Net):
    """Down and up again: strided, transposed, resampled, joined, one output per pixel."""

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 6),
            b=conv(6, 8, stride=2),
            up=nn.ConvTranspose2d(8, 5, 2, 2),
            c=conv(11, 6),
            out=nn.Conv2d(6, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.relu(self.a(x)), (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1]
        y = self.up(F.relu(self.b(x)))
        y = self.c(torch.cat([x, y], 1))
        return self.out(F.interpolate(F.avg_pool2d(y, 2), scale_factor=2.0, mode="bilinear"))


class Padded(Net):
    """Option A: stages of 4 and 8 channels, the shortcut between them padded with zeros."""

    def __init__(self) -> None:
        super().__init__(
            stem=conv(3, 4),
            a1=conv(4, 5),
            a2=conv(5, 4),
            b1=conv(4, 6, stride=2),
            b2=conv(6, 8),
            shortcut=PadShortcut(1, 3, 2),
            out=nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.a2(F.relu(self.a1(x))))
        x = F.relu(self.shortcut(x) + self.b2(F.relu(self.b1(x))))
        return self.out(x.mean((2, 3)))


class HandPadded(Padded):
    """The same with the number of zeros in the code, where no one can change it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.a2(F.relu(self.a1(x))))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3))
        return self.out(F.relu(short + self.b2(F.relu(self.b1(x)))).mean((2, 3)))


class Blocks(Net):
    """With-blocks become graphs in the graph."""

    def __init__(self) -> None:
        super().__init__(a=nn.Linear(12, 8), b=nn.Linear(8, 6), out=nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x.flatten(1)).relu()
        with torch.autocast("cpu", enabled=False):
            y = self.b(y)
        return self.out(y.relu().to(torch.float64))


class Sequences(Net):
    """Words: embedding, position, 1-d convolution, tied input and output weights."""

    def __init__(self) -> None:
        words = nn.Embedding(9, 8)
        super().__init__(words=words, place=nn.Parameter(torch.randn(1, 5, 8)), c=nn.Conv1d(8, 6, 3), d=nn.Linear(6, 8))
        self.out = nn.Linear(8, 9, bias=False)
        self.out.weight = words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = (self.words(x) + self.place).transpose(1, 2)
        return self.out(self.d(F.relu(self.c(x)).transpose(1, 2)))


NETS = (Plain, Flat, Residual, Inverted, Dense, Grouped, Halves, UShape, Padded, HandPadded, Blocks, Sequences)


def made(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """A network in double precision with norms that do something, and two inputs."""
    torch.manual_seed(0)
    net = kind().double().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, tensor in module.state_dict().items():  # the same memory
                if name == "running_var":
                    tensor.uniform_(0.5, 2.0)
                elif tensor.is_floating_point():
                    tensor.normal_()
    if kind is Sequences:
        return net, torch.randint(0, 9, (2, 5))
    return net, torch.randn(
        (2, 3, 2, 2) if kind is Blocks else (2, 3, 4, 4) if kind is Dense else (2, 3, 8, 8)
    ).double()


_TRACED: dict[type[nn.Module], tuple[nn.Module, Tensor, Channels]] = {}


def traced(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Channels]:
    """Traced once for all tests: none of what is tested may change a network."""
    if kind not in _TRACED:
        net, x = made(kind)
        _TRACED[kind] = net, x, trace(net, x)
    return _TRACED[kind]


def n_numbers(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def some(channels: Channels, seed: int, frac: float = 0.6) -> Alive:
    """Random classes stay, at least one in each group."""
    alive = np.random.default_rng(seed).random(channels.n_classes) < frac
    for group in channels.groups:
        alive[group.classes[seed % len(group.classes)]] = True
    return alive


# The oracle: pruned equals silenced ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
def test_the_cut_network_computes_what_the_silenced_one_does(kind: type[nn.Module]) -> None:
    net, x, channels = traced(kind)
    assert channels.groups
    for seed in range(3):
        alive = some(channels, seed)
        small = cut(net, channels, alive)
        assert alive.all() or n_numbers(small) < n_numbers(net)
        torch.testing.assert_close(small(x), silence(net, channels, alive)(x), rtol=1e-5, atol=1e-9)
        assert disagreement(net, channels, alive, x) is None


@pytest.mark.parametrize("kind", NETS)
def test_macs_are_those_of_the_cut_network(kind: type[nn.Module]) -> None:
    net, x, channels = traced(kind)
    for alive in (channels.all_alive(), some(channels, 1), some(channels, 2)):
        counted = profile(cut(net, channels, alive), x).macs
        assert channels.macs(alive) == pytest.approx(counted / 2)  # two inputs


@pytest.mark.parametrize("kind", NETS)
def test_modules_record_the_sizes_of_their_tensors(kind: type[nn.Module]) -> None:
    net, _, channels = traced(kind)
    small = cut(net, channels, some(channels, 3))
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            assert tuple(module.weight.shape[:2]) == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.ConvTranspose2d):
            assert tuple(module.weight.shape[:2]) == (module.in_channels, module.out_channels)
        elif isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            assert {len(v) for v in module.state_dict().values() if v.dim()} == {module.num_features}
        elif isinstance(module, nn.Embedding):
            assert module.weight.shape[1] == module.embedding_dim
        elif isinstance(module, nn.PReLU):
            assert len(module.weight) == module.num_parameters


def test_silencing_by_hand() -> None:
    """The oracle against a second one: channels set to zero where they are read, by hooks."""
    net, x, channels = traced(Residual)
    alive = some(channels, 0)
    dead = {}
    for axis in channels.axes:
        if axis.role == "reads":
            dead[axis.layer] = torch.from_numpy(~stays(axis.labels, alive))
    silenced = deepcopy(net)

    def muting(name: str) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        keep = (~dead[name]).double().view((-1,) if name == "out" else (-1, 1, 1))
        return lambda module, args: (args[0] * keep,)

    for name in dead:
        silenced.get_submodule(name).register_forward_pre_hook(muting(name))
    assert len(dead) == 7
    torch.testing.assert_close(cut(net, channels, alive)(x), silenced(x), rtol=1e-5, atol=1e-9)


def test_a_wrong_channel_is_noticed() -> None:
    """If tracing mixed up two channels, the comparison would say so."""
    net, x = made(Dense)
    channels = trace(net, x)
    axis = next(a for a in channels.axes if a.tensor == "c.weight" and a.dim == 1)
    axis.labels[[0, 5]] = axis.labels[[5, 0]]
    alive = channels.all_alive()
    alive[axis.labels[0]] = False
    assert "outputs off by" in (disagreement(net, channels, alive, x) or "")


@pytest.mark.parametrize("kind", NETS)
def test_the_model_is_never_changed(kind: type[nn.Module]) -> None:
    net, x = made(kind)
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    identities = {name: id(p) for name, p in net.named_parameters()}
    channels = trace(net, x)
    guilty(net, channels, some(channels, 0), x)
    assert net.training
    assert identities == {name: id(p) for name, p in net.named_parameters()}
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


# Who leaves with whom -----------------------------------------------------------------------------------------------


def groups(kind: type[nn.Module]) -> dict[tuple[str, ...], tuple[int, int]]:
    return {g.layers: (len(g.classes), g.n_channels) for g in traced(kind)[2].groups}


def test_residual_additions_tie_layers() -> None:
    assert groups(Residual) == {("stem", "a2"): (8, 8), ("a1",): (6, 6), ("b1",): (10, 10), ("b2", "project"): (12, 12)}


def test_depthwise_filters_leave_with_their_channel() -> None:
    assert groups(Inverted) == {("stem", "down"): (6, 6), ("up",): (12, 12)}


def test_grouped_kernels_lose_channels_evenly() -> None:
    assert groups(Grouped) == {("a",): (2, 8), ("g", "up"): (3, 12), ("down",): (3, 3)}
    net, _, channels = traced(Grouped)
    alive = channels.all_alive()
    alive[channels.groups[1].classes[0]] = False
    small = cut(net, channels, alive).get_submodule("g")
    assert isinstance(small, nn.Conv2d)
    assert (small.in_channels, small.out_channels, small.groups) == (8, 8, 4)


def test_halves_stay_equal_and_two_calls_agree() -> None:
    assert groups(Halves) == {("a", "twice"): (8, 16)}


def test_padding_with_zeros_follows_where_a_module_holds_the_number() -> None:
    assert groups(Padded) == {("stem", "a2", "b2"): (4, 4), ("a1",): (5, 5), ("b1",): (6, 6), ("b2",): (4, 4)}
    net, _, channels = traced(Padded)
    alive = channels.all_alive()
    alive[channels.paddings[0].after[1]] = False
    shortcut: Any = cut(net, channels, alive).get_submodule("shortcut")
    assert (shortcut.zeros_before, shortcut.zeros_after) == (1, 2)


def test_padding_written_in_the_code_holds_its_channels() -> None:
    assert groups(HandPadded) == {("stem", "a2", "b2"): (4, 4), ("a1",): (5, 5), ("b1",): (6, 6)}


def test_concatenated_channels_stay_apart() -> None:
    assert groups(Dense) == {("a",): (4, 4), ("b",): (5, 5), ("c",): (6, 6)}


def test_the_outputs_stay() -> None:
    assert traced(Plain)[2].untouched == {"out": "they are the network's outputs"}


# What is not followed stays, with the reason ------------------------------------------------------------------------


class Odd(Net):
    """One layer, then something odd, then another layer."""

    def __init__(self, odd: object, n_after: int = 8) -> None:
        super().__init__(a=conv(3, 8), b=conv(n_after, 8), out=nn.Linear(8, 2))
        self.odd = odd

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.odd(self.a(x))).mean((2, 3)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("odd", "n_after", "reason"),
    [
        (lambda x: x.cumprod(1), 8, "its channels pass through cumprod, which is not followed"),
        (lambda x: x.softmax(1), 8, "softmax runs over its channels"),
        (lambda x: x - x.mean(1, keepdim=True), 8, "mean runs over its channels"),
        (lambda x: x[:, :4], 4, "its channels are cut by slice at positions written in the code"),
        (lambda x: x.split([3, 5], 1)[1], 5, "its channels are cut by split_with_sizes at positions written"),
        (lambda x: x.chunk(3, 1)[0], 3, "its channels are cut by chunk at positions written in the code"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 0, 8)).chunk(2, 1)[0], 8, "must stay equal, and some of one stay"),
        (lambda x: x[:, 2:3], 1, "its channels are cut by slice at positions"),
        (lambda x: x.unflatten(1, (2, 4)).cumprod(2).flatten(1, 2), 8, "pass through cumprod, which is not followed"),
        (lambda x: x + torch.ones(8, 1, 1), 8, "its channels meet by add others that cannot leave"),
        (lambda x: x * x.flatten(2).mean(2, keepdim=True).transpose(1, 2)[..., None], 8, "lie along different dim"),
        (lambda x: F.pad(x, (0, 0, 0, 0, -1, -1)), 6, "its channels are cut or mirrored by pad"),
        (lambda x: F.instance_norm(x.transpose(1, 2)).transpose(1, 2), 8, "a batch norm runs over its channels"),
        (lambda x: F.group_norm(x, 8), 8, "it is normalised in as many groups as channels"),
        (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2), 8, "normalised together without"),
        (lambda x: F.max_pool2d(x.transpose(1, 3), (1, 1)).transpose(1, 3), 8, "max_pool2d runs over its channels"),
        (lambda x: F.conv2d(x, torch.ones(8, 8, 1, 1)), 8, "a convolution computes its weight in the forward pass"),
        (lambda x: F.linear(x, torch.ones(8, 8)), 8, "a dense layer computes its weight in the forward pass"),
        (lambda x: F.conv_transpose2d(x, torch.ones(8, 1, 1, 1), groups=8), 8, "read by a transposed convolution in"),
        (lambda x: F.batch_norm(x, torch.zeros(8), torch.ones(8)), 8, "a vector that is computed in the forward pass"),
    ],
)
def test_the_reason_a_layer_stays(odd: object, n_after: int, reason: str) -> None:
    torch.manual_seed(0)
    net = Odd(odd, n_after).eval()
    x = torch.randn(2, 3, 8, 8)
    channels = trace(net, x)
    assert reason in channels.untouched["a"]
    assert disagreement(net, channels, some(channels, 0, 0.4), x) is None


def test_positions_are_no_channels() -> None:
    """A dense layer over pixels, a convolution over the transposed: what they run over stays."""
    net = nn.Sequential(conv(3, 8), nn.Flatten(2), nn.Linear(16, 4), nn.Flatten(), nn.Linear(32, 2)).eval()
    channels = trace(net, torch.randn(2, 3, 4, 4))
    assert channels.untouched["0"] == "a dense layer runs over its channels as positions"
    assert [g.layers for g in channels.groups] == [("2",)]


def test_a_weight_used_in_two_ways_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) + self.b.weight.cumsum(0).sum()

    assert trace(Twice(), torch.randn(2, 4)).untouched["a"].endswith("cumsum, which is not followed")


def test_norms_over_channels_are_pruned_but_inexact() -> None:
    net = chain(
        [("a", nn.Linear(4, 8)), ("n", nn.LayerNorm(8)), ("b", nn.Linear(8, 6)), ("c", nn.Linear(6, 2))]
    ).eval()  # fmt: skip
    x = torch.randn(2, 4)
    channels = trace(net, x)
    assert not channels.exact
    small: Any = cut(net, channels, some(channels, 0))
    assert small.n.normalized_shape == tuple(small.n.weight.shape) == (small.a.out_features,)
    assert small(x).shape == (2, 2)
    grouped = nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), conv(8, 2)).eval()
    found = trace(grouped, torch.randn(2, 3, 4, 4))
    assert [(len(g.classes), g.unit) for g in found.groups] == [(4, 2)]
    smaller = cut(grouped, found, np.array([True, False, True, True]))
    assert smaller[1].num_channels == 6
    assert smaller(torch.randn(1, 3, 4, 4)).shape == (1, 2, 4, 4)


def test_a_shuffle_of_channels_is_followed_where_its_sizes_are_in_the_code() -> None:
    """Two reshapes and a transposition: channel j of both halves leaves at once, so that a rectangle is left."""
    net, x = Odd(lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)).eval(), torch.randn(2, 3, 8, 8)
    channels = trace(net, x)
    assert {g.layers: len(g.classes) for g in channels.groups} == {("a",): 4, ("b",): 8}
    assert channels.rewrites
    for seed in range(3):
        assert disagreement(net, channels, some(channels, seed, 0.4), x) is None


def _rows_of_96(x: Tensor) -> Tensor:
    """No size that the forward pass names: whoever counts the channels is not seen."""
    return x.flatten().unfold(0, 96, 96) if x.shape[1] < 6 else x.flatten(1)


def test_a_count_written_in_the_code_is_found_by_running() -> None:
    class Hard(Flat):
        def forward(self, x: Tensor) -> Tensor:
            x = F.adaptive_avg_pool2d(self.a(x), 4)
            return self.out(self.n(self.hidden(_rows_of_96(x)[:, : self.hidden.in_features])))

    net, x, channels = traced(Hard)
    alive = channels.all_alive()
    alive[channels.groups[0].classes[:3]] = False  # 2 · 48 features pass for one row of 96
    alive[channels.groups[1].classes[:3]] = False  # nothing wrong with these
    assert disagreement(net, channels, alive, x) == "output (1, 3) instead of (2, 3)"
    assert guilty(net, channels, alive, x) == {"a": "output (1, 3) instead of (2, 3)"}
    without = channels.without("a", "why")
    assert [g.name for g in without.groups] == ["hidden"]
    assert without.untouched["a"] == "why"
    alive[channels.groups[0].classes[2]] = True  # 64 features can no longer be rows of 96
    assert "output (1, 3) instead of (2, 3)" in guilty(net, channels, alive, x)["a"]


def test_a_network_that_cannot_be_traced(capfd: pytest.CaptureFixture[str]) -> None:
    class Branch(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(-x if x.sum() > 0 else x)

    level = logging.getLogger("torch").level
    with pytest.raises(ModelError, match=r"Branch cannot be traced: GuardOn.*distilled into") as caught:
        trace(Branch(), torch.randn(2, 3, 8, 8))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch").level == level


def test_where_python_is_in_the_way_bytecode_is_read() -> None:
    class Item(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 + float(x.abs().max().item()))

    net, x, channels = traced(Item)
    assert [g.name for g in channels.groups] == ["a", "b"]
    assert disagreement(net, channels, some(channels, 0), x) is None


# Properties ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(-1, 11), st.integers(-1, 11)), max_size=20))
def test_union_find_is_connectivity(n: int, links: list[tuple[int, int]]) -> None:
    links = [(i, j) for i, j in links if i < n and j < n]
    atoms = Atoms()
    atoms.fresh(n, "layer")
    for i, j in links:
        atoms.unite(np.array([i]), np.array([j]), "stays")
    reach = np.eye(n, dtype=bool)
    for i, j in links:
        if i >= 0 and j >= 0:
            reach[i, j] = reach[j, i] = True
    for k in range(n):  # Warshall's closure
        reach |= reach[:, [k]] & reach[[k], :]
    assert all((atoms.find(i) == atoms.find(j)) == reach[i, j] for i in range(n) for j in range(n))
    assert set(atoms.reasons) == {max(i, j) for i, j in links if min(i, j) < 0 <= max(i, j)}


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    pixels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_offsets_of_concatenations_and_flattened_maps(sizes: tuple[int, int, int], pixels: int, seed: int) -> None:
    torch.manual_seed(seed)
    net, x = Dense(sizes, pixels).double().eval(), torch.randn(2, 3, pixels, pixels).double()
    channels = trace(net, x)
    alive = some(channels, seed, 0.5)
    small = cut(net, channels, alive)
    torch.testing.assert_close(small(x), silence(net, channels, alive)(x), rtol=1e-5, atol=1e-9)
    left = sum(int(alive[g.classes].sum()) for g in channels.groups)
    assert small.out.in_features == left * pixels**2


@given(st.lists(st.integers(-1, 4), max_size=12), st.lists(st.booleans(), min_size=5, max_size=5))
def test_stays_is_indexing(labels: list[int], alive: list[bool]) -> None:
    wanted = [label < 0 or alive[label] for label in labels]
    assert stays(np.array(labels, dtype=np.int64), np.array(alive)).tolist() == wanted
