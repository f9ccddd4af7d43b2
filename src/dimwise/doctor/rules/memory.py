"""Rules of the family 'memory': batches that do not fit, and time spent waiting."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.seen import LoaderSeen, Seen

SURE = 1.15
"""Predicted over available bytes from which it is an error; the prediction errs by up to 15 %, below that it warns."""
REFUTED_STEPS = 3
"""Steps of that batch that went through: then it fits (the optimizer's state exists after the first)."""
LATE_STEPS = 20
"""Steps after which running out of memory is not the batch's doing if old graphs are still alive."""
OLD_GRAPHS = 5
"""Graphs of old losses that make it a leak; the rule graph-retained names that."""
STARVED = 0.5
"""Fraction of the time that the trainer waits for its batches."""
STARVED_BATCHES = 20
"""Batches before waiting is judged: the first ones pay for starting the workers."""
STARVED_S = 1.0
"""Seconds of training below which saving some of them is not worth a word."""
SYNC_STEPS = 20
"""Steps before synchronisations are judged."""
SYNCS_CPU = 2.0
"""Fetches a step on the CPU: two or more are a habit, one is everybody's loss.item()."""
SYNCS = 0.95
"""Synchronisations a step. One is what ``loss.item()`` in each step costs; every tenth step is fine."""


def batch_too_large(seen: Seen) -> Finding | NotChecked | None:
    """The training batch does not fit into memory: met (an allocation failed) or predicted before it does.

    Checked: an out-of-memory exception; else predicted against available bytes of the first training batch, unless
    :data:`REFUTED_STEPS` steps went through. The remedy names a batch that fits and the accumulation that keeps the
    effective size. Must not hit: batches that fit, memory that fills up because old graphs are kept.
    """
    if (seen.error or {}).get("out_of_memory"):
        return _met(seen)
    memory = seen.memory
    if memory and memory.get("small"):
        return None
    if not memory or not memory.get("available_bytes") or not memory.get("predicted_bytes"):
        return NotChecked("batch-too-large", "memory is predicted for one floating-point input on the CPU")
    ratio = memory["predicted_bytes"] / memory["available_bytes"]
    if ratio <= 1 or seen.n_steps >= REFUTED_STEPS:
        return None
    fits, remedy = _smaller(memory)
    return Finding(
        "batch-too-large",
        "error" if ratio >= SURE else "warning",
        "the batch will not fit into memory",
        f"a training step on {memory.get('batch')} rows needs {reading.amount(memory['predicted_bytes'])} as "
        f"predicted, {reading.amount(memory['available_bytes'])} are available ({ratio:.2f} times)",
        remedy,
        place=reading.place_of(memory.get("place")),
        step=0,
        cure={"kind": "batch_size", "size": fits},
    )


def _smaller(memory: dict) -> tuple[int, str]:
    """(a batch that fits, the remedy that names it)."""
    batch = int(memory.get("batch") or 0)
    told = int(memory.get("fits_batch") or 0)
    fits = told if 0 < told < batch else max(1, batch // 2)
    if batch < 2:
        return fits, "the batch is one row already: use a smaller network or input, or torch.utils.checkpoint"
    n = math.ceil(batch / fits)
    return fits, (
        f"batch_size={fits}; to keep the effective size of {batch} accumulate {n} steps: (loss / {n}).backward(), "
        f"optimizer.step() and zero_grad() every {n}"
    )


def _met(seen: Seen) -> Finding | None:
    error, memory = seen.error or {}, dict(seen.memory or {})
    alive = max((e.facts.get("alive", 0) for e in seen.of("backward")), default=0)
    if seen.n_steps >= LATE_STEPS and alive >= OLD_GRAPHS:
        return None
    if not memory.get("batch"):
        memory["batch"] = max((n for b in seen.train_batches() for n in b.sizes), default=0)
    fits, remedy = _smaller(memory)
    known = memory.get("predicted_bytes") and memory.get("available_bytes")
    need = (
        f"; a step on {memory['batch']} rows needs {reading.amount(memory['predicted_bytes'])} as predicted, "
        f"{reading.amount(memory['available_bytes'])} were available"
        if known
        else ""
    )
    message = str(error.get("message", "")).strip().partition("\n")[0][:160]
    return Finding(
        "batch-too-large",
        "error",
        "memory ran out",
        f"after {seen.n_steps} steps, batch of {memory['batch'] or 'unknown'} rows: {error.get('type')}: {message}"
        f"{need}",
        remedy if memory["batch"] else "halve batch_size and accumulate 2 steps: (loss / 2).backward()",
        place=reading.place_of(error.get("place")),
        step=seen.n_steps,
        cure={"kind": "batch_size", "size": fits} if memory["batch"] > 1 else None,
    )


def loader_starves_trainer(seen: Seen) -> Iterator[Finding] | NotChecked:
    """The trainer waits for its data more than it computes. A hint.

    Checked: time waited for batches over the time between the first and the last, from :data:`STARVED_BATCHES` batches
    and :data:`STARVED_S` seconds. Must not hit: evaluation loaders, the first batches, runs of a blink.
    """
    loaders = [x for x in seen.loaders.values() if x.trains and x.n_batches >= STARVED_BATCHES and x.span_s > 0]
    if not loaders:
        return NotChecked("loader-starves-trainer", f"no training DataLoader gave {STARVED_BATCHES} batches")
    return (_starved(x) for x in loaders if x.span_s >= STARVED_S and x.wait_s >= STARVED * x.span_s)


def _starved(loader: LoaderSeen) -> Finding:
    workers = loader.n_workers
    return Finding(
        "loader-starves-trainer",
        "hint",
        "training waits for the data loader",
        f"{loader.wait_s:.1f} s of {loader.span_s:.1f} s ({reading.percent(loader.wait_s / loader.span_s)}) were spent "
        f"waiting at {loader.place} with {workers} worker processes, over {loader.n_batches} batches",
        "DataLoader(..., num_workers=4, persistent_workers=True), or, when the data fits into memory, prepare it once "
        "as a tensor and slice it"
        if not workers
        else f"do less in __getitem__ (decode and resize once, beforehand), or more workers than {workers}",
        place=loader.place,
    )


def sync_every_step(seen: Seen) -> Finding | NotChecked | None:
    """A value is fetched from the accelerator in every step, which makes it wait for the host. A hint.

    Checked: item(), tolist(), cpu(), numpy() called by the user's own lines, per training step: :data:`SYNCS` on an
    accelerator, :data:`SYNCS_CPU` on the CPU, where they cost little until the script moves. Must not hit: one
    loss.item() a step on the CPU; a value fetched every tenth step.
    """
    if seen.n_sync_steps < SYNC_STEPS:
        return NotChecked("sync-every-step", f"fewer than {SYNC_STEPS} steps were watched")
    rate = seen.n_syncs / seen.n_sync_steps
    if rate < (SYNCS if seen.cuda else SYNCS_CPU):
        return None
    where = (
        "" if seen.cuda else "; the parameters live on the CPU, where this costs little, but a GPU would stand still"
    )
    places = ", ".join(f"{place} {n} times" for place, n in seen.sync_places[:3])
    return Finding(
        "sync-every-step",
        "hint",
        "every step waits for the accelerator" if seen.cuda else "every step would wait for an accelerator",
        f"{seen.n_syncs} values were fetched in {seen.n_sync_steps} steps ({rate:.1f} a step): {places}{where}",
        "total += loss.detach() and one total.item() per epoch, or log every 50th step",
        place=seen.sync_places[0][0] if seen.sync_places else None,
    )
