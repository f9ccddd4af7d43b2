"""HTML made of plain functions: whatever is not known to be safe is escaped, by construction.

A page is one file. It may not load, run or send anything, and says so to the browser (Content-Security-Policy).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_VOID = frozenset({"img", "meta", "br", "hr", "col"})
# Control characters, and those that reorder the text around them, say nothing a reader should see.
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


class Safe(str):
    """Text that is HTML already. Only this module and the figure converter make it."""

    __slots__ = ()


def clean(value: object) -> str:
    """Text without control characters, direction overrides and halves of surrogate pairs.

    Example:
        >>> clean("a\\x00b\\u202ec")
        'a�b�c'
    """
    return _UNSEEN.sub("\ufffd", str(value)).encode("utf-8", "replace").decode("utf-8")


def short(value: object, n_characters: int = 24) -> str:
    """One line of at most ``n_characters``, for labels in pictures.

    Example:
        >>> short("a very\\n long label", 10)
        'a very lo…'
    """
    line = " ".join(clean(value).split())
    return line if len(line) <= n_characters else line[: n_characters - 1].rstrip() + "…"


def escape(value: object) -> Safe:
    """Text made safe for content and attributes; Safe text is left as it is.

    Example:
        >>> escape("<b>")
        '&lt;b&gt;'
    """
    return value if isinstance(value, Safe) else Safe(html.escape(clean(value), quote=True))


def join(parts: Iterable[object], between: str = "") -> Safe:
    """Parts side by side, each escaped unless safe."""
    return Safe(str(escape(between)).join(escape(part) for part in parts))


def el(name: str, *children: object, cls: str = "", attrs: Mapping[str, object] | None = None) -> Safe:
    """One element; children and attribute values are escaped unless safe.

    Example:
        >>> el("p", "a < b", cls="lead")
        '<p class="lead">a &lt; b</p>'
    """
    pairs = {"class": cls} if cls else {}
    pairs |= {key: str(escape(value)) for key, value in (attrs or {}).items()}
    opening = "".join(f' {key}="{value}"' for key, value in pairs.items())
    if name in _VOID:
        return Safe(f"<{name}{opening}>")
    return Safe(f"<{name}{opening}>{join(children)}</{name}>")


def table(head: Iterable[object], rows: Iterable[Iterable[object] | Safe], *, label: str, cls: str = "") -> Safe:
    """A table in a box of its own that scrolls when it is wide.

    Args:
        head: column titles, or whole ``th`` elements.
        rows: cells (the first of each row is its heading; a cell may be a whole element), or whole ``tr`` elements.
        label: what the table shows, for those who do not see it.
        cls: class of the table.
    """
    titles = [cell if _is_cell(cell) else el("th", cell, attrs={"scope": "col"}) for cell in head]
    lines = [line if isinstance(line, Safe) else tr(line) for line in rows]
    body = el("table", el("thead", el("tr", *titles)), el("tbody", *lines), cls=cls)
    return el("div", body, cls="scroll", attrs={"role": "region", "aria-label": label, "tabindex": "0"})


def tr(cells: Iterable[object], *, cls: str = "") -> Safe:
    """One table row; the first cell is its heading."""
    first, *rest = cells
    heading = first if _is_cell(first) else el("th", first, attrs={"scope": "row"})
    return el("tr", heading, *(cell if _is_cell(cell) else el("td", cell) for cell in rest), cls=cls)


def _is_cell(value: object) -> bool:
    return isinstance(value, Safe) and value.startswith(("<td", "<th"))


def document(title: str, body: Safe, *, css: str, language: str) -> str:
    """The whole page as text."""
    head = join(
        (
            el("meta", attrs={"charset": "utf-8"}),
            el("meta", attrs={"http-equiv": "Content-Security-Policy", "content": Safe(CSP)}),
            el("meta", attrs={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
            el("meta", attrs={"name": "color-scheme", "content": "light dark"}),
            el("meta", attrs={"name": "referrer", "content": "no-referrer"}),
            el("title", title),
            el("style", Safe(css)),
        ),
        "\n",
    )
    content = el("html", Safe("\n"), el("head", head), Safe("\n"), el("body", body), attrs={"lang": language})
    return f"<!doctype html>\n{content}\n"
