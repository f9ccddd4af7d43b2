"""Latency and throughput on a clock that the test moves, so that nothing depends on how busy the machine is."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dimwise.measure import Latency, latency, throughput, tie, timing


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def takes(self, *durations_ms: float, log: list[str] | None = None, name: str = "") -> Callable[[], None]:
        """A call that lasts as long as it says, in turns."""
        n_calls = 0

        def call() -> None:
            nonlocal n_calls
            self.now_ns += round(1e6 * durations_ms[n_calls % len(durations_ms)])
            n_calls += 1
            if log is not None:
                log.append(name)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "perf_counter_ns", lambda: made.now_ns)
    return made


def test_percentiles_of_known_durations(clock: Clock) -> None:
    measured = latency({"a": clock.takes(*range(1, 101))}, runs=100, budget_s=1e3, warmup=100, threads=3)["a"]
    assert measured.p50_ms == pytest.approx(50.5)
    assert measured.p95_ms == pytest.approx(np.quantile(range(1, 101), 0.95))
    assert measured.iqr_ms == pytest.approx(49.5)
    assert (measured.runs, measured.threads, measured.device, measured.calls_per_run) == (100, 3, "cpu", 1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.sampled_from([0.25, 0.5, 0.75, 0.95]))
def test_quantile_is_numpys(values: list[float], q: float) -> None:
    assert timing._quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-9)


def test_candidates_take_turns(clock: Clock) -> None:
    log: list[str] = []
    latency({n: clock.takes(1, log=log, name=n) for n in "abc"}, runs=7, warmup=2, min_time_s=1e-4)
    assert "".join(log) == "aabbcc" + 7 * "aabbcc"  # the first of each pair only fills the caches


def test_budget_ends_the_samples_but_not_before_five(clock: Clock) -> None:
    candidates = {"slow": clock.takes(30.0), "fast": clock.takes(10.0)}
    measured = latency(candidates, budget_s=0.5, runs=1000)
    assert measured["slow"].runs == measured["fast"].runs == 13  # 2 · 0.5 s / 80 ms
    log: list[str] = []
    assert latency({"a": clock.takes(2000.0, log=log)}, budget_s=0.5)["a"].runs == timing.LEAST_RUNS
    assert len(log) == timing.LEAST_RUNS + 1  # one warm-up call used the budget up


def test_short_calls_are_repeated_within_a_sample(clock: Clock) -> None:
    measured = latency({"a": clock.takes(0.001), "b": clock.takes(5.0)}, min_time_s=2e-4, runs=5)
    assert measured["a"].calls_per_run == 200
    assert measured["a"].p50_ms == pytest.approx(0.001)
    assert measured["b"].calls_per_run == 1


def test_a_call_faster_than_the_clock_ends(clock: Clock) -> None:
    clock_call = clock.takes(0.0)
    with pytest.MonkeyPatch.context() as patch:
        ticks = iter(range(0, 10**9, 50))
        patch.setattr(timing, "perf_counter_ns", lambda: next(ticks))
        assert latency({"a": clock_call}, runs=5, min_time_s=1e-5)["a"].runs == 5


def test_what_others_left_in_the_caches_is_not_counted(clock: Clock) -> None:
    cold = {name: clock.takes(9, 1) for name in "ab"}  # the first call of each turn is slow
    assert all(m.p95_ms == 1.0 for m in latency(cold, runs=6, warmup=2, min_time_s=1e-4).values())
    alone: list[str] = []
    latency({"a": clock.takes(1, log=alone, name="a")}, runs=6, warmup=2, min_time_s=1e-4)
    assert len(alone) == 2 + 6


def test_settling_waits_and_calls_once_before_each_sample(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr("time.sleep", lambda s: log.append(f"z{s}"))
    measured = latency({"a": clock.takes(9, 1, log=log, name="a")}, runs=5, warmup=2, min_time_s=1e-4, settle_s=0.02)
    assert log == ["a", "a"] + 5 * ["z0.02", "a", "a"]
    assert measured["a"].p95_ms == 1.0  # the call after the pause is slow, and is not counted


def test_threads_default_to_pytorchs_and_nothing_gives_nothing(clock: Clock) -> None:
    assert latency({"a": clock.takes(1)}, runs=5)["a"].threads == torch.get_num_threads()
    assert latency({}) == {}


def test_garbage_collection_rests_and_returns(clock: Clock) -> None:
    seen = []

    def look() -> None:
        seen.append(gc.isenabled())
        clock.now_ns += 1_000_000

    latency({"a": look}, runs=5)
    assert set(seen) == {False}
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        latency({"a": lambda: 1 / 0})
    assert gc.isenabled()


def test_tie_when_intervals_touch() -> None:
    def at(p50_ms: float, iqr_ms: float) -> Latency:
        return Latency(p50_ms, p50_ms, iqr_ms, 10, 1, "cpu")

    assert tie(at(1.0, 0.2), at(1.2, 0.2))
    assert not tie(at(1.0, 0.2), at(1.21, 0.2))
    assert tie(at(1.21, 0.4), at(1.0, 0.2))
    assert not tie(at(1.0, 0.0), at(1.001, 0.0))


def linear(clock: Clock, fixed_ms: float, item_ms: float) -> Callable[[int], Callable[[], None]]:
    return lambda n: clock.takes(fixed_ms + n * item_ms)


def test_throughput_names_the_best_batch(clock: Clock) -> None:
    found = throughput(linear(clock, 1.0, 0.1), (1, 10, 100), budget_s=1)
    assert found.batch == 100
    assert found.items_per_s == pytest.approx(100 / 0.011)
    assert [batch for batch, _ in found.rows] == [1, 10, 100]


def test_throughput_prefers_the_smaller_of_equals(clock: Clock) -> None:
    found = throughput(linear(clock, 0.001, 0.1), (1, 8, 32, 128), budget_s=1)
    assert found.batch == 1
    assert len(found.rows) == 4


def test_throughput_stops_where_the_rate_falls(clock: Clock) -> None:
    seen: list[int] = []

    def make(n: int) -> Callable[[], None]:
        seen.append(n)
        return clock.takes(n * (1.0 if n <= 8 else 2.0) + 1.0)

    assert throughput(make, (1, 8, 32, 128), budget_s=1).batch == 8
    assert seen == [1, 8, 32]


def test_throughput_does_not_try_what_would_exceed_the_budget(clock: Clock) -> None:
    found = throughput(linear(clock, 10.0, 90.0), (1, 4, 16, 64), budget_s=0.5)
    assert [batch for batch, _ in found.rows] == [1, 4]


def test_throughput_ends_where_memory_does(clock: Clock) -> None:
    def make(n: int) -> Callable[[], None]:
        if n > 8:
            raise MemoryError
        return clock.takes(1.0)

    assert throughput(make, (1, 8, 32)).batch == 8
    with pytest.raises(MemoryError):
        throughput(make, (32, 64))


def test_real_calls_are_timed() -> None:
    calls = []
    measured = latency({"a": lambda: calls.append(0)}, runs=5, min_time_s=1e-5)["a"]
    assert measured.p95_ms >= measured.p50_ms > 0
    assert len(calls) >= 5 * measured.calls_per_run + 3
