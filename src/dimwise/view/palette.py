"""The colours of page and pictures, and the drawing style that uses them.

One accent, one colour for what is wrong, the rest greys. In a picture each light colour below stands for the
variable beside it; no other part of a picture may use these exact values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

INK = "#1c2127"
MUTED = "#5a636e"
LINE = "#e3e6ea"
ACCENT = "#0f766e"
BAD = "#b42318"
PAPER = "#fdfdfc"

VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    ACCENT: "--accent",
    BAD: "--bad",
    PAPER: "--paper",
}

DARK = {
    INK: "#e8ebee",
    MUTED: "#a0abb6",
    LINE: "#2c333a",
    ACCENT: "#5fcdbd",
    BAD: "#ff9b8c",
    PAPER: "#14181b",
}
"""What each light colour becomes on dark paper."""

_STYLE = {
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "axes.linewidth": 1.0,
    "lines.linewidth": 1.8,
    "font.size": 12.0,
    "axes.titlesize": 14.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 12.0,
    "xtick.labelsize": 12.0,
    "ytick.labelsize": 12.0,
    "svg.fonttype": "none",
    "axes.formatter.use_mathtext": False,
}


@contextmanager
def house_style(more: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw in the house's style, whatever the user's own matplotlib settings are; they come back afterwards."""
    from matplotlib import style

    with style.context(["default", {**_STYLE, **(more or {})}]):
        yield
