"""Cards: every rule has one, whole, and the page of them is up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from dimwise.doctor.rules import ACROSS, RULES
from dimwise.errors import UserError
from dimwise.fold import FOLDS
from dimwise.lab.cards import as_text, card, cards

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("slug", [*RULES, *ACROSS])
def test_a_card_is_whole(slug):
    one = card(slug)
    for part in (one.title, one.checked, one.mistake, one.harm, one.cure):
        assert part.strip(), one
    assert one.module.startswith("dimwise.lab.mistakes.")
    assert importlib.util.find_spec(one.module) is not None
    assert ":data:" not in one.checked
    text = as_text(one)
    assert "``" not in text
    for part in (one.broken, one.mended, "What is checked", "Harm", "Cure"):
        assert part in text


def test_cards_are_all_rules_in_order():
    assert [one.slug for one in cards()] == [*RULES, *ACROSS]


def test_an_unknown_rule_gets_the_nearest():
    with pytest.raises(UserError, match=r"no rule 'no-shufle'.*did you mean 'no-shuffle'"):
        card("no-shufle")


def test_the_pages_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("docs", ROOT / "benchmarks" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    page = (ROOT / "docs" / "doctor.md").read_text("utf-8")
    assert page == docs.page(), "run: python benchmarks/docs.py --write"
    assert page.count("\n## ") == len({**RULES, **ACROSS})
    folds = (ROOT / "docs" / "folds.md").read_text("utf-8")
    assert folds == docs.folds_page(), "run: python benchmarks/docs.py --write"
    assert folds.count("\n## ") == folds.count("\nSettings:") == folds.count("**Pitfalls:**") == len(FOLDS)
    peers = (ROOT / "docs" / "fold_peers.md").read_text("utf-8")
    assert peers == docs.fold_peers_page(), "run: python benchmarks/docs.py --write"
    pictures = {path.stem for path in (ROOT / "docs" / "fold_peers").glob("*.svg")}
    assert pictures == set(docs.fold_records())
    assert all(f"](fold_peers/{name}.svg)" in peers for name in pictures)
