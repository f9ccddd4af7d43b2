"""The loop's modes: what runs in training mode, what in evaluation mode, what with gradients."""

from __future__ import annotations

from dimwise.doctor.finding import Finding
from dimwise.doctor.rules.trace import (
    at,
    count,
    cycles,
    fact,
    longest_run,
    most_common_place,
    reaches,
    where,
)
from dimwise.doctor.seen import Event, RootSeen, Seen

RUN = 3
"""Steps in a row in the wrong mode: an attack made in evaluation mode never is the last pass before a step; three such
steps are the loop's habit."""
PASSES = 2
"""Passes without a loss that make an evaluation: one alone is a dry run for the shapes."""
SAME_ROWS = 0.9
"""Share of rows that training has as well, from which on a pass is about the training data: choosing hard examples,
measuring norms' statistics anew."""
WASTED = 3
"""Passes with a graph nobody uses: fewer are a first look at the shapes."""


def train_in_eval_mode(seen: Seen) -> list[Finding] | None:
    """The network is trained in evaluation mode: no dropout, batch norms by their old statistics.

    Looks at the last pass before the backward pass before each step; speaks when the network itself and every
    Dropout and BatchNorm inside it were in evaluation mode at 3 steps in a row. Silent: norms frozen inside a network
    that is in training mode; networks without such modules; all of them norms whose parameters are frozen; attacks
    and roll-outs in evaluation mode before a training pass; an encoder in evaluation mode in front of a trained head.
    """
    said = []
    for key in seen.optimizers:
        passes = [(c, _pass_before(c.between, key, seen)) for c in cycles(seen, key)]
        start, length = longest_run([p is not None and _all_eval(p) for _, p in passes])
        if length < RUN:
            continue
        first = passes[start][1]
        root = seen.roots.get(first.who) if first is not None and first.who is not None else None
        if first is None or root is None or _norms_frozen(root):
            continue
        trained_before = [p for _, p in passes[:start] if p is not None and not _all_eval(p)]
        since = ""
        if trained_before:
            between = [e for e in seen.of("forward", root.key) if not fact(e, "grad") and e.step <= first.step]
            since = f"; until step {trained_before[-1].step} it was in training mode"
            since += f", then evaluated{at(between[-1].place)}" if between else ""
        n_off = fact(first, "modes", (0, 0))[1]
        said.append(
            Finding(
                "train-in-eval-mode",
                "error",
                "the network is trained in evaluation mode",
                f"at {length} steps in a row (from step {first.step}), {where(first.place, 'the forward pass')} of "
                f"{root.kind} ran in evaluation mode with all {n_off} of its Dropout and BatchNorm modules, and "
                f"backward and step followed{since}",
                f"insert model.train() {'after each evaluation' if trained_before else 'before the loop'}, at the "
                f"latest before the forward pass{at(first.place)}",
                first.place,
                step=first.step,
                cure={"kind": "train_mode"},
            )
        )
    return said or None


def _pass_before(between: tuple[Event, ...], key: int, seen: Seen) -> Event | None:
    """The last pass with gradients of the network whose loss this optimizer's last backward pass differentiated."""
    last = max((i for i, e in enumerate(between) if reaches(e, key)), default=None)
    if last is None:
        return None
    roots = (between[last].who,) if between[last].who is not None else seen.optimizers[key].roots
    passes = [e for e in between[:last] if e.kind == "forward" and fact(e, "grad") and e.who in roots]
    return passes[-1] if passes else None


def _all_eval(event: Event) -> bool:
    on, off = fact(event, "modes", (0, 0))
    return fact(event, "training") is False and on == 0 and off > 0


def _norms_frozen(root: RootSeen) -> bool:
    norms = [layer for layer in root.layers.values() if "BatchNorm" in layer.kind]
    return len(norms) == root.n_mode_modules and not any(layer.requires_grad for layer in norms)


def validate_in_train_mode(seen: Seen) -> list[Finding] | None:
    """The network is evaluated in training mode: dropout falsifies the numbers, batch norms learn from the test data.

    A pass without gradients, network and all its Dropout and BatchNorm modules in training mode, on rows that training
    does not have, that either met a loss function with targets; or belongs to a network whose training outputs do so,
    ran twice or more at a place of its own, and never ran in evaluation mode. Silent: generators and policies sampled
    under no_grad (their outputs meet no targets); target and averaged networks (not trained themselves); networks
    without such modules; renewing the norms' statistics and choosing examples (the training rows); dropout left on to
    sample (the same batch again and again, or single modules set to training); dry runs.
    """
    said = []
    for root in seen.trained_roots():
        if not root.n_mode_modules:
            continue
        passes = [e for e in seen.of("forward", root.key) if fact(e, "grad") is False]
        wrong = [e for e in passes if fact(e, "training") and fact(e, "modes", (0, 0))[0] and not e.modes[1]]
        if not wrong:
            continue
        trained_at = {e.place for e in seen.of("forward", root.key) if fact(e, "grad")}
        knows_eval = any(fact(e, "training") is False for e in passes)
        losses = [e for e in seen.of("loss", root.key) if fact(e, "grad") is False and fact(e, "training")]
        for key in dict.fromkeys(fact(e, "batch") for e in wrong):
            own = [e for e in wrong if fact(e, "batch") == key]
            new_rows = _new_rows(seen, key)
            n_losses = sum(_follows(seen, e, losses) for e in own)
            judged = n_losses >= 1 or (
                root.outputs_meet_loss
                and not knows_eval
                and new_rows is True
                and len(own) >= PASSES
                and own[0].place not in trained_at
            )
            if not judged or new_rows is False:
                continue
            place = own[0].place
            n = max(len(own), root.n_eval_in_train_mode if len(own) == len(wrong) else 0)
            met = f", {count(n_losses, 'time')} into a loss with targets" if n_losses else ""
            said.append(
                Finding(
                    "validate-in-train-mode",
                    "warning",
                    "the network is evaluated in training mode",
                    f"{where(place, 'the forward pass')} of {root.kind} ran {count(n, 'time')} without gradients on "
                    f"data that training does not have{met}, with all {own[0].modes[0]} of its Dropout and BatchNorm "
                    "modules in training mode",
                    f"before the evaluation{at(place)} insert model.eval(), after it model.train()",
                    place,
                    step=own[0].step,
                    cure={"kind": "eval_mode"},
                )
            )
            break  # one place a network is enough to understand it
    return said or None


def _new_rows(seen: Seen, key: int | None) -> bool | None:
    """Whether a batch record is about rows that training does not have; None when it cannot be told."""
    record = seen.batches.get(key) if key is not None else None
    if record is None:
        return None
    if record.purpose == "train" or record.n_identical >= max(1, record.n_batches / 2):
        return False
    if not record.n_hashed:
        return None
    return record.in_train < SAME_ROWS * record.n_hashed


def _follows(seen: Seen, passed: Event, losses: list[Event]) -> bool:
    """Whether one of the losses came right after this pass, before the network's next."""
    if not losses:
        return False
    start = next(i for i, e in enumerate(seen.events) if e is passed)
    for event in seen.events[start + 1 :]:
        if event.kind == "forward" and event.who == passed.who:
            return False
        if event.kind == "loss" and any(event is one for one in losses):
            return True
    return False


def grad_in_validation(seen: Seen) -> list[Finding] | None:
    """Evaluation builds autograd graphs that nobody uses: time and memory. A hint, after 3 passes.

    Counts passes in evaluation mode, gradients on, that no backward pass followed. Silent: roll-outs and attributions
    whose graph is used; networks that are not trained here.
    """
    said = []
    for root in seen.trained_roots():
        if root.n_grad_eval_forwards < WASTED:
            continue
        passes = [
            e
            for e in seen.of("forward", root.key)
            if fact(e, "grad") and fact(e, "training") is False and not fact(e, "trained")
        ]
        place = most_common_place(passes)
        inside = f"above the function '{place.function}' write @torch.no_grad()" if place and place.function else ""
        said.append(
            Finding(
                "grad-in-validation",
                "hint",
                "evaluation keeps graphs for gradients nobody asks for",
                f"{where(place, 'the forward pass')} of {root.kind} ran {root.n_grad_eval_forwards} times in "
                "evaluation mode with gradients on, and no backward pass followed",
                f"{inside or 'around the evaluation' + at(place) + ' write: with torch.no_grad():'}",
                place,
                step=passes[0].step if passes else None,
            )
        )
    return said or None
