"""Who may teach: a graph as well as a network; and what is asked once is what would be asked each time."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

from dimwise import fold
from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import ModelError, UserError
from dimwise.fold import DistillConfig, distill
from dimwise.fold._teaching import teachers
from dimwise.fold._tune import recover
from dimwise.fold.distill import taught_by
from dimwise.ship import graph
from dimwise.tasks import Task, get
from dimwise.train import TrainConfig, fit

PLAIN = TrainConfig(epochs=3, lr=1e-2, precision="fp32", layout="contiguous", threads=1)
HALF = DistillConfig(epochs=2)


@pytest.fixture(scope="module")
def digits() -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs, targets = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1), torch.from_numpy(bunch.target)
    train, valid, test = (Split(inputs[part], targets[part]) for part in torch.arange(500).split([300, 150, 50]))
    return Data("digits", train, valid, test, tuple("0123456789"), Normalise(1 / 16, (0.3,), (0.38,)))


@pytest.fixture(scope="module")
def network(digits: Data) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return fit(net, digits, config=PLAIN).model


def small() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


# Asked once


@pytest.mark.parametrize("weight", [0.9, 1.0])
def test_what_is_asked_once_teaches_the_same(digits, network, weight, monkeypatch):
    evidence = fold.evidence(digits, train=PLAIN)
    asked = []
    handle = network.register_forward_hook(lambda *_: asked.append(1))  # copies keep the hook
    made = {}
    for cache in (True, False):
        asked.clear()
        config = dataclasses.replace(HALF, cache=cache, weight=weight)
        net, report = distill(network, config, evidence, student=small())
        made[cache] = (net.state_dict(), len(asked), report.score_after)
    handle.remove()
    torch.testing.assert_close(made[True][0], made[False][0], rtol=1e-4, atol=1e-5)
    assert made[True][2] == pytest.approx(made[False][2], abs=0.01)
    assert made[False][1] - made[True][1] == 2 * 5 - 1  # two epochs of five batches against one pass


def test_the_batches_of_a_table_are_the_rows_they_should_be(digits, network):
    """Answers that no one could compute from the inputs: the student must have got them by their index."""
    evidence = fold.evidence(digits, train=PLAIN)
    looks = teachers.by_row(evidence)
    seen = []

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, told: Task) -> torch.Tensor:
        expected = digits.normalise(digits.train.inputs[y])
        torch.testing.assert_close(x, expected)
        assert isinstance(told, teachers.ByIndex)
        torch.testing.assert_close(told.look_up(y), digits.train.targets[y])
        seen.append(y)
        return told.loss(model(x), y)

    fitted = fit(small(), looks.data, looks.task, dataclasses.replace(PLAIN, epochs=1), step=step)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(300))
    plain = fit(small(), digits, evidence.task, dataclasses.replace(PLAIN, epochs=1))
    assert fitted.history[-1]["valid_score"] == plain.history[-1]["valid_score"]
    assert fitted.history[-1]["valid_loss"] == pytest.approx(plain.history[-1]["valid_loss"])


@pytest.mark.parametrize("augment", [AugmentConfig(flip=True), AugmentConfig(mixup=0.2), AugmentConfig(crop=1)])
def test_augmented_inputs_are_asked_about_each_time(digits, network, augment):
    asked = []
    handle = network.register_forward_hook(lambda *_: asked.append(1))
    distill(network, HALF, fold.evidence(digits, train=PLAIN, augment=augment), student=small())
    handle.remove()
    assert len(asked) >= 2 * 5
    assert not teachers.may_be_asked_once(augment)
    assert teachers.may_be_asked_once(AugmentConfig())


@pytest.mark.parametrize("augment", [AugmentConfig(crop=1, cutout=2), AugmentConfig(flip=True)])
def test_views_that_come_back_are_asked_about_once(digits, augment):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
    asked = []
    network.register_forward_hook(lambda *_: asked.append(1))  # copies keep the hook
    evidence = fold.evidence(digits, train=PLAIN, augment=augment)
    made = {}
    for cache in (True, False):
        ask = teachers.network_teacher(network)
        repeating = dataclasses.replace(evidence, augment=dataclasses.replace(augment, cycle_epochs=2))
        looks, lesson = repeating, teachers.by_asking(ask)
        if cache:
            looks, lesson = teachers.lessons(network, ask, evidence, views=2, epochs=6)
        asked.clear()
        torch.manual_seed(1)
        student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
        step = taught_by(lesson, DistillConfig(), "classification")
        settings = dataclasses.replace(PLAIN, epochs=6)
        fit(student, looks.data, looks.task, settings, augment=looks.augment, step=step)
        made[cache] = (student.state_dict(), len(asked))
    torch.testing.assert_close(made[True][0], made[False][0], rtol=1e-4, atol=1e-5)
    assert made[False][1] == 6 * 5
    assert made[True][1] == 2 * 5


@pytest.mark.parametrize("cache", [True, False])
def test_images_grow_for_the_student_alone(digits, cache):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
    sides: dict[str, list[int]] = {"teacher": [], "student": []}
    student = deepcopy(network)

    def look(name: str, m: nn.Module, args: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        if m.training == (name == "student"):
            sides[name].append(args[0].shape[-1])

    network.register_forward_hook(partial(look, "teacher"))
    student.register_forward_hook(partial(look, "student"))
    evidence = fold.evidence(digits, train=PLAIN, augment=AugmentConfig(flip=True, grow_from=0.5))
    distill(network, DistillConfig(epochs=6, views=2, cache=cache), evidence, student=student)
    trial = len(sides["student"]) - 6 * 5  # steps by which the arithmetic was chosen
    assert sides["student"][trial:] == [4] * 15 + [8] * 15
    assert set(sides["teacher"]) == {8}


def test_a_graph_of_one_size_teaches_students_whose_images_grow(digits, network):
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    evidence = fold.evidence(digits, train=PLAIN, augment=AugmentConfig(grow_from=0.5))
    proto = graph(network, digits.normalise, digits.train.inputs[:1])
    by_graph, by_network = (distill(t, HALF, evidence, student=pooled)[0] for t in (proto, network))
    torch.testing.assert_close(by_graph.state_dict(), by_network.state_dict(), rtol=1e-3, atol=1e-4)


def test_a_batch_of_the_same_rows_with_another_shift_is_another():
    """Three rows meet in the same order in many an epoch, each time shifted otherwise."""
    rows, task = torch.tensor([2, 0, 1]), teachers.ByIndex(get("classification"), torch.tensor([0, 1, 0]))
    lesson = teachers.by_memory(lambda x: x.flatten(1)[:, :2])
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for batch in (x, x.flip(3), x, x[:, :, :2]):
        taught, targets, real = lesson(batch, rows, task)
        assert torch.equal(taught, batch.flatten(1)[:, :2])
        assert targets.tolist() == [0, 0, 1]
        assert real is task.task


@pytest.mark.parametrize("augment", [AugmentConfig(mixup=0.2), AugmentConfig(cutmix=1.0)])
def test_blended_inputs_have_no_row_of_their_own(digits, network, augment):
    evidence = fold.evidence(digits, train=PLAIN, augment=augment)
    looks, _ = teachers.lessons(network, teachers.network_teacher(network), evidence, views=1, epochs=6)
    assert looks is evidence


def test_answers_that_would_fill_the_memory_are_not_kept(digits, network, monkeypatch):
    evidence = fold.evidence(digits, train=PLAIN, augment=AugmentConfig(crop=1))
    ask = teachers.network_teacher(network)
    assert teachers.lessons(network, ask, evidence, views=2, epochs=6)[0] is not evidence
    monkeypatch.setattr(teachers, "_MOST_BYTES", 4 * 2 * 300 * 10 - 1)
    assert teachers.lessons(network, ask, evidence, views=2, epochs=6)[0] is evidence


def test_fine_tuning_asks_the_teacher_once_where_nothing_changes(digits, network):
    asked = []
    handle = network.register_forward_hook(lambda *_: asked.append(1))
    evidence = fold.evidence(digits, train=PLAIN)
    recover(small(), network, evidence, fold="prune", epochs=3, lr_frac=0.5, teacher=True)
    handle.remove()
    assert len(asked) == 1


def test_regression_and_multilabel_are_looked_up_too():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 6, generator=generator)
    y = x @ torch.randn(6, 3, generator=generator)
    for kind, targets in (("regression", y), ("multilabel", (y > 0).float())):
        split = Split(x, targets)
        data = Data("rows", split, split, split, ("a", "b", "c"), Normalise(1.0, (0.0,) * 6, (1.0,) * 6), kind)
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        evidence = fold.evidence(data, train=PLAIN)
        both = [distill(net, DistillConfig(epochs=1, cache=c), evidence)[0].state_dict() for c in (True, False)]
        torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)


def test_a_large_table_is_kept_in_half_precision(digits, network, monkeypatch):
    evidence = fold.evidence(digits, train=PLAIN)
    whole = teachers.answers(network, evidence)
    assert whole.dtype == torch.float32
    monkeypatch.setattr(teachers, "_FLOAT32_BYTES", 300 * 10 * 4 - 1)
    half = teachers.answers(network, evidence)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), whole, rtol=1e-3, atol=1e-2)
    distill(network, dataclasses.replace(HALF, epochs=1), evidence, student=small())


def test_a_teacher_that_is_not_finite_is_named(digits, network):
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    broken[1].weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"teacher's answer is not finite for 300 of 300 training inputs"):
        distill(broken, HALF, fold.evidence(digits, train=PLAIN), student=small())


# A graph as teacher


def test_a_graph_teaches_as_its_network_does(digits, network):
    evidence = fold.evidence(digits, train=PLAIN)
    proto = graph(network, digits.normalise, digits.train.inputs[:1])
    for cache in (True, False):
        config = dataclasses.replace(HALF, cache=cache)
        by_graph, report = distill(proto, config, evidence, student=small())
        by_network, _ = distill(network, config, evidence, student=small())
        torch.testing.assert_close(by_graph.state_dict(), by_network.state_dict(), rtol=1e-3, atol=1e-4)
        assert report.score_before == pytest.approx(evidence.score(network))
        assert report.layers[0]["shape_before"] is None
    named, _ = distill(proto, DistillConfig(student="mlp", scale=0.1, epochs=1), evidence)
    assert named(evidence.example).shape == (1, 10)


def test_normalisation_is_undone(digits, network):
    x = digits.normalise(digits.train.inputs[:7])
    raw = graph(network, digits.normalise, digits.train.inputs[:1])
    ask = teachers.graph_teacher(raw, digits.normalise)
    torch.testing.assert_close(ask(x), network(x).detach(), rtol=1e-4, atol=1e-4)
    beyond = ask(digits.normalise(torch.tensor([[[[300.0]]]]).expand(1, 1, 8, 8)))  # no pixel is above 255
    torch.testing.assert_close(beyond, ask(digits.normalise(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8))))


def test_a_fixed_batch_is_filled_up(digits, network):
    proto = graph(network, digits.normalise, digits.train.inputs[:1])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    ask = teachers.graph_teacher(proto, digits.normalise)
    x = digits.normalise(digits.train.inputs[:7])
    torch.testing.assert_close(ask(x), network(x).detach(), rtol=1e-4, atol=1e-4)


def test_what_a_graph_cannot_do_is_told(digits, network):
    evidence = fold.evidence(digits, train=PLAIN)
    proto = graph(network, digits.normalise, digits.train.inputs[:1])
    with pytest.raises(UserError, match=r"exported graph, which has no layers to make a smaller copy of.*student="):
        distill(proto, HALF, evidence)
    with pytest.raises(UserError, match=r"distill\.hints is 'auto' and the teacher is an exported graph"):
        distill(proto, dataclasses.replace(HALF, hints="auto"), evidence, student=small())
    strange = dataclasses.replace(digits, normalise=nn.Identity())
    with pytest.raises(UserError, match=r"normalised by an Identity, which a teacher's graph cannot undo"):
        distill(proto, HALF, fold.evidence(strange, train=PLAIN, score=lambda _: 0.0), student=small())


def test_by_index_stands_for_the_real_task():
    task = teachers.ByIndex(get("classification", label_smoothing=0.1), torch.tensor([2, 0, 1]))
    z = torch.randn(2, 3)
    rows, y = torch.tensor([1, 2]), torch.tensor([0, 1])
    assert task.loss(z, rows) == get("classification", label_smoothing=0.1).loss(z, y)
    assert task.score(z, rows) == get("classification").score(z, y)
    assert task.score_name == "accuracy"
