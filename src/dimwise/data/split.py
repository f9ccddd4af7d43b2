"""Cutting indices into train, valid and test: seeded, disjoint, complete, and in proportion within each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dimwise.errors import DataError
from dimwise.seeds import derive

Indices = NDArray[np.int64]


def split(
    n_samples: int,
    *,
    fractions: tuple[float, float],
    seed: int,
    classes: NDArray[np.integer] | None = None,
) -> tuple[Indices, Indices, Indices]:
    """Indices of train, valid and test.

    A class of n members gives valid ⌊n·f⌋ or ⌈n·f⌉ of them; which classes round up is decided by the largest
    remainders, so that the totals come out at round(N·f) too. A class always keeps at least one member in train.

    Args:
        n_samples: N, how many there are.
        fractions: (valid, test), each in [0, 1), together below 1; a fraction of 0 gives an empty part.
        seed: rules which members go where.
        classes: (N,) class of each sample; ``None`` splits without looking at classes.

    Returns:
        Three ascending int64 arrays; together they hold 0 … N−1, each once.

    Raises:
        DataError: when a part that was asked for would stay empty.

    Example:
        >>> train, valid, test = split(10, fractions=(0.2, 0.2), seed=0, classes=np.array([0, 1] * 5))
        >>> len(train), len(valid), len(test)
        (6, 2, 2)
    """
    rng = np.random.default_rng(derive(seed, "split"))
    groups = _groups(n_samples, classes)
    sizes = np.array([len(group) for group in groups])
    counts = _counts(sizes, fractions, rng)
    parts: tuple[list[Indices], ...] = ([], [], [])
    for group, (n_valid, n_test) in zip(groups, counts, strict=True):
        shuffled = rng.permutation(group)
        parts[1].append(shuffled[:n_valid])
        parts[2].append(shuffled[n_valid : n_valid + n_test])
        parts[0].append(shuffled[n_valid + n_test :])
    train, valid, test = (np.sort(np.concatenate(part)).astype(np.int64) for part in parts)
    for name, part, fraction in (("validation", valid, fractions[0]), ("test", test, fractions[1])):
        if fraction > 0 and not len(part):
            raise DataError(
                f"{n_samples} samples in {len(groups)} classes leave none for the {name} split",
                expected="at least 2 samples in some class, better 20 in each",
                next_step="Bring more data, or merge rare classes.",
            )
    return train, valid, test


def limit(n_kept: int, *, seed: int, classes: NDArray[np.integer] | None, n_samples: int) -> Indices:
    """Ascending indices of a subset of ``n_kept`` samples, each class in its own proportion (within one).

    Example:
        >>> limit(4, seed=0, classes=np.array([0] * 8 + [1] * 8), n_samples=16).shape
        (4,)
    """
    rng = np.random.default_rng(derive(seed, "limit"))
    groups = _groups(n_samples, classes)
    sizes = np.array([len(group) for group in groups])
    counts = _apportion(sizes * (n_kept / n_samples), n_kept, sizes, rng)
    chosen = [rng.permutation(group)[:count] for group, count in zip(groups, counts, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _groups(n_samples: int, classes: NDArray[np.integer] | None) -> list[Indices]:
    if classes is None:
        return [np.arange(n_samples)]
    order = np.argsort(classes, kind="stable")
    borders = np.flatnonzero(np.diff(classes[order])) + 1
    return list(np.split(order, borders))


def _counts(sizes: Indices, fractions: tuple[float, float], rng: np.random.Generator) -> Indices:
    """(classes, 2) how many of each class go to valid and test."""
    total = int(sizes.sum())
    quotas = sizes[:, None] * np.array(fractions)
    counts = np.floor(quotas).astype(np.int64)
    # Both floors fit beside one member of train, since the fractions sum to less than one; rounding up may not.
    room = np.maximum(sizes - 1 - counts.sum(axis=1), 0)
    for part, fraction in enumerate(fractions):
        wanted = max(1, round(total * fraction)) if fraction > 0 else 0
        taken = _apportion(quotas[:, part], wanted, counts[:, part] + room, rng)
        room -= taken - counts[:, part]
        counts[:, part] = taken
    return counts


def _apportion(quota: NDArray[np.float64], wanted: int, most: Indices, rng: np.random.Generator) -> Indices:
    """Whole numbers near ``quota`` (floor, or one more) that sum to ``wanted`` as far as ``most`` allows."""
    taken = np.floor(quota).astype(np.int64)
    remainder = quota - taken
    may_rise = (taken < most) & (remainder > 0)
    # Equal remainders are decided by chance, not by the order of the classes.
    order = np.lexsort((rng.random(len(quota)), -remainder))
    up = [i for i in order if may_rise[i]][: max(0, wanted - int(taken.sum()))]
    taken[up] += 1
    return taken
