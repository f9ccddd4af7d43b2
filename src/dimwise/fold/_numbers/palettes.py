"""Palettes: a few numbers that stand for many, and their places packed into bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]


def palette(values: Floats, n_entries: int, *, rounds: int = 100) -> Floats:
    """Centres of k-means in one dimension: the numbers whose nearest neighbours err least in the squares.

    Lloyd's rounds, from three starts, the best of which is taken: evenly over the range, evenly over the ranks, and at
    the density^(1/3) that is best for many entries. In one dimension a cluster is an interval, so a round costs
    n_entries look-ups in the running sums of the sorted values.

    Args:
        values: any shape, finite.
        n_entries: most numbers, ≥ 1; fewer where there are fewer different values.
        rounds: most rounds.

    Returns:
        (at most n_entries,) float64, rising. Where zeros are frequent enough to fill an entry, 0 is one.

    Source: Lloyd 1982, "Least squares quantization in PCM"; Panter, Dite 1951 (density^(1/3)); Han et al. 2016,
    arXiv:1510.00149 (for weights).

    Example:
        >>> palette(np.array([0.0, 0.1, 0.2, 5.0, 5.2]), 2).round(6).tolist()
        [0.1, 5.1]
    """
    ordered = np.sort(np.ravel(values).astype(np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= n_entries:
        return distinct
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    found = min(
        (_lloyd(ordered, sums, start, rounds) for start in _starts(ordered, n_entries)),
        key=lambda centres: _error(ordered, centres),
    )
    if (ordered == 0).sum() * n_entries >= len(ordered):
        found[np.abs(found).argmin()] = 0.0  # what was pruned stays pruned
    return np.unique(found)


def _starts(ordered: Floats, n: int) -> list[Floats]:
    even = (np.arange(n) + 0.5) / n
    counts, edges = np.histogram(ordered, bins=8 * n)
    dense = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    return [
        ordered[0] + even * (ordered[-1] - ordered[0]),
        np.quantile(ordered, even),
        np.interp(even * dense[-1], dense, edges),
    ]


def _lloyd(ordered: Floats, sums: Floats, centres: Floats, rounds: int) -> Floats:
    for _ in range(rounds):
        ends = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(ordered)]])
        counts, totals = np.diff(ends), np.diff(sums[ends])
        new = np.where(counts > 0, totals / np.maximum(counts, 1), centres)
        if np.allclose(new, centres, rtol=1e-9, atol=0):
            break
        centres = new
    return centres


def _error(ordered: Floats, centres: Floats) -> float:
    return float(np.square(ordered - centres[nearest_entry(ordered, centres)]).sum())


def nearest_entry(values: Floats, centres: Floats) -> Bytes:
    """Place of the nearest centre of each value, uint8 of the same shape.

    Args:
        values: any shape.
        centres: (at most 256,) rising.

    Example:
        >>> nearest_entry(np.array([[0.4, 0.6], [9.0, -9.0]]), np.array([0.0, 1.0])).tolist()
        [[0, 1], [1, 0]]
    """
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values).astype(np.uint8)


def pack(places: Bytes) -> tuple[Bytes, int] | None:
    """Two places below 16 in a byte: the first half along an axis in the high bits, the second in the low ones.

    Returns:
        (bytes, half as many along the axis, the axis); None when no axis has an even length.

    Example:
        >>> packed, axis = pack(np.array([[1, 2, 3, 4]], dtype=np.uint8))
        >>> packed.tolist(), axis
        ([[19, 36]], 1)
    """
    for axis, length in enumerate(places.shape):
        if length and length % 2 == 0:
            high, low = np.split(places, 2, axis=axis)
            return (high << 4 | low).astype(np.uint8), axis
    return None
