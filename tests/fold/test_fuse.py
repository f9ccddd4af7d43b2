"""Norms that become part of the layer beside them: the same outputs, and a reason wherever they stay."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from tests._networks import network, small_shape
from torch import Tensor, nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import ModelError, UserError
from dimwise.fold._evidence import Evidence
from dimwise.fold._modules import difference
from dimwise.fold.fuse import FuseConfig, find, fuse
from dimwise.models import MODELS


def looks(shape: tuple[int, ...]) -> Evidence:
    split = Split(torch.zeros(4, *shape), torch.zeros(4, dtype=torch.long))
    data = Data("made", split, split, split, ("a", "b"), Normalise(1.0, (0.0,) * shape[0], (1.0,) * shape[0]))
    return fold.evidence(data, score=lambda _: 1.0, cost=lambda m: {"params": sum(p.numel() for p in m.parameters())})


def lived(net: nn.Module) -> nn.Module:
    """As after training: norms with scales, shifts and statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net.eval()


def norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_table_computes_the_same_without_its_norms(name):
    torch.manual_seed(0)
    shape = small_shape(name)
    net = lived(network(name, shape, 5, width=0.25))
    if not norms(net):
        pytest.skip("has no norm")
    before = deepcopy(net.state_dict())
    made, report = fuse(net, FuseConfig(), looks(shape))
    assert norms(made) == []
    assert (len(report.layers), report.untouched) == (len(norms(net)), {})
    assert [n for n, _ in made.named_modules()] == [n for n, _ in net.named_modules()]
    assert difference(net, made, torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (4,)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, affine=False), (4,)),
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 9)),
        (nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), nn.BatchNorm2d(6), (4, 7, 7)),
        (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), (4, 5, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6), (4, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (4, 5)),
    ],
)
def test_a_norm_after_any_linear_layer(layer, norm, shape):
    net = lived(nn.Sequential(layer, norm, nn.ReLU()))
    made, report = fuse(net, FuseConfig(), looks(shape))
    assert report.layers == [{"name": "1", "into": "0", "place": "after"}]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x), net(x), rtol=1e-5, atol=1e-5)
    assert isinstance(made[1], nn.Identity)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(4, 6), nn.BatchNorm1d(4), (4,)),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(4), (4, 7, 7)),
        (nn.Conv1d(4, 6, 3, padding="valid"), nn.BatchNorm1d(4), (4, 9)),
    ],
)
def test_a_norm_before_a_linear_layer(layer, norm, shape):
    net = lived(nn.Sequential(nn.ReLU(), norm, layer))
    made, report = fuse(net, FuseConfig(), looks(shape))
    assert report.layers == [{"name": "1", "into": "2", "place": "before"}]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rising", [True, False])
def test_through_a_maximum_only_where_the_scale_is_positive(rising):
    net = lived(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Dropout(), nn.BatchNorm2d(4), nn.ReLU()))
    if not rising:
        net[3].weight.data[1] *= -1
    made, report = fuse(net, FuseConfig(), looks((3, 8, 8)))
    assert len(report.layers) == rising
    assert report.untouched == ({} if rising else {"3": "it stands between max_pool2d and relu"})
    assert difference(net, made, torch.randn(2, 3, 8, 8)) < 1e-5


def test_one_layer_takes_in_the_norms_on_both_sides():
    net = lived(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3)))
    made, report = fuse(net, FuseConfig(), looks((4,)))
    assert [row["place"] for row in report.layers] == ["before", "after"]
    assert difference(net, made, torch.randn(5, 4)) < 1e-5


class Odd(nn.Module):
    """Norms in all the places where they must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n_read = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.twice, self.n_twice = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.n_pad, self.padded = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.n_batch, self.n_sum = nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3)
        self.b, self.n_often = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.lonely = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = F.relu(self.n_read(y)) + y
        y = self.n_twice(self.twice(self.twice(y)))
        y = self.padded(self.n_pad(F.relu(y)))
        y = F.relu(self.n_batch(y))
        y = self.n_sum(y + x).relu()
        return self.n_often(self.n_often(self.b(y)))


def test_where_it_cannot_be_the_norm_stays_and_the_reason_is_told():
    torch.manual_seed(0)
    net = lived(Odd())
    made, report = fuse(net, FuseConfig(), looks((3, 6, 6)))
    assert report.layers == []
    assert report.untouched == {
        "n_read": "the output of a is read elsewhere too",
        "n_twice": "it stands between conv2d and relu",
        "n_pad": "padded pads its input with zeros that the norm does not shift",
        "n_batch": "it keeps no running statistics, so it normalises each batch by itself",
        "n_sum": "it stands between add and relu",
        "n_often": "it is used in several places",
        "lonely": "the trace shows no use of it",
    }
    assert difference(net, made, torch.randn(2, 3, 6, 6)) == 0


def test_channels_of_a_sequence_are_not_features():
    """BatchNorm1d of (N, L, F) normalises positions: not the features of the dense layer before it."""
    net = lived(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)))
    pairs, untouched = find(net, torch.randn(2, 6, 6))
    assert pairs == []
    assert untouched == {"1": "it stands between linear and the output"}


@pytest.mark.parametrize("called", [True, False])
def test_weights_that_are_held_elsewhere_too_stay(called):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            y = self.n(self.a(x)).relu()
            return self.b(y) if called else y

    pairs, untouched = find(lived(Tied()), torch.randn(2, 4))
    assert pairs == []
    assert list(untouched) == ["n"]


class Peeks(nn.Module):
    """Reads the norm's statistics by name: nothing an Identity has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b, self.m = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.n(self.a(x))
        return self.m(self.b(y * self.n.running_var))


def test_a_norm_whose_numbers_are_read_stays_and_the_others_go():
    net = lived(Peeks())
    made, report = fuse(net, FuseConfig(), looks((4,)))
    assert [row["name"] for row in report.layers] == ["m"]
    assert "has no attribute 'running_var'" in report.untouched["n"]
    assert difference(net, made, torch.randn(2, 4)) < 1e-5


def test_fusing_twice_changes_nothing_more_and_training_mode_returns_evaluation_mode():
    net = lived(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))).train()
    once, _ = fuse(net, FuseConfig(), looks((4,)))
    twice, report = fuse(once, FuseConfig(), looks((4,)))
    assert (report.layers, report.untouched, once.training, net.training) == ([], {}, False, True)
    x = torch.randn(2, 4)
    assert torch.equal(once(x), twice(x))


def test_skip_names_what_stays():
    net = lived(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2), nn.BatchNorm1d(2)))
    made, report = fuse(net, FuseConfig(skip=("1",)), looks((4,)))
    assert report.untouched == {"1": "named in fuse.skip"}
    assert isinstance(made[1], nn.BatchNorm1d)
    assert isinstance(made[3], nn.Identity)
    with pytest.raises(
        ModelError, match=r"fuse.skip names 'bn', which is no layer of Sequential; expected such as '0'"
    ):
        fuse(net, FuseConfig(skip=("bn",)), looks((4,)))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.n(x) if x.sum() > 0 else x


def test_what_cannot_be_fused_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"fuse was given a str; expected a torch.nn.Module. Apply fuse before export"):
        fuse("net", FuseConfig(), looks((4,)))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"Branches cannot be traced"):
        fuse(Branches(), FuseConfig(), looks((4,)))
