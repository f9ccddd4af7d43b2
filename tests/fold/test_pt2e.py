"""Networks rounded inside PyTorch: near the float network, on the grid, compiled to int8, one clear line else."""

from __future__ import annotations

import copy
import dataclasses
import sys

import pytest
import torch
from tests import _networks
from torch import nn

from dimwise.data.sets import Split
from dimwise.errors import DataError, MissingExtra, ModelError, RecipeError
from dimwise.fold import CastConfig, QuantizeConfig, cast, quantize
from dimwise.fold._numbers.half import in_half
from dimwise.fold._numbers.pt2e import Rounded, quantize_pytorch
from dimwise.models import MODELS
from dimwise.plan.energy import bits_of_network


@pytest.fixture(scope="module")
def int8(network, evidence):
    pytest.importorskip("torchao")
    before = copy.deepcopy(network.state_dict())
    made, report = quantize(network, QuantizeConfig(), evidence)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    return made, report


def test_outputs_are_near_and_weights_are_int8(int8, network, digits):
    made, report = int8
    hits = 0
    with torch.no_grad():
        for i in range(0, 100, 10):  # any batch size will do
            x = digits.normalise(digits.test.inputs[i : i + 10])
            want, got = network(x), made(x)
            hits += int((want.argmax(1) == got.argmax(1)).sum())
            assert (want - got).abs().max() < 0.15 * want.abs().max()
            assert torch.allclose(made(x[:1]), got[:1], atol=1e-5)
    assert hits >= 97
    kinds = [str(node.target) for node in made.graph.graph.nodes if node.op == "call_function"]
    assert any("quantized_decomposed.dequantize_per_channel" in kind for kind in kinds)
    assert any("quantized_decomposed.quantize_per_tensor" in kind for kind in kinds)
    layers = {name for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert {row["name"] for row in report.layers} == layers
    assert report.score_after > report.score_before - 0.02
    assert report.cost_after["size_bytes"] < 0.4 * report.cost_before["size_bytes"]


def test_it_has_one_mode_and_can_be_copied(int8, digits):
    made, _ = int8
    x = digits.normalise(digits.test.inputs[:3])
    again = copy.deepcopy(nn.Sequential(nn.Identity(), made)).train()
    assert isinstance(again[1], Rounded)
    assert not again[1].training
    with torch.no_grad():
        assert torch.equal(again.eval()(x), made(x))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_16_bits_are_near_and_half_the_size(dtype, network, evidence, digits):
    before = copy.deepcopy(network.state_dict())
    made, report = cast(network, CastConfig(dtype=dtype, arithmetic=True), evidence)
    x = digits.normalise(digits.test.inputs[:100])
    with torch.no_grad():
        want, got = network(x), made(x)
    assert got.dtype == torch.float32
    assert 0 < (want - got).abs().max() < (0.05 if dtype == "bf16" else 0.01) * want.abs().max()
    assert report.cost_after["size_bytes"] == pytest.approx(report.cost_before["size_bytes"] / 2, rel=0.05)
    assert {row["bits"] for row in report.layers} == {16}
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_of_the_table_computes_in_bf16(name):
    torch.manual_seed(0)
    net, x = network_of(name), _networks.inputs(name, 4, *_networks.small_shape(name))
    with torch.no_grad():
        want, got = net(x), in_half(net, "bf16")(x)
    assert torch.isfinite(got).all()
    assert (want - got).abs().max() < 0.1 * want.abs().max() + 0.02


def test_what_cannot_be_done_is_told(network, evidence, digits, monkeypatch):
    with pytest.raises(RecipeError, match=r"quantize\.mode is 'dynamic' for a network inside PyTorch; expected mode ="):
        quantize(network, QuantizeConfig(mode="dynamic"), evidence)
    with pytest.raises(
        RecipeError, match=r"cast\.arithmetic is off for a network inside PyTorch.*; expected arithmetic = true"
    ):
        cast(network, CastConfig(), evidence)
    with pytest.raises(
        RecipeError, match=r"quantize\.skip is \('conv1',\) for a network inside PyTorch; expected \(\)"
    ):
        quantize(network, QuantizeConfig(skip=("conv1",)), evidence)
    with pytest.raises(ModelError, match="was quantized before"):
        quantize(Rounded(network), QuantizeConfig(), evidence)
    with pytest.raises(ModelError, match="the network was quantized, and computes in int8"):
        cast(Rounded(network), CastConfig(dtype="bf16", arithmetic=True), evidence)
    with pytest.raises(ModelError, match=r"Adds does not run in bf16: .*; expected a forward pass that makes no"):
        cast(Adds(), CastConfig(dtype="bf16", arithmetic=True), evidence)
    none = dataclasses.replace(digits, train=Split(digits.train.inputs[:0], digits.train.targets[:0]))
    with pytest.raises(DataError, match="training split of 'digits' is empty: nothing to calibrate on"):
        quantize_pytorch(network, dataclasses.replace(evidence, data=none))
    bad = torch.full((100, 1, 8, 8), float("nan"))
    broken = dataclasses.replace(digits, train=Split(bad, digits.train.targets[:100]))
    with pytest.raises(DataError, match=r"not finite|NaN"):
        quantize_pytorch(network, dataclasses.replace(evidence, data=broken))
    for name in [n for n in sys.modules if n == "torchao" or n.startswith("torchao.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingExtra, match=r"int8 inside PyTorch needs torchao.*dimwise\[pt2e\]"):
        quantize_pytorch(nn.Linear(2, 2), evidence)


class Adds(nn.Module):
    """Makes float32 numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x.flatten(1) + torch.arange(64) / 64.0)
        return out


class Recurrent(nn.Module):
    """Layers that are taken, one that is not, and one of the shape of another that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(8, 16, batch_first=True)
        self.middle, self.idle, self.out = nn.Linear(16, 16), nn.Embedding(16, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.middle(self.cell(x.squeeze(1))[0]).mean(1))
        return found


def test_only_what_is_rounded_is_reported(evidence):
    pytest.importorskip("torchao")
    net = Recurrent().eval()
    _, report = quantize(net, QuantizeConfig(), evidence)
    assert [row["name"] for row in report.layers] == ["middle", "out"]
    assert set(report.untouched) == {"cell", "idle"}
    assert bits_of_network([report]) is None
    assert report.cost_after["macs"] == report.cost_before["macs"]
    assert report.cost_after["size_bytes"] < report.cost_before["size_bytes"]
    _, report = cast(net, CastConfig(dtype="bf16", arithmetic=True), evidence)
    assert {row["name"] for row in report.layers} == {"cell", "middle", "idle", "out"}
    assert bits_of_network([report]) == 16


def network_of(name: str) -> nn.Module:
    return _networks.network(name, _networks.small_shape(name), 4, width=0.5).eval()
