"""The curve of a learning-rate range test: as a picture, and as one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dimwise.view import canvas
from dimwise.view.palette import ACCENT, BAD, INK, MUTED
from dimwise.view.strings import words
from dimwise.view.units import significant

_BARS = "▁▂▃▄▅▆▇█"


@canvas.drawn
def lr_range(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    *,
    interval: tuple[float, float] | None = None,
    suggested: float | None = None,
    used: float | None = None,
    n_seeds: int = 1,
    language: str = "en",
) -> Any:
    """Loss against rate, the interval to try shaded, the rate to begin with marked.

    Args:
        rates: ascending, above 0.
        losses: one a rate.
        smoothed: one a rate.
        interval: lowest and highest rate to try; None says that there is no clear answer.
        suggested: the rate to begin with.
        used: the rate that a training takes at its highest, marked; None marks none.
        n_seeds: whose mean the losses are.
        language: en or zh.
    """
    say = words(language)
    figure, axes = canvas.panel(say("figure_lr_range"), say("figure_lr"), width_px=560, height_px=320)
    axes.plot(rates, losses, color=MUTED, alpha=0.45, linewidth=1)
    axes.plot(rates, smoothed, color=ACCENT)
    if len(rates) > 1:
        axes.set_xlim(rates[0], rates[-1])
        canvas.log_axis(axes, "x")
        low, high = min(*smoothed, *losses), max(smoothed[: max(1, len(smoothed) // 2)])
        span = max(high - low, 1e-3 * max(abs(high), 1e-9))
        axes.set_ylim(low - 0.15 * span, high + 0.5 * span)  # where it diverges is no matter of how far
    canvas.number_axis(axes)
    if interval is None:
        text, colour = say("lr_range_unclear"), BAD
    else:
        values = {"low": significant(interval[0], 2), "high": significant(interval[1], 2)}
        text, colour = say("lr_range_interval", values), ACCENT
        axes.axvspan(*interval, color=ACCENT, alpha=0.12, linewidth=0)
        if suggested is not None:
            axes.axvline(suggested, color=ACCENT, linewidth=1.2, linestyle="--")
    axes.annotate(text, (0.02, 0.04), xycoords="axes fraction", color=colour, size=12)
    if used is not None and rates and rates[0] <= used <= rates[-1]:
        axes.axvline(used, color=INK, linewidth=1.2)
        side = "right" if used > (rates[0] * rates[-1]) ** 0.5 else "left"
        axes.annotate(say("lr_range_used", {"rate": significant(used, 2)}), (used, 0.96), size=12, color=INK,
                      xycoords=axes.get_xaxis_transform(), xytext=(-5 if side == "right" else 5, 0),
                      textcoords="offset points", ha=side, va="top")  # fmt: skip
    canvas.legend(axes, [(say("lr_range_measured", {"n": n_seeds}), MUTED), (say("lr_range_smoothed"), ACCENT)])
    return figure


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Values as bars of eight heights, from the lowest to the highest, thinned to ``width`` of them.

    Example:
        >>> sparkline([1, 2, 3, 8])
        '▁▂▃█'
    """
    if not values:
        return ""
    n = min(width, len(values))
    parts = [values[i * len(values) // n : (i + 1) * len(values) // n] for i in range(n)]
    means = [sum(part) / len(part) for part in parts]
    low, span = min(means), max(means) - min(means)
    return "".join(_BARS[min(7, int(8 * (m - low) / span))] if span else _BARS[0] for m in means)
