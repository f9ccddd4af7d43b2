"""Both languages say the same things, and the code asks for nothing else."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import dimwise.view
from dimwise.view.strings import HTML_LANGUAGE, STRINGS

SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in Path(dimwise.view.__file__).parent.rglob("*.py")
    if path.name != "strings.py"
)
FAMILIES = ("nav_", "title_", "data_", "fact_", "severity_", "time_", "score_name_", "budget_name_", "prefer_", "fold_")
COMPOSED = (
    *(
        "headline_",
        "points_",
        "score_",
        "alt_",
        "grad_norms_",
        "update_ratios_",
        "how_",
        "memory_",
        "col_",
        "doctor_",
        "plan_",
    ),
)


def gaps(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_languages_have_the_same_keys() -> None:
    assert set(STRINGS) == set(HTML_LANGUAGE) == {"en", "zh"}
    assert STRINGS["en"].keys() == STRINGS["zh"].keys()
    assert len(STRINGS["en"]) > 100


@pytest.mark.parametrize("key", sorted(STRINGS["en"]))
def test_languages_have_the_same_gaps(key: str) -> None:
    assert gaps(STRINGS["en"][key]) == gaps(STRINGS["zh"][key])
    assert STRINGS["en"][key].strip()
    assert STRINGS["zh"][key].strip()


def test_every_key_asked_for_is_there() -> None:
    asked = set(re.findall(r"""\bsay\(\s*"(\w+)"[,)]""", SOURCE))
    assert len(asked) > 60
    assert asked <= STRINGS["en"].keys()


def test_every_key_is_asked_for() -> None:
    unused = [key for key in STRINGS["en"] if f'"{key}"' not in SOURCE and not key.startswith((*FAMILIES, *COMPOSED))]
    assert unused == []
