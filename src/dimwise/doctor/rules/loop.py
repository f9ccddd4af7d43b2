"""The loop: gradients, steps, clipping and what is passed to backward, in the right order and number."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules.trace import (
    Cycle,
    at,
    clears,
    count,
    cycles,
    fact,
    longest_run,
    median,
    most_common_place,
    number,
    reaches,
    where,
)
from dimwise.doctor.seen import Event, OptimizerSeen, Seen

RUN = 3
"""So many times in a row is a habit of the loop: once can be a first pass, twice an odd batch; a healthy loop: none."""
OFTEN = 5
OFTEN_FRAC = 1 / 3
"""... or so many times and in such a share of all steps, for what a loop does every second or third time."""
NEVER = 10
"""Backward passes after which a first step is overdue: accumulation of 8 and a second loss fit in; the mistake is named
within 20 iterations."""
SCALE_BLIND = ("SGD", "ASGD", "LBFGS")
"""Optimizers whose step is proportional to the gradient; the others divide its size away."""
LOG_ONLY = 1e4
"""A clipping limit above this is a way to read the norm, not to limit it."""


# -- gradients from one step to the next ------------------------------------------------------------------------------


def missing_zero_grad(seen: Seen) -> list[Finding] | NotChecked | None:
    """Backward adds to gradients that a step has already used.

    Judged by the gradients themselves (still there, not zero, when the next backward pass comes), so every way to clear
    them counts: the optimizer's or a module's zero_grad, ``p.grad = None``, ``zero_()``, inside a closure. Speaks after
    3 such steps in a row, or 5 that are a third of all. Silent: accumulation (no step in between), an adversary whose
    leftovers are cleared before its own step, closures that clear.
    """
    said = [f for key, told in seen.optimizers.items() for f in _uncleared(seen, key, told)]
    held = {root for o in seen.optimizers.values() if o.n_steps for root in o.roots}
    by_hand = [e for e in seen.of("manual_step") if e.who not in held]
    if longest_run([bool(fact(e, "stale")) for e in by_hand])[1] >= RUN:
        bad = [e for e in by_hand if fact(e, "stale")]
        place = most_common_place(seen.of("backward"))
        said.append(
            Finding(
                "missing-zero-grad",
                "error",
                "gradients of earlier batches are never cleared",
                f"{where(place, 'backward()')} added to gradients that an update by hand had already used, "
                f"{len(bad)} times of {len(by_hand)}{_growth([fact(e, 'grad_norm') for e in bad])}",
                "after the update, for every parameter: p.grad = None",
                place,
                step=bad[0].step,
                cure={"kind": "zero_grad"},
            )
        )
    return said or None


def _uncleared(seen: Seen, key: int, told: OptimizerSeen) -> Iterator[Finding]:
    done = list(cycles(seen, key))
    marks = [_added_to_the_past(c, i) for i, c in enumerate(done)]
    start, length = longest_run(marks)
    n_bad = sum(marks)
    if length < RUN and not (n_bad >= OFTEN and n_bad >= OFTEN_FRAC * len(done)):
        return
    stretch = done[max(0, start - 1) : start + length]
    passes = [b for c in stretch for b in c.backwards()]
    place, stepped = most_common_place(passes), most_common_place([c.step for c in stretch])
    n_clear = sum(clears(e, key) for c in done for e in c.between)
    norms = [fact(c.step, "grad_norm") for c in stretch]
    yield Finding(
        "missing-zero-grad",
        "error",
        "gradients of earlier batches are never cleared" if n_clear <= 1 else "gradients are not cleared at every step",
        f"{where(place, 'loss.backward()')} was called {len(passes)} times with no zero_grad between, though "
        f"{told.kind} stepped {len(stretch)} times; {n_bad} of {count(len(done), 'step')} used gradients that an "
        f"earlier step had used{_growth(norms)}",
        f"after the step{at(stepped)} insert: optimizer.zero_grad()",
        place,
        step=stretch[0].step.step,
        cure={"kind": "zero_grad"},
    )


def _added_to_the_past(cycle: Cycle, index: int) -> bool:
    if fact(cycle.step, "closure"):  # its backward passes run inside the step, after the event of the step before
        return index > 1 and bool(cycle.backwards()) and not any(clears(e, cycle.key) for e in cycle.between)
    return bool(fact(cycle.step, "stale")) and fact(cycle.step, "n_backward", 1) >= 1 and bool(cycle.backwards())


def _growth(norms: list[float | None]) -> str:
    known = [n for n in norms if n is not None and math.isfinite(n)]
    if len(known) < 2 or known[0] <= 0 or known[-1] < 1.2 * known[0]:
        return ""
    return f"; gradient norm grew {number(known[-1] / known[0])}× ({number(known[0])} to {number(known[-1])})"


def zero_grad_before_step(seen: Seen) -> list[Finding] | None:
    """Gradients are cleared after backward and before the step that was to use them.

    Needs all three: a backward pass that reached the optimizer, a clearing after it, and a step that found nothing;
    3 times and in half of its steps. Silent: an adversary's leftovers, cleared before its own backward pass (its step
    finds gradients); optimizers that have nothing to do in a phase (no backward pass reached them).
    """
    said = []
    for key, told in seen.optimizers.items():
        done = list(cycles(seen, key))
        bad = [(c, found) for c in done if (found := _cleared_too_early(c)) is not None]
        if len(bad) < RUN or len(bad) < len(done) / 2:
            continue
        cleared = most_common_place(found for _, found in bad)
        passed = most_common_place(b for c, _ in bad for b in c.backwards())
        stepped = most_common_place(c.step for c, _ in bad)
        said.append(
            Finding(
                "zero-grad-before-step",
                "error",
                "gradients are cleared before the step can use them",
                f"{where(cleared, 'zero_grad()')} came after {where(passed, 'loss.backward()')} and before "
                f"{where(stepped, f'{told.kind}.step()')} in {len(bad)} of {count(len(done), 'step')}, which found no "
                "gradient and changed nothing by it",
                f"move optimizer.zero_grad(){at(cleared)} to before loss.backward(){at(passed)}",
                cleared or stepped,
                step=bad[0][0].step.step,
                cure={"kind": "keep_grad"},
            )
        )
    return said or None


def _cleared_too_early(cycle: Cycle) -> Event | None:
    if fact(cycle.step, "closure") or fact(cycle.step, "grads") not in ("none", "zero"):
        return None
    last = max((i for i, e in enumerate(cycle.between) if reaches(e, cycle.key)), default=None)
    if last is None:
        return None
    return next((e for e in cycle.between[last + 1 :] if clears(e, cycle.key) and fact(e, "had_grads", True)), None)


# -- what is never called ---------------------------------------------------------------------------------------------


def optimizer_never_steps(seen: Seen) -> list[Finding] | NotChecked | None:
    """Gradients are computed for parameters whose optimizer never steps.

    Speaks after 10 backward passes that reached it. Error when nothing moves the network at all; a warning when other
    optimizers step (it may be meant for a later phase). Silent for an optimizer that shares a layer with one that
    steps (the second phase of fine-tuning, a wrapper around the same parameters). Without any optimizer and any change
    by hand, attribution and attacks look the same as a forgotten update: told as not checked.
    """
    if not seen.n_backward:
        return None
    passes = seen.of("backward")
    if not seen.optimizers:
        if seen.n_backward >= NEVER and not seen.of("manual_step"):
            return NotChecked(
                "optimizer-never-steps",
                f"{seen.n_backward} backward passes, no optimizer, and no parameter changed: attribution and attacks "
                "do so on purpose",
            )
        return None
    said = []
    active = {key for key, o in seen.optimizers.items() if o.n_steps}
    for key, told in seen.optimizers.items():
        reached = [e for e in passes if key in fact(e, "reached", ())]
        if told.n_steps or len(reached) < NEVER or _shares_a_layer(seen, key, active):
            continue
        if any(e.who in told.roots or e.who in {b.who for b in reached} for e in seen.of("manual_step")):
            continue
        place = most_common_place(reached)
        said.append(
            Finding(
                "optimizer-never-steps",
                "warning" if active else "error",
                "the optimizer is never asked to step",
                f"{where(place, 'loss.backward()')} gave gradients to the parameters of {told.kind}"
                f"{f' ({told.place})' if told.place else ''} {len(reached)} times; its step() was called 0 times",
                f"after loss.backward(){at(place)} insert: optimizer.step()",
                place,
                step=reached[0].step,
            )
        )
    return said or None


def _shares_a_layer(seen: Seen, key: int, others: set[int]) -> bool:
    layers = (layer for root in seen.roots.values() for layer in root.layers.values())
    return any(key in layer.optimizers and others & set(layer.optimizers) for layer in layers)


def backward_never_called(seen: Seen) -> Finding | None:
    """The loss is computed, perhaps even the optimizer steps, but nothing is differentiated.

    Speaks when no backward pass ran in the whole process and either 3 steps found no gradient (error) or 20 losses of a
    network in training mode had a graph, though an optimizer exists (warning: a script that only evaluates would do so
    in evaluation mode). Silent: gradients that come from ``torch.autograd.grad`` or by hand (the steps find them).
    """
    if seen.n_backward or not seen.optimizers:
        return None
    steps = seen.of("step")
    losses = [e for e in seen.of("loss") if fact(e, "grad") and fact(e, "training")]
    lost = most_common_place(losses)
    insert = f"after the loss{at(lost)} insert: loss.backward()"
    if len(steps) >= RUN and all(fact(e, "grads") == "none" and not fact(e, "closure") for e in steps):
        stepped = most_common_place(steps)
        return Finding(
            "backward-never-called",
            "error",
            "loss.backward() is never called",
            f"{where(stepped, 'optimizer.step()')} was called {len(steps)} times, backward() 0 times; no parameter had "
            "a gradient at any step",
            f"before optimizer.step(){at(stepped)} insert: loss.backward()",
            stepped or lost,
            step=steps[0].step,
        )
    if not seen.n_steps and len(losses) >= 2 * NEVER:
        told = next(iter(seen.optimizers.values()))
        return Finding(
            "backward-never-called",
            "warning",
            "loss.backward() is never called",
            f"{where(lost, 'the loss')} was computed {len(losses)} times in training mode, with a graph, and "
            f"{told.kind}{f' ({told.place})' if told.place else ''} waits; backward() was called 0 times",
            f"{insert}; optimizer.step(); optimizer.zero_grad()",
            lost,
            step=0,
        )
    return None


# -- size of the gradient ---------------------------------------------------------------------------------------------


def accumulation_not_scaled(seen: Seen) -> list[Finding] | None:
    """k batches are accumulated, but each loss counts fully, so the gradient is k times that of one batch.

    The signature: between two steps the same line differentiates k ≥ 2 times a mean over its own batch, each after its
    own forward pass of the same network, undivided, at 3 steps with the same k. A warning where the step is
    proportional to the gradient; a hint for optimizers that divide its size away. Silent: losses divided or multiplied
    afterwards; sums; several losses at lines of their own (a discriminator's real and fake batch); several losses of
    one pass (retain_graph); closures; gradients of gradients; passes that were cleared before the step (attacks).
    """
    said = []
    for key, told in seen.optimizers.items():
        every = [(c, _accumulated(c)) for c in cycles(seen, key)]
        counts = [k for _, k in every if k >= 2]
        if not counts:
            continue
        k = max(set(counts), key=counts.count)
        same = [c for c, n in every if n == k]
        if len(same) < RUN or len(same) < 0.6 * len(every):  # the rest of an epoch makes a shorter cycle
            continue
        passes = [b for c in same for b in c.since_clear() if reaches(b, key)]
        place = most_common_place(passes)
        norms = [fact(c.step, "grad_norm") for c in same]
        said.append(
            Finding(
                "accumulation-not-scaled",
                "warning" if told.kind in SCALE_BLIND else "hint",
                f"the losses of {k} accumulated batches are added, not averaged",
                f"{where(place, 'loss.backward()')} ran {k} times for each of {len(same)} steps of {told.kind}, each "
                f"on a mean over its batch, and nothing divided by {k}: the gradient is {k}× that of one batch"
                + (f" (norm {number(median([n for n in norms if n is not None]))})" if any(norms) else ""),
                f"change{at(place)}: (loss / {k}).backward()",
                place,
                step=same[0].step.step,
                cure={"kind": "scale_loss", "divisor": k},
            )
        )
    return said or None


def _accumulated(cycle: Cycle) -> int:
    """k, or 0 when this is not an accumulation of undivided means."""
    if fact(cycle.step, "closure") or fact(cycle.step, "stale"):
        return 0
    since = cycle.since_clear()
    passes = [e for e in since if reaches(e, cycle.key)]
    if len(passes) < 2 or len({(e.place, e.who) for e in passes}) > 1:
        return 0
    for e in passes:
        mean = fact(e, "reduction") == "mean" or (
            fact(e, "loss") is None and str(fact(e, "grad_fn", "")).startswith("MeanBackward")
        )
        if not mean or fact(e, "scaled") or fact(e, "retain") or fact(e, "create_graph"):
            return 0
    forwards = sum(e.kind == "forward" and bool(fact(e, "grad")) and e.who == passes[0].who for e in since)
    return len(passes) if forwards >= len(passes) else 0


def clip_without_effect(seen: Seen) -> list[Finding] | None:
    """Gradients are clipped when the step has already used them, or before they exist, or an empty list is clipped.

    Speaks when at least 3 clippings, 4 of 5 of those at that line, found no gradient that a step was still to use; or
    when 5 in a row saw a norm of exactly 0 while the steps had gradients (a generator that was already used up).
    Silent: a limit that is never reached; clipping with a limit above 1e4 (a way to read the norm).
    """
    said = []
    clips = [e for e in seen.of("clip") if fact(e, "max_norm", 0.0) < LOG_ONLY]
    for who, place in dict.fromkeys((e.who, e.place) for e in clips):
        own = [e for e in clips if e.who == who and e.place == place]
        late = [e for e in own if fact(e, "fresh") is False]
        limit = number(fact(own[0], "max_norm", 1.0))
        passed = most_common_place(seen.of("backward"))
        stepped = most_common_place(seen.of("step", who))
        remedy = f"move the clipping{at(place)} between loss.backward(){at(passed)} and optimizer.step(){at(stepped)}"
        cure = {"kind": "clip", "max_norm": fact(own[0], "max_norm", 1.0)}
        if len(late) >= RUN and len(late) >= 0.8 * len(own):
            told = (
                f"{where(place, f'clipping to {limit}')} ran {len(own)} times; {len(late)} of them not between a "
                f"backward pass{at(passed)} and the step{at(stepped)} that used its gradients"
            )
            title = "clipping comes when no step is left to use it"
        else:
            norms = [fact(e, "grad_norm") or 0.0 for e in seen.of("step", who)]
            if len(own) < OFTEN or any(fact(e, "total_norm") != 0.0 for e in own) or not median(norms) > 0:
                continue
            told = (
                f"{where(place, f'clipping to {limit}')} saw a norm of 0 all {len(own)} times, while the gradients of "
                f"the steps had a norm of {number(median(norms))}: what it was given holds no gradients"
            )
            title = "clipping is given no gradients"
            remedy = f"change{at(place)}: torch.nn.utils.clip_grad_norm_(model.parameters(), {limit})"
        first = own[0].step
        said.append(Finding("clip-without-effect", "warning", title, told, remedy, place, step=first, cure=cure))
    return said or None
