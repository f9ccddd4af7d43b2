"""docs/folds.md: the table of all folds, and each one's card with its settings, out of their own docstrings."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields
from typing import Any

from dimwise import fold
from dimwise.chain.recipe import FoldPlan
from dimwise.recipe import describe, toml_value

HEADINGS = ("Idea", "Mathematics", "Use when", "Cost", "Pitfalls", "Source", "Evidence")
INTRODUCTION = """\
<!-- Written by `python benchmarks/docs.py --write`; edit the folds' own docstrings instead. -->

# The folds

A fold spends fewer dimensions for the same answer. Each is a function `verb(model, config, evidence) -> (model,
report)`, a word of `dimwise fold RUN --apply "..."`, and a candidate that a recipe or the planner can try. Those that
take a *network* return one that can be trained on; those that take a *graph* come last, after the export.
"""


def page() -> str:
    """The text of docs/folds.md."""
    lines = [INTRODUCTION, "| fold | what it does | takes |", "|---|---|---|"]
    for name in fold.FOLDS:
        takes = "a graph" if name in fold.GRAPH_FOLDS else "a network"
        lines.append(f"| [{name}](#{name}) | {_title(name)} | {takes} |")
    return "\n".join([*lines, "", *map(_section, fold.FOLDS)]).rstrip("\n") + "\n"


def _section(name: str) -> str:
    paragraphs = _card(name).split("\n\n")[1:]
    text = "\n\n".join(re.sub(rf"^({'|'.join(HEADINGS)}):", r"**\1:**", paragraph) for paragraph in paragraphs)
    return f"## {name}\n\n{_title(name)}\n\n{_code(text)}\n\n{_settings(name)}\n"


def _settings(name: str) -> str:
    """The fields of its config: name, default, meaning."""
    default = getattr(FoldPlan(), name)
    told = describe(type(default))
    rows = [
        f"- `{_value(f.name, getattr(default, f.name))}`: {_code(' '.join(told.get(f.name, '').split()))}"
        for f in fields(default)
    ]
    return "\n".join(["Settings:", "", *rows]) if rows else "No settings."


def _title(name: str) -> str:
    return _code(" ".join(_card(name).partition("\n\n")[0].split()))


def _card(name: str) -> str:
    return (importlib.import_module(f"dimwise.fold.{name}").__doc__ or "").strip()


def _code(text: str) -> str:
    """reStructuredText's literals and roles as Markdown's."""
    return re.sub(r":(?:func|class|mod|data|attr):`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def _value(name: str, default: Any) -> str:
    return name if default is None else f"{name} = {toml_value(default)}"
