"""The parts of the report, one a file, in the order of the page.

Each is a function ``section(run, say) -> Safe`` that returns an empty text when the run has nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable

from dimwise.lookup import resolve
from dimwise.view.files import RunFiles
from dimwise.view.page import Safe
from dimwise.view.strings import Words

SECTIONS = {
    "stages": "dimwise.view.sections.stages:section",
    "training": "dimwise.view.sections.training:section",
    "mistakes": "dimwise.view.sections.mistakes:section",
    "inside": "dimwise.view.sections.inside:section",
    "doctor": "dimwise.view.sections.doctor:section",
    "measured": "dimwise.view.sections.measured:section",
    "data": "dimwise.view.sections.data:section",
    "recipe": "dimwise.view.sections.recipe:section",
}

Section = Callable[[RunFiles, Words], Safe]


def get(name: str) -> Section:
    """The function of a section."""
    made: Section = resolve(SECTIONS[name])
    return made
