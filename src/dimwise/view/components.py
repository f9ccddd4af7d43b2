"""Pictures of principal components: how much each one explains, and the inputs in the plane of the first two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.view import canvas
from dimwise.view.palette import ACCENT, BAD, INK, MUTED
from dimwise.view.strings import words

MOST_BARS = 60
"""Components shown; those beyond are thinner than a line."""


@canvas.drawn
def scree(shares: Sequence[float] | NDArray[np.floating], *, n_kept: int | None = None, language: str = "en") -> Any:
    """A bar a component, its share of the variance, and the sum so far as a line.

    Args:
        shares: of the whole variance, falling, such as ``Components.explained_variance()``.
        n_kept: how many are kept, marked with what they explain together.
        language: en or zh.
    """
    say = words(language)
    figure, axes = canvas.panel(say("figure_scree"), say("axis_component"), width_px=560, height_px=320)
    known = np.asarray(shares, dtype=float)
    shown = known[:MOST_BARS]
    places = np.arange(1, len(shown) + 1)
    axes.bar(places, shown, color=MUTED, width=0.7)
    axes.plot(places, known.cumsum()[: len(shown)], color=ACCENT, marker="o" if len(shown) < 2 else "")
    axes.set(xlim=(0.5, max(len(shown), 1) + 0.5), ylim=(0, 1.02))
    canvas.percent_axis(axes)
    canvas.legend(axes, [(say("scree_each"), MUTED), (say("scree_sum"), ACCENT)])
    if n_kept is not None and 0 < n_kept <= len(known):
        text = say("scree_kept", {"n": n_kept, "share": f"{100 * known[:n_kept].sum():.1f}"})
        axes.axvline(min(n_kept, len(shown)) + 0.5, color=BAD, linewidth=1.2, linestyle="--")
        axes.annotate(text, (0.98, 0.5), xycoords="axes fraction", ha="right", color=BAD, size=12)
    return figure


@canvas.drawn
def projection(
    points: NDArray[np.floating],
    targets: Sequence[int],
    labels: Sequence[str],
    *,
    highlight: str | None = None,
    language: str = "en",
) -> Any:
    """Inputs along their first two components, the name of each class at its middle.

    Args:
        points: (N, 2), such as ``Components.project(features, 2)``.
        targets: (N,) classes.
        labels: names of the classes.
        highlight: a class to show in colour among the others.
        language: en or zh.
    """
    say = words(language)
    figure, axes = canvas.panel(say("figure_projection"), say("axis_first_component"), width_px=480, height_px=420)
    axes.set_ylabel(say("axis_second_component"))
    places, classes = np.asarray(points, dtype=float), np.asarray(targets)
    for k, label in enumerate(labels):
        mine = places[classes == k]
        if not len(mine):
            continue
        colour = ACCENT if label == highlight else MUTED
        axes.scatter(mine[:, 0], mine[:, 1], s=9, color=colour, alpha=0.5, linewidths=0)
    for k, label in enumerate(labels):
        mine = places[classes == k]
        if len(mine):
            middle = tuple(np.median(mine, axis=0))
            axes.annotate(canvas.plain(label), middle, ha="center", va="center", color=INK, size=12)
    axes.set(xticks=[], yticks=[])
    return figure
