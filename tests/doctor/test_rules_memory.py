"""Rules about memory and waiting, on observations written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.doctor._parts import AT, batches, loader, one, seen, silent, why

from dimwise.doctor.rules import memory
from dimwise.doctor.seen import Event, Seen

GIB = 2**30


def predicted(need: float, have: float, n_steps: int = 0, **facts: Any) -> Seen:
    told = {"predicted_bytes": need * GIB, "available_bytes": have * GIB, "batch": 256, "root": 0, "place": AT, **facts}
    return seen(memory=told, n_steps=n_steps)


def test_a_batch_that_will_not_fit() -> None:
    found = one(memory.batch_too_large(predicted(30, 10, fits_batch=64)))
    assert found.severity == "error"
    assert "256 rows needs 30.00 GiB as predicted, 10.00 GiB are available (3.00 times)" in found.evidence
    assert "batch_size=64" in found.remedy
    assert "accumulate 4 steps: (loss / 4).backward()" in found.remedy
    assert found.cure == {"kind": "batch_size", "size": 64}
    assert (found.place, found.step) == (AT, 0)
    assert one(memory.batch_too_large(predicted(11, 10))).severity == "warning"  # within the error of the prediction


def test_without_a_batch_that_fits_it_is_halved_and_one_row_is_told() -> None:
    assert one(memory.batch_too_large(predicted(30, 10, fits_batch=0))).cure == {"kind": "batch_size", "size": 128}
    assert "one row already" in one(memory.batch_too_large(predicted(30, 10, batch=1))).remedy


def test_memory_that_ran_out() -> None:
    error = {"type": "OutOfMemoryError", "message": "tried to allocate 20 GiB\nmore", "out_of_memory": True}
    found = one(memory.batch_too_large(seen(batches(), error=error, n_steps=1)))
    assert found.severity == "error"
    assert "after 1 steps, batch of 32 rows: OutOfMemoryError: tried to allocate 20 GiB" in found.evidence
    assert "more" not in found.evidence
    assert "batch_size=16" in found.remedy
    told = predicted(30, 10, fits_batch=64)
    told.error = error
    assert "30.00 GiB as predicted" in one(memory.batch_too_large(told)).evidence
    assert "halve" in one(memory.batch_too_large(Seen(error=error))).remedy


def test_batches_that_fit_and_leaks_are_silent() -> None:
    assert silent(memory.batch_too_large(predicted(9, 10)))
    assert silent(memory.batch_too_large(predicted(30, 10, n_steps=5)))  # it did fit
    leak = seen(
        error={"type": "OutOfMemoryError", "message": "", "out_of_memory": True},
        n_steps=500,
        events=[Event("backward", 499, 0, AT, {"alive": 400})],
    )
    assert silent(memory.batch_too_large(leak))


def test_memory_not_checked() -> None:
    assert "is predicted for one floating-point input" in why(memory.batch_too_large(Seen()))
    assert memory.batch_too_large(seen(memory={"small": True})) is None
    assert "is predicted for one floating-point input" in why(memory.batch_too_large(seen(memory={"batch": 3})))


def waiting(wait_s: float, span_s: float = 10.0, **facts: Any) -> Seen:
    return seen(loaders=(loader(**{"wait_s": wait_s, "span_s": span_s, "n_batches": 100, **facts}),))


def test_a_starving_trainer() -> None:
    found = one(memory.loader_starves_trainer(waiting(8.0)))
    assert found.severity == "hint"
    assert "8.0 s of 10.0 s (80 %)" in found.evidence
    assert "over 100 batches" in found.evidence
    assert "num_workers=4" in found.remedy
    assert "more workers than 2" in one(memory.loader_starves_trainer(waiting(8.0, n_workers=2))).remedy


@pytest.mark.parametrize("healthy", [waiting(4.0), waiting(0.0), waiting(0.8, 0.9)])
def test_a_fed_trainer(healthy: Seen) -> None:
    assert silent(memory.loader_starves_trainer(healthy))


@pytest.mark.parametrize("other", [Seen(), waiting(8.0, trains=False), waiting(8.0, n_batches=5)])
def test_waiting_not_checked(other: Seen) -> None:
    assert "no training DataLoader" in why(memory.loader_starves_trainer(other))


def test_fetching_in_every_step() -> None:
    found = one(memory.sync_every_step(seen(cuda=True, n_syncs=60, n_sync_steps=20, sync_places=[(AT, 40)])))
    assert found.severity == "hint"
    assert "60 values were fetched in 20 steps (3.0 a step): train.py:48 40 times" in found.evidence
    assert found.place == AT


def test_fetching_now_and_then_or_on_the_cpu() -> None:
    assert silent(memory.sync_every_step(seen(cuda=True, n_syncs=2, n_sync_steps=20)))
    assert silent(memory.sync_every_step(seen(cuda=True, n_sync_steps=20)))
    assert "live on the CPU" in one(memory.sync_every_step(seen(n_syncs=60, n_sync_steps=20))).evidence
    assert silent(memory.sync_every_step(seen(n_syncs=20, n_sync_steps=20)))  # the CPU's usual loss.item()
    assert "fewer than 20" in why(memory.sync_every_step(seen(cuda=True, n_syncs=60, n_sync_steps=19)))
