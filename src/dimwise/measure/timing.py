"""How long a call takes, and how many inputs a second: candidates side by side, so a busy moment hits all alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import torch

LEAST_RUNS = 5
"""Fewer samples have no quartiles worth the name."""
WARMUP_SAMPLES = 10
"""Short calls are warmed up for as long as this many samples take: three of them may all fall on a busy moment."""
MOST_WARMUP_CALLS = 1000


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median, 95th percentile, and distance between the quartiles."""

    p50_ms: float
    p95_ms: float
    iqr_ms: float
    runs: int
    """Samples taken; each is the mean of ``calls_per_run`` calls."""
    threads: int
    device: str
    calls_per_run: int = 1
    """More than 1 for calls too short for the clock; percentiles are then of such means."""


@dataclass(frozen=True)
class Throughput:
    """Inputs per second at the best batch size."""

    batch: int
    items_per_s: float
    rows: tuple[tuple[int, float], ...]
    """(batch size, items per second) of every size tried."""


def latency(
    candidates: Mapping[str, Callable[[], object]],
    *,
    runs: int = 100,
    budget_s: float = 0.5,
    min_time_s: float = 2e-4,
    warmup: int = 3,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    settle_s: float = 0.0,
) -> dict[str, Latency]:
    """Time the candidates in turns: A B C, A B C, and so on.

    Whoever's turn it is finds the caches full of what the others left there, which costs a call of 0.1 ms as much
    again. So each sample follows one call that is not counted; a candidate alone needs none.

    Args:
        candidates: name → a call without arguments.
        runs: most samples of each.
        budget_s: seconds for each candidate, after warm-up; at least 5 samples are taken whatever they cost.
        min_time_s: least duration of a sample; a shorter call is repeated within it.
        warmup: calls of each before the first sample; fewer when they use up the budget, at least 1.
        threads: compute threads the calls use, for the record; None asks PyTorch.
        device: a CUDA device is waited for at the end of each sample.
        settle_s: pause before each sample and the call that is not counted: for candidates whose threads go on
            spinning for a while when their call is over.

    Example:
        >>> measured = latency({"sum": lambda: sum(range(100))}, runs=5)
        >>> measured["sum"].runs, measured["sum"].p50_ms <= measured["sum"].p95_ms
        (5, True)
    """
    where = torch.device(device)
    wait = _waiter(where)
    n_threads = torch.get_num_threads() if threads is None else threads
    with _no_garbage_collection():
        repeats = {name: _repeats(call, wait, warmup, min_time_s, budget_s) for name, call in candidates.items()}
        samples: dict[str, list[float]] = {name: [] for name in candidates}
        deadline = perf_counter_ns() + budget_s * len(candidates) * 1e9
        n_rounds = 0
        while n_rounds < runs and (n_rounds < LEAST_RUNS or perf_counter_ns() < deadline):
            for name, call in candidates.items():
                if settle_s > 0:
                    time.sleep(settle_s)
                if settle_s > 0 or len(candidates) > 1:
                    _sample_ms(call, wait, 1)
                samples[name].append(_sample_ms(call, wait, repeats[name]))
            n_rounds += 1
    return {
        name: Latency(
            p50_ms=_quantile(taken, 0.5),
            p95_ms=_quantile(taken, 0.95),
            iqr_ms=_quantile(taken, 0.75) - _quantile(taken, 0.25),
            runs=len(taken),
            threads=n_threads,
            device=str(where),
            calls_per_run=repeats[name],
        )
        for name, taken in samples.items()
    }


def beside(
    yardstick: Callable[[], object],
    *,
    budget_s: float = 0.2,
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> Callable[[Callable[[], object]], float]:
    """A clock that times each call in turns with a yardstick, so that a busy machine slows both.

    Args:
        yardstick: a call without arguments; its first measurement fixes what a millisecond is.
        budget_s: seconds for each of the two.
        threads: as of :func:`latency`.
        device: as of :func:`latency`.

    Returns:
        call -> ms: the yardstick's first median times the ratio of the medians side by side.

    Example:
        >>> time_ms = beside(lambda: sum(range(20_000)), budget_s=0.02)
        >>> time_ms(lambda: sum(range(200))) < time_ms(lambda: sum(range(20_000)))
        True
    """
    first: list[float] = []

    def time_ms(call: Callable[[], object]) -> float:
        calls = {"yardstick": yardstick, "call": call}
        taken = latency(calls, budget_s=budget_s, threads=threads, device=device)
        first[:] = first or [taken["yardstick"].p50_ms]
        return first[0] * taken["call"].p50_ms / taken["yardstick"].p50_ms

    return time_ms


def tie(a: Latency, b: Latency) -> bool:
    """Whether neither is clearly faster: the intervals p50 ± iqr/2 overlap.

    Example:
        >>> slow, fast = (Latency(p, p, 0.2, 10, 1, "cpu") for p in (1.0, 0.5))
        >>> tie(slow, fast), tie(slow, slow)
        (False, True)
    """
    return abs(a.p50_ms - b.p50_ms) <= (a.iqr_ms + b.iqr_ms) / 2


def throughput(
    make: Callable[[int], Callable[[], object]],
    batches: Sequence[int] = (1, 8, 32, 128, 512),
    *,
    budget_s: float = 0.5,
    device: torch.device | str = "cpu",
) -> Throughput:
    """Inputs per second at the best of the batch sizes; of sizes within 2 % of the best, the smallest.

    Larger sizes are not tried once the rate falls by a tenth, memory runs out, or one call would take longer
    than the whole budget.

    Args:
        make: batch size → a call that handles exactly that many inputs.
        batches: sizes to try, ascending.
        budget_s: seconds for all sizes together.
        device: a CUDA device is waited for at the end of each call.

    Example:
        >>> throughput(lambda n: lambda: sum(range(n)), (1, 64)).batch
        64
    """
    wait = _waiter(torch.device(device))
    rows: list[tuple[int, float]] = []
    per_item_s, best = 0.0, 0.0
    with _no_garbage_collection():
        for batch in batches:
            if per_item_s * batch > budget_s:
                break
            try:
                seconds = _median_s(make(batch), wait, budget_s / len(batches))
            except (MemoryError, torch.OutOfMemoryError):
                if not rows:
                    raise
                break
            rate = batch / seconds
            rows.append((batch, rate))
            per_item_s, best = seconds / batch, max(best, rate)
            if rate < 0.9 * best:
                break
    batch, items_per_s = next(row for row in rows if row[1] >= 0.98 * best)
    return Throughput(batch, items_per_s, tuple(rows))


def _median_s(call: Callable[[], object], wait: Callable[[], None], budget_s: float) -> float:
    taken = [_sample_ms(call, wait, 1)]
    if taken[0] < 1e3 * budget_s:  # then the first was a warm-up
        deadline = perf_counter_ns() + 1e9 * budget_s
        taken = [_sample_ms(call, wait, 1)]
        while len(taken) < 3 or (perf_counter_ns() < deadline and len(taken) < 1000):
            taken.append(_sample_ms(call, wait, 1))
    return max(_quantile(taken, 0.5), 1e-6) / 1e3


def _repeats(
    call: Callable[[], object], wait: Callable[[], None], warmup: int, min_time_s: float, budget_s: float
) -> int:
    """Calls per sample, from the fastest of the warm-up calls."""
    start = perf_counter_ns()
    enough, most = start + WARMUP_SAMPLES * min_time_s * 1e9, start + budget_s * 1e9
    taken = [_sample_ms(call, wait, 1)]
    while len(taken) < MOST_WARMUP_CALLS and perf_counter_ns() < most:
        if len(taken) >= warmup and perf_counter_ns() >= enough:
            break
        taken.append(_sample_ms(call, wait, 1))
    return max(1, math.ceil(1e3 * min_time_s / max(min(taken), 1e-4)))


def _sample_ms(call: Callable[[], object], wait: Callable[[], None], n_calls: int) -> float:
    start = perf_counter_ns()
    for _ in range(n_calls):
        call()
    wait()
    return (perf_counter_ns() - start) / n_calls / 1e6


def _waiter(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a sample would be charged to it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics, as NumPy does it."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
