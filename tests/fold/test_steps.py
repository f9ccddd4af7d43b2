from __future__ import annotations

import dataclasses

import pytest

from dimwise import fold
from dimwise.errors import RecipeError
from dimwise.fold._steps import ORDER, Step, config_class, in_order, parse, write


def test_every_fold_has_a_place_and_a_config():
    assert set(fold.FOLDS) <= set(ORDER)
    assert set(fold.GRAPH_FOLDS) <= set(fold.FOLDS)
    places = [ORDER.index(name) for name in fold.FOLDS if name not in fold.GRAPH_FOLDS]
    assert max(places) < min(ORDER.index(name) for name in fold.GRAPH_FOLDS)
    for name in fold.FOLDS:
        assert dataclasses.is_dataclass(config_class(name))


@pytest.mark.parametrize("name", fold.FOLDS)
def test_a_name_alone_is_a_step_with_the_defaults_and_is_written_as_itself(name):
    assert parse(name) == parse(f"{name}()") == (Step(name, config_class(name)()),)
    assert write(parse(name)) == name


@pytest.mark.parametrize("name", fold.FOLDS)
def test_a_word_of_a_fold_means_its_settings(name):
    words = getattr(__import__(f"dimwise.fold.{name}", fromlist=["x"]), "WORDS", {})
    for word, settings in words.items():
        (step,) = parse(f"{name}({word})")
        assert all(getattr(step.config, key) == value for key, value in settings.items())


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("", ""),
        ("  prune ", "prune"),
        ("prune+quantize", "prune quantize"),
        ("prune + quantize", "prune quantize"),
        ("distill(scale=0.25)prune", "distill(scale=0.25) prune"),
        ("prune( macs = 0.6 ,importance=l1)", 'prune(macs=0.6, importance="l1")'),
        ("quantize(skip=['a, b', \"c)\"], n_calibration=10)", 'quantize(n_calibration=10, skip=["a, b", "c)"])'),
        ("quantize(int8)", "quantize"),
        ("quantize(mode=dynamic)", "quantize(dynamic)"),
        ("quantize(bits=4, mode=weights, block=64)", "quantize(int4, block=64)"),
        ("quantize(weights) share(bits=4)", "quantize(weights) share(palette16)"),
        ("prune(teacher=false)", "prune(teacher=false)"),
    ],
)
def test_reading_and_writing(text, again):
    steps = parse(text)
    assert write(steps) == again
    assert parse(again) == steps


def test_a_word_holds_whatever_the_base_says():
    base = {"quantize": fold.QuantizeConfig(mode="weights", bits=4), "cast": fold.CastConfig(dtype="bf16")}
    eight, half = parse("quantize(int8) cast(fp16)", base)
    assert (eight.config.bits, half.config.dtype) == (8, "fp16")
    for word in ("static", "dynamic", "weights"):
        (step,) = parse(f"quantize({word})", base)
        assert (step.config.mode, step.config.bits) == (word, 8)
        assert parse(write([step], base), base) == (step,)


def test_settings_start_from_a_base():
    base = {"prune": fold.PruneConfig(macs=0.3, importance="l1")}
    (step,) = parse("prune(epochs=2)", base)
    assert (step.config.macs, step.config.importance, step.config.epochs) == (0.3, "l1", 2)
    assert write([step], base) == "prune(epochs=2)"
    assert parse(write([step])) == (step,)


def test_the_sensible_order():
    mixed = [Step(name, config_class(name)()) for name in ("quantize", "prune", "distill")]
    assert [step.name for step in in_order(mixed)] == ["distill", "prune", "quantize"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share quantize", r"'share quantize': quantize cannot follow share, which.*Write: quantize share"),
        ("cast(bf16) quantize", r"quantize cannot follow cast.*Write: quantize cast\(bf16\)"),
        ("prunee", r"unknown fold 'prunee'; expected one of: cast.*did you mean 'prune'"),
        ("prune(mac=1)", r"prune\(mac=1\): unknown key 'mac'; expected one of: macs,.*did you mean 'macs'"),
        ("prune(macs=2)", r"macs = 2 is not valid; expected less than or equal to 1"),
        ("prune(macs=)", r"macs = '' is not valid; expected a number"),
        ("prune(0.5)", r"'0.5' is neither key=value nor a word that prune knows; expected key=value, as in macs=0.5"),
        ("quantize(int9)", r"'int9' is neither .* expected one of: int8, .*did you mean 'int8'"),
        ("prune(macs=0.5,,epochs=1)", "nothing between two commas"),
        ("prune(macs=0.5", r"what opens at '\(macs=0.5' does not close"),
        ("prune('", r"does not close"),
        (")", r"nothing can be read from '\)' on"),
        ("quantize prune", r"prune cannot follow quantize; .* Write: prune quantize"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(text, message):
    with pytest.raises(RecipeError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)
