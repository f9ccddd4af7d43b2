"""What all pictures are drawn on: figures sized in CSS pixels, axes that line up, titles, legends, plain numbers."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from dimwise.view.page import short
from dimwise.view.palette import LINE, MUTED, house_style
from dimwise.view.units import NBSP

P = ParamSpec("P")

_POINTS_PER_INCH = 72
_PANEL_LEFT = 52


def drawn(draw: Callable[P, Any]) -> Callable[P, Any]:
    """Run a drawing function in the house's style."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        with house_style():
            return draw(*args, **kwargs)

    return wrapped


def blank(width_px: float, height_px: float) -> Any:
    """An empty ``Figure`` of that size; a notebook shows it without pyplot being there."""
    from matplotlib.figure import Figure

    made: Any = Figure(figsize=(width_px / _POINTS_PER_INCH, height_px / _POINTS_PER_INCH), dpi=100)
    made._repr_png_ = functools.partial(_png, made)
    return made


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def add_axes(figure: Any, left: float, right: float, top: float, bottom: float) -> Any:
    """Axes with margins in pixels, the same in each picture, so that pictures side by side line up."""
    width, height = figure.get_size_inches() * _POINTS_PER_INCH
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    # Ticks are made when they are first drawn, when the house's style may be gone.
    axes.tick_params(which="both", length=0, colors=MUTED, labelsize=12, grid_color=LINE)
    return axes


def panel(text: str, along: str, width_px: float = 352, height_px: float = 244) -> tuple[Any, Any]:
    """A figure with a title and axes along what the text says."""
    figure = blank(width_px, height_px)
    axes = add_axes(figure, _PANEL_LEFT, 14, 36, 42)
    write_title(axes, text, _PANEL_LEFT)
    axes.set_xlabel(along, loc="right", labelpad=5)
    return figure, axes


def write_title(axes: Any, text: str, left_px: float) -> None:
    """A title at the left edge of the picture, ``left_px`` before the axes."""
    width_px = axes.get_position().width * axes.figure.get_size_inches()[0] * _POINTS_PER_INCH
    axes.set_title(text, pad=12, x=-(left_px - 1) / width_px)


def plain(text: object, n_characters: int = 24) -> str:
    r"""A label matplotlib takes literally: dollar signs must not begin a formula.

    Example:
        >>> plain("$5 or $6")
        '\\$5 or \\$6'
    """
    return short(text, n_characters).replace("$", r"\$")


def legend(axes: Any, entries: Sequence[tuple[str, str]]) -> None:
    """Names in their colours, on the line of the title, set from the right."""
    right = 0.0
    for name, colour in reversed(entries):
        axes.annotate(name, (1, 1), (-right, 12), xycoords="axes fraction", textcoords="offset points",
                      ha="right", va="baseline", color=colour, size=12)  # fmt: skip
        right += 14 + sum(12 if ord(letter) > 0x2E80 else 6.6 for letter in name)  # Chinese letters are square


def epoch_axis(axes: Any, last: float) -> None:
    """Whole epochs from the beginning to ``last``."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, max(last, 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def percent_axis(axes: Any) -> None:
    """A y axis of shares: round steps, and just the decimals that tell them apart."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    locator = MaxNLocator(nbins=5, steps=[1, 2, 5, 10])
    ticks = locator.tick_values(*axes.get_ylim())
    step = abs(float(ticks[1] - ticks[0])) if len(ticks) > 1 else 1.0
    n_decimals = 0 if step > 0.0099 else 1 if step > 0.00099 else 2
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.{n_decimals}f}{NBSP}%"))


def number_axis(axes: Any) -> None:
    """A y axis of plain numbers, at most five of them."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def log_axis(axes: Any, which: str) -> None:
    """A logarithmic axis with plain numbers: 1, 2, 5 where there is room, else powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_formatter(NullFormatter())
