"""The learning-rate schedule: is it stepped in the unit it counts, and does the rate live as long as the run?"""

from __future__ import annotations

import math
from itertools import pairwise

from dimwise.doctor.finding import Finding, Place, Severity
from dimwise.doctor.rules.trace import at, count, cycles, fact, number, where
from dimwise.doctor.seen import SchedulerSeen, Seen

RULE = "scheduler-misused"
DEAD = 1e-3
"""Share of its peak below which a rate trains no more. Cosine, linear and one-cycle schedules come so low in the last
2 % of their length, steps of ×0.1 at 50 % and 75 % never."""
DEAD_EARLY_FRAC = 0.5
"""... and this share of the run is left: no usual schedule spends half of its steps there."""
PER_BATCH = 0.8
"""Steps of the schedule for each step of the optimizer from which on it is stepped with every batch; skipped steps of a
GradScaler and the rest of an epoch's accumulation fit in."""
ENOUGH = 10
"""Optimizer steps before anything is said about a ratio of counts."""
RISEN = 0.5
"""Share of the configured rate that a warm-up must have reached by the end of the run."""
LIKE = 0.25
"""How near a schedule's length must come to the optimizer's steps to have been counted in batches."""


def scheduler_misused(seen: Seen) -> list[Finding] | None:
    """The schedule is stepped in another unit than it counts, before the optimizer, or never.

    - Stepped before the optimizer, at the line where it goes on to be stepped: warning, within two of its steps. Not
      when a GradScaler skipped the optimizer's step, nor when a resumed run catches up at a line of its own.
    - A schedule that counts epochs, stepped with every batch: error. ``StepLR``, ``MultiStepLR``, ``ExponentialLR``
      whose rate falls to 1/1000 before the first epoch ends, told within 20 steps from its constants; and
      ``CosineAnnealingLR`` whose T_max is over before the first epoch is.
    - The rate died early, whatever the schedule: it fell below 1/1000 of its peak with half of the first epoch, or
      half of a finished run, still to go. ``ReduceLROnPlateau`` may do so later than in the first epoch.
    - A schedule that counts batches, stepped with every epoch: its length is that of the whole run in batches, yet it
      is stepped less than half as often; or its warm-up is not half over when the run ends. Needs the whole run, as
      does a schedule that is never stepped.

    Silent: warm-up from 0 (small before the peak), restarts, decay to 0 at the end, one-cycle with every batch, chained
    schedules (only the rate itself is judged).
    """
    said = []
    for told in seen.schedulers.values():
        if told.optimizer is None or told.optimizer not in seen.optimizers:
            continue
        alone = sum(s.optimizer == told.optimizer for s in seen.schedulers.values()) == 1
        found = _before_optimizer(seen, told)
        if alone:
            found = found or _too_often(seen, told) or _died(seen, told) or _too_seldom(seen, told)
        elif told.key == max(s.key for s in seen.schedulers.values() if s.optimizer == told.optimizer):
            found = found or _died(seen, told)
        if found is not None:
            said.append(found)
    return said or None


def _finding(told: SchedulerSeen, severity: Severity, title: str, evidence: str, remedy: str, step: int) -> Finding:
    place = told.step_place or told.place
    return Finding(RULE, severity, title, evidence, remedy, place, step=step)


def _before_optimizer(seen: Seen, told: SchedulerSeen) -> Finding | None:
    assert told.optimizer is not None
    optimizer = seen.optimizers[told.optimizer]
    events = seen.of("scheduler", told.key)
    early = [e for e in events if fact(e, "before_first_step")]
    later = [e for e in events if not fact(e, "before_first_step")]
    if optimizer.fused_or_scaled or told.n_before_optimizer != 1 or not early or not later:
        return None
    if later[0].place != early[0].place or told.optimizer_steps < 2:
        return None
    stepped = next((e.place for e in seen.of("step", told.optimizer)), None)
    return _finding(
        told,
        "warning",
        "the schedule is stepped before the optimizer",
        f"{where(told.step_place, f'{told.kind}.step()')} ran before the first "
        f"{where(stepped, f'{optimizer.kind}.step()')}, "
        f"so at each of its {count(told.n_steps, 'step')}: the first rate of the schedule was never used",
        f"move scheduler.step(){at(told.step_place)} behind optimizer.step(){at(stepped)}",
        early[0].step,
    )


def _epoch_steps(seen: Seen, told: SchedulerSeen) -> int | None:
    """Optimizer steps in an epoch: batches of the loader, divided by how many are accumulated."""
    if not told.loader_len or told.optimizer is None:
        return None
    passes = sorted(max(1, len(c.backwards())) for c in cycles(seen, told.optimizer))
    return max(1, told.loader_len // (passes[len(passes) // 2] if passes else 1))


def _per_batch(told: SchedulerSeen) -> bool:
    return told.optimizer_steps >= ENOUGH and told.n_steps >= PER_BATCH * told.optimizer_steps


def _too_often(seen: Seen, told: SchedulerSeen) -> Finding | None:
    """A schedule of epochs, stepped with every batch: told from its constants."""
    epoch = _epoch_steps(seen, told)
    if not _per_batch(told) or epoch is None:
        return None
    if told.kind == "CosineAnnealingLR" and told.total_steps and told.total_steps < 0.9 * epoch:
        known = f"its T_max of {told.total_steps} is over after {told.total_steps} batches"
        harm = f"{known}, and the rate swings back up within the first epoch of {epoch}"
    elif told.gamma and 0 < told.gamma < 1 and told.kind in ("StepLR", "ExponentialLR"):
        every = told.step_size or 1
        dead = every * math.ceil(math.log(DEAD) / math.log(told.gamma))
        if dead >= 0.9 * epoch:
            return None
        rates = _rates(seen, told)
        fell = f" ({number(rates[0][1])} to {number(rates[-1][1])} by step {rates[-1][0]})" if len(rates) > 1 else ""
        harm = (
            f"the rate falls ×{number(told.gamma)} every {count(every, 'batch', 'batches')}, to 1/1000 after {dead} of "
            f"the {epoch} batches of the first epoch{fell}"
        )
    else:
        return None
    return _finding(
        told,
        "error",
        "a schedule that counts epochs is stepped with every batch",
        f"{where(told.step_place, f'{told.kind}.step()')} ran {told.n_steps} times in {told.optimizer_steps} optimizer "
        f"steps: {harm}",
        _move_out(told.step_place),
        told.optimizer_steps,
    )


def _move_out(place: Place | None) -> str:
    return f"move scheduler.step(){at(place)} out of the loop over batches, to the end of the epoch"


def _rates(seen: Seen, told: SchedulerSeen) -> list[tuple[int, float]]:
    """(step, largest rate of the groups), an entry at each change."""
    assert told.optimizer is not None
    history = seen.optimizers[told.optimizer].lr_history
    return [(step, max(rates)) for step, rates in history if rates and all(math.isfinite(r) for r in rates)]


def _died(seen: Seen, told: SchedulerSeen) -> Finding | None:
    """The rate fell below 1/1000 of its peak long before the end."""
    assert told.optimizer is not None
    rates = _rates(seen, told)
    if not told.n_steps or len(rates) < 2:
        return None
    peak_at = max(range(len(rates)), key=lambda i: rates[i][1])
    peak = rates[peak_at][1]
    fell = None
    for step, rate in reversed(rates[peak_at:]):  # the stretch that lasts to the end: restarts come back
        if rate >= DEAD * peak:
            break
        fell = step
    if fell is None:
        return None
    start = rates[0][0]
    n = seen.optimizers[told.optimizer].n_steps
    lived, dead = fell - start, n - (fell - start)
    epoch = _epoch_steps(seen, told)
    in_first_epoch = epoch is not None and epoch >= ENOUGH and lived < DEAD_EARLY_FRAC * epoch
    half_of_run = seen.finished and n >= 2 * ENOUGH and dead > DEAD_EARLY_FRAC * n
    if told.kind == "ReduceLROnPlateau":
        half_of_run = False
    if not (in_first_epoch or half_of_run) or dead < 3:
        return None
    rest = f"the run went on for {dead} of its {n} steps" if half_of_run else f"an epoch has {epoch}"
    return _finding(
        told,
        "error",
        "the learning rate is near zero long before the end",
        f"{where(told.step_place, f'{told.kind}.step()')} brought the rate from {number(peak)} to "
        f"{number(rates[-1][1])}; after {lived} steps it was below 1/1000 of its peak, and {rest}",
        _move_out(told.step_place)
        if _per_batch(told)
        else f"let {told.kind}{at(told.place)} span the {n} steps of the whole run",
        fell,
    )


def _too_seldom(seen: Seen, told: SchedulerSeen) -> Finding | None:
    """A schedule of batches that is stepped with every epoch, or one that is never stepped. Needs the whole run."""
    assert told.optimizer is not None
    n = told.optimizer_steps
    if not seen.finished or n < 2 * ENOUGH or told.n_steps > n / 2:
        return None
    epochs = max((x.n_iterations for x in seen.loaders.values() if x.trains), default=0)
    rates = _rates(seen, told)
    still = f"the rate went from {number(rates[0][1])} to {number(rates[-1][1])}" if rates else "the rate stood still"
    if told.n_steps == 0:
        if epochs < 2 and not (told.total_steps and abs(told.total_steps / n - 1) <= LIKE):
            return None  # cut off within its first epoch, before the schedule's turn came
        return _never_stepped(told, n, still)
    if (slow := _still_rising(told, rates, n)) is not None:
        return slow
    total = told.total_steps
    if not total or told.kind in ("LinearLR", "CosineAnnealingWarmRestarts") or abs(total / n - 1) > LIKE:
        return None
    return _finding(
        told,
        "warning",
        "a schedule that counts batches is stepped with every epoch",
        f"{told.kind} of {total} steps{at(told.place)}, as many as the optimizer's {n}, was stepped only "
        f"{count(told.n_steps, 'time')}{at(told.step_place)}: {still}",
        f"move scheduler.step(){at(told.step_place)} into the loop over batches, behind optimizer.step()",
        n,
    )


def _never_stepped(told: SchedulerSeen, n: int, still: str) -> Finding:
    """A warning; a hint when a line would step it that this run did not reach (one that waits for a worse epoch)."""
    told_of = f"{told.kind}{at(told.place)} was stepped 0 times in {n} optimizer steps; {still}"
    if told.written_line is not None:
        return _finding(
            told,
            "hint",
            "the schedule was never stepped in this run",
            f"{told_of}; line {told.written_line} would step it and was not reached",
            f"if that is not meant: step it after each epoch, without the condition of line {told.written_line}",
            0,
        )
    return _finding(
        told,
        "warning",
        "the schedule is never stepped",
        told_of,
        "after optimizer.step(), or at the end of each epoch, insert: scheduler.step()",
        0,
    )


def _still_rising(told: SchedulerSeen, rates: list[tuple[int, float]], n: int) -> Finding | None:
    """A warm-up of batches that counts epochs: when the run ends, the rate has only risen and is far from its goal."""
    values = [rate for _, rate in rates]
    if told.n_steps < 2 or len(values) < 3 or not told.base_lr or told.kind == "CyclicLR":
        return None
    if any(b <= a for a, b in pairwise(values)) or values[-1] >= RISEN * told.base_lr:
        return None
    return _finding(
        told,
        "warning",
        "a warm-up that counts batches is stepped with every epoch",
        f"{where(told.step_place, f'{told.kind}.step()')} ran {count(told.n_steps, 'time')} in {n} optimizer steps: "
        f"when the run ended the rate had risen to {number(values[-1])}, {number(values[-1] / told.base_lr)} of the "
        f"{number(told.base_lr)} it was meant to reach",
        f"move scheduler.step(){at(told.step_place)} into the loop over batches, behind optimizer.step()",
        n,
    )
