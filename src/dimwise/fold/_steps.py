"""The language of compositions: ``distill(scale=0.5) prune(macs=0.6) quantize(int8)``, read and written.

A composition is a list of steps, each a fold with its settings, applied from left to right. Whatever was done to a
network can be written as one line, and done again from that line. Nothing in it is executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from itertools import pairwise
from typing import Any, get_type_hints

from dimwise import recipe
from dimwise.errors import RecipeError, nearest
from dimwise.fold import FOLDS, GRAPH_FOLDS, get

ORDER = (
    "one_vs_rest",
    "reduce",
    "separable",
    "distill",
    "lowrank",
    "prune",
    "fuse",
    "equalise",
    "sparsify",
    "qat",
    "quantize",
    "share",
    "cast",
)
"""The sensible order: what gives the network another shape first, what rounds its numbers last."""

_STEP = re.compile(r"\s*(?P<name>[^\s()+]+)\s*")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Step:
    """One fold of a composition with its settings."""

    name: str
    config: Any
    """The fold's own config, such as a ``PruneConfig``."""


def config_class(name: str) -> type:
    """The config of a fold: the annotation of its second parameter.

    Example:
        >>> config_class("prune").__name__
        'PruneConfig'
    """
    found = get_type_hints(get(name))["config"]
    assert isinstance(found, type)
    return found


def parse(text: str, base: Mapping[str, Any] | None = None) -> tuple[Step, ...]:
    """Read a composition.

    Steps are separated by blanks or ``+``. In the parentheses stand settings, ``key=value`` with values as in TOML
    (text without quotes will do), or a word that the fold explains, such as ``int8``.

    Args:
        text: such as ``distill(scale=0.5) prune(macs=0.6) quantize(int8)``; empty text is no step.
        base: fold -> the config that settings start from; default: the fold's own defaults.

    Raises:
        RecipeError: for an unknown fold, key, word or value, for parentheses that do not match, for a network's fold
            after a graph's, and for int8 after weights that were shared or cast.

    Example:
        >>> steps = parse("prune(macs=0.4, importance=l1) quantize(int8)")
        >>> [step.name for step in steps], steps[0].config.macs, steps[0].config.importance
        (['prune', 'quantize'], 0.4, 'l1')
        >>> parse("prune(mac=0.4)")
        Traceback (most recent call last):
        ...
        dimwise.errors.RecipeError: prune(mac=0.4): unknown key 'mac'; expected one of: macs, ... did you mean 'macs'?
    """
    steps = tuple(_step(name, settings, base or {}) for name, settings in _split(text))
    for before, after in pairwise(steps):
        if before.name in GRAPH_FOLDS and after.name not in GRAPH_FOLDS:
            raise RecipeError(
                f"{text!r}: {after.name} cannot follow {before.name}",
                expected="folds of the network before those of the exported graph",
                next_step=f"Write: {write(in_order(steps), base)}",
            )
        if after.name == "quantize" and before.name in ("share", "cast"):
            raise RecipeError(
                f"{text!r}: {after.name} cannot follow {before.name}, which it would undo",
                expected="int8 first, then what makes the file smaller",
                next_step=f"Write: {write(in_order(steps), base)}",
            )
    return steps


def write(steps: Sequence[Step], base: Mapping[str, Any] | None = None) -> str:
    """The composition as text, as short as it goes; :func:`parse` reads it back to equal steps.

    Args:
        steps: what :func:`parse` gave, or steps made by hand.
        base: as for :func:`parse`; settings that equal it are left out.

    Example:
        >>> write(parse("quantize( int8 )")), write(parse("prune(importance=l1,macs=0.4)+quantize"))
        ('quantize', 'prune(macs=0.4, importance="l1") quantize')
        >>> write(parse('quantize(mode="weights", bits=4, block=64)'))
        'quantize(int4, block=64)'
    """
    return " ".join(_text(step, (base or {}).get(step.name)) for step in steps)


def in_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The same steps in the sensible order, see :data:`ORDER`.

    Example:
        >>> write(in_order(parse("prune distill") + parse("quantize")))
        'distill prune quantize'
    """
    return tuple(sorted(steps, key=lambda step: ORDER.index(step.name)))


def _text(step: Step, start: Any) -> str:
    start = start if start is not None else config_class(step.name)()
    names = [field.name for field in fields(step.config)]
    differ = {name for name in names if getattr(step.config, name) != getattr(start, name)}
    fitting = {
        word: differ & set(tree)
        for word, tree in _words(step.name).items()
        if all(getattr(step.config, key) == value for key, value in tree.items())
    }
    word = max(fitting, key=lambda word: len(fitting[word]), default="")  # of equal ones the first
    said = fitting.get(word, set())
    told = [word] if said else []
    told += [f"{name}={recipe.toml_value(getattr(step.config, name))}" for name in names if name in differ - said]
    return f"{step.name}({', '.join(told)})" if told else step.name


def _words(name: str) -> Mapping[str, Mapping[str, Any]]:
    """What bare words mean to a fold."""
    found: Mapping[str, Mapping[str, Any]] = getattr(import_module(FOLDS[name].partition(":")[0]), "WORDS", {})
    return found


def _step(name: str, settings: str, base: Mapping[str, Any]) -> Step:
    source = f"{name}({settings})"
    if name not in FOLDS:
        raise RecipeError(
            f"unknown fold {name!r} in {source!r}" if settings else f"unknown fold {name!r}",
            expected="one of: " + ", ".join(FOLDS),
            next_step=nearest(name, FOLDS),
        )
    words = _words(name)
    start = base.get(name)
    if start is None:
        start = config_class(name)()
    tree: dict[str, Any] = {}
    for part in _parts(settings, source):
        if "=" in part:
            key, _, value = part.partition("=")
            tree[key.strip()] = recipe.toml_like(value)
        elif part in words:
            tree |= words[part]
        else:
            raise RecipeError(
                f"{source}: {part!r} is neither key=value nor a word that {name} knows",
                expected=("one of: " + ", ".join(words) + ", or " if words else "") + "key=value, as in "
                f"{fields(start)[0].name}={recipe.toml_value(getattr(start, fields(start)[0].name))}",
                next_step=nearest(part, (*words, *(f.name for f in fields(start)))),
            )
    made = recipe.build(type(start), recipe.as_dict(start) | tree, source)
    return Step(name, replace(start, **{key: getattr(made, key) for key in tree}))


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Name and settings of each step."""
    place = 0
    while place < len(text):
        found = _STEP.match(text, place)
        if found is None:
            if text[place] in "+ \t\n":
                place += 1
                continue
            raise RecipeError(
                f"{text!r}: nothing can be read from {text[place:]!r} on",
                expected="folds with their settings, as in prune(macs=0.5) quantize(int8)",
            )
        place, settings = found.end(), ""
        if place < len(text) and text[place] == "(":
            end = _closing(text, place)
            settings, place = text[place + 1 : end], end + 1
        yield found["name"], settings.strip()


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at ``start`` closes."""
    open_, quote = [], ""
    for place in range(start, len(text)):
        letter = text[place]
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _PAIRS:
            open_.append(_PAIRS[letter])
        elif open_ and letter == open_[-1]:
            open_.pop()
            if not open_:
                return place
    raise RecipeError(f"{text!r}: what opens at {text[start:]!r} does not close", expected="(key=value, ...)")


def _parts(settings: str, source: str) -> list[str]:
    """The settings between commas; a comma in a list or in quotes does not count."""
    parts, depth, quote = [""], 0, ""
    for letter in settings:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "([{") - (letter in ")]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    stripped = [part.strip() for part in parts]
    if stripped == [""]:
        return []
    if "" in stripped:
        raise RecipeError(f"{source}: there is nothing between two commas", expected="key=value, key=value")
    return stripped
