"""Recipes: built in, from files, overridden, refused."""

from __future__ import annotations

import pytest

from dimwise import chain
from dimwise import recipe as machinery
from dimwise.errors import RecipeError
from dimwise.models import MODELS


def test_the_issue_names_these():
    assert {"digits", "mnist", "mnist-fast", "fashion", "cifar10", "cifar100", "sst2", "sst2-transformer"} <= set(
        chain.recipes()
    )


@pytest.mark.parametrize("name", sorted(chain.recipes()))
def test_every_built_in_recipe_loads_is_described_and_survives_a_round_trip(name):
    recipe = chain.load(name)
    assert recipe.name == name
    assert recipe.summary
    assert recipe.model.name in MODELS
    again = machinery.build(chain.Recipe, machinery.parse(machinery.to_toml(recipe)))
    assert again == recipe
    documented = machinery.build(chain.Recipe, machinery.parse(machinery.to_toml(recipe, documented=True)))
    assert documented == recipe


def test_mnist_is_the_guides_own():
    recipe = chain.load("mnist")
    train = recipe.train
    assert (train.optimizer, train.lr, train.epochs, train.batch_size) == ("adam", 1e-3, 10, 64)
    assert recipe.model.name == "guide_cnn"


def test_every_field_of_every_part_is_documented():
    parts = [chain.Recipe, *(type(getattr(chain.Recipe(), f)) for f in ("data", "augment", "model", "train", "budget"))]
    missing = [
        f"{part.__name__}.{field}"
        for part in parts
        for field, text in machinery.describe(part).items()
        if not text and field not in ("data", "augment", "model", "train", "fold", "budget", "ship")
    ]
    assert len(parts) == 6
    assert missing == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.btach_size=3"], r"unknown key 'train.btach_size'.*did you mean 'batch_size'"),
        (["train.lr=-1"], r"train.lr = -1 is not valid; expected greater than 0"),
        (["fold.candidates=['prnue']"], r"expected what can be folded. unknown fold 'prnue'.*did you mean 'prune'"),
        (["fold.candidates=['quantize+prune']"], r"prune cannot follow quantize; .* Write: prune quantize"),
        (["fold.candidates=['prune(mac=1)']"], r"unknown key 'mac'.*did you mean 'macs'"),
        (["fold.candidates=['prune', 'prune()']"], r"each candidate once, not 'prune\(\)' twice"),
        (["fold.candidates=['']"], "a fold in each candidate"),
        (["fold.candidates=['prune', 'prune']"], r"each candidate once, not 'prune' twice"),
        (["train.epochs"], "has no '='"),
        (["name='a/b'"], "name = 'a/b' is not valid"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(settings, message):
    with pytest.raises(RecipeError, match=message) as caught:
        chain.load("digits", settings)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown recipe 'digit'.*did you mean 'digits'"):
        chain.load("digit")


def test_a_file_with_a_mistake_in_its_toml_names_line_and_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nlr = = 3\n")
    with pytest.raises(RecipeError, match=r"mine.toml is not valid TOML.*line 2"):
        chain.load(path)


def test_an_unknown_student_is_refused_where_the_recipe_is_read() -> None:
    with pytest.raises(RecipeError, match=r"fold.distill.student = 'mlpp' is not valid.*did you mean 'mlp'\?"):
        chain.load("digits", ["fold.distill.student=mlpp"])
