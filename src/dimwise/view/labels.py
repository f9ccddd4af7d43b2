"""Labels beside points, where they cover neither each other nor points nor lines.

Boxes are rows of left, bottom, right, top, in points from the lower left corner of the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.view.palette import ACCENT, INK, MUTED

Floats = NDArray[np.floating]

_CHARACTER_PX, _HEIGHT_PX = 6.7, 15.0
_WAYS = [
    (dx, dy, reach)
    for reach in range(5)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
]
"""Side, height, and how far away; a label that is not near gets a line to its bubble."""
_N_ORDERS = 24


def place_labels(
    axes: Any,
    texts: Sequence[str],
    points_N2: Floats,
    areas: Sequence[float],
    lines: Sequence[tuple[Sequence[float | None], Sequence[float | None]]],
    strong: Sequence[bool],
) -> None:
    """Write a text beside each point, at places that together cover least.

    Args:
        axes: with its limits and scales already set.
        texts: N labels; an empty one is a point that the others keep clear of.
        points_N2: (N, 2) positions in data units.
        areas: N areas of the bubbles, square points.
        lines: what the labels should not cross either, in data units.
        strong: which labels are set in bold and the accent.
    """
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent()

    def to_points(values: Floats) -> Floats:
        placed: Floats = (axes.transData.transform(values) - (frame.x0, frame.y0)) / scale
        return placed

    centres, radii = to_points(np.asarray(points_N2, float)), np.sqrt(np.asarray(areas) / np.pi)
    crossed = [_along(to_points(np.array(line, float).T)) for line in lines]
    widths = [_CHARACTER_PX * len(text) * (1.08 if bold else 1.0) for text, bold in zip(texts, strong, strict=True)]
    size = (frame.width / scale, frame.height / scale)
    boxes, ways = arrange(centres, radii, widths, np.concatenate([*crossed, np.zeros((0, 4))]), size)
    for i, (text, box, bold) in enumerate(zip(texts, boxes, strong, strict=True)):
        if not text:
            continue
        side, _, reach = ways[i]
        at = {1: box[0], 0: (box[0] + box[2]) / 2, -1: box[2]}[side]
        axes.annotate(
            text,
            (0, 0),
            (at, (box[1] + box[3]) / 2),
            xycoords="axes points",
            textcoords="axes points",
            ha={1: "left", 0: "center", -1: "right"}[side],
            va="center_baseline",
            color=ACCENT if bold else INK,
            weight="bold" if bold else "normal",
            zorder=4,
        )
        if reach:
            end = np.clip(centres[i], box[:2] + 2.0, box[2:] - 2.0)
            axes.annotate("", end, centres[i], xycoords="axes points", textcoords="axes points",
                          arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8,
                                      "shrinkA": radii[i], "shrinkB": 0})  # fmt: skip


def arrange(
    centres_N2: Floats, radii_N: Floats, widths: Sequence[float], crossed_L4: Floats, size: tuple[float, float]
) -> tuple[Floats, list[tuple[int, int, int]]]:
    """Boxes for N labels: each takes the best place that is left, in the best of some orders of taking.

    Args:
        centres_N2: (N, 2) centres of the bubbles.
        radii_N: (N,) their radii.
        widths: N widths of the labels.
        crossed_L4: (L, 4) boxes that had better stay free.
        size: width and height of the axes.

    Returns: boxes (N, 4), and for each (right 1 or left -1 or centred 0, above or below or beside, steps away).

    Example:
        >>> boxes, ways = arrange(np.array([[50.0, 50.0]]), np.array([5.0]), [30.0], np.zeros((0, 4)), (200.0, 100.0))
        >>> boxes.tolist(), ways
        ([[60.0, 42.5, 90.0, 57.5]], [(1, 0, 0)])
    """
    n = len(centres_N2)
    fixed = [_fixed_costs(i, centres_N2, radii_N, widths[i], crossed_L4, size) for i in range(n)]
    rng = np.random.default_rng(0)
    best: tuple[float, Floats, list[tuple[int, int, int]]] | None = None
    for _ in range(_N_ORDERS):
        boxes, ways, total = np.zeros((n, 4)), [_WAYS[0]] * n, 0.0
        taken: list[Floats] = []
        for i in rng.permutation(n):
            candidates, costs = fixed[i]
            # Covering another label is worse than covering a line.
            costs = costs + 3 * _overlaps(candidates, np.array(taken).reshape(-1, 4)).sum(1)
            choice = int(costs.argmin())
            boxes[i], ways[i] = candidates[choice], _WAYS[choice]
            taken.append(candidates[choice])
            total += float(costs[choice])
        if best is None or total < best[0] - 1e-6:
            best = total, boxes, ways
    assert best is not None
    return best[1], best[2]


def _fixed_costs(
    i: int, centres: Floats, radii: Floats, width: float, crossed: Floats, size: tuple[float, float]
) -> tuple[Floats, Floats]:
    """The candidate boxes around one bubble, and what each costs whatever the other labels do."""
    boxes = []
    for dx, dy, reach in _WAYS:
        gap = (radii[i] + 5) * (0.75 if dx and dy else 1.0) + 12 * reach
        left = centres[i, 0] + dx * gap - width * (1 - dx) / 2
        low = centres[i, 1] + dy * gap - _HEIGHT_PX * (1 - dy) / 2
        boxes.append((left, low, left + width, low + _HEIGHT_PX))
    candidates = np.array(boxes)
    bubbles = np.concatenate([centres - radii[:, None], centres + radii[:, None]], axis=1)
    others = np.arange(len(centres)) != i
    costs = _overlaps(candidates, crossed).sum(1) + 2 * _overlaps(candidates, bubbles[others]).sum(1)
    costs += 5 * (width * _HEIGHT_PX - _overlaps(candidates, np.array([[0.0, 0.0, *size]])).sum(1))
    steps = np.array([way[2] for way in _WAYS])
    costs += 60 * steps + 2 * np.arange(len(_WAYS))
    away = _distances(candidates, centres) - radii
    costs += 500 * (steps == 0) * (away[:, others] < away[:, [i]] + 0.5).sum(1)  # else: whose label is it?
    return candidates, costs


def _along(points_N2: Floats) -> Floats:
    """Small boxes (L, 4) that cover a line."""
    rows = []
    for a, b in pairwise(points_N2):
        n = max(2, int(np.hypot(*(b - a)) / 6))
        places = a + (b - a) * np.linspace(0, 1, n)[:, None]
        rows.append(np.concatenate([places - 2, places + 2], axis=1))
    return np.concatenate([*rows, np.zeros((0, 4))])


def _overlaps(a: Floats, b: Floats) -> Floats:
    """Common areas of boxes (A, 4) and (B, 4), as (A, B).

    Example:
        >>> _overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 3, 3], [5, 5, 6, 6]])).tolist()
        [[1.0, 0.0]]
    """
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    common: Floats = np.clip(high - low, 0, None).prod(-1)
    return common


def _distances(boxes: Floats, points: Floats) -> Floats:
    """From boxes (A, 4) to points (B, 2), as (A, B); 0 inside.

    Example:
        >>> _distances(np.array([[0.0, 0, 2, 2]]), np.array([[5.0, 6.0], [1.0, 1.0]])).tolist()
        [[5.0, 0.0]]
    """
    below = boxes[:, None, :2] - points[None]
    above = points[None] - boxes[:, None, 2:]
    found: Floats = np.hypot(*np.moveaxis(np.maximum(np.maximum(below, above), 0), -1, 0))
    return found
