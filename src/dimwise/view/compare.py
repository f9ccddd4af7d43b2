"""Two models side by side, layer by layer: bars of milliseconds, and a page with the bars and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dimwise.view import canvas, units
from dimwise.view.page import Safe, document, el, table
from dimwise.view.palette import ACCENT, MUTED
from dimwise.view.picture import figure as framed
from dimwise.view.picture import svg
from dimwise.view.report import stylesheet
from dimwise.view.strings import HTML_LANGUAGE, words

MOST = 40
"""Bars; the shortest beyond this many are left out: nobody reads 200 of them."""
_ROW_PX, _LEFT_PX = 22, 190


@canvas.drawn
def bars(told: Mapping[str, Any], *, language: str = "en") -> Any:
    """Milliseconds of each layer, those of A above those of B; of the whole run where the layers were not timed.

    Args:
        told: what :meth:`dimwise.ship.layer_table.Comparison.as_dict` returns.
        language: en or zh.
    """
    say = words(language)
    rows = shown(told["layers"])
    n_left_out = len(told["layers"]) - len(rows) if rows else 0
    title = say("figure_compare")
    if not rows:  # no layer was timed
        title = say("compare_total")
        rows = [(title, units.number(told["a"]["latency_ms"]), units.number(told["b"]["latency_ms"]))]
    height_px = 36 + 42 + _ROW_PX * max(3, len(rows))
    figure = canvas.blank(720, height_px)
    axes = canvas.add_axes(figure, _LEFT_PX, 20, 36, 42)
    canvas.write_title(axes, title, _LEFT_PX)
    settings = {key: told[key] for key in ("runtime", "batch", "threads")}
    along = say("figure_compare_ms", settings)
    if n_left_out:
        along += say("compare_others", {"n": n_left_out})
    axes.set_xlabel(along, loc="right", labelpad=5)
    for side, colour, offset in (("a", MUTED, -0.19), ("b", ACCENT, 0.19)):
        places = [place for place, (_, a, b) in enumerate(rows) if (a, b)["ab".index(side)] is not None]
        lengths = [(rows[place][1], rows[place][2])["ab".index(side)] for place in places]
        axes.barh([place + offset for place in places], lengths, height=0.36, color=colour)
    axes.set_yticks(range(len(rows)), [canvas.plain(name, 28) for name, _, _ in rows])
    axes.set_ylim(max(3, len(rows)) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", pad=6)
    names = apart(str(told["a"]["name"]), str(told["b"]["name"]), 22)
    canvas.legend(axes, [(f"A {names[0]}", MUTED), (f"B {names[1]}", ACCENT)])
    return figure


def apart(a: str, b: str, n: int) -> list[str]:
    """Two names of at most ``n`` letters, cut where they do not differ.

    Example:
        >>> apart("20261125-031442-digits-c7b1", "20261125-031442-digits-c7b1:quantize", 12)
        ['…digits-c7b1', '…b1:quantize']
    """
    cut = [canvas.plain(name, n) for name in (a, b)]
    if cut[0] == cut[1] and a != b:
        cut = [name if len(name) <= n else "…" + canvas.plain(name[1 - n :], n) for name in (a, b)]
    return cut


def shown(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, float | None, float | None]]:
    """(name, ms in A, ms in B) of the longest :data:`MOST` layers, in the order of the network; only timed ones.

    Example:
        >>> shown([{"name": "x", "a": {"ms": 1.0}, "b": None}, {"name": "y", "a": {"ms": None}, "b": None}])
        [('x', 1.0, None)]
    """
    rows = [(row["name"], *((row[side] or {}).get("ms") for side in "ab")) for row in layers]
    rows = [row for row in rows if row[1:] != (None, None)]
    longest = sorted(range(len(rows)), key=lambda i: -max(ms or 0.0 for ms in rows[i][1:]))[:MOST]
    return [rows[i] for i in sorted(longest)]


def page(told: Mapping[str, Any], *, language: str = "en") -> str:
    """One HTML file without scripts and without a network: the bars, and every number.

    Args:
        told, language: as for :func:`bars`.
    """
    say = words(language)
    title = say("compare_title", {side: told[side]["name"] for side in "ab"})
    picture = framed(svg(bars(told, language=language), "compare", title))
    names = [say("compare_shape"), say("compare_params"), "MACs", "ms"]
    head = [say("compare_layer"), say("compare_kind"), *(f"{name} {side}" for side in "AB" for name in names)]
    body = [
        [row["name"], (row["a"] or row["b"])["kind"], *map(_numeric, (*cells(row["a"]), *cells(row["b"])))]
        for row in told["layers"]
    ]
    body.append([say("compare_total"), "", *map(_numeric, (*totals(told["a"]), *totals(told["b"])))])
    numbers = table(head, body, label=say("compare_table"), cls="small")
    content = el("main", el("h1", title), picture, el("div", numbers, cls="scroll"))
    return document(title, content, css=stylesheet(), language=HTML_LANGUAGE[language])


def _numeric(text: str | None) -> Safe:
    return el("td", "–" if text is None else text, cls="n")


def cells(layer: Mapping[str, Any] | None) -> list[str | None]:
    """Output shape, parameters, MACs and milliseconds as text; nothing for no such layer, or for what was not timed.

    Example:
        >>> cells({"output_shape": (8, 4, 4), "params": 1200, "macs": 0, "ms": 0.5})
        ['8×4×4', '1,200', '0', '0.500']
        >>> cells(None)
        [None, None, None, None]
    """
    if layer is None:
        return [None] * 4
    shape = "×".join(map(str, layer["output_shape"]))
    ms = None if layer["ms"] is None else f"{layer['ms']:.3f}"
    return [shape, f"{layer['params']:,}", f"{layer['macs']:,}", ms]


def totals(side: Mapping[str, Any]) -> list[str | None]:
    """The same for a whole model.

    Example:
        >>> totals({"params": 1200, "macs": 30, "latency_ms": 0.5})
        ['', '1,200', '30', '0.500']
    """
    ms = units.number(side["latency_ms"])
    return ["", f"{side['params']:,}", f"{side['macs']:,}", None if ms is None else f"{ms:.3f}"]
