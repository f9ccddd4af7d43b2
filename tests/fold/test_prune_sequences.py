"""Attention heads, recurrent units, vision transformers, and networks as users write them: pruned equals silenced."""

from __future__ import annotations

import io
import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimwise.data.sets import Data, Normalise, Split
from dimwise.fold._channels.cut import cut, disagreement, silence
from dimwise.fold._channels.groups import Alive, Channels
from dimwise.fold._channels.heads import FewerHeads
from dimwise.fold._channels.sizes import Resized
from dimwise.fold._channels.trace import trace
from dimwise.fold._gather import evidence as gathered
from dimwise.fold.prune import PruneConfig, prune
from dimwise.measure import profile
from dimwise.train.config import TrainConfig


def norms_with_character(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
            for name, tensor in module.state_dict().items():
                if name == "running_var":
                    tensor.uniform_(0.5, 2.0)
                elif tensor.is_floating_point():
                    tensor.normal_()


# Attention ----------------------------------------------------------------------------------------------------------


class Packed(nn.Module):
    """q, k and v from one layer, three axes from one reshape, as in timm; numbers kept in attributes."""

    def __init__(self, dim: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        scores = (q * self.width**-0.5) @ k.transpose(-2, -1)
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, t, c))


class Causal(nn.Module):
    """nanoGPT: split by the width, view by numbers, a mask from a buffer."""

    mask: Tensor

    def __init__(self, dim: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.n_head, self.n_embd = heads, dim
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_buffer("mask", torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = F.softmax(att.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf")), dim=-1)
        return self.c_proj((att @ v).transpose(1, 2).contiguous().view(B, T, C))


class Rotary(nn.Module):
    """Positions turned into q and k, fused attention, the number of heads left open."""

    turn: Tensor

    def __init__(self, dim: int = 12, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.register_buffer("turn", torch.outer(torch.arange(8.0), torch.tensor([1.0, 0.1]).repeat(2)))

    def rotated(self, x: Tensor) -> Tensor:
        turn = self.turn[: x.shape[2]]
        half = self.width // 2
        return x * turn.cos() + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * turn.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (-1, self.width)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v).transpose(1, 2).flatten(2))


class ByBatch(nn.Module):
    """Heads folded into the batch, with bmm."""

    def __init__(self, dim: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        h, d = self.heads, c // self.heads
        q, k, v = (f(x).view(b, t, h, d).transpose(1, 2).reshape(b * h, t, d) for f in (self.q, self.k, self.v))
        mixed = torch.bmm((torch.bmm(q, k.transpose(1, 2)) / d**0.5).softmax(-1), v)
        return self.o(mixed.view(b, h, t, d).transpose(1, 2).reshape(b, t, c))


class Torch(nn.Module):
    """PyTorch's own layer, its averaged weights thrown away."""

    def __init__(self, dim: int = 12, heads: int = 4, *, batch_first: bool = True, need_weights: bool = True) -> None:
        super().__init__()
        self.need_weights, self.batch_first = need_weights, batch_first
        self.attend = nn.MultiheadAttention(dim, heads, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.attend(x, x, x, need_weights=self.need_weights)[0]
        return x if self.batch_first else x.transpose(0, 1)


class Unbatched(Torch):
    def __init__(self) -> None:
        super().__init__(batch_first=False, need_weights=False)


class Block(nn.Module):
    """Attention of any kind in a pre-norm block, between an entrance and an exit."""

    def __init__(self, attention: nn.Module, dim: int = 12) -> None:
        super().__init__()
        self.enter, self.attention = nn.Linear(4, dim), attention
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.out = nn.Linear(dim, 10), nn.Linear(10, dim), nn.Linear(dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.attention(self.n1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.n2(x))))
        return self.out(x.mean(1))


ATTENTION = (Packed, Causal, Rotary, ByBatch, Torch, Unbatched)


def block(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = Block(kind()).double().eval()
    norms_with_character(net)
    return net, torch.randn(2, 5, 4).double()


def heads_and_hidden(channels: Channels, seed: int) -> Alive:
    """Some heads and some hidden units leave, the residual stream stays."""
    generator, alive = np.random.default_rng(seed), channels.all_alive()
    for group in channels.groups:
        if channels.is_exact(group):
            alive[generator.permutation(group.classes)[: (len(group.classes) + 1) // 2]] = False
    return alive


@pytest.mark.parametrize("kind", ATTENTION)
def test_heads_and_hidden_units_leave(kind: type[nn.Module]) -> None:
    net, x = block(kind)
    channels = trace(net, x)
    found = {g.layers: (len(g.classes), g.heads) for g in channels.groups}
    stream = found.pop(next(layers for layers in found if layers[0] == "enter"))
    assert stream == (12, False)
    assert found.pop(("fc1",)) == (10, False)
    ((n_heads, heads),) = found.values()
    assert (n_heads, heads) == (3 if kind in (Causal, Rotary) else 4, True)
    for seed in range(2):
        alive = heads_and_hidden(channels, seed)
        small = cut(net, channels, alive)
        longer = torch.randn(3, 7, 4).double()  # neither batch nor length may be frozen
        for inputs in (x, longer, longer[:1]):
            torch.testing.assert_close(small(inputs), silence(net, channels, alive)(inputs), rtol=1e-6, atol=1e-9)
        assert profile(small, x).macs < profile(net, x).macs


@pytest.mark.parametrize("kind", ATTENTION)
def test_blocks_that_were_cut_train_export_copy_and_are_cut_again(kind: type[nn.Module]) -> None:
    net, x = block(kind)
    channels = trace(net, x)
    alive = channels.all_alive()
    alive[[g.classes[0] for g in channels.groups if channels.is_exact(g)]] = False
    small = cut(net, channels, alive)
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    small.eval()
    torch.testing.assert_close(deepcopy(small)(x), small(x))
    program = torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    five = torch.randn(5, 5, 4).double()
    torch.testing.assert_close(program.module()(five), small(five))
    again = trace(small, x)
    assert len(again.groups) == len(channels.groups)
    alive = heads_and_hidden(again, 1)
    assert disagreement(small, again, alive, x) is None
    torch.testing.assert_close(cut(small, again, alive)(five), silence(small, again, alive)(five), rtol=1e-6, atol=1e-9)


def test_the_residual_stream_can_leave_too_and_is_called_inexact() -> None:
    net, x = block(Torch)
    channels = trace(net, x)
    assert not channels.exact
    assert [channels.is_exact(g) for g in channels.groups if g.layers[0] == "enter"] == [False]
    alive = channels.all_alive()
    for group in channels.groups:
        alive[group.classes[::2]] = False
    small: Any = cut(net, channels, alive)
    assert small(x).shape == (2, 2)
    assert (small.enter.out_features, small.attention.attend.embed_dim, small.attention.attend.num_heads) == (6, 6, 2)


def test_the_layer_of_pytorch_becomes_one_with_fewer_heads_and_its_own_forward_agrees() -> None:
    torch.manual_seed(0)
    attend = nn.MultiheadAttention(12, 4, batch_first=True).double().eval()
    x, memory = torch.randn(2, 5, 12).double(), torch.randn(2, 6, 12).double()
    other = deepcopy(attend)
    other.__class__ = FewerHeads
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    causal = torch.triu(torch.ones(5, 6), 1).bool()
    for settings in (
        {"need_weights": False},
        {"key_padding_mask": padding},
        {"attn_mask": causal, "average_attn_weights": False},
        {"attn_mask": causal[None].expand(8, -1, -1), "key_padding_mask": padding, "need_weights": False},
    ):
        for got, wanted in zip(
            other(x, memory, memory, **settings), attend(x, memory, memory, **settings), strict=True
        ):
            torch.testing.assert_close(got, wanted)


def test_the_encoder_of_pytorch_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 4, 16, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Linear(4, 12), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(60, 2)).eval()
    x = torch.randn(2, 5, 4)
    channels = trace(net, x)
    assert sum(g.heads for g in channels.groups) == 2
    alive = heads_and_hidden(channels, 0)
    small = cut(net, channels, alive)
    assert not any(isinstance(m, Resized) for m in small.modules())
    with torch.no_grad():
        want = silence(net, channels, alive)(x)
        torch.testing.assert_close(small(x), want, rtol=1e-4, atol=1e-5)  # PyTorch's fused path must not be taken
    torch.testing.assert_close(small.train()(x), want, rtol=1e-4, atol=1e-5)


def test_attention_without_heads_keeps_what_it_divides_by() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))).mean(1)

    net, x = Alone().eval(), torch.randn(2, 5, 4)
    channels = trace(net, x)
    assert [g.layers for g in channels.groups] == [("v",)]
    assert channels.untouched["q"] == "it is the inside of attention without heads, which divides by its width"
    assert disagreement(net, channels, heads_and_hidden(channels, 0), x) is None


# Recurrent layers ---------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Embedding, two recurrent layers in both directions, the last outputs and states joined."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.rnn = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.rnn(self.words(x))
        h = state[0] if isinstance(state, tuple) else state
        return self.out(torch.cat([y.mean(1), h[-2], h[-1]], dim=1))


class FirstState(nn.Module):
    """As in tutorials: the first state made by hand, from numbers of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 6
        self.lstm, self.fc = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(1, x.size(0), self.hidden_size, dtype=x.dtype)
        c0 = torch.zeros(1, x.size(0), self.hidden_size).to(x)
        return self.fc(self.lstm(x, (h0, c0))[0][:, -1, :])


class LearntState(nn.Module):
    """A learnt first state, a cell called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 6))
        self.cell, self.fc = nn.GRUCell(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.fc(h)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: Recurrent(nn.LSTM), "rnn"),
        (lambda: Recurrent(nn.GRU), "rnn"),
        (lambda: Recurrent(nn.RNN), "rnn"),
        (FirstState, "lstm"),
        (LearntState, "cell"),
    ],
)
def test_recurrent_units_leave(make: Any, layer: str) -> None:
    torch.manual_seed(0)
    net = make().double().eval()
    x = torch.randint(0, 9, (2, 5)) if hasattr(net, "words") else torch.randn(2, 5, 4).double()
    channels = trace(net, x)
    group = next(g for g in channels.groups if g.layers == (layer,))
    assert (group.n_channels, group.unit) == (len(group.classes), 1)
    for seed in range(2):
        alive = channels.all_alive()
        for g in channels.groups:
            alive[np.random.default_rng(seed).permutation(g.classes)[:3]] = False
        small = cut(net, channels, alive)
        left = int(alive[group.classes].sum())
        assert small.get_submodule(layer).hidden_size == left
        more = torch.cat([x, x.flip(1)])
        torch.testing.assert_close(small(more), silence(net, channels, alive)(more), rtol=1e-6, atol=1e-9)
        small.train()(x).sum().backward()
        again = trace(small.eval(), x)
        assert {g.name: len(g.classes) for g in again.groups}[layer] == left


def test_what_is_recurrent_is_reported_in_units() -> None:
    torch.manual_seed(0)
    net = FirstState()
    net.lstm, net.fc, net.hidden_size = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 2), 16
    pruned, report = prune(net, PruneConfig(params=0.5, epochs=0, importance="l1", round_to=4), texts())
    assert report.layers == [{"name": "lstm", "channels_before": 16, "channels_after": 8}]
    assert pruned.lstm.hidden_size == 8  # type: ignore[union-attr]


def texts(length: int = 5) -> Any:
    y = torch.arange(40) % 2
    x = torch.randn(40, length, 4, generator=torch.Generator().manual_seed(0)) + y.view(-1, 1, 1)
    split = Split(x, y)
    data = Data("made", split, split, split, ("a", "b"), Normalise(1.0, (0.0,), (1.0,)))
    return gathered(data, example=x[:1], train=TrainConfig(epochs=1, batch_size=8, precision="fp32"))


# Three networks as users write them ---------------------------------------------------------------------------------


class Inception(nn.Module):
    """Branches concatenated, then flattened by a number: ``view(-1, 21 * 4 * 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.pool, self.norm = nn.Conv2d(3, 7, 1), nn.BatchNorm2d(21)
        self.fc1, self.fc2 = nn.Linear(21 * 4 * 4, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.max_pool2d(x, 3, stride=1, padding=1))
        x = torch.cat([self.one(x), self.three(x), pooled], dim=1)
        x = F.max_pool2d(F.relu(self.norm(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 21 * 4 * 4))))


def test_a_network_whose_sizes_were_changed_is_saved_and_loaded() -> None:
    torch.manual_seed(0)
    net, x = Inception().eval(), torch.randn(2, 3, 8, 8)
    channels = trace(net, x)
    alive = channels.all_alive()
    alive[channels.groups[0].classes[0]] = False
    small = cut(net, channels, alive)
    assert isinstance(small, Resized)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert isinstance(again, Inception)
    torch.testing.assert_close(again(x), small(x))


class Shuffle(nn.Module):
    """ShuffleNet: grouped convolutions, channels shuffled by two reshapes, joined to a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 12, 1, groups=2)
        self.deep, self.norm = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.expand = nn.Conv2d(12, 8, 1, groups=2)
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.squeeze(x))
        n, c, h, w = y.size()
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        y = self.expand(self.norm(self.deep(y)))
        return self.out(torch.cat([x, F.relu(y)], 1).mean([2, 3]))


class Hybrid(nn.Module):
    """Convolutions into tokens, packed attention, a gated unit, token and mean concatenated, a bare position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 12, 2, stride=2), nn.BatchNorm2d(12)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12))
        self.attention, self.gate, self.back = Packed(12, 3), nn.Linear(12, 16), nn.Linear(8, 12)
        self.hidden, self.out = nn.Linear(24, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = self.norm0(self.stem(x)).reshape(b, 12, 16).transpose(1, 2)
        x = torch.cat([self.token.expand(b, -1, -1), x], dim=1) + self.place
        x = x + self.attention(x)
        value, gate = self.gate(x).chunk(2, dim=-1)
        x = x + self.back(value * gate.sigmoid())
        x = torch.cat((x[:, 0], x[:, 1:].mean(1)), dim=-1)
        return self.out(F.relu(self.hidden(x)))


@pytest.mark.parametrize("kind", [Inception, Shuffle, Hybrid])
def test_networks_as_users_write_them(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = kind().double().eval()
    norms_with_character(net)
    x = torch.randn(2, 3, 8, 8).double()
    channels = trace(net, x)
    assert set(channels.untouched.values()) == {"they are the network's outputs"}
    for seed in range(3):
        alive = channels.all_alive()
        for group in channels.groups:
            n_out = np.random.default_rng(seed).integers(0, len(group.classes))
            alive[np.random.default_rng(seed).permutation(group.classes)[:n_out]] = False
        small = cut(net, channels, alive)
        more = torch.randn(3, 3, 8, 8).double()
        for inputs in (x, more, more[:1]):
            torch.testing.assert_close(small(inputs), silence(net, channels, alive)(inputs), rtol=1e-6, atol=1e-9)
        assert isinstance(small, kind)


# From end to end ----------------------------------------------------------------------------------------------------


def test_a_norm_keeps_its_channels_while_others_can_leave() -> None:
    net, told = Block(Packed(16, 4), 16), texts()
    given: dict[str, Any] = {"epochs": 1, "importance": "taylor", "round_to": 2, "min_channels": 2, "batches": 1}
    pruned, report = prune(net, PruneConfig(macs=0.6, **given), told)
    assert {row["name"] for row in report.layers} == {"attention.qkv", "fc1"}
    assert report.untouched["enter"].startswith("a norm takes its statistics over its channels")
    assert report.cost_after["macs"] <= 0.6 * report.cost_before["macs"]
    pruned, report = prune(net, PruneConfig(macs=0.15, **given), told)
    rows = {row["name"]: row for row in report.layers}
    assert rows["enter"]["exact"] is False
    assert "exact" not in rows["fc1"]
    pruned, report = prune(net, PruneConfig(macs=0.6, norms="cut", **given), told)
    assert "enter" in {row["name"] for row in report.layers}
    assert pruned(told.example).shape == (1, 2)


@pytest.mark.parametrize("kind", [Packed, Causal, Torch])
def test_the_stream_and_the_heads_leave_at_once(kind: type[nn.Module]) -> None:
    """Numbers taken from the stream's width are then wrong for the heads in another way."""
    net, x = block(kind)
    channels = trace(net, x)
    alive = channels.all_alive()
    for group in channels.groups:
        alive[group.classes[:1] if group.heads else group.classes[: len(group.classes) // 2]] = False
    small = cut(net, channels, alive)
    assert small(torch.randn(3, 7, 4).double()).shape == (3, 2)
    stream = channels.all_alive()
    stream[next(g for g in channels.groups if g.layers[0] == "enter").classes[:4]] = False
    assert cut(net, channels, stream)(x).shape == (2, 2)
