"""One card for each rule of the doctor, from the rule's own description and the script of the gallery that shows it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimwise.doctor.rules import ACROSS, RULES
from dimwise.errors import UserError, nearest
from dimwise.lab.mistakes import MISTAKES, path
from dimwise.lookup import resolve

_PARTS = {"The mistake": "mistake", "No exception": "silent", "Harm": "harm", "Cure": "cure"}
_LABEL = re.compile(rf"^({'|'.join(_PARTS)}):\s*", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """What is known of one mistake."""

    slug: str
    title: str
    """The mistake in one sentence."""
    checked: str
    """What the rule looks at, its threshold and the reason: its own docstring."""
    mistake: str
    silent: str
    """Why PyTorch says nothing."""
    harm: str
    cure: str
    module: str
    """Of the script that shows it."""

    @property
    def broken(self) -> str:
        """The command that makes the mistake under the doctor's eyes."""
        return f"dimwise doctor -m {self.module}"

    @property
    def mended(self) -> str:
        """The same without the mistake."""
        return f"{self.broken} --mended"


def card(slug: str) -> Card:
    """The card of one rule.

    Raises:
        UserError: when there is no such rule.

    Example:
        >>> card("no-shuffle").cure
        '``shuffle=True``.'
    """
    rules = {**RULES, **ACROSS}
    if slug not in rules:
        raise UserError(
            f"the doctor has no rule '{slug}'",
            expected=f"one of {len(rules)} rules",
            next_step=nearest(slug, rules) or "See: dimwise doctor --gallery.",
        )
    text = ast.get_docstring(ast.parse(path(slug).read_text("utf-8"))) or ""
    title, _, rest = text.partition("\n")
    found = _LABEL.split(rest)
    parts = {_PARTS[label]: " ".join(told.split()) for label, told in zip(found[1::2], found[2::2], strict=True)}
    told = {key: parts.get(key, "") for key in _PARTS.values()}
    return Card(slug, title, _checked(rules[slug]), module=MISTAKES[slug], **told)


def _checked(target: str) -> str:
    """The rule's docstring, with the numbers in place of the constants it names."""
    rule = resolve(target)

    def number(match: re.Match[str]) -> str:
        value = getattr(sys.modules[rule.__module__], match[1], None)
        return f"{value:g}" if isinstance(value, int | float) else match[0]

    return re.sub(r":data:`(\w+)`", number, inspect.getdoc(rule) or "")


def cards() -> list[Card]:
    """All cards, in the order of the table of rules."""
    return [card(slug) for slug in {**RULES, **ACROSS}]


def as_text(one: Card) -> str:
    """A card for the terminal."""
    lines = [one.slug, one.title, "", "What is checked"]
    lines += [f"  {line}".rstrip() for line in one.checked.splitlines()]
    for name, told in (
        ("The mistake", one.mistake),
        ("Why nothing complains", one.silent),
        ("Harm", one.harm),
        ("Cure", one.cure),
    ):
        lines += ["", name, f"  {told}"] if told else []
    return _markdown("\n".join([*lines, "", "See it", f"  {one.broken}", f"  {one.mended}"]))


def as_page(harms: Mapping[str, Mapping[str, Mapping[str, Any]]], counts: Mapping[str, Mapping[str, int]]) -> str:
    """The page of all cards in Markdown.

    Args:
        harms: slug -> network -> {"name", "broken", "mended"}: the scores that were measured, where they were.
        counts: slug -> {"named", "quiet", "of"}: in how many runs the mistake was named and the mended form left alone.
    """
    made = cards()
    links = " · ".join(f"[{one.slug}](#{one.slug})" for one in made)
    return "\n".join(
        [
            _HEAD.format(n=len(made)),
            links,
            "",
            *(_section(one, harms.get(one.slug, {}), counts.get(one.slug)) for one in made),
        ]
    )


_HEAD = """\
<!-- Written by `python benchmarks/docs.py --write`; edit the rules' and scripts' own docstrings instead. -->

# The doctor's rules

`dimwise doctor SCRIPT.py` runs a training script as it is and names its mistakes. Each of the {n} rules has a script
that shows its mistake and its cure on real data; the commands below run them.
[Five other tools](doctor_peers.md) ran on the same scripts.
"""


def _section(one: Card, harm: Mapping[str, Mapping[str, Any]], count: Mapping[str, int] | None) -> str:
    lines = [f"## {one.slug}", "", _markdown(one.title), ""]
    for name, told in (("Mistake", one.mistake), ("Why nothing complains", one.silent), ("Harm", one.harm)):
        lines += [f"- **{name}:** {_sentence(told)}"] if told else []
    measured = [f"{arch.upper() if arch in _SHORT else arch} {_pair(row)}" for arch, row in harm.items()]
    if measured:
        name = next(iter(harm.values()))["name"]
        lines.append(f"- **Measured:** {name} with it → without: {'; '.join(measured)}.")
    if count:
        lines.append(
            f"- **Named:** in {count['named']} of {count['of']} runs; the mended form was left in peace in "
            f"{count['quiet']} of {count['of']}."
        )
    lines += [f"- **Cure:** {_sentence(one.cure)}"] if one.cure else []
    lines += ["", "What is checked:", "", *(f"> {line}".rstrip() for line in _markdown(one.checked).splitlines())]
    return "\n".join([*lines, "", "```bash", one.broken, one.mended, "```", ""])


_SHORT = ("cnn", "lstm")


def _pair(row: Mapping[str, Any]) -> str:
    broken, mended = ("no score" if row[form] is None else f"{row[form]:.4g}" for form in ("broken", "mended"))
    return f"{broken} → {mended}"


def _sentence(text: str) -> str:
    return _markdown(text[:1].upper() + text[1:])


def _markdown(text: str) -> str:
    """reStructuredText's double backticks and roles as Markdown's single ones."""
    return re.sub(r":\w+:`([^`]*)`", r"`\1`", text).replace("``", "`")
