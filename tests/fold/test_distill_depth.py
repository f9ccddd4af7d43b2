"""Shallower students: which blocks leave, of which networks, with which weights."""

from __future__ import annotations

import pytest
import torch
from tests._networks import network, zeros
from torch import nn

from dimwise import models
from dimwise.errors import ModelError
from dimwise.fold import student
from dimwise.fold._teaching.depth import Row, rows, shallower


def n_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_a_third_of_a_resnet_56_is_a_resnet_20():
    """Nine blocks a stage become three: the network of that name, by He et al.'s own counting."""
    big, small = (models.build(name, (3, 16, 16), 7, width=0.5) for name in ("resnet56", "resnet20"))
    made = student(big, 1, torch.zeros(1, 3, 16, 16), depth=1 / 3)
    assert str(made) == str(small)
    assert [(n, p.shape) for n, p in made.named_parameters()] == [(n, p.shape) for n, p in small.named_parameters()]
    assert n_params(big) == n_params(models.build("resnet56", (3, 16, 16), 7, width=0.5))  # it is not changed


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet20", {"stages.0": (3, ""), "stages.1": (2, "0"), "stages.2": (2, "0")}),
        ("resnet18", {"layer1": (2, ""), "layer2": (1, "0"), "layer3": (1, "0"), "layer4": (1, "0")}),
        ("resnet50", {"layer1": (2, "0"), "layer2": (3, "0"), "layer3": (5, "0"), "layer4": (2, "0")}),
    ],
)
def test_rows_of_the_table(name, sizes):
    found = rows(models.build(name, (3, 32, 32), 4, width=0.125), torch.zeros(1, 3, 32, 32))
    assert {row.container: (len(row.blocks), row.leader) for row in found} == sizes


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_network_of_the_table_becomes_shallower_or_says_why(name):
    model, example = _small(name)
    try:
        made = student(model, 1, example, depth=0.5)
    except ModelError as error:
        assert "repeats" in str(error) or "no block" in str(error)  # noqa: PT017
        assert name not in ("resnet20", "resnet56", "resnet18", "resnet50", "resnet152", "mobilenetv2")
        return
    assert n_params(made) < n_params(model)
    assert made.eval()(example).shape == model.eval()(example).shape


def _small(name: str) -> tuple[nn.Module, torch.Tensor]:
    shape, _ = models.USUAL[name]
    shape = (shape[0], 32, 32) if len(shape) == 3 and shape[1] > 32 else shape
    return network(name, shape, 5, width=0.25), zeros(name, 1, *shape)


class Encoder(nn.Module):
    def __init__(self, n_layers: int = 6) -> None:
        super().__init__()
        self.inwards = nn.Linear(3, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.out = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(self.inwards(x)).mean(1))


def test_layers_of_a_transformer_leave():
    made = student(Encoder(), 1, torch.zeros(1, 5, 3), depth=0.5)
    body = made.get_submodule("body")
    assert isinstance(body, nn.TransformerEncoder)
    assert len(body.layers) == body.num_layers == 3
    assert made(torch.zeros(2, 5, 3)).shape == (2, 2)


def test_what_stays_is_spread_evenly_and_inherits():
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(7)))
    made = student(net, 1, torch.zeros(1, 3), depth=3 / 7, inherit=True)
    kept = [p for name, p in made.named_parameters() if name.endswith("weight")]
    assert [torch.equal(p, net[i].get_parameter("weight")) for p, i in zip(kept, (0, 3, 6), strict=True)] == [True] * 3
    assert made.training
    anew = student(net, 1, torch.zeros(1, 3), depth=3 / 7)
    assert not torch.equal(anew.get_parameter("0.weight"), net[0].get_parameter("weight"))
    assert len(list(shallower(net, 0.01, torch.zeros(1, 3)).children())) == 1


def test_narrower_and_shallower_and_inheriting():
    net = models.build("resnet20", (3, 16, 16), 5)
    made = student(net, 0.5, torch.zeros(1, 3, 16, 16), depth=2 / 3, inherit=True)
    assert len(list(made.get_submodule("stages.1").children())) == 2
    torch.testing.assert_close(made.get_parameter("conv1.weight"), net.get_parameter("conv1.weight")[:8])


def test_names_that_are_no_numbers_stay():
    net = nn.Sequential()
    for name in ("first", "second", "third"):
        net.add_module(name, nn.Linear(3, 3))
    assert [n for n, _ in shallower(net, 2 / 3, torch.zeros(1, 3)).named_children()] == ["first", "third"]


def test_a_layer_of_another_kind_leads_nothing():
    """1 × 1 out, 3 × 3 depthwise, 1 × 1 back: the second is no repetition of the first."""

    def block(kernel: int, n_in: int, n_out: int, groups: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, groups=groups), nn.ReLU())

    net = nn.Sequential(block(1, 2, 8), block(3, 8, 8, groups=8), block(1, 8, 2))
    assert rows(net, torch.zeros(1, 2, 4, 4)) == []
    net = nn.Sequential(block(3, 2, 8), block(3, 8, 8), block(1, 8, 2))
    assert rows(net, torch.zeros(1, 2, 4, 4)) == [Row("", ("1",), "0")]


def test_blocks_inside_a_block_are_left_alone():
    net = nn.Sequential(*(nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))) for _ in range(4)))
    made = shallower(net, 0.5, torch.zeros(1, 3))
    assert [len(list(block.children())) for block in made.children()] == [4, 4]


def test_layers_without_weights_are_no_blocks():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.ReLU(), nn.Dropout(), nn.Dropout())
    assert rows(net, torch.zeros(1, 3)) == []


def test_looking_leaves_nothing_behind():
    net = Encoder().train()
    rows(net, torch.zeros(1, 5, 3))
    assert all(m.training and not m._forward_hooks for m in net.modules())


def test_what_cannot_become_shallower_is_explained():
    flat = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(
        ModelError, match=r"nothing in Sequential repeats; expected a Sequential or ModuleList .*depth=1"
    ):
        student(flat, 1, torch.zeros(1, 4), depth=0.5)
    two = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(ModelError, match=r"at depth 0\.9 no block of Sequential leaves \(the network: 2\)"):
        student(two, 1, torch.zeros(1, 3), depth=0.9)
    with pytest.raises(ModelError, match=r"the student's depth is 0; expected above 0 and at most 1"):
        student(two, 1, torch.zeros(1, 3), depth=0)

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i in range(4):
                x = self.layers[i](x)
            return x

    with pytest.raises(ModelError, match=r"Counted cannot be made shallower: IndexError: .*number of blocks"):
        student(Counted(), 1, torch.zeros(1, 3), depth=0.5)
    with pytest.raises(ModelError, match=r"Counted does not take \(1, 4\): RuntimeError"):
        student(Counted(), 1, torch.zeros(1, 4), depth=0.5)
