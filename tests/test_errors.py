"""The error tree: exit codes, and the sentence each error makes."""

from __future__ import annotations

import pytest

from dimwise import errors
from dimwise.errors import DimwiseError, GateError, MissingExtra, UserError, nearest

TREE = {
    UserError: ("RecipeError", "DataError", "ModelError", "ArtifactError", "RunError", "MissingExtra"),
    GateError: ("NonFiniteLoss", "ParityError", "BudgetError"),
}


def test_the_tree_is_the_one_drawn() -> None:
    classes = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, DimwiseError)}
    assert classes == {"DimwiseError", "UserError", "GateError"} | {n for names in TREE.values() for n in names}
    drawn = errors.__doc__ or ""
    for parent, names in TREE.items():
        assert all(getattr(errors, name).__bases__ == (parent,) for name in names)
        assert all(f"── {name} " in drawn for name in names)
    assert (UserError.exit_code, GateError.exit_code) == (2, 1)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, "x is 0."),
        ({"expected": "at least 1"}, "x is 0; expected at least 1."),
        ({"next_step": "Set x=1."}, "x is 0. Set x=1."),
        ({"expected": "at least 1.", "next_step": "Set x=1."}, "x is 0; expected at least 1. Set x=1."),
    ],
)
def test_one_sentence(told: dict[str, str], sentence: str) -> None:
    for what in ("x is 0", "x is 0."):
        assert str(UserError(what, **told)) == sentence


def test_parts_can_be_read() -> None:
    error = UserError("a", expected="b", next_step="c")
    assert (error.what, error.expected, error.next_step) == ("a", "b", "c")


def test_a_missing_extra_says_how_to_get_it() -> None:
    error = MissingExtra("onnxruntime", why="serving", extra="serve")
    assert str(error) == "serving needs onnxruntime, which is not installed. Run: pip install 'dimwise[serve]'"
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("word", "found"),
    [("epoch", "did you mean 'epochs'?"), ("Epochs", "did you mean 'epochs'?"), ("zebra", ""), ("", "")],
)
def test_nearest(word: str, found: str) -> None:
    assert nearest(word, ("epochs", "batch_size")) == found


def test_a_question_is_not_closed_twice() -> None:
    assert str(UserError("no 'mlpp'", expected="a network. did you mean 'mlp'?")).endswith("'mlp'?")
