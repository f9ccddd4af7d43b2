"""Feature hints: where the networks are looked into, how far features are apart, and that nothing is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import ModelError
from dimwise.fold import DistillConfig, distill
from dimwise.fold._teaching.feature_hints import Place, hint_loss, hinted, pairs, watching
from dimwise.train import TrainConfig

PLAIN = TrainConfig(epochs=4, lr=1e-2, precision="fp32", layout="contiguous", threads=1)


def net(n_hidden: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, n_hidden), nn.Tanh(), nn.Linear(n_hidden, 3))


def test_hand_computed_distance():
    """r(h_s) = 2 h_s: (2, 0) against (2, 1) is 1 apart of 5; the second pair is 4 apart of 4."""
    twice = nn.Linear(2, 2, bias=False)
    twice.weight.data = 2 * torch.eye(2)
    loss = hint_loss(
        [twice, nn.Identity()],
        {0: torch.tensor([[1.0, 0.0]]), 1: torch.zeros(1, 1)},
        {0: torch.tensor([[2.0, 1.0]]), 1: torch.tensor([[2.0]])},
    )
    assert loss.item() == pytest.approx((1 / 5 + 4 / 4) / 2)


def test_maps_of_another_size_are_averaged_to_the_smaller():
    h_t = torch.arange(16.0).view(1, 1, 4, 4)
    small = torch.nn.functional.avg_pool2d(h_t, 2)
    assert hint_loss([nn.Identity()], {0: small}, {0: h_t}).item() == 0
    assert hint_loss([nn.Identity()], {0: h_t}, {0: small}).item() == 0
    assert hint_loss([nn.Identity()], {0: small}, {0: torch.zeros(1, 1, 2, 2)}).isfinite()  # dead features


@pytest.mark.parametrize(
    ("h_s", "h_t", "kind"),
    [
        ((2, 3), (2, 5), nn.Linear),
        ((2, 7, 3), (2, 7, 5), nn.Linear),  # tokens
        ((2, 3, 8), (2, 5, 16), nn.Conv1d),  # a signal
        ((2, 3, 8, 8), (2, 5, 4, 4), nn.Conv2d),
        ((2, 3, 4, 4, 4), (2, 5, 2, 2, 2), nn.Conv3d),
    ],
)
def test_every_kind_of_features_has_its_regressor(h_s, h_t, kind):
    class Gives(nn.Module):
        def __init__(self, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.inner = nn.Identity()
            self.shape = shape

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(torch.ones(len(x), *self.shape[1:]))

    place = Place("inner")
    learner = hinted(Gives(h_s), Gives(h_t), [(place, place)], torch.zeros(2, 4))
    assert isinstance(learner.regressors[0], kind)
    assert hint_loss(learner.regressors, {0: torch.ones(h_s)}, {0: torch.ones(h_t)}).isfinite()


def test_auto_is_what_goes_into_the_last_layer():
    teacher, student = net(8), nn.Sequential(nn.Flatten(), net(4))
    assert pairs("auto", teacher, student, torch.zeros(1, 4)) == [(Place("2", "input"), Place("1.2", "input"))]
    assert pairs("0, 1:1.0", teacher, student, torch.zeros(1, 4)) == [
        (Place("0"), Place("0")),
        (Place("1"), Place("1.0")),
    ]


def test_hooks_are_gone_afterwards_and_see_what_passes():
    teacher = net(8)
    x = torch.randn(3, 4)
    with watching(teacher, [Place("2", "input"), Place("0")]) as seen:
        teacher(x)
        torch.testing.assert_close(seen[1], teacher[0](x))
        torch.testing.assert_close(seen[0], teacher[1](teacher[0](x)))
    assert not seen
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())
    with pytest.raises(ZeroDivisionError), watching(teacher, [Place("0")]):
        _ = 1 / 0
    assert not any(m._forward_hooks for m in teacher.modules())


def test_a_hint_is_what_the_layer_put_out_before_another_writes_over_it():
    torch.manual_seed(0)
    student, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True)), torch.randn(8, 4)
    with watching(student, [Place("0")]) as seen:
        student(x)
        torch.testing.assert_close(seen[0], student[0](x))
        assert seen[0].min() < 0
        seen[0].sum().backward()
    torch.testing.assert_close(student[0].bias.grad, torch.full((6,), 8.0))  # of all outputs, negative ones too


def rows() -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(160, 4, generator=generator)
    targets = (inputs[:, :3]).argmax(1)
    train, valid = Split(inputs[:120], targets[:120]), Split(inputs[120:], targets[120:])
    return Data("rows", train, valid, valid, ("a", "b", "c"), Normalise(1.0, (0.0,) * 4, (1.0,) * 4))


def test_a_hinted_student_comes_nearer_to_the_teachers_features():
    data, teacher = rows(), net(8)
    evidence = fold.evidence(data, train=PLAIN)
    before = copy.deepcopy(teacher.state_dict())
    far = []
    for hints, weight in (("", 1.0), ("auto", 1.0), ("1", 20.0), ("auto", 1e-9)):
        config = DistillConfig(hints=hints, hints_weight=weight, scale=0.5, epochs=20, weight=0)
        made, report = distill(teacher, config, evidence)
        assert [n for n, _ in made.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.modules())
        assert report.config["hints"] == hints
        with torch.no_grad():
            h_s, h_t = made[:2](data.valid.inputs), teacher[:2](data.valid.inputs)
        h_s = torch.cat([h_s, torch.ones(len(h_s), 1)], 1)
        fit = h_s @ torch.linalg.lstsq(h_s, h_t).solution  # the best regressor there could be
        far.append(((fit - h_t).square().sum() / h_t.square().sum()).item())
    assert far[1] < 0.6 * far[0]
    assert far[2] < 0.6 * far[0]
    assert far[3] == pytest.approx(far[0], rel=0.05)  # a weight of nearly nothing
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    assert all(p.requires_grad for p in teacher.parameters())


def test_without_hints_nothing_changes_and_with_them_the_seed_rules():
    evidence = fold.evidence(rows(), train=PLAIN)
    first, second = (distill(net(8), DistillConfig(hints="auto", epochs=1), evidence)[0] for _ in range(2))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_hints_that_cannot_be_given_are_refused():
    evidence = fold.evidence(rows(), train=PLAIN)
    with pytest.raises(
        ModelError, match=r"the teacher has no layer '3' for a hint; expected one of its modules.*: 0, 1"
    ):
        distill(net(8), DistillConfig(hints="3:0"), evidence)
    with pytest.raises(ModelError, match=r"the student has no layer 'zero' for a hint"):
        distill(net(8), DistillConfig(hints="0:zero"), evidence)

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3))
            self.spare = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    with pytest.raises(ModelError, match=r"Functional has no last layer that a hint could look into"):
        distill(Functional(), DistillConfig(hints="auto"), evidence, student=net(4))
    with pytest.raises(ModelError, match=r"the layer 'spare' gives no tensor for a hint"):
        distill(Functional(), DistillConfig(hints="spare:0"), evidence, student=net(4))
    deep = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match=r"compares '1' of shape \(1, 2, 2, 2\) with '0' of shape \(1, 4\)"):
        distill(deep, DistillConfig(hints="1:0"), evidence, student=net(4))
