"""Training on the grid of int8: the grid is the exported graph's, and what comes back is a plain network."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import DataError, ModelError, UserError
from dimwise.fold import _onnx
from dimwise.fold._modules import difference
from dimwise.fold._numbers import int8
from dimwise.fold._numbers.grid import Rounded, rounded, rounded_weight
from dimwise.fold.qat import QatConfig, qat
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.models import MODELS, build
from dimwise.ort import int8_products_saturate
from dimwise.train import TrainConfig

PLAIN = TrainConfig(epochs=2, lr=1e-2, precision="fp32", layout="contiguous", threads=1)


# The grid


def test_weights_fall_on_the_grid_of_the_exported_graph():
    w = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    whole, scale = int8.round_weights(w.detach().numpy(), 0)
    got = rounded_weight(w)
    torch.testing.assert_close(got, torch.from_numpy(whole * scale), rtol=1e-6, atol=1e-7)
    got.sum().backward()
    assert w.grad is not None
    assert (w.grad == 1).all()  # straight through


def test_activations_are_rounded_and_clipped_with_gradients_inside_only():
    x = torch.tensor([-3.0, -0.9, 0.0, 0.5, 5.0], requires_grad=True)
    got = rounded(x, -1.0, 2.0)
    step = 3 / 255
    zero = round(1 / step)
    expected = (torch.clamp(torch.round(x / step) + zero, 0, 255) - zero) * step
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


class Branches(nn.Module):
    """Residual sums, concatenation, pooling and a layer used twice, in functions as well as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.d = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y = F.relu(self.b(x) + x)
        y = torch.relu(self.c(torch.cat([x, y], 1)))
        return self.d(F.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.mark.parametrize("kind", ["sequence", "branches"])
def test_the_grid_is_that_of_the_exported_graph(kind, network, digits, graph_of):
    """Calibrated on the same inputs, wrapper and int8 graph differ far less than int8 differs from float."""
    inputs, net = digits.train.inputs, network
    # With the mean at 0.3 the digits' background, half of all pixels, falls in the middle between two steps.
    data = dataclasses.replace(digits, normalise=Normalise(1 / 16, (0.31,), (0.38,)))
    if kind == "branches":
        from dimwise import ship

        torch.manual_seed(0)
        net = Branches().eval()
        proto = ship.graph(net, data.normalise, inputs[:1])
    else:
        proto = graph_of(net, data.normalise, (1, 8, 8))
    config = QuantizeConfig(n_calibration=len(inputs), repair=False)
    made, _ = quantize(proto, config, fold.evidence(data))
    whole = Rounded(net, largest=64 if int8_products_saturate() else 127).eval()
    whole.widening = True
    with torch.no_grad():
        for part in inputs.split(100):
            whole(data.normalise(part))
        whole.widening = False
        x = data.test.inputs
        on_grid, exact = whole(data.normalise(x)).numpy(), net(data.normalise(x)).numpy()
    rounded = _onnx.outputs(made, x.numpy())
    assert np.abs(on_grid - rounded).mean() < 0.35 * np.abs(exact - rounded).mean()


def test_ranges_follow_the_batches_while_training_and_rest_while_evaluating():
    whole = Rounded(nn.Sequential(nn.Linear(2, 2)), momentum=0.5)
    whole.train()(torch.tensor([[-1.0, 1.0]]))
    whole(torch.tensor([[0.0, 3.0]]))
    assert whole.sites == [("linear", -0.5, 2.0)]
    whole.eval()(torch.tensor([[-9.0, 9.0]]))
    assert whole.sites == [("linear", -0.5, 2.0)]
    assert whole.inputs == {"0.weight": (-0.5, 2.0)}


def test_what_is_read_twice_is_rounded_once():
    net = Branches().eval()
    whole = Rounded(net).eval()
    whole(torch.randn(2, 1, 8, 8))
    # x: a; relu(a): b, and again in the sum and in cat; b(x): the sum; relu(sum): cat; cat: c; relu(c): pool; pool: d
    found = [where.strip("_") for where, *_ in whole.sites]
    assert found == ["conv2d", "conv2d", "add", "cat", "conv2d", "adaptive_avg_pool2d", "linear"]


# The fold


@pytest.fixture(scope="module")
def hurt(network, digits):
    """The trained network with channels stretched so that int8 costs several points, without other change."""
    net = copy.deepcopy(network)
    with torch.no_grad():
        net[0].weight[:4] *= 200
        net[0].bias[:4] *= 200
        net[2].weight[:4] /= 200
    return net


def test_int8_loses_less_after_training_on_its_grid(hurt, digits, graph_of, evidence):
    told = dataclasses.replace(evidence, train=PLAIN)
    before = copy.deepcopy(hurt.state_dict())
    made, report = qat(hurt, QatConfig(lr_frac=0.2), told)
    plain = QuantizeConfig(repair=False)
    scores = [quantize(graph_of(n, digits.normalise, (1, 8, 8)), plain, evidence)[1].score_after for n in (hurt, made)]
    assert scores[0] < report.score_before - 0.03
    assert scores[1] > scores[0] + 0.02
    on_grid = [row["score"] for row in report.tried]
    tolerance = 0.015 if int8_products_saturate() else 0.01  # weights of 7 bits have steps twice as wide
    assert scores == pytest.approx(on_grid, abs=tolerance)  # what training saw is what int8 scores
    assert [row["chosen"] for row in report.tried] == [False, True]
    assert all(torch.equal(v, before[k]) for k, v in hurt.state_dict().items())
    assert [type(m) for m in made.modules()] == [type(m) for m in hurt.modules()]  # nothing is left behind
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.modules())
    assert not made.training
    assert {row["name"] for row in report.layers} == {"0", "2", "3", "7", "9"}


def test_training_that_does_not_help_is_not_kept(network, digits, evidence):
    told = dataclasses.replace(evidence, train=dataclasses.replace(PLAIN, lr=50.0, keep="last"))
    made, report = qat(network, QatConfig(lr_frac=1.0, epochs=1, teacher=False), told)
    assert difference(network, made, digits.normalise(digits.test.inputs[:4])) == 0
    assert "training did not help" in report.untouched["(the network)"]
    assert [row["chosen"] for row in report.tried] == [True, False]


def looks(shape: tuple[int, ...], n: int = 8) -> fold.Evidence:
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(n, *shape, generator=generator), torch.arange(n) % 2)
    data = Data("made", split, split, split, ("a", "b"), Normalise(1.0, (0.0,) * shape[0], (1.0,) * shape[0]))
    return fold.evidence(data, example=torch.zeros(1, *shape), train=PLAIN, score=lambda _: 1.0)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_of_the_table_trains_on_the_grid(name):
    torch.manual_seed(0)
    shape = (1, 28, 28) if name in ("guide_cnn", "lenet5", "fast_cnn") else (3, 16, 16)
    try:
        net = build(name, shape, 2, width=0.25).eval()
    except ModelError:
        pytest.skip("takes another kind of input")
    made, report = qat(net, QatConfig(epochs=1), looks(shape))
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in made.modules())
    assert report.layers
    assert made(torch.zeros(2, *shape)).shape == (2, 2)
    weights = {n.rpartition(".")[0] or n for n, p in made.named_parameters() if p.dim() > 1}
    assert weights == {row["name"] for row in report.layers} | set(report.untouched)


class Fickle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() < 1000 else F.conv1d(x[:, None], self.a.weight[:, None])[..., 0]


class InPlace(nn.Module):
    """A residual sum in place, as a statement of its own or as what an assignment gives."""

    def __init__(self, *, assigned: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.assigned = assigned

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        o = self.b(h.relu())
        if self.assigned:
            o = o + h
        else:
            o.add_(h)
        scores: Tensor = self.c(o)
        return scores


def test_what_is_added_in_place_stays_there():
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    plain, in_place = InPlace(assigned=True), InPlace(assigned=False)
    in_place.load_state_dict(plain.state_dict())
    found = []
    for network in (plain, in_place):
        whole = Rounded(network)
        whole(x).sum().backward()
        found.append((whole.eval()(x), network.a.weight.grad))
    torch.testing.assert_close(found[1], found[0])


def test_what_is_not_finite_has_no_range():
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    x[3, 2] = torch.nan
    for bad in (x, x.nan_to_num(nan=torch.inf)):
        with pytest.raises(ModelError, match="what goes into linear number 1 of the forward pass is not finite"):
            Rounded(InPlace(assigned=True))(bad)


def test_bad_input_is_told():
    with pytest.raises(UserError, match=r"qat was given a str; expected a torch\.nn\.Module"):
        qat("model", QatConfig(), looks((4,)))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="training split of 'made' is empty: nothing to train on"):
        qat(nn.Linear(4, 2), QatConfig(), dataclasses.replace(looks((4,)), data=looks_empty()))
    whole = Rounded(Fickle()).eval()
    whole(torch.zeros(2, 4))
    with pytest.raises(ModelError, match="Fickle takes another way for another input: conv1d instead of linear"):
        whole(torch.full((2, 4), 1e6))


def looks_empty() -> Data:
    full = looks((4,)).data
    return dataclasses.replace(full, train=Split(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))
