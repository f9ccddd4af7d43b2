"""A classifier taken apart into one question a class: together and alone they answer alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import DataError, ModelError, RecipeError, UserError
from dimwise.fold._evidence import Evidence
from dimwise.fold._extract import features
from dimwise.fold.one_vs_rest import OneVsRest, OneVsRestConfig, one_vs_rest
from dimwise.models import MODELS, build
from dimwise.train.config import TrainConfig


def looks(shape: tuple[int, ...] = (6,), n: int = 150, task: str = "classification", k: int = 3) -> Evidence:
    """Classes that differ in one number each; a test split that must not be read."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % k
    x = torch.randn(n, *shape, generator=generator)
    x.flatten(1)[:, :k] += 4 * torch.eye(k)[y]
    targets = y if task == "classification" else torch.eye(k)[y] if task == "multilabel" else x.flatten(1)[:, :k]
    split, none = Split(x, targets), Split(torch.zeros(0), torch.zeros(0))
    labels = tuple("abcdefgh"[:k])
    data = Data("made", split, split, none, labels, Normalise(1.0, (0.5,) * shape[0], (2.0,) * shape[0]), task)
    train = TrainConfig(epochs=6, batch_size=16, lr=0.02, precision="fp32", layout="contiguous", threads=1)
    return fold.evidence(data, train=train)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def made_of(model: nn.Module, config: OneVsRestConfig, told: Evidence) -> tuple[OneVsRest, fold.FoldReport]:
    made, report = one_vs_rest(model, config, told)
    assert isinstance(made, OneVsRest)
    assert not made.training
    return made, report


@pytest.mark.parametrize("layer", ["", "0"])
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_each_head_is_the_logistic_regression_of_its_class(task, layer):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    told, plain = looks(task=task), net()
    made, report = made_of(plain, OneVsRestConfig(layer=layer), told)
    x = told.data.normalise(told.data.train.inputs)
    seen = features(plain, layer or "1", x).numpy().astype(float)
    z = StandardScaler().fit_transform(seen)
    targets = told.data.train.targets
    with torch.no_grad():
        odds = made(x).numpy()
    for k in range(3):
        answer = (targets == k if task == "classification" else targets[:, k] > 0.5).numpy()
        known = LogisticRegression(max_iter=200).fit(z, answer).decision_function(z)
        np.testing.assert_allclose(odds[:, k], known, atol=0.02)
    assert report.score_after > 0.95


@pytest.mark.parametrize("way", ["heads", "students"])
def test_one_alone_is_its_column(way):
    told = looks()
    made, report = made_of(net(), OneVsRestConfig(way=way, scale=0.5), told)
    x = torch.randn(5, 6)
    assert made(x).shape == (5, 3)
    for k, label in enumerate("abc"):
        for one in (made.alone(label), made.alone(k)):
            torch.testing.assert_close(one(x), made(x)[:, k : k + 1])
    alone = made.alone("b")
    for parameter in alone.parameters():
        parameter.data.zero_()
    assert made(x)[:, 1].abs().sum() > 0  # a copy
    assert report.score_after > 0.9
    torch.export.export(made, (x,))


def test_students_are_narrower_and_repeat():
    told, plain = looks(), net()
    config = OneVsRestConfig(way="students", scale=0.25, epochs=1)
    one, _ = made_of(plain, config, told)
    two, _ = made_of(plain, config, told)
    assert [head[0].out_features for head in one.heads] == [4, 4, 4]
    assert [head[2].out_features for head in one.heads] == [1, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.heads[0][0].weight, one.heads[1][0].weight)


@pytest.mark.parametrize("way", ["heads", "students"])
def test_the_global_generator_is_left_alone(way):
    plain, told = net(), looks(n=30)
    before = torch.get_rng_state()
    one_vs_rest(plain, OneVsRestConfig(way=way, epochs=1), told)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_the_scores_of_each_class_are_those_of_scikit_learn(task):
    from sklearn.metrics import precision_recall_fscore_support

    told, plain = looks(task=task, n=90), net()
    made, report = made_of(plain, OneVsRestConfig(), told)
    x, targets = told.data.normalise(told.data.valid.inputs), told.data.valid.targets
    for model, keys in ((plain, ("f1_before",)), (made, ("precision", "recall", "f1"))):
        with torch.no_grad():
            outputs = model(x)
        guess = outputs.argmax(1) if task == "classification" else outputs > 0
        known = precision_recall_fscore_support(targets.numpy(), guess.numpy(), labels=range(3), zero_division=0.0)
        for key, values in zip(keys, known[3 - len(keys) :] if len(keys) == 3 else known[2:3], strict=False):
            assert [row[key] for row in report.layers] == pytest.approx(values.tolist(), abs=1e-6)
    if task == "classification":
        assert [row["inputs"] for row in report.layers] == [30, 30, 30]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_table_is_taken_apart(name):
    torch.manual_seed(0)
    shape = (1, 28, 28) if name in ("guide_cnn", "lenet5", "fast_cnn") else (3, 16, 16)
    try:
        whole = build(name, shape, 3, width=0.25).eval()
    except ModelError:
        pytest.skip("takes another kind of input")
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    told = dataclasses.replace(looks(shape, n=30), cost=lambda m: {})
    made, report = made_of(whole, OneVsRestConfig(), told)
    assert made(told.example).shape == (1, 3)
    assert [row["name"] for row in report.layers] == ["a", "b", "c"]
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())


def test_a_class_without_inputs_is_never_said():
    told = looks()
    y = told.data.train.targets
    split = Split(told.data.train.inputs[y != 1], y[y != 1])
    made, _ = made_of(net(), OneVsRestConfig(), fold.evidence(dataclasses.replace(told.data, train=split)))
    assert (made(torch.randn(50, 6)).argmax(1) != 1).all()


def test_mistakes_are_told_in_one_line():
    told = looks()
    with pytest.raises(UserError, match="one_vs_rest was given a str"):
        one_vs_rest("net", OneVsRestConfig(), told)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="one_vs_rest for the task 'regression'; expected classes"):
        one_vs_rest(net(), OneVsRestConfig(), looks(task="regression"))
    ends = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Conv1d(4, 3, 1), nn.Flatten())
    wide = nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 3, 1), nn.Flatten())
    with pytest.raises(ModelError, match=r"Sequential does not end in a dense layer with 3 outputs; .* Name the layer"):
        one_vs_rest(wide, OneVsRestConfig(), told)
    other = nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 3, 1), nn.Flatten())
    with pytest.raises(ModelError, match=r"Sequential does not end in a dense layer with 3 outputs"):
        one_vs_rest(other, OneVsRestConfig(), told)
    with pytest.raises(ModelError, match="Sequential cannot be run on"):
        one_vs_rest(ends, OneVsRestConfig(), told)
    made, _ = made_of(wide, OneVsRestConfig(layer="1"), told)
    with pytest.raises(ModelError, match="no class 'z'; expected one of: a, b, c"):
        made.alone("z")
    with pytest.raises(ModelError, match="no class 3; expected one of"):
        made.alone(3)
    empty = dataclasses.replace(told.data, train=Split(torch.zeros(0, 6), torch.zeros(0)))
    with pytest.raises(DataError, match="made has 0 training inputs; expected some of each class"):
        one_vs_rest(net(), OneVsRestConfig(), dataclasses.replace(told, data=empty))
    sick = dataclasses.replace(told.data, train=Split(torch.full((9, 6), torch.nan), torch.zeros(9)))
    with pytest.raises(DataError, match="the features hold NaN or infinity"):
        one_vs_rest(net(), OneVsRestConfig(), dataclasses.replace(told, data=sick))
