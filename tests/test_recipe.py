"""Recipes: there and back again, and what is said about mistakes."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from dimwise.errors import RecipeError
from dimwise.recipe import as_dict, build, config, describe, override, parse, schema, to_toml
from dimwise.train.config import TrainConfig


@config
class Inner:
    """A part."""

    size: Annotated[int, Field(ge=1)] = 3
    """How large. Default: 3."""
    kind: Literal["a", "b"] = "a"
    """Which."""


@config
class Outer:
    """A whole."""

    text: str = "plain"
    """Any text."""
    numbers: tuple[float, ...] = ()
    """Some numbers."""
    words: tuple[str, ...] = ()
    """Some words."""
    maybe: float | None = None
    """Perhaps a number."""
    flag: bool = False
    """On or off."""
    inner: Inner = Inner()
    """The part."""


POSITIVE = st.floats(0, 1e6, exclude_min=True)
TRAIN = st.builds(
    TrainConfig,
    epochs=st.integers(1, 100_000),
    batch_size=st.integers(1, 2**40),
    optimizer=st.sampled_from(["sgd", "nesterov", "adam", "adamw"]),
    lr=st.floats(0, 100, exclude_min=True),
    weight_decay=POSITIVE,
    label_smoothing=st.floats(0, 1, exclude_max=True),
    ema=st.floats(0, 1, exclude_max=True),
    compile=st.sampled_from(["auto", "yes", "no"]),
    seed=st.integers(0, 2**63 - 1),
)
OUTER = st.builds(
    Outer,
    text=st.text(),
    numbers=st.lists(st.floats(allow_nan=False)).map(tuple),
    words=st.lists(st.text()).map(tuple),
    maybe=st.none() | st.floats(allow_nan=False),
    flag=st.booleans(),
    inner=st.builds(Inner, size=st.integers(1, 2**62), kind=st.sampled_from(["a", "b"])),
)


@given(TRAIN, st.booleans())
def test_training_there_and_back(told: TrainConfig, documented: bool) -> None:
    assert build(TrainConfig, parse(to_toml(told, documented=documented))) == told


@given(OUTER, st.booleans())
def test_any_text_and_number_there_and_back(told: Outer, documented: bool) -> None:
    text = to_toml(told, documented=documented)
    assert build(Outer, parse(text)) == told
    assert build(Outer, as_dict(told)) == told


@pytest.mark.parametrize(
    "text",
    ['"', "\\", "\n", "\r\n", "\t", "\x00", "\x7f", "\u2028", "\U000e0001", "😀", "# no", "'''", '"""', "ÿ", "\xa0"],
)
def test_nasty_strings(text: str) -> None:
    assert build(Outer, parse(to_toml(Outer(text=text, words=(text, text))))) == Outer(text=text, words=(text, text))


def test_numbers_that_are_none() -> None:
    assert math.isnan(build(Outer, parse(to_toml(Outer(maybe=math.nan)))).maybe or 0)
    assert build(Outer, parse(to_toml(Outer(maybe=-math.inf)))).maybe == -math.inf


def test_the_documented_form_explains_every_field() -> None:
    text = to_toml(Outer(), documented=True)
    for doc in describe(Outer).values():
        assert f"# {doc}" in text or doc == "The part."
    assert "# maybe =    (not set)" in text
    assert "[inner]\n# How large. Default: 3.\nsize = 3" in text
    assert "#" not in to_toml(Outer())


def test_every_field_of_training_is_documented_with_its_default() -> None:
    described = describe(TrainConfig)
    assert len(described) > 20
    assert [name for name, doc in described.items() if "Default" not in doc] == []
    assert set(schema(TrainConfig)["properties"]) == set(described)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"txet": "a"}, r"recipe: unknown key 'txet'; expected one of: text, .*did you mean 'text'\?"),
        ({"inner": {"siez": 1}}, r"unknown key 'inner\.siez'; expected one of: size, kind\. did you mean 'size'\?"),
        ({"inner": {"size": 0}}, r"inner\.size = 0 is not valid; expected greater than or equal to 1"),
        ({"inner": {"kind": "c"}}, r"inner\.kind = 'c' is not valid; expected 'a' or 'b'"),
        ({"inner": 3}, "inner = 3 is not valid"),
        (
            {"numbers": "perhaps", "maybe": []},
            r"numbers = 'perhaps' is not valid; expected a list, such as .*\. 1 more after this one\.",
        ),
        ({"inner": {"size": True}}, r"recipe: inner\.size = True is not valid; expected a number"),
        ({"inner": {"size": "3"}}, r"inner\.size = '3' is not valid; expected a number"),
        ({"flag": 1}, r"flag = 1 is not valid; expected true or false"),
        ({"zzz": 1}, r"unknown key 'zzz'; expected one of: text, numbers, words, maybe, flag, inner\.$"),
    ],
)
def test_mistakes(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build(Outer, tree)


def test_toml_that_is_none() -> None:
    with pytest.raises(RecipeError, match=r"my\.toml is not valid TOML: .*line 2, column"):
        parse("a = 1\nb = = 2", "my.toml")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("a.b=1", 1),
        ("a.b = 0.5", 0.5),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ('a.b="1"', "1"),
        ("a.b=some words", "some words"),
        ("a.b=", ""),
        ("a.b=x=y", "x=y"),
        ("a.b=2026-01-31", "2026-01-31"),
        ("a.b=1\nc=2", "1\nc=2"),
    ],
)
def test_settings(setting: str, value: object) -> None:
    tree = {"a": {"c": 0}}
    found = override(tree, [setting])
    assert found == {"a": {"c": 0, "b": value}}
    assert type(found["a"]["b"]) is type(value)
    assert tree == {"a": {"c": 0}}


def test_later_settings_win_and_make_tables() -> None:
    assert override({}, ["a.b.c=1", "a.b.c=2"]) == {"a": {"b": {"c": 2}}}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.lr", r"--set 'train\.lr' has no '='; expected key=value"),
        ("=3", "has no '='"),
        ("a.b.c=1", r"--set 'a\.b\.c=1': 'b' holds a value, not a table"),
    ],
)
def test_settings_that_are_none(setting: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        override({"a": {"b": 1}}, [setting])


def test_a_config_is_frozen_and_keyword_only() -> None:
    with pytest.raises(AttributeError):
        Inner().size = 4  # type: ignore[misc]
    with pytest.raises(ValidationError, match="positional"):
        Inner(4)  # type: ignore[call-arg, misc]
