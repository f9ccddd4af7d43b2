from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests._networks import inputs, network, small_shape, zeros
from torch import nn

from dimwise import fold, models
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import ModelError, RecipeError, UserError
from dimwise.fold._teaching import students
from dimwise.fold._teaching.students import example_of
from dimwise.fold._teaching.teachers import by_asking, network_teacher
from dimwise.fold.distill import (
    DistillConfig,
    distill,
    distillation_loss,
    divergence,
    standardise,
    student,
    taught_by,
)
from dimwise.tasks import get
from dimwise.train import TrainConfig, fit

CE = get("classification")
PLAIN = TrainConfig(epochs=3, lr=1e-2, precision="fp32", layout="contiguous", threads=1)


def pair(n: int = 6, k: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z_s, z_t = torch.randn(2, n, k, generator=generator) * 3
    return z_s, z_t, torch.randint(0, k, (n,), generator=generator)


def soft(z_s, z_t, *, kind="classification", temperature=4.0, standardised=False) -> torch.Tensor:
    return divergence(z_s, z_t, kind=kind, temperature=temperature, standardised=standardised)


# The loss


def test_hand_computed_loss():
    """Teacher (2 log 3, 0) at T = 2 says (3/4, 1/4), the student (1/2, 1/2); y is the first class."""
    z_t, z_s = torch.tensor([[2 * np.log(3.0), 0.0]], dtype=torch.float32), torch.zeros(1, 2)
    kl = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    config = DistillConfig(temperature=2.0, weight=0.6, standardise=False)
    loss = distillation_loss(z_s, z_t, targets=torch.tensor([0]), task=CE, kind="classification", config=config)
    assert loss.item() == pytest.approx(0.4 * np.log(2) + 0.6 * 4 * kl, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_is_torchs(temperature):
    z_s, z_t, _ = pair()
    expected = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(z_s / temperature, 1), F.softmax(z_t / temperature, 1))
    assert soft(z_s, z_t, temperature=temperature) == pytest.approx(temperature**2 * expected.item(), rel=1e-5)


def test_standardised_divergence_is_numpys():
    z_s, z_t, _ = pair()

    def p(z: torch.Tensor) -> np.ndarray:
        a = z.double().numpy()
        a = (a - a.mean(1, keepdims=True)) / a.std(1, ddof=1, keepdims=True) / 3.0
        return np.exp(a) / np.exp(a).sum(1, keepdims=True)

    kl = (p(z_t) * np.log(p(z_t) / p(z_s))).sum(1).mean()
    assert soft(z_s, z_t, temperature=3.0, standardised=True).item() == pytest.approx(9 * kl, rel=1e-5)


def test_multilabel_divergence_is_that_of_two_classes():
    z_s, z_t, _ = pair()
    zero = torch.zeros(z_s.numel())
    two_s, two_t = torch.stack([z_s.flatten(), zero], 1), torch.stack([z_t.flatten(), zero], 1)
    expected = soft(two_s, two_t)  # softmax of (z, 0) is the sigmoid of z
    assert soft(z_s, z_t, kind="multilabel").item() == pytest.approx(expected.item(), rel=1e-5)
    huge = soft(z_s * 1e4, -z_t * 1e4, kind="multilabel")
    assert huge.isfinite()


def test_regression_copies_the_outputs():
    z_s, z_t, _ = pair()
    assert soft(z_s, z_t, kind="regression").item() == pytest.approx(((z_s - z_t) ** 2).mean().item())


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("standardised", [True, False])
def test_equal_answers_cost_nothing_and_others_something(kind, standardised):
    z_s, z_t, _ = pair()
    assert soft(z_t, z_t, kind=kind, standardised=standardised).item() == pytest.approx(0, abs=1e-6)
    assert soft(z_s, z_t, kind=kind, standardised=standardised).item() > 0.01


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 1000))
def test_standardised_loss_ignores_scale_and_shift(scale, shift, seed):
    z_s, z_t, _ = pair(seed=seed)
    z_s, z_t = z_s.double().float(), z_t.double().float()
    expected = soft(z_s, z_t, standardised=True).item()
    assert soft(z_s, scale * z_t + shift, standardised=True).item() == pytest.approx(expected, rel=2e-2, abs=1e-3)
    torch.testing.assert_close(standardise(scale * z_t), standardise(z_t), rtol=1e-3, atol=1e-4)


def test_standardised_scores_have_zero_mean_and_unit_deviation():
    z = standardise(pair()[0])
    torch.testing.assert_close(z.mean(1), torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(1), torch.ones(6))


@pytest.mark.parametrize("loss", ["kd", "dkd"])
def test_two_classes_are_taught_too(loss):
    """Standardised, two scores are always ±1/√2: how sure the teacher is would be lost, and with it all gradient."""
    config = DistillConfig(weight=1.0, loss=loss)
    plain = DistillConfig(weight=1.0, loss=loss, standardise=False)
    z_t, y = torch.tensor([[3.0, 0.0], [0.2, 0.0]]), torch.tensor([0, 0])
    found = []
    for asked in (config, plain):
        z_s = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
        distillation_loss(z_s, z_t, targets=y, task=CE, kind="classification", config=asked).backward()
        found.append(z_s.grad)
    assert found[0][0, 0] < -0.01  # surer of the first
    assert found[0][1, 0] > 0.01  # and less sure of the second
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("mixed", [False, True])
def test_weight_0_is_the_task_and_weight_1_the_teacher(mixed):
    z_s, z_t, y = pair()
    targets = F.one_hot(y, 5).float() * 0.7 + 0.06 if mixed else y
    losses = [
        distillation_loss(
            z_s, z_t, targets=targets, task=CE, kind="classification", config=DistillConfig(weight=w, strength=1)
        )
        for w in (0.0, 1.0, 0.25)
    ]
    assert losses[0].item() == pytest.approx(F.cross_entropy(z_s, targets).item())
    assert losses[1].item() == pytest.approx(soft(z_s, z_t, standardised=True).item())
    assert losses[2].item() == pytest.approx(0.75 * losses[0].item() + 0.25 * losses[1].item())


def test_gradient_reaches_the_student_only_and_is_finite_for_constant_scores():
    z_s, z_t = torch.zeros(3, 5, requires_grad=True), pair(3)[1].requires_grad_()
    soft(z_s, z_t.detach(), standardised=True).backward()
    assert z_s.grad is not None
    assert z_s.grad.isfinite().all()
    assert z_s.grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32():
    z_s, z_t, _ = pair()
    loss = soft(z_s.bfloat16(), z_t.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(soft(z_s, z_t).item(), rel=0.05)


def test_maps_of_scores_are_averaged_over_positions():
    z_s, z_t, _ = pair(n=8)  # 8 samples, or 2 samples of 2 x 2 positions
    maps = [z.view(2, 2, 2, 5).permute(0, 3, 1, 2) for z in (z_s, z_t)]
    assert soft(*maps, standardised=True).item() == pytest.approx(soft(z_s, z_t, standardised=True).item(), rel=1e-5)


# The student


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_student_of_a_table_model_is_narrower(name):
    shape = (12,) if name in models.TOKENS else (1, 32, 32) if name == "lenet5" else (3, 32, 32)
    torch.manual_seed(0)
    teacher = network(name, shape, 7, width=1.0 if name == "lenet5" else 0.5)
    before = [p.detach().clone() for p in teacher.parameters()]
    made = student(teacher, 0.5, inputs(name, 1, *shape))
    assert made(inputs(name, 2, *shape)).shape == (2, 7)
    assert [type(m) for m in made.modules()] == [type(m) for m in teacher.modules()]
    n_made, n_teacher = (sum(p.numel() for p in m.parameters()) for m in (made, teacher))
    assert 0.2 < n_made / n_teacher < 0.62
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_student_is_drawn_anew_by_its_seed():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    for tensor in net.state_dict().values():
        tensor.fill_(9)
    made, again, other = (student(net, 1.0, torch.zeros(1, 4), seed=s) for s in (1, 1, 2))
    torch.testing.assert_close(made.state_dict(), again.state_dict(), rtol=0, atol=0)
    weights, others = made.state_dict(), other.state_dict()
    assert not torch.equal(weights["0.weight"], others["0.weight"])
    assert weights["0.weight"].abs().max() < 1
    assert not weights["1.running_mean"].any()
    assert made.training


def test_student_leaves_the_global_generator_alone():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    student(net, 0.5, torch.zeros(1, 4))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("n", "scale", "kept"), [(6, 0.5, 3), (64, 0.5, 32), (30, 0.5, 16), (3, 0.01, 1), (9, 1, 9)])
def test_channels_are_kept_at_multiples_of_four(n, scale, kept):
    net = nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 2))
    assert student(net, scale, torch.zeros(1, 4)).get_submodule("0").out_features == kept


def test_student_that_cannot_be_made_is_explained():
    with pytest.raises(ModelError, match=r"no channel of Linear can leave .*outputs.* Name another student"):
        student(nn.Linear(4, 2), 0.5, torch.zeros(1, 4))
    broken = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.constant_(next(broken.parameters()), float("nan"))
    with pytest.raises(ModelError, match=r"the outputs of Sequential are not finite; .* look for NaN in its weights"):
        student(broken, 0.5, torch.zeros(1, 4))
    with pytest.raises(ModelError, match=r"scale is 1\.5; expected above 0 and at most 1"):
        student(nn.Linear(4, 2), 1.5, torch.zeros(1, 4))

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            if x.shape[-1] != 8:
                raise RuntimeError("eight, and no other number")
            return self.last(x)

    with pytest.raises(ModelError, match=r"Fixed cannot be made narrower: RuntimeError: .*Name another student"):
        student(Fixed(), 0.5, torch.zeros(1, 4))


# The verb


@pytest.fixture(scope="module")
def digits() -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs, targets = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1), torch.from_numpy(bunch.target)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:900]
    parts = [Split(inputs[part], targets[part]) for part in order.split([500, 300, 100])]
    labels = tuple(str(i) for i in range(10))
    return Data("digits", parts[0], parts[1], parts[2], labels, Normalise(1 / 16, (0.3,), (0.38,)))


@pytest.fixture(scope="module")
def teacher(digits: Data) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
    )
    return fit(net, digits, config=PLAIN).model


def test_student_learns_and_teacher_stays(digits, teacher):
    teacher.train()  # a careless caller
    before = copy.deepcopy(teacher.state_dict())
    evidence = fold.evidence(digits, train=PLAIN)
    made, report = distill(teacher, DistillConfig(scale=0.5, epochs=5), evidence)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    teacher.eval()
    assert not made.training
    assert report.score_before > 0.9
    assert report.score_after > 0.8
    assert report.cost_after["params"] < 0.6 * report.cost_before["params"]
    assert report.layers[0] == {"name": "1", "shape_before": [64, 64], "shape_after": [32, 64]}
    assert report.config["epochs"] == 5
    assert report.fold == "distill"


@pytest.mark.parametrize("name", list(models.MODELS))
def test_an_example_of_any_model_of_the_table_is_found(name):
    net = network(name, small_shape(name), 4, width=0.5).eval()
    found = example_of(net)
    assert net(found).shape == (1, 4)
    assert found.dtype == zeros(name, 1, *small_shape(name)).dtype


@pytest.mark.parametrize("name", ["small_cnn", "mlp", "lstm", "transformer"])
def test_a_student_needs_no_example(name):
    net = network(name, small_shape(name), 4, width=0.5)
    made, told = student(net, 0.5), student(net, 0.5, zeros(name, 1, *small_shape(name)))
    assert [p.shape for p in made.parameters()] == [p.shape for p in told.parameters()]


def test_an_example_that_cannot_be_guessed_is_asked_for():
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(7 * 5, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.hidden(x.view(-1, 5, 7).flatten(1)).relu())

    assert [p.shape[0] for p in student(Takes(), 0.5).parameters()] == [4, 4, 2, 2]
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 9 * 11, 2))
    with pytest.raises(ModelError, match=r"no usual input fits Sequential; expected an example. Give one: example=x"):
        student(net, 0.5)
    assert student(net, 0.5, torch.zeros(1, 1, 11, 13)).get_submodule("0").out_channels == 4
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ModelError, match="no usual input fits"):
        student(lazy, 0.5)
    assert isinstance(lazy[0], nn.LazyLinear), "it takes the first input that comes"
    with pytest.raises(UserError, match=r"student was given a str; expected a torch\.nn\.Module"):
        student("net", 0.5)  # type: ignore[arg-type]


def test_a_text_of_padding_alone_is_no_example():
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.hidden, self.out = nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            real = (x != 0).unsqueeze(-1)
            mean = (self.words(x) * real).sum(1) / real.sum(1)
            return self.out(self.hidden(mean).relu())

    assert student(Mean(), 0.5).get_submodule("hidden").out_features == 4


def test_a_deep_network_is_looked_through_once(monkeypatch):
    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(50)), nn.Linear(8, 2))
    asked = []

    def lengths(model):
        asked.append(model)
        return (8,)

    monkeypatch.setattr(students, "_lengths", lengths)
    assert example_of(net).shape == (1, 8)
    assert asked == [net]


def test_same_seed_same_student(digits, teacher):
    evidence = fold.evidence(digits, train=PLAIN)
    first, second = (distill(teacher, DistillConfig(epochs=1), evidence)[0] for _ in range(2))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_given_and_named_students(digits, teacher):
    evidence = fold.evidence(digits, train=PLAIN)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = copy.deepcopy(own.state_dict())
    made, report = distill(teacher, DistillConfig(epochs=2), evidence, student=own)
    torch.testing.assert_close(own.state_dict(), before, rtol=0, atol=0)
    assert isinstance(made.get_submodule("1"), nn.Linear)
    assert report.score_after > 0.6
    named, _ = distill(teacher, DistillConfig(student="mlp", scale=0.1, epochs=1), evidence)
    assert type(named) is type(models.build("mlp", (1, 8, 8), 10))


def test_a_shallower_student_inherits_what_it_keeps(digits):
    torch.manual_seed(0)
    body = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(4)))
    deep = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), body, nn.Linear(32, 10))
    evidence = fold.evidence(digits, train=dataclasses.replace(PLAIN, init="he", lr=1e-9))
    made, report = distill(deep, DistillConfig(scale=1, depth=0.5, inherit=True, epochs=1), evidence)
    assert len(made.get_submodule("3")) == 2  # type: ignore[arg-type]
    torch.testing.assert_close(made.get_submodule("3.1.0").weight, body[3][0].weight, rtol=1e-4, atol=1e-6)
    assert report.untouched["1"] == "as wide as the teacher's; trained on"
    anew, _ = distill(deep, DistillConfig(scale=1, depth=0.5, epochs=1), evidence)
    assert not torch.allclose(anew.get_submodule("3.1.0").weight, body[3][0].weight, atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("standardised", [True, False])
def test_dkd_teaches(digits, teacher, standardised):
    config = DistillConfig(loss="dkd", standardise=standardised, epochs=5, hints="auto")
    _, report = distill(teacher, config, fold.evidence(digits, train=PLAIN))
    assert report.score_after > 0.8


def test_teacher_sees_the_students_batch_in_evaluation_mode(teacher):
    seen = []
    spy = nn.Sequential(teacher)
    spy.register_forward_hook(lambda _, args, __: seen.append((args[0], spy.training, torch.is_grad_enabled())))
    x, y = torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    lesson = by_asking(network_teacher(spy))
    loss = taught_by(lesson, DistillConfig(), "classification")(net, x, y, CE)
    loss.backward()
    assert [(a is x, b, c) for a, b, c in seen] == [(True, False, False)]
    assert net[1].weight.grad is not None
    alone = taught_by(lesson, DistillConfig(weight=0), "classification")(net, x, y, CE)
    assert len(seen) == 1
    torch.testing.assert_close(alone, CE.loss(net(x), y))


def test_regression_and_multilabel_students_learn():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    score = x @ torch.randn(6, 3, generator=generator)
    for task, y in (("regression", score), ("multilabel", (score > 0).float())):
        split = Split(x, y)
        data = Data("rows", split, split, split, ("a", "b", "c"), Normalise(1.0, (0.0,) * 6, (1.0,) * 6), task)
        config = TrainConfig(epochs=20, lr=2e-2, precision="fp32", layout="contiguous", threads=1)
        torch.manual_seed(0)
        net = fit(nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), data, config=config).model
        _, report = distill(net, DistillConfig(), fold.evidence(data, train=config))
        assert report.score_after > 0.85


def test_he_initialisation_is_passed_on(digits, teacher):
    drawn = TrainConfig(epochs=1, lr=1e-9, init="he", precision="fp32", layout="contiguous", threads=1)
    made, _ = distill(teacher, DistillConfig(), fold.evidence(digits, train=drawn))
    assert made.get_parameter("1.weight").std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


def test_what_cannot_be_distilled_is_refused(digits, teacher):
    evidence = fold.evidence(digits, train=PLAIN)
    with pytest.raises(UserError, match=r"distill was given a str; expected a trained torch\.nn\.Module or an onnx"):
        distill("teacher.onnx", DistillConfig(), evidence)
    five = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(ModelError, match=r"student returns \(1, 5\) for one input; expected the teacher's \(1, 10\)"):
        distill(teacher, DistillConfig(), evidence, student=five)
    with pytest.raises(ModelError, match=r"student cannot take an input of shape \(1, 1, 8, 8\): mat1 and mat2"):
        distill(teacher, DistillConfig(), evidence, student=nn.Linear(3, 10))
    with pytest.raises(RecipeError, match=r"no distillation loss for the task 'regresion'.* did you mean 'regression'"):
        soft(torch.zeros(1, 2), torch.zeros(1, 2), kind="regresion")
