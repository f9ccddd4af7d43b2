"""Latency of many candidates, each on its own runtime, in turns, with the ties said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from dimwise.errors import DataError, RecipeError
from dimwise.measure import Latency, latency, tie
from dimwise.ship.runtimes import NETWORK_RUNTIMES, Served

SETTLE_S = 0.02
"""PyTorch's threads keep spinning for a while after a call; whoever comes next would be measured without them."""


@dataclass(frozen=True)
class SideBySide:
    """What was measured in turns, on the same inputs."""

    latency: dict[str, Latency]
    """Candidate -> milliseconds of one batch."""
    batch: int
    runtimes: dict[str, str]
    """Candidate -> runtime."""
    ties: tuple[tuple[str, str], ...] = field(default=())
    """Pairs of which neither is clearly faster."""

    def fastest(self) -> tuple[str, ...]:
        """The candidate of the least median, and all that tie with it, by their medians.

        Example:
            >>> ms = {"a": 2.0, "b": 1.0, "c": 1.1}
            >>> measured = {name: Latency(p, p, 0.1, 9, 1, "cpu") for name, p in ms.items()}
            >>> SideBySide(measured, 1, dict.fromkeys("abc", "pytorch"), (("b", "c"),)).fastest()
            ('b', 'c')
        """
        if not self.latency:
            return ()
        ordered = sorted(self.latency, key=lambda name: self.latency[name].p50_ms)
        tied = {name for pair in self.ties if ordered[0] in pair for name in pair}
        return tuple(name for name in ordered if name in tied or name == ordered[0])


def measure_on(
    candidates: Mapping[str, Served],
    inputs: np.ndarray,
    *,
    threads: int = 1,
    batch: int = 1,
    budget_s: float = 0.5,
    runs: int = 200,
) -> SideBySide:
    """Time candidates in turns, whatever runtimes they were opened on.

    Each is called once before anything is timed, so that what compiles at the first call has done so. Where PyTorch
    with several threads takes turns with another runtime, each sample waits until its threads have gone to sleep, and
    follows one call that is not counted.

    Args:
        candidates: name -> what :func:`dimwise.ship.open_runtime` returned, opened with the same ``threads``.
        inputs: (N, ...) raw; its first ``batch`` rows are used, again from the first where they do not suffice.
        threads: of one inference; those of the candidates must be the same.
        batch: rows of one call.
        budget_s: seconds for each candidate, after warm-up.
        runs: most samples of each.

    Raises:
        RecipeError: when a candidate was opened with another number of threads.
        DataError: without inputs.

    Example:
        >>> from dimwise.ship import open_runtime
        >>> import torch
        >>> served = open_runtime(torch.nn.Linear(2, 1), "pytorch")
        >>> found = measure_on({"a": served, "b": served}, np.zeros((1, 2), np.float32), batch=4, runs=5)
        >>> found.batch, found.latency["a"].runs, found.latency["a"].threads
        (4, 5, 1)
    """
    for name, served in candidates.items():
        if served.threads != threads:
            raise RecipeError(f"{name} was opened with threads={served.threads}", expected=f"threads={threads}")
    if not len(inputs):
        raise DataError("there are no inputs to measure with", expected="at least one row")
    rows = np.ascontiguousarray(inputs[np.arange(batch) % len(inputs)])
    runtimes = {name: served.runtime for name, served in candidates.items()}
    with _torch_threads(threads):
        for served in candidates.values():
            served.run(rows)
        measured = latency(
            {name: _call(served, rows) for name, served in candidates.items()},
            threads=threads,
            budget_s=budget_s,
            runs=runs,
            settle_s=SETTLE_S if threads > 1 and _spins_beside_others(runtimes) else 0.0,
        )
    ties = tuple(pair for pair in combinations(measured, 2) if tie(measured[pair[0]], measured[pair[1]]))
    return SideBySide(measured, batch, runtimes, ties)


def _spins_beside_others(runtimes: Mapping[str, str]) -> bool:
    of_torch = [runtime in NETWORK_RUNTIMES for runtime in runtimes.values()]
    return any(of_torch) and not all(of_torch)


def _call(served: Served, rows: np.ndarray) -> Callable[[], object]:
    return lambda: served.run(rows)


def _torch_threads(threads: int) -> AbstractContextManager[None]:
    """Set once for all calls, so that none of them pays for it."""
    if "torch" not in sys.modules:
        return nullcontext()
    from dimwise.ship.runtimes.pytorch import using_threads

    return using_threads(threads)
