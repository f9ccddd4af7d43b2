"""A matplotlib figure as inline SVG that follows the page: its colours, its font, its dark mode.

Figures are drawn in the house's light colours (:mod:`dimwise.view.palette`); each of those colours becomes a
CSS variable here, so one drawing serves both modes. The text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

from dimwise.view.page import Safe, clean, el
from dimwise.view.palette import VARIABLES, house_style

_NUMBER = re.compile(r"-?\d+\.\d+")
# matplotlib writes the font in one property or in several, by version; the page brings its own family.
_FONT = re.compile(r"font: (?:(?P<weight>\d+|bold) )?(?P<size>[\d.]+)px [^;]*")
_FAMILY = re.compile(r"font-family: [^;]*;?\s*")
_COLOUR = re.compile("|".join(VARIABLES), re.IGNORECASE)
_KEPT = (
    "viewBox",
    "d",
    "x",
    "y",
    "width",
    "height",
    "transform",
    "style",
    "clip-path",
    "href",
    "id",
    "points",
    "preserveAspectRatio",
)


def svg(figure: Any, name: str, label: str) -> Safe:
    """Convert a figure.

    Args:
        figure: a ``matplotlib.figure.Figure``; its size in points becomes the size in CSS pixels.
        name: unique in the page; identifiers inside the picture begin with it.
        label: what the picture shows, for those who do not see it.

    Returns: an ``svg`` element that fills its box up to its own width; the same bytes each time.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with house_style({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser brings its own fonts
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    width_px = float(root.get("viewBox", "0 0 640 0").split()[2])
    _tidy(root, name)
    root.attrib = {
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-label": clean(label),
        "style": f"--w:{width_px:.0f}px",
    }
    return Safe(ElementTree.tostring(root, encoding="unicode", short_empty_elements=True))


def figure(drawing: object, caption: object = "", *, cls: str = "") -> Safe:
    """A ``figure`` element around pictures, with its caption below."""
    return el("figure", drawing, el("figcaption", caption) if caption else "", cls=cls)


def _tidy(element: ElementTree.Element, name: str) -> None:
    """Drop what HTML does not need, take colours and font from the page, make identifiers the page's own."""
    element.tag = _local(element.tag)
    attributes = {_local(key): value for key, value in element.attrib.items()}
    if element.tag == "g":
        attributes.pop("id", None)  # never referred to, and the same in each figure
    for key, value in attributes.items():
        if key in ("d", "x", "y", "points"):
            attributes[key] = _NUMBER.sub(_rounded, value)
        elif key == "transform":
            attributes[key] = _NUMBER.sub(lambda m: f"{float(m[0]):.6g}", value)  # may scale: digits matter
            if attributes[key].startswith("rotate(-0 "):
                attributes[key] = ""
        elif key == "style":
            attributes[key] = _style(value)
        elif key == "id":
            attributes[key] = f"{name}-{value}"
        elif key == "href" and value.startswith("#"):
            attributes[key] = f"#{name}-{value[1:]}"
        elif key == "clip-path":
            attributes[key] = value.replace("url(#", f"url(#{name}-")
    element.attrib = {key: value for key, value in attributes.items() if key in _KEPT and value}
    for child in list(element):
        if _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _tidy(child, name)
    for part in (element, *element):
        if part.tail and not part.tail.strip():
            part.tail = None
    if element.text and not element.text.strip():
        element.text = None


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.1f}".removesuffix(".0")


def _style(text: str) -> str:
    text = _FONT.sub(lambda m: f"font-size: {m['size']}px" + ("; font-weight: 700" if m["weight"] else ""), text)
    text = _FAMILY.sub("", text).replace("font-weight: 700", "font-weight: 600")
    text = _COLOUR.sub(lambda m: f"var({VARIABLES[m[0].lower()]})", text)
    return text.replace("; ", ";").replace(": ", ":")
