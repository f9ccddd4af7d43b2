"""Networks cut early, with a linear head on the principal components of what they have found by then."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests._networks import inputs, network, shown, small_shape
from torch import Tensor, nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import DataError, ModelError, RecipeError, UserError
from dimwise.fold._components import linear_head, pca
from dimwise.fold._evidence import Evidence
from dimwise.fold._extract import extractor, features, stages
from dimwise.fold.reduce import ReduceConfig, reduce
from dimwise.measure import profile
from dimwise.models import MODELS
from dimwise.models.mlp import mlp


def looks(shape: tuple[int, ...] = (6,), n: int = 200, task: str = "classification") -> Evidence:
    """Three classes that a linear layer tells apart in the inputs; a test split that must not be read."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.randn(n, *shape, generator=generator)
    x.flatten(1)[:, :3] += 4 * torch.eye(3)[y]
    targets = {"classification": y, "multilabel": torch.eye(3)[y], "regression": x.flatten(1)[:, :3] * 2 + 1}[task]
    split, none = Split(x, targets), Split(torch.zeros(0), torch.zeros(0))
    data = Data("made", split, split, none, ("a", "b", "c"), Normalise(1.0, (0.5,) * shape[0], (2.0,) * shape[0]), task)
    return fold.evidence(data)


def net(seed: int = 0, out: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, out)).eval()


# Features -------------------------------------------------------------------------------------------------------------


def test_features_of_any_layer_are_what_it_puts_out():
    plain, x = net().train(), torch.randn(7, 6)
    torch.testing.assert_close(features(plain, "2", x, batch_size=3), plain[:3](x).detach())
    assert torch.equal(features(plain, "input", x), x)
    assert plain.training
    assert not plain[2]._forward_hooks
    lstm = nn.Sequential(nn.LSTM(6, 4, batch_first=True))
    assert features(lstm, "0", torch.randn(2, 3, 6)).shape == (2, 3, 4)


def test_features_are_those_before_a_later_layer_writes_over_them():
    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True)), torch.randn(7, 6)
    found = features(plain, "0", x)
    assert found.min() < 0
    torch.testing.assert_close(found, plain[0](x).detach())


def test_features_of_no_layer_are_refused():
    with pytest.raises(ModelError, match=r"Sequential has no layer '9'; expected input, or such as '0', '1', '2'"):
        features(net(), "9", torch.zeros(1, 6))
    idle = nn.Module()
    idle.a, idle.forward = nn.Linear(2, 2), lambda x: x  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="layer 'a' does not run"):
        features(idle, "a", torch.zeros(1, 2))


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_of_the_table_can_be_cut_at_each_stage(name):
    torch.manual_seed(0)
    shape = small_shape(name)
    whole = network(name, shape, 5, width=0.25).eval()
    x = inputs(name, 2, *shape)
    places = stages(whole, x)
    assert len(places) >= 3
    for place in places[:: max(1, len(places) // 3)]:
        front = extractor(whole, place)
        torch.testing.assert_close(front(x), features(whole, place, x))
        assert sum(p.numel() for p in front.parameters()) <= sum(p.numel() for p in whole.parameters())
    assert profile(extractor(whole, places[0]), x).macs < profile(whole, x).macs


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_texts_are_cut_behind_their_embedding_since_tokens_are_names(name):
    torch.manual_seed(0)
    data = shown(name, (12,), 40)
    whole = network(name, (12,), 2, width=0.25).eval()
    with pytest.raises(ModelError, match=r"at 'input' there are whole numbers, such as tokens.*Name a later layer"):
        reduce(whole, ReduceConfig(layer="input"), fold.evidence(data))
    made, report = reduce(whole, ReduceConfig(), fold.evidence(data))
    assert report.layers[0]["name"] != "input"
    assert "whole numbers" in report.untouched["input"]
    assert report.score_after == 1
    assert made(data.train.inputs[:3]).shape == (3, 2)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) + self.b(x)
        return self.c(self.b(x) if x.sum() > -1e9 else x)


def test_a_way_that_depends_on_values_is_refused():
    with pytest.raises(ModelError, match=r"Branching cannot be cut at 'c': .*; expected a forward pass without branch"):
        extractor(Branching(), "c")
    assert stages(Branching(), torch.ones(2, 6)) == ["a", "c"]  # b runs twice


# Components -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 6), (5, 9), (30, 2, 3)])
def test_components_are_those_of_scikit_learn(shape):
    from sklearn.decomposition import PCA

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.arange(1, shape[-1] + 1)
    found, known = pca(x), PCA().fit(x.flatten(1).double().numpy())
    n = len(found.variances)
    assert n == min(shape[0] - 1, x[0].numel())
    np.testing.assert_allclose(found.variances, known.explained_variance_[:n], rtol=1e-8)
    np.testing.assert_allclose(found.explained_variance(), known.explained_variance_ratio_[:n], rtol=1e-8)
    np.testing.assert_allclose(np.abs(found.axes @ known.components_[:n].T), np.eye(n), atol=1e-6)
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(n), atol=1e-9)
    z = found.project(x, n)
    np.testing.assert_allclose(found.mean + z @ found.axes, x.flatten(1).double().numpy(), atol=1e-9)
    shares = found.explained_variance().cumsum()
    for share in (0.3, 0.8, 0.999):
        count = found.count_for(share)
        assert shares[count - 1] >= share
        assert count == 1 or shares[count - 2] < share


def test_components_without_variance_are_left_out():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 7)
    assert len(pca(x.double()).variances) == 2
    flat = pca(torch.ones(4, 3))
    assert (len(flat.variances), flat.count_for(0.9), flat.explained_variance().tolist()) == (1, 1, [1.0])
    with pytest.raises(DataError, match="principal components of 1 inputs; expected at least 2"):
        pca(torch.zeros(1, 3))
    with pytest.raises(DataError, match="the features hold NaN or infinity"):
        pca(torch.tensor([[1.0], [torch.inf]]))


@pytest.mark.parametrize(("present", "k"), [((0, 1, 2), 3), ((0, 2), 3), ((1,), 3), ((0, 1), 2)])
def test_the_head_names_only_classes_it_has_seen(present, k):
    y = torch.tensor(present).repeat(10)
    z = np.eye(k)[y.numpy()] * 3 + np.random.default_rng(0).standard_normal((len(y), k)) * 0.1
    weight, bias = linear_head(z, y, "classification", k)
    assert ((z @ weight.T + bias).argmax(1) == y.numpy()).all()


def test_the_head_of_labels_and_of_numbers():
    told = looks(task="multilabel")
    x, y = told.data.train.inputs.numpy().astype(float), told.data.train.targets
    y = torch.cat([y[:, :2], torch.ones(len(y), 1)], 1)
    weight, bias = linear_head(x, y, "multilabel", 3)
    guess = x @ weight.T + bias > 0
    assert (guess == (y > 0.5).numpy()).mean() > 0.95
    assert guess[:, 2].all()
    numbers = looks(task="regression").data.train
    weight, bias = linear_head(x, numbers.targets, "regression", 3)
    np.testing.assert_allclose(x @ weight.T + bias, numbers.targets, atol=0.2)


# The fold -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["input", "0", "3"])
@pytest.mark.parametrize("n", [2, 0])
def test_merged_it_is_what_it_is_step_by_step(layer, n):
    told, plain = looks(), net()
    one, report = reduce(plain, ReduceConfig(layer=layer, components=n, head="one", variance=0.9), told)
    two, _ = reduce(plain, ReduceConfig(layer=layer, components=n, head="two", variance=0.9), told)
    x = told.data.normalise(told.data.valid.inputs)
    torch.testing.assert_close(one(x), two(x), rtol=1e-4, atol=1e-4)
    (row,) = report.layers
    assert row["components"] == two.head[0].out_features
    assert row["features"] == one.head.in_features
    assert n == 0 or row["components"] == n
    components = pca(features(plain, layer, x))
    assert row["variance"] == pytest.approx(components.explained_variance()[: row["components"]].sum(), abs=1e-5)
    z = two.head[0](features(plain, layer, x))
    torch.testing.assert_close(z.T.cov(), torch.eye(row["components"]), rtol=1e-3, atol=1e-3)
    weight, _ = linear_head(z.detach().double().numpy(), told.data.train.targets, "classification", 3)
    torch.testing.assert_close(two.head[1].weight, torch.from_numpy(weight).float(), rtol=0.01, atol=0.01)


def test_auto_takes_the_head_with_fewer_numbers():
    told = looks()
    few, _ = reduce(net(), ReduceConfig(layer="0", components=2), told)
    many, _ = reduce(net(), ReduceConfig(layer="0", components=6), told)
    assert isinstance(few.head, nn.Sequential)  # 2 · (8 + 3) = 22 against 24
    assert isinstance(many.head, nn.Linear)


def test_the_network_is_cut_where_its_score_is_reached():
    """The inputs are separable already, so no layer of a network with a poor end is kept."""
    told, poor = looks(), net()
    _, report = reduce(poor, ReduceConfig(), told)
    assert report.layers[0]["name"] == "input"
    assert report.score_after > 0.95 > report.score_before
    assert report.cost_after["macs"] < report.cost_before["macs"]
    first_hidden = nn.Sequential(nn.Flatten(), Scramble(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        first_hidden[2].weight.copy_(torch.eye(3, 6) * 9)
        first_hidden[2].bias.zero_()
    told = dataclasses.replace(told, data=dataclasses.replace(told.data, valid=ring(), train=ring()))
    told = fold.evidence(told.data)
    _, report = reduce(first_hidden, ReduceConfig(), told)
    assert report.layers[0]["name"] == "1"
    assert "validation score is" in report.untouched["input"]


class Scramble(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def ring() -> Split:
    """Classes that differ in the size of an input, which no linear layer sees."""
    y = torch.arange(150) % 3
    x = torch.randn(150, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    sign = torch.where(torch.arange(150) % 2 == 0, 1.0, -1.0)
    x[torch.arange(150), y] += 3 * sign
    return Split(x * 2 + 0.5, y)


def test_what_a_page_draws_are_the_components_of_the_place_and_samples_in_their_plane():
    evidence = looks()
    _, report = reduce(net(), ReduceConfig(layer="1", components=2), evidence)
    rows = evidence.data.normalise(evidence.data.train.inputs)
    found = pca(features(net(), "1", rows))
    assert report.drawn["scree"]["kept"] == 2
    assert report.drawn["scree"]["shares"] == pytest.approx(found.explained_variance(), abs=1e-6)
    points, classes = np.array(report.drawn["projection"]["points"]), report.drawn["projection"]["classes"]
    assert sorted(classes) == sorted(evidence.data.train.targets.tolist())
    spread = np.sort(points.var(axis=0))[::-1]
    assert spread == pytest.approx(found.variances[:2] * spread.sum() / found.variances[:2].sum(), rel=1e-3)
    for task in ("multilabel", "regression"):  # no one class to name a point after
        assert "projection" not in reduce(net(), ReduceConfig(layer="1"), looks(task=task))[1].drawn


@pytest.mark.parametrize(("grid", "n_features"), [(0, 4 * 49), (1, 4), (2, 16)])
def test_maps_are_averaged_to_a_grid(grid, n_features):
    told = looks((3, 7, 7), n=60)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)).eval()
    made, report = reduce(plain, ReduceConfig(layer="1", grid=grid, components=3), told)
    assert report.layers[0]["features"] == n_features
    assert made(torch.randn(2, 3, 7, 7)).shape == (2, 3)


def test_the_original_is_left_and_the_result_repeats_and_exports():
    told, plain = looks(), net()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    one, _ = reduce(plain, ReduceConfig(layer="1"), told)
    two, _ = reduce(plain, ReduceConfig(layer="1"), told)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert not one.training
    torch.export.export(one, (torch.zeros(2, 6),))
    nets: Any = mlp((6,), 3)
    other, _ = reduce(nets, ReduceConfig(layer="input"), looks(task="regression"))
    assert other(torch.zeros(1, 6)).shape == (1, 3)


def test_places_where_nothing_varies_are_passed_over():
    told, dead = looks(), net()
    with torch.no_grad():
        dead[0].bias.fill_(-1e4)  # behind its ReLU all is 0
    with pytest.raises(ModelError, match="the features at '1' are the same for all inputs"):
        reduce(dead, ReduceConfig(layer="1"), told)
    same = dataclasses.replace(told.data, train=Split(torch.full((90, 6), 0.7), torch.arange(90) % 3))
    with pytest.raises(ModelError, match="the features at 'input' are the same for all inputs"):
        reduce(net(), ReduceConfig(layer="input"), dataclasses.replace(told, data=same))
    x = torch.randn(2, 6)
    told = dataclasses.replace(told, score=lambda m: 0.9 if torch.equal(*m(x)) else 0.5)  # so all places are tried
    _, report = reduce(dead, ReduceConfig(), told)
    assert report.layers[0]["name"] in ("input", "0")
    for place in ("1", "2", "3"):
        assert report.untouched[place] == f"the features at {place!r} are the same for all inputs"


def test_places_with_too_few_components_are_passed_over():
    told = looks()
    _, report = reduce(net(), ReduceConfig(components=7), told)
    assert report.layers[0]["name"] == "1"  # 8 features; before it, 6 numbers and what is linear in them
    assert report.untouched["input"].startswith("reduce.components is 7; expected at most 6")
    with pytest.raises(RecipeError, match=r"reduce.components is 100; expected at most 6, .* at 'input'"):
        reduce(net(), ReduceConfig(components=100), told)


def test_mistakes_are_told_in_one_line():
    told = looks()
    with pytest.raises(UserError, match="reduce was given a str"):
        reduce("net", ReduceConfig(), told)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"reduce.components is 7; expected at most 6, as many as the features at"):
        reduce(net(), ReduceConfig(layer="0", components=7), told)
    one = dataclasses.replace(told.data, train=Split(torch.zeros(1, 6), torch.zeros(1)))
    with pytest.raises(DataError, match="made has 1 training inputs; expected some hundred"):
        reduce(net(), ReduceConfig(), dataclasses.replace(told, data=one))
    odd = dataclasses.replace(told.data, task="detection")
    with pytest.raises(RecipeError, match="no linear head for the task 'detection'; expected one of: classification"):
        reduce(net(), ReduceConfig(), dataclasses.replace(told, data=odd))
    sick = dataclasses.replace(told.data, train=Split(torch.full((9, 6), torch.nan), torch.zeros(9)))
    with pytest.raises(DataError, match="the features hold NaN or infinity"):
        reduce(net(), ReduceConfig(layer="0"), dataclasses.replace(told, data=sick))


def test_what_the_card_offers_beside_the_fold_is_exported():
    from dimwise.fold import Components, features, pca

    assert {"Components", "features", "pca"} <= set(fold.__all__)
    found = pca(features(net(), "1", torch.randn(20, 6)))
    assert isinstance(found, Components)
    assert found.explained_variance().sum() == pytest.approx(1)
    assert "from dimwise.fold import features, pca" in (fold.__doc__ or "")
