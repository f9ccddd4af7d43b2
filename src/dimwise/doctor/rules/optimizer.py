"""The optimizer and its parameters: does it hold what is trained, and does what it holds get gradients and change?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from dimwise.doctor.finding import Finding, Severity
from dimwise.doctor.rules import loop
from dimwise.doctor.rules.trace import at, count, fact, is_fresh, is_new, most_common_place, number, where
from dimwise.doctor.seen import LayerSeen, OptimizerSeen, RootSeen, Seen

STEPS = 3
"""Steps (and training passes) before anything is said: a part may be left out of one or two batches."""
STILL = 5
"""Steps without any change of any parameter."""
STILL_BY_RATE = 10
"""Steps at rate zero: a warm-up from 0 that counts batches has left it by then."""
IN_VAIN = 20
AGAIN = 1.5
"""Backward passes without any optimizer, and how often they met each row, that show a loop of epochs rather than a
measurement of gradients."""
MINOR_FRAC = 0.5
"""Share of a network's layers up to which what the optimizer lacks was forgotten; who leaves out more chose what to
train (adapters, a head, one block at a time)."""
DECAY = 1e-3
"""Weight decay from which on its effect on norms and biases is worth a hint; 1e-4, with which residual networks are
usually trained in full, is not."""
NAMED = 3
"""Layers that are named one by one."""


def parameters_not_in_optimizer(seen: Seen) -> list[Finding] | None:
    """Layers get gradients, but no optimizer holds them, so they stay as they were made.

    Error: the missing layers do not all lie before the first one that is held, and are at most half of the network; or
    the network does not own them (kept in a plain list); or a whole network in training mode whose output meets the
    loss, as an initialiser left it; or a whole network in training mode, while two optimizers hold one and the same
    other network and step in turn (a generator's optimizer that was given the discriminator). A warning: a whole
    network in front, as an initialiser left it, whose own train() or zero_grad() the script calls. A hint: everything
    before some layer is missing, or most of it, or a whole network in front: the usual shape of a frozen backbone
    whose requires_grad was left on. Silent: frozen layers; layers without gradients; layers changed by other hands;
    networks in evaluation mode (a measure of perception); networks that an optimizer built too early explains
    (``optimizer-holds-stale-parameters``).
    """
    if not any(o.n_steps >= STEPS for o in seen.optimizers.values()) or _stale(seen):
        return None
    said = []
    for root in seen.trained_roots():
        layers = sorted(root.layers.values(), key=lambda layer: layer.order)
        missing = [x for x in layers if not x.optimizers and x.requires_grad and x.n_grad and not x.changed]
        if not missing or any(e.who == root.key for e in seen.of("manual_step")):
            continue
        held = [x for x in layers if x.optimizers]
        severity = _how_bad(seen, root, missing, held)
        if severity is None:
            continue
        twin = None if held else _twin(seen)
        optimizer = (
            next((o for o in seen.optimizers.values() if root.key in o.roots), None)
            or twin
            or next(o for o in seen.optimizers.values() if o.n_steps)
        )
        loose = [x for x in missing if not x.registered]
        n_lost = sum(x.n_params for x in missing)
        remedy = (
            "keep them in an nn.ModuleList (or nn.ModuleDict) instead of a plain list, before the optimizer is built"
            if loose
            else f"change{at(optimizer.place)}: pass their parameters to {optimizer.kind} as well"
            + (", or freeze them: requires_grad_(False)" if severity == "hint" else "")
        )
        said.append(
            Finding(
                "parameters-not-in-optimizer",
                severity,
                "layers get gradients, but no optimizer holds them",
                f"{_names(missing, root)} of {root.kind} ({number(n_lost)} parameters) got gradients, never changed; "
                f"{optimizer.kind}{f' ({optimizer.place})' if optimizer.place else ''} stepped {optimizer.n_steps} "
                f"times with {count(optimizer.n_tensors, 'tensor')}, none of them theirs"
                + (f"; another {twin.kind} holds the same ones" if twin else "")
                + (f"; {count(len(loose), 'layer is', 'layers are')} not registered in {root.kind}" if loose else ""),
                remedy,
                optimizer.place or root.place,
                module=missing[0].path or None,
                step=0,
            )
        )
    return said or None


def _how_bad(seen: Seen, root: RootSeen, missing: list[LayerSeen], held: list[LayerSeen]) -> Severity | None:
    if not held:
        in_eval = any(fact(e, "training") is False for e in seen.of("forward", root.key) if fact(e, "grad"))
        if in_eval:
            return None
        meets_loss = root.outputs_meet_loss or any(e.who == root.key and fact(e, "grad") for e in seen.of("loss"))
        told = [is_fresh(x) for x in missing]
        new = any(t for t in told) and not any(t is False for t in told)
        if meets_loss and new:
            return "error"
        return "error" if _twin(seen) else "warning" if new and root.readied else "hint"
    if any(not x.registered for x in missing):
        return "error"
    first_held = min((x.order for x in held if x.order), default=0)  # 0: never called as a module
    if all(x.order < first_held for x in missing):
        return "hint"
    return "error" if len(missing) <= MINOR_FRAC * (len(missing) + len(held)) else "hint"


def _twin(seen: Seen) -> OptimizerSeen | None:
    """The later one of two optimizers that hold all of the same network and step in turn."""
    for one in seen.optimizers.values():
        for other in seen.optimizers.values():
            same = one.roots == other.roots and len(one.roots) == 1 and one.n_params == other.n_params
            if one.key >= other.key or not same or one.roots[0] not in seen.roots:
                continue
            if one.n_params != seen.roots[one.roots[0]].n_trainable:
                continue
            turns = [e.who for e in seen.of("step") if e.who in (one.key, other.key)]
            if sum(a != b for a, b in pairwise(turns)) >= STEPS:
                return other
    return None


def _names(layers: list[LayerSeen], root: RootSeen) -> str:
    shown = [f"{x.path or root.kind} ({x.kind}{' ' + '×'.join(map(str, x.shape)) if x.shape else ''})" for x in layers]
    rest = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return ", ".join(shown[:NAMED]) + rest


def optimizer_holds_stale_parameters(seen: Seen) -> list[Finding] | None:
    """The optimizer was built before the model, or a part of it, was replaced: it steps what nobody uses.

    Needs both sides: parameters of the optimizer that belong to no network in use and never had a gradient, and layers
    in use that get gradients and are in no optimizer. Or they belonged to a network that was trained, is gone, and was
    followed by another (folds, sweeps), while the optimizer went on to step. Silent: free parameters (a temperature,
    latent codes, an image: they have gradients); heads of other tasks (what is trained is held); networks a later phase
    trains.
    """
    said = []
    for told, orphans, root in _stale(seen):
        never = told.n_without_grad >= told.n_stale_tensors
        had = "had no gradient" if never else "were trained before"
        said.append(
            Finding(
                "optimizer-holds-stale-parameters",
                "error",
                "the optimizer was built before the model was replaced",
                f"{told.kind}{f' ({told.place})' if told.place else ''} holds {told.n_stale_tensors} of "
                f"{count(told.n_tensors, 'tensor')} that no network in use owns and that {had} in "
                f"{count(told.n_steps, 'step')}; "
                f"{_names(orphans, root)} of {root.kind} gets gradients and is in no optimizer",
                f"build {told.kind}{at(told.place)} after the last line that replaces the model or a part of it (or "
                "moves it in a way that makes new parameters)",
                told.place,
                module=orphans[0].path or None,
                step=0,
            )
        )
    return said or None


def _stale(seen: Seen) -> list[tuple[OptimizerSeen, list[LayerSeen], RootSeen]]:
    found = []
    for told in seen.optimizers.values():
        if told.n_steps < STEPS or not told.n_stale_tensors:
            continue
        gone = bool(told.n_homeless) and not told.roots  # the network it trained at first was replaced as a whole
        for root in seen.trained_roots():
            if told.n_without_grad < told.n_stale_tensors and not (gone and _steps_on(seen, told, root)):
                continue
            orphans = [x for x in root.layers.values() if not x.optimizers and x.requires_grad and x.n_grad]
            orphans = [x for x in orphans if not x.changed]
            if orphans and (not told.roots or root.key in told.roots):
                found.append((told, sorted(orphans, key=lambda x: x.order), root))
                break
    return found


def _steps_on(seen: Seen, told: OptimizerSeen, root: RootSeen) -> bool:
    """Whether it went on to step while another network was trained: 3 steps since that one's first backward pass."""
    first = next((e.step for e in seen.of("backward", root.key)), None)
    return first is not None and sum(e.step >= first for e in seen.of("step", told.key)) >= STEPS


def parameters_never_change(seen: Seen) -> list[Finding] | None:
    """An optimizer steps, and nothing it holds moves: all frozen, the rate zero, or updates lost to rounding.

    Speaks after 5 steps (10 at rate zero, and not while a schedule of at most one step warms up from 0). Silent when a
    rule that knows the cause speaks: gradients cleared, never computed, cut, or parameters of a replaced model; when
    parts are frozen, have rate zero or hold still while others move; and when freezing is switched on and off.
    Without any optimizer, an update written by hand that binds a new tensor (``p = p - lr * p.grad``) leaves the
    parameters alone: told when a new network in training mode was differentiated 20 times or more, for its parameters
    alone (no attack on the inputs), on rows that come again: nobody measures the same gradients twice.
    """
    if not seen.optimizers:
        return [f for root in seen.trained_roots() if (f := _in_vain(seen, root)) is not None] or None
    if any(rule(seen) for rule in (loop.zero_grad_before_step, loop.backward_never_called, no_gradient_reaches)):
        return None
    stale = {told.key for told, _, _ in _stale(seen)}
    said = []
    for key, told in seen.optimizers.items():
        moved = any(key in x.optimizers and x.changed for r in seen.roots.values() for x in r.layers.values())
        if told.n_steps < STILL or key in stale or moved or told.n_unchanged + told.n_frozen < told.n_tensors:
            continue
        why = _why_still(seen, told)
        if why is None:
            continue
        cause, remedy, cure = why
        place = told.place
        said.append(
            Finding(
                "parameters-never-change",
                "error",
                "the optimizer steps and nothing changes",
                f"all {count(told.n_tensors, 'tensor')} of {told.kind}{f' ({place})' if place else ''} are after "
                f"{count(told.n_steps, 'step')} what they were before: {cause}",
                remedy,
                place,
                step=0,
                cure=cure,
            )
        )
    return said or None


def _in_vain(seen: Seen, root: RootSeen) -> Finding | None:
    passes = seen.of("backward", root.key)
    modes = [fact(e, "training") for e in seen.of("forward", root.key) if fact(e, "trained")]
    if len(passes) < IN_VAIN or not modes or not all(modes) or any(e.who == root.key for e in seen.of("manual_step")):
        return None
    told = [x for x in root.layers.values() if x.requires_grad]
    if any(fact(e, "beyond") != 0 for e in passes) or not is_new(root) or any(x.changed for x in told):
        return None
    fed = [b for b in seen.train_batches() if b.root == root.key and b.n_identical < b.n_batches / 2]
    if not any(b.n_hashed and b.n_rows >= AGAIN * b.n_hashed for b in fed):
        return None
    place = most_common_place(passes)
    return Finding(
        "parameters-never-change",
        "error",
        "gradients are computed and nothing changes",
        f"{where(place, 'loss.backward()')} ran {len(passes)} times for {root.kind} in training mode, over the same "
        f"rows again and again; no optimizer exists, and all {count(len(told), 'layer')} are what they were before",
        "change the parameters in place, under torch.no_grad(): p -= lr * p.grad (p = p - lr * p.grad only binds a new "
        "name); or use torch.optim.SGD",
        place,
        step=0,
    )


def _why_still(seen: Seen, told: OptimizerSeen) -> tuple[str, str, dict[str, object] | None] | None:
    steps = seen.of("step", told.key)
    rates = [rate for _, group in told.lr_history for rate in group]
    if told.n_tensors and told.n_frozen == told.n_tensors:
        return (f"all have requires_grad=False ({told.n_frozen} of {told.n_tensors})", "requires_grad_(True)", None)
    if rates and not any(rates):
        warming = [s for s in seen.schedulers.values() if s.optimizer == told.key]
        if told.n_steps < STILL_BY_RATE or any(s.n_steps <= 1 for s in warming):
            return None
        remedy = f"change{at(told.place)}: lr=0.001" if not warming else f"the schedule{at(warming[0].place)} gives 0"
        return (f"the rate was 0 at all {told.n_steps} steps", remedy, None)
    gone = sum(fact(e, "grads") in ("none", "zero") for e in steps)
    if steps and gone == len(steps):
        if any(fact(e, "grads") == "zero" for e in steps):
            return None  # a loss that asks for nothing: no reward yet, a margin kept
        return (
            f"none had a gradient at any of {gone} watched steps",
            f"differentiate a loss that depends on what {told.kind} holds before optimizer.step()",
            None,
        )
    norms = [n for e in steps if (n := fact(e, "grad_norm"))]
    if not steps or not norms or not rates:
        return None
    return (
        f"gradients came (norm {number(max(norms))}), but at rate {number(max(rates))} the updates are smaller than "
        "the number format resolves",
        f"a larger rate{at(told.place)}, or parameters in float32 (autocast instead of .bfloat16())",
        {"kind": "lr", "factor": 1000.0},
    )


def no_gradient_reaches(seen: Seen) -> list[Finding] | None:
    """The graph is cut (detach, .data, no_grad, argmax, NumPy, a tensor built anew): gradients are None, not small.

    Error: backward ran, and nothing in any network got a gradient at 3 steps; or the layers that run first get none
    though they ran in 3 training passes, an optimizer that steps holds them, and later layers get theirs. A hint where
    layers before them get gradients: then it may be an output that nobody uses. Silent: side branches that run last (a
    pooler); what no optimizer holds or is frozen; what did not run (heads of other tasks, experts); optimizers that do
    not step yet; gradients of exactly zero; layers whose gradients were cleared (other rules).
    """
    if seen.n_backward < STEPS:
        return None
    whole = _nothing_reached(seen)
    if whole is not None:
        return [whole]
    said = []
    for root in seen.roots.values():
        said += list(_cut(seen, root))
    return said or None


def _nothing_reached(seen: Seen) -> Finding | None:
    steps = seen.of("step")
    passes = seen.of("backward")
    if len(steps) < STEPS or any(fact(e, "grads") != "none" or fact(e, "closure") for e in steps):
        return None
    if any(fact(e, "reached") for e in passes) or any(x.n_grad for r in seen.roots.values() for x in r.layers.values()):
        return None
    losses = [e for e in seen.of("loss") if e.who is not None]
    place = most_common_place(passes) or most_common_place(losses)
    ended = f" ({fact(passes[-1], 'grad_fn')})" if passes and fact(passes[-1], "grad_fn") else ""
    return Finding(
        "no-gradient-reaches",
        "error",
        "what is differentiated does not depend on the network",
        f"{seen.n_backward} backward passes{at(place)}{ended} reached no parameter of any optimizer; at "
        f"{count(len(steps), 'step')} no gradient existed",
        "differentiate the loss itself, as computed from the network's outputs: not loss.item(), .data, .detach(), "
        "argmax, NumPy or torch.tensor(...) of it",
        place,
        step=steps[0].step,
    )


def _cut(seen: Seen, root: RootSeen) -> Iterator[Finding]:
    steps = {key for key, o in seen.optimizers.items() if o.n_steps >= STEPS}
    layers = sorted(root.layers.values(), key=lambda x: x.order)
    ran = [x for x in layers if x.requires_grad and (x.calls_train >= STEPS or x.n_grad)]
    without = [x for x in ran if not x.n_grad and x.n_grad_missing >= STEPS and steps & set(x.optimizers)]
    reached = [x.order for x in layers if x.n_grad and x.order]  # 0: never called as a module
    elsewhere = any(x.n_grad for r in seen.roots.values() if r.key != root.key for x in r.layers.values())
    if not without or not (reached or elsewhere) or loop.zero_grad_before_step(seen):
        return
    first = [x for x in without if not reached or x.order < min(reached)]
    middle = [x for x in without if reached and min(reached) < x.order < max(reached)]
    for found, sure in ((first, True), (middle, False)):
        if not found:
            continue
        after = next((x for x in layers if x.n_grad and x.order > found[-1].order), None)
        cut = f"between {found[-1].path} and {after.path}" if after else f"behind {root.kind}"
        yield Finding(
            "no-gradient-reaches",
            "error" if sure else "hint",
            "the graph is cut: layers never get a gradient" if sure else "layers run, but no gradient reaches them",
            f"{_names(found, root)} of {root.kind} ran in {max(x.calls_train for x in found)} training passes and had "
            f"no gradient at {max(x.n_grad_missing for x in found)} steps of the optimizer that holds them"
            + (f"; {after.path} ({after.kind}), which runs later, had one {after.n_grad} times" if after else ""),
            f"look {cut} for .detach(), .data, torch.no_grad(), argmax, NumPy or torch.tensor(...)"
            + ("" if sure else "; or their output is not used: then leave them out")
            + (f"; {where(root.place, 'is where it is called')}" if root.place else ""),
            root.place,
            module=found[-1].path or None,
            step=0,
        )


def decay_on_norm_or_bias(seen: Seen) -> list[Finding] | None:
    """Weight decay pulls biases and norm scales towards zero as well. A hint, from a decay of 0.001 on.

    Silent: 1e-4 (usual for residual networks, harmless there); groups of their own without decay.
    """
    said = []
    for told in seen.optimizers.values():
        groups = [g for g in told.groups if g.get("weight_decay", 0.0) >= DECAY and g.get("n_small", 0)]
        if not told.n_steps or not groups:
            continue
        n_small = sum(g["n_small"] for g in groups)
        decay = max(g["weight_decay"] for g in groups)
        if n_small >= told.n_tensors:  # nothing but such parameters: meant so
            continue
        said.append(
            Finding(
                "decay-on-norm-or-bias",
                "hint",
                "weight decay also pulls on biases and norm scales",
                f"{told.kind}{f' ({told.place})' if told.place else ''} decays by {number(decay)} also {n_small} "
                f"biases or norm scales of its {count(told.n_tensors, 'tensor')}",
                f'change{at(told.place)}: {told.kind}([{{"params": [p for p in model.parameters() if p.dim() > 1]}}, '
                '{"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}], ...)',
                told.place,
                step=0,
            )
        )
    return said or None
