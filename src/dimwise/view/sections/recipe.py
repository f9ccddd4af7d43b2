"""The recipe as it ran, every default written out."""

from __future__ import annotations

from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, el, join
from dimwise.view.strings import Words

MAX_CHARACTERS = 60_000


def section(run: RunFiles, say: Words) -> Safe:
    """The text of recipe.toml."""
    text = run.recipe_text.replace("\r\n", "\n")
    shown = text[:MAX_CHARACTERS] + ("\n…" if len(text) > MAX_CHARACTERS else "")
    return join(
        (
            el("p", say("recipe_intro"), cls="note"),
            el("pre", el("code", shown), attrs={"tabindex": "0", "role": "region", "aria-label": say("nav_recipe")}),
        )
    )
