from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import DataError, ModelError, RecipeError
from dimwise.measure.cost import n_params, state_size_bytes
from dimwise.tasks import get
from dimwise.train import TrainConfig, evaluate

FOLDER = Path(fold.__file__).parent
TECHNIQUES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
CARD = ("Idea", "Mathematics", "Use when", "Cost", "Pitfalls", "Source", "Evidence")


def test_table_and_folder_hold_the_same():
    assert sorted(fold.FOLDS) == TECHNIQUES
    assert len(TECHNIQUES) >= 3
    for name, place in fold.FOLDS.items():
        assert place == f"dimwise.fold.{name}:{name}"


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_fold_has_the_one_shape(name):
    verb = fold.get(name)
    assert list(inspect.signature(verb).parameters)[:3] == ["model", "config", "evidence"]
    further = list(inspect.signature(verb).parameters.values())[3:]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in further)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_fold_has_its_card(name):
    lines = (importlib.import_module(f"dimwise.fold.{name}").__doc__ or "").splitlines()
    headings = [line.partition(":")[0] for line in lines if line.partition(":")[0] in CARD]
    assert headings == list(CARD)


@pytest.mark.parametrize("name", TECHNIQUES)
@pytest.mark.parametrize("module_first", [True, False])
def test_a_verb_is_a_function_whatever_was_imported_first(name, module_first, monkeypatch):
    import dimwise

    monkeypatch.setattr(dimwise, "fold", fold)  # put back afterwards, as are the modules
    for known in [m for m in sys.modules if m == "dimwise.fold" or m.startswith("dimwise.fold.")]:
        monkeypatch.delitem(sys.modules, known)
    if module_first:
        module = importlib.import_module(f"dimwise.fold.{name}")
        package = importlib.import_module("dimwise.fold")
    else:
        package = importlib.import_module("dimwise.fold")
        module = importlib.import_module(f"dimwise.fold.{name}")
    assert package is not fold
    assert inspect.ismodule(module)
    assert inspect.isfunction(getattr(package, name))
    assert getattr(package, name) is getattr(module, name) is package.get(name)


class Dense(nn.Module):
    """A small network that answers in one of several ways."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 16), nn.Linear(16, 2)
        self.answer = answer

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        if self.answer == "two inputs":
            x = x + more[0]
        scores = self.two(self.one(x).relu())
        return {"scores": scores} if self.answer == "dict" else scores


def unlike(kind: str) -> nn.Module:
    """A network with which no fold can work."""
    torch.manual_seed(0)
    if kind == "not copied":
        net = Dense("scores")
        net.one.seen = net.one.weight * 2
        return net
    return Dense(kind).bfloat16() if kind == "bfloat16" else Dense(kind)


@pytest.mark.parametrize("name", [name for name in TECHNIQUES if name not in fold.GRAPH_FOLDS])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("dict", "Dense returned a dict; expected one tensor"),
        ("two inputs", r"Dense cannot be run on \(2, 4\): IndexError"),
        ("bfloat16", r"Dense cannot be run on \(2, 4\): RuntimeError"),
        ("not copied", "cannot copy Dense: RuntimeError.*parametrizations"),
    ],
)
def test_a_network_that_no_fold_can_take_is_told_in_one_line(name, kind, says):
    verb = fold.get(name)
    config = inspect.signature(verb, eval_str=True).parameters["config"].annotation
    with pytest.raises(ModelError, match=says):
        verb(unlike(kind), config(), fold.evidence(tiny()))


def test_unknown_fold_is_refused():
    with pytest.raises(RecipeError, match=r"unknown fold 'prunee'; expected one of: cast.* did you mean 'prune'"):
        fold.get("prunee")


# Evidence


def tiny(n_valid: int = 12) -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    poison = Split(torch.zeros(0), torch.zeros(0))  # whoever looks at the test split fails
    train, valid = Split(inputs[:40], targets[:40]), Split(inputs[40:][:n_valid], targets[40:][:n_valid])
    return Data("tiny", train, valid, poison, ("no", "yes"), Normalise(1.0, (0.1,) * 4, (0.9,) * 4))


def test_evidence_has_a_default_for_everything():
    data, net = tiny(), nn.Linear(4, 2)
    evidence = fold.evidence(data, train=TrainConfig(seed=7, label_smoothing=0.1))
    assert evidence.seed == 7
    assert evidence.task == get("classification", label_smoothing=0.1)
    torch.testing.assert_close(evidence.example, data.normalise(data.train.inputs[:1]))
    assert evidence.score(net) == evaluate(net, data.valid, data.normalise, evidence.task)[1]
    assert evidence.cost(net) == {"params": n_params(net), "macs": 8, "size_bytes": state_size_bytes(net)}


def test_given_evidence_is_taken():
    evidence = fold.evidence(
        tiny(n_valid=0), "classification", score=lambda _: 0.5, cost=lambda _: {"params": 1.0}, seed=3
    )
    assert (evidence.score(None), evidence.cost(None), evidence.seed) == (0.5, {"params": 1.0}, 3)


def test_evidence_without_data_is_refused():
    with pytest.raises(DataError, match="validation split of 'tiny' is empty: a fold cannot be judged"):
        fold.evidence(tiny(n_valid=0))
    full = tiny()
    none = Data("none", Split(torch.zeros(0, 4), torch.zeros(0)), full.valid, full.test, ("a",), full.normalise)
    with pytest.raises(DataError, match="training split of 'none' is empty"):
        fold.evidence(none)


@pytest.mark.parametrize(("n", "told"), [(0, "no labels"), (39, "39 labels")])
def test_data_without_labels_are_told_from_no_data(n, told):
    full = tiny()
    bare = Data("bare", Split(full.train.inputs, full.train.targets[:n]), full.valid, full.test, ("a",), full.normalise)
    with pytest.raises(
        DataError, match=f"training split of 'bare' has 40 inputs and {told}; expected a label for each"
    ):
        fold.evidence(bare)
