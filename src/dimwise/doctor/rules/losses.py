"""What the loop does with its losses: are they finite, are they let go, can they be had again?"""

from __future__ import annotations

import math

from dimwise.doctor.finding import Finding
from dimwise.doctor.rules.trace import at, count, fact, most_common_place, number, where
from dimwise.doctor.seen import Seen

RECOVERED = 3
"""Finite losses after the last one that was not, from which on it counts as overcome."""
FEW = 5
"""A loss that is lost within so many passes was never under control: the rate is the first suspect."""
GRAPHS = 8
"""Old graphs that must be alive: with those of the last 5 steps, which are not counted, 13. A window of the last 10
losses kept for a moving mean stays below it."""
FLAT = 10
"""Backward passes without one more graph after which what is kept is bounded: a window, not a leak."""


def loss_not_finite(seen: Seen) -> Finding | None:
    """A loss that is NaN or infinite was differentiated.

    Only what reaches backward counts: a loop that looks at its loss and skips the batch is well. Error when the losses
    stay so; a warning when they recover; silent when they recover under a GradScaler or in a line search, which both
    try such points and step back.
    """
    history = seen.loss_history
    bad = [i for i, (_, value, _) in enumerate(history) if not math.isfinite(value)]
    if not bad:
        return None
    step, value, root = history[bad[0]]
    recovered = len(history) - bad[-1] > RECOVERED
    guarded = any(o.fused_or_scaled for o in seen.optimizers.values()) or any(
        fact(e, "closure") for e in seen.of("step")
    )
    if recovered and guarded:
        return None
    before = [v for _, v, r in history[: bad[0]] if r == root]
    place = most_common_place(seen.of("backward"))
    trend, cure = "at the first pass", None
    remedy = "look at the inputs and the first outputs: torch.autograd.set_detect_anomaly(True) names the operation"
    if before:
        trend = f"the losses before were {', '.join(number(v) for v in before[-3:])}"
        if abs(before[-1]) > 10 * max(abs(before[0]), 1e-12) or len(before) < FEW:
            lr = next((o.groups[0].get("lr") for o in seen.optimizers.values() if o.groups), None)
            remedy = f"a smaller rate{f', lr={number(lr / 10)}' if lr else ''}, and after loss.backward(){at(place)}: "
            remedy += "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
            cure = {"kind": "lr", "factor": 0.1}
    nan = seen.roots[root].nan if root is not None and root in seen.roots else None
    origin = f"; first seen in the {nan['what']} of '{nan['module']}'" if nan and nan.get("module") else ""
    return Finding(
        "loss-not-finite",
        "warning" if recovered else "error",
        "the loss became NaN or infinite",
        f"the loss differentiated{at(place)} was {number(value)} at step {step} ({trend}); {len(bad)} of "
        f"{len(history)} losses were not finite{origin}",
        remedy,
        place,
        module=nan.get("module") if nan else None,
        step=step,
        cure=cure,
    )


def graph_retained(seen: Seen) -> Finding | None:
    """Loss tensors are kept with their graphs, so memory grows with every step.

    Counts autograd graphs of losses older than 5 steps that still exist. Speaks when the number climbs to 8 or more.
    Silent: a window of the last few losses (it stops to grow), losses of an episode or of accumulated batches (no 5
    steps between), one first loss kept for reference.
    """
    alive = [(e, int(fact(e, "alive", 0))) for e in seen.of("backward")]
    if not alive:
        return None
    peak = max(range(len(alive)), key=lambda i: alive[i][1])
    n_peak = alive[peak][1]
    start = max((i for i in range(peak) if alive[i][1] <= 1), default=0)
    if n_peak < GRAPHS or n_peak - alive[start][1] < GRAPHS - 1:
        return None
    after = [n for _, n in alive[peak : peak + FLAT]]
    if len(after) == FLAT and min(after) >= n_peak - 1:
        return None  # as many as before, for ten passes: bounded
    event = alive[peak][0]
    retains = bool(fact(event, "retain"))
    place = event.place
    remedy = (
        f"detach what one step hands to the next (hidden = hidden.detach()) and drop retain_graph=True{at(place)}"
        if retains
        else "keep the number instead of the tensor where losses are added or appended: loss.item()"
    )
    return Finding(
        "graph-retained",
        "warning",
        "losses are kept together with their graphs",
        f"at step {event.step}, {where(place, 'backward()')} met the autograd graphs of {n_peak} losses older than 5 "
        f"steps still in memory; at step {alive[start][0].step} it was {alive[start][1]}"
        + (" (retain_graph=True)" if retains else ""),
        remedy,
        place,
        step=event.step,
    )


def unseeded(seen: Seen) -> Finding | None:
    """Nothing was seeded before the first forward pass, so the run cannot be repeated. A hint; needs one step."""
    if seen.seeded or not seen.n_steps or "transformers" in seen.frameworks:  # its Trainer seeds by itself
        return None
    root = next(seen.trained_roots(), None)
    place = root.place if root else None
    return Finding(
        "unseeded",
        "hint",
        "no seed was set",
        f"torch was not seeded before the first forward pass{at(place)}; {count(seen.n_steps, 'step')} followed",
        "before the network is built insert: torch.manual_seed(0)",
        place,
        step=0,
    )
