"""Rules of the family 'model' about activations: units that never fire, units that are stuck at an end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.seen import ActivationSeen, RootSeen, Seen

LOOKS = 3
"""Looks at which it must hold. A unit can be off for one batch; three batches in a row are a state."""
LONG_LOOKS = 10
"""The same for outputs of a few units, which a run of similar targets can switch off for a while."""
FEW_UNITS = 8
ROWS = 16
"""Values per unit and batch below which 'off for the whole batch' says nothing: at a healthy sparsity of 90 % a unit
is off for 4 rows with probability 0.66, for 16 with 0.19, for 32 with 0.03."""
ALL_DEAD = 0.995
"""No unit but a stray one fires: nothing passes this layer, forwards or backwards. An error."""
MOST_DEAD = 0.8
"""A warning. Late layers of healthy, trained convolutional networks have up to half of their channels off for a
batch; four fifths is a collapse."""
MANY_DEAD = 0.6
"""A hint. Above the half that chance gives when all rows are alike (a control task's first states)."""
MOST_SATURATED = 0.9
"""A warning: at nine tenths of the outputs the slope is below 2 % of its maximum, so hardly any gradient passes.
Healthy tanh networks stay below a half."""
MANY_SATURATED = 0.7
"""A hint; a warning when it was so from the first look on: what a network has learnt may need its ends, but none starts
there (fresh tanh networks on inputs of unit scale have a few percent)."""


def dead_activations(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Units of a ReLU that are zero for every row of the batch, batch after batch: no gradient reaches them again.

    Checked: the fraction of such units at each of the last :data:`LOOKS` looks. Not the fraction of zeros: 50 to 90 %
    zeros is how ReLU works. Must not hit: sparse but living units, batches of few rows, frozen layers, units that take
    turns (their weights' gradients are not always zero), the hinge of a loss.
    """
    found = [(r, a) for r in seen.trained_roots() for a in r.activations if a.dead_frac]
    if not found:
        return NotChecked("dead-activations", "no ReLU was seen in a training pass")
    alike = {b.root for b in seen.train_batches() if 2 * b.n_constant > b.n_batches}
    found = [(r, a) for r, a in found if r.key not in alike]  # a unit off for one of equal rows is off for all
    return _one_a_module((a, f) for r, a in found if (f := _dead_in(r, a)))


def _one_a_module(found: Iterable[tuple[ActivationSeen, Finding]]) -> Iterator[Finding]:
    """The first of each module: a recurrent cell applies the same function at every position."""
    told: set[tuple[str, str]] = set()
    for act, finding in found:
        name = (reading.module_of(act), act.function)
        if name not in told:
            told.add(name)
            yield finding


def _n_values(act: ActivationSeen) -> int:
    """Values per unit: rows, times positions when units are channels."""
    values = act.shape[0] if act.shape else 0
    for n in act.shape[2:] if len(act.shape) > 3 else ():
        values *= n
    return values


def _dead_in(root: RootSeen, act: ActivationSeen) -> Finding | None:
    n_units = act.shape[1] if len(act.shape) > 3 else (act.shape[-1] if len(act.shape) > 1 else 0)
    looks = LOOKS if n_units >= FEW_UNITS else LONG_LOOKS
    dead = reading.lowest_of_last(act.dead_frac, looks)
    beside = reading.around(root, reading.module_of(act))
    if n_units == 0 or dead < MANY_DEAD or _n_values(act) < ROWS or reading.all_frozen(beside):
        return None
    if n_units < FEW_UNITS and dead < ALL_DEAD:
        return None
    known = [x.always_dead_frac for x in beside if x.always_dead_frac is not None and reading.mixes(x)]
    if dead < ALL_DEAD and known and max(known) < dead / 2:
        return None  # each unit gets a gradient now and then: they take turns
    zeros = f", {reading.percent(act.zero_frac[-1][1])} of outputs zero" if act.zero_frac else ""
    alive = [step for step, v in act.dead_frac if v < MANY_DEAD]
    since = f"since step {next(s for s, _ in act.dead_frac if s > alive[-1])}" if alive else "from the first look on"
    severity = "error" if dead >= ALL_DEAD else "warning" if dead >= MOST_DEAD else "hint"
    return Finding(
        "dead-activations",
        severity,  # type: ignore[arg-type]
        "units never fire: no gradient passes them and they cannot recover",
        f"{act.function} in '{act.path or root.kind}': {reading.percent(dead)} of {n_units} units were zero for all "
        f"{_n_values(act)} values at each of the last {looks} looks, {since}{zeros}",
        "lower the learning rate (units die in one large step)"
        if alive
        else "initialise with torch.nn.init.kaiming_normal_(layer.weight); torch.nn.init.zeros_(layer.bias), "
        "and normalise the inputs",
        place=act.place,
        module=reading.module_of(act) or None,
        step=next((s for s, v in act.dead_frac if v >= MANY_DEAD), None),
        cure={"kind": "lr", "factor": 0.1} if alive else None,
    )


def saturated_activations(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Hidden sigmoids or tanhs whose outputs sit at the ends of their range, where the slope is nearly zero.

    Checked: fraction of outputs within 1 % of an end, at each of the last :data:`LOOKS` looks. Must not hit: outputs
    (a discriminator's sigmoid, a generator's tanh, a decoder's sigmoid: no layer follows them), gates (a sigmoid
    beside a tanh in one cell, which may stay open on purpose), softmax, frozen layers.
    """
    found = [(r, a) for r in seen.trained_roots() for a in r.activations if a.saturated_frac]
    if not found:
        return NotChecked("saturated-activations", "no sigmoid or tanh was seen in a training pass")
    return _one_a_module((a, f) for r, a in found if (f := _saturated_in(r, a)))


def _saturated_in(root: RootSeen, act: ActivationSeen) -> Finding | None:
    stuck = reading.lowest_of_last(act.saturated_frac, LOOKS)
    later = act.order > 0 and any(x.order > act.order for x in root.layers.values())
    if act.function not in ("sigmoid", "tanh") or stuck < MANY_SATURATED or act.is_last or not later:
        return None
    cell = [a for a in root.activations if reading.module_of(a) == reading.module_of(act) and a.saturated_frac]
    gated = len({a.function for a in cell}) > 1
    if gated and any(reading.lowest_of_last(a.saturated_frac, LOOKS) < MANY_SATURATED for a in cell):
        return None
    if reading.all_frozen(reading.around(root, reading.module_of(act))):
        return None
    before = [x for x in reading.in_order(root) if x.order <= act.order and x.grad_norm]
    weak = f"; gradient norm of '{before[-1].path}' before it: {before[-1].grad_norm[-1][1]:.2g}" if before else ""
    at_first = min(v for _, v in act.saturated_frac) >= MANY_SATURATED
    return Finding(
        "saturated-activations",
        "warning" if stuck >= MOST_SATURATED or at_first else "hint",
        f"{act.function} is saturated: hardly any gradient passes it",
        f"{act.function} in '{act.path or root.kind}': {reading.percent(stuck)} of its outputs lay within 1 % of an "
        f"end of the range at each of the last {LOOKS} looks ({reading.percent(act.saturated_frac[0][1])} at step "
        f"{act.saturated_frac[0][0]}){weak}",
        "normalise the inputs and initialise with torch.nn.init.xavier_normal_(layer.weight)"
        if at_first
        else "lower the learning rate, or use nn.ReLU() or a normalisation before it",
        place=act.place,
        module=reading.module_of(act) or None,
        step=next((s for s, v in act.saturated_frac if v >= MANY_SATURATED), None),
        cure=None if at_first else {"kind": "lr", "factor": 0.1},
    )
