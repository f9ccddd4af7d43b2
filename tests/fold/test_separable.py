"""Convolutions in two steps: the nearest ones of that form, where they cost less, taught by the original."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import ModelError, UserError
from dimwise.fold._evidence import Evidence
from dimwise.fold.separable import SeparableConfig, blocks, energy, separable
from dimwise.measure import profile
from dimwise.models import MODELS, build
from dimwise.train.config import TrainConfig


def looks(shape: tuple[int, ...], n: int = 96) -> Evidence:
    """Two classes that differ by their texture; a test split that must not be read."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randn(n, *shape, generator=generator)
    x[y == 1] = torch.nn.functional.avg_pool2d(x[y == 1], 3, 1, 1) * 3 if len(shape) == 3 else x[y == 1] + 1
    split, none = Split(x, y), Split(torch.zeros(0), torch.zeros(0))
    data = Data("made", split, split, none, ("a", "b"), Normalise(1.0, (0.0,) * shape[0], (1.0,) * shape[0]))
    train = TrainConfig(epochs=2, batch_size=16, lr=0.01, precision="fp32", layout="contiguous", threads=1)
    return fold.evidence(data, train=train)


def config(**more: Any) -> SeparableConfig:
    return SeparableConfig(**({"epochs": 0} | more))


def joined(made: nn.Sequential, like: Tensor) -> Tensor:
    """The kernel that a depthwise and a pointwise convolution have together."""
    depthwise, pointwise = (part.weight.detach().double() for part in made)
    inside = like.shape[1]
    mix = pointwise.flatten(1).view(len(like), inside, -1)
    return torch.einsum("oij,ij...->oi...", mix, depthwise.view(inside, -1, *like.shape[2:]))


LAYERS = [
    (nn.Conv2d(3, 5, 3, stride=2, padding=1), (2, 3, 9, 8)),
    (nn.Conv2d(4, 12, 3, dilation=2, padding="same", padding_mode="circular", bias=False), (2, 4, 8, 8)),
    (nn.Conv1d(3, 4, 5, padding=2), (2, 3, 9)),
    (nn.Conv3d(2, 3, (1, 2, 3)), (2, 2, 4, 4, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_with_all_singular_vectors_it_is_the_convolution(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = blocks(layer, 64)
    torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)
    assert blocks(layer, 1)(x).shape == layer(x).shape
    assert (made[1].bias is None) == (layer.bias is None)
    assert energy(layer, 64) == 1.0


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_the_error_is_what_was_cut_and_no_other_filters_do_better(multiplier):
    layer = nn.Conv2d(4, 6, 3)
    weight = layer.weight.detach().double()
    error = (joined(blocks(layer, multiplier), weight) - weight).square().sum().item()
    assert error == pytest.approx((1 - energy(layer, multiplier)) * weight.square().sum().item(), rel=1e-4)
    sigma = torch.linalg.svdvals(weight[:, 2].flatten(1)).square()  # one input channel by itself
    mine = (joined(blocks(layer, multiplier), weight) - weight)[:, 2].square().sum()
    assert mine.item() == pytest.approx(sigma[multiplier:].sum().item(), rel=1e-4)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_of_the_table_gains_or_says_why_not(name):
    torch.manual_seed(0)
    shape = (1, 28, 28) if name in ("guide_cnn", "lenet5", "fast_cnn") else (3, 16, 16)
    try:
        net = build(name, shape, 5, width=0.5).eval()
    except ModelError:
        pytest.skip("takes another kind of input")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    told = looks(shape, n=4)
    told = dataclasses.replace(told, score=lambda _: 1.0, cost=lambda m: {"macs": float(profile(m, told.example).macs)})
    large = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and max(m.kernel_size) > 1]
    if not any(min(m.weight.shape[:2]) >= 4 for m in large):
        with pytest.raises(ModelError, match=r"is made separable \("):
            separable(net, config(min_channels=4, least_frac=0.01), told)
        return
    made, report = separable(net, config(min_channels=4, least_frac=0.01), told)
    assert report.cost_after["macs"] < report.cost_before["macs"]
    assert made(told.example).shape == (1, 5)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    convolutions = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions == {row["name"] for row in report.layers} | set(report.untouched)
    rows = {row.name: row.macs for row in profile(net, told.example).rows}
    saved = sum(rows[row["name"]] * (1 - row["macs_frac"]) for row in report.layers)
    got = report.cost_before["macs"] - report.cost_after["macs"]
    assert got == pytest.approx(saved, rel=0.01)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.good = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.point, self.groups = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.read, self.back = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 16, 3, padding=1)
        self.idle, self.small = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3, stride=8)
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.point(self.good(self.first(x)).relu())).relu()
        x = self.small(self.back(self.read(x) * self.read.weight.mean()))
        return self.out(x.mean((2, 3)))


def test_where_it_cannot_be_the_layer_stays_and_the_reason_is_told():
    torch.manual_seed(0)
    made, report = separable(Odd(), config(), looks((3, 10, 10)))
    assert [row["name"] for row in report.layers] == ["good"]
    assert report.untouched.pop("read").endswith("'Sequential' object has no attribute 'weight'")
    assert report.untouched == {
        "first": "fewer than 16 channels",
        "point": "it is pointwise already",
        "groups": "it is grouped or depthwise already",
        "back": "a ConvTranspose2d is not taken apart",
        "idle": "it does not run as a layer",
        "small": "less than 2% of the multiply-accumulates",
    }
    assert [type(m).__name__ for m in made.good] == ["Conv2d", "Conv2d"]
    _, report = separable(Odd(), config(layers=("first",)), looks((3, 10, 10)))
    assert [row["name"] for row in report.layers] == ["first"]
    assert report.untouched["good"] == "not named in separable.layers"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip


def test_training_afterwards_learns_what_the_original_knew():
    from dimwise.train.fit import fit

    told = looks((3, 8, 8))
    teacher = fit(net(), told.data, told.task, dataclasses.replace(told.train, epochs=6)).model.eval()
    assert told.score(teacher) > 0.95
    one, report = separable(teacher, config(epochs=4, lr_frac=1.0), told)
    two, _ = separable(teacher, config(epochs=4, lr_frac=1.0), told)
    assert report.score_after > 0.95
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not one.training


def test_more_filters_keep_more_for_more():
    told = looks((3, 8, 8))
    rows = [separable(net().eval(), config(multiplier=m), told)[1].layers[0] for m in (1, 2, 4)]
    assert rows[0]["energy"] < rows[1]["energy"] < rows[2]["energy"]
    assert [row["macs_frac"] for row in rows] == pytest.approx([m * (16 + 9) / (16 * 9) for m in (1, 2, 4)], abs=1e-4)


def test_mistakes_are_told_in_one_line():
    told = looks((3, 8, 8))
    with pytest.raises(UserError, match="separable was given a str"):
        separable("net", config(), told)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"separable.layers names '9', which is no layer of Sequential"):
        separable(net(), config(layers=("9",)), told)
    with pytest.raises(ModelError, match=r"no convolution of Sequential is made separable \(6: it is no convolution\)"):
        separable(net(), config(layers=("2", "6")), told)
    with pytest.raises(ModelError, match=r"no convolution of Sequential is made separable \(0: fewer than 99 channel"):
        separable(net(), config(min_channels=99), told)
    with pytest.raises(ModelError, match=r"no convolution of Flatten is made separable \(it has no convolution\)"):
        separable(nn.Flatten(), config(), told)
    with pytest.raises(ModelError, match=r"two layers would cost more than one"):
        separable(net(), config(layers=("2",), multiplier=9), told)
