"""The report of a run: one HTML file made from the files of the run folder, for any browser, with no network."""

from __future__ import annotations

from pathlib import Path

from dimwise.runs import atomic
from dimwise.view import files, sections, sentences
from dimwise.view.page import Safe, clean, document, el, join
from dimwise.view.palette import DARK, VARIABLES
from dimwise.view.sections import summary
from dimwise.view.strings import HTML_LANGUAGE, Words, words


def report(run_dir: Path, *, language: str = "en") -> Path:
    """Write ``report.html`` into a run folder, from the files in that folder alone.

    Only recipe.toml must be there; what an interrupted or plain training run does not have is left out. The same
    files give the same page, byte for byte.

    Args:
        run_dir: folder of the run.
        language: en or zh.

    Returns: path of the page.

    Raises:
        RunError: there is no such run, or the page cannot be written.
        UserError: an unknown language.
    """
    say = words(language)
    run_dir = Path(run_dir)
    page = render(files.read(run_dir), say)
    path = run_dir / "report.html"
    atomic.write_text(path, page)
    return path


def render(run: files.RunFiles, say: Words) -> str:
    """The page as text."""
    parts = [(name, sections.get(name)(run, say)) for name in sections.SECTIONS]
    parts = [(name, content) for name, content in parts if content]
    links = [el("a", say(f"nav_{name}"), attrs={"href": f"#{name}"}) for name, _ in parts]
    blocks = [
        el("section", el("h2", say(f"title_{name}"), attrs={"id": f"title-{name}"}), content,
           attrs={"id": name, "aria-labelledby": f"title-{name}"})
        for name, content in parts
    ]  # fmt: skip
    body = join(
        (
            summary.section(run, say),
            el("nav", *links, attrs={"aria-label": say("contents")}),
            el("main", *blocks),
            el("footer", el("p", say("footer"), " ", el("code", f"dimwise report {clean(run.name)}"))),
        ),
        "\n",
    )
    title = f"{sentences.headline(run, say)} · {run.name}"
    return document(title, body, css=stylesheet(), language=HTML_LANGUAGE[say.language])


def stylesheet() -> Safe:
    """The style of the page: the colours of the palette for both modes, then ``report.css``."""
    light = "".join(f"{variable}:{colour};" for colour, variable in VARIABLES.items())
    dark = "".join(f"{VARIABLES[colour]}:{value};" for colour, value in DARK.items())
    rules = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    colours = f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return Safe(colours + rules)
