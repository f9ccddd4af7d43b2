"""The size of steps and gradients: rate too high or too low, gradients that explode or vanish.

Usual numbers, for scale. ‖Δw‖/‖w‖ of one step: Adam at 1e-3 moves a freshly made layer of 784 inputs by 5 % at its
first step, of 64 inputs by 1.4 %, and by ten times less once its updates stop to agree; SGD at 0.1 with momentum moves
networks with batch norms by up to 5 %; fine-tuning with Adam at 1e-5 by 1e-5 to 1e-3. A loss alone proves nothing (the
losses of adversaries and of policies rise while all is well): each rule needs what the weights and gradients say too.
"""

from __future__ import annotations

import math

from dimwise.doctor.finding import Finding, NotChecked, Place
from dimwise.doctor.rules.reading import in_order, mixes
from dimwise.doctor.rules.trace import BOUNDED, at, count, fact, is_new, loss_series, median, most_common_place, number
from dimwise.doctor.seen import FULL_STEPS, Event, LayerSeen, OptimizerSeen, RootSeen, Seen

MOVE = 0.2
"""‖Δw‖/‖w‖ of the median layer in one step. Adam at 1e-3 reaches it only for layers of more than 12 000 inputs, and at
1e-2 in a first step; alone it proves nothing, so the loss must have suffered as well."""
NO_BETTER = 0.9
"""Share of the first loss that the last ones must have come below, after such steps."""
SUFFERED = 2.0
"""Times the first loss that the second largest one reached."""
THROWN = 1.0
SHAKEN = 1.5
"""A step that moves the median layer by its own size leaves nothing of how it was initialised: where the loss rose by
half as well, the rate is to blame, also when the network later learns from the ruins."""
ENOUGH = 10
"""Losses to compare; a first batch may be an odd one."""
TAIL = 5
"""Last losses whose median is the loss now."""
TINY = 100
"""Parameters below which a weight near zero makes any step large in proportion."""
STANDING = 5e-5
"""‖Δw‖/‖w‖ that the median layer reaches at no step: to change by its own size once takes 20 000 steps in one
direction. Fine-tuning with Adam at 1e-5 lies above it (about 5e-4); momentum lifts a hopeless rate up to it."""
LONG = 50
"""Steps before a rate is called too low: a warm-up may need so many."""
STILL = 0.99
"""Share of the first losses above which the last ones stand still. A hopeless rate takes 0.2 % off in a hundred steps;
plain SGD at 1e-3, slow but alive, 1.5 % in two hundred."""
FELL = 0.95
"""Share of the first losses below which a loss has fallen, though it may not have come below chance yet; and below
which the few losses that are seen after the first stretch must lie, one batch being harder than another."""
LATER = 3
"""Losses from after the first stretch (one window of watching) before they are heard."""
FIRST = 0.02
"""Largest ‖Δw‖/‖w‖ that a lowered rate aims at: what Adam at 1e-3 does in its first step on layers of usual width."""
GOOD = 3e-3
"""‖Δw‖/‖w‖ that a raised rate aims at."""
AMPLIFIED = 1e3
"""Norm of the whole gradient over that of the loss's own with regard to its input: the network multiplies by a
thousand. Usual are 0.01 to 10, up to 100 in the first steps of deep networks."""
SCALED_INPUT = 10.0
"""Standard deviation of the inputs above which a large gradient is the inputs' doing (pixels of 0 to 255)."""
SPIKE = 50.0
SPIKE_START = 10.0
"""Times the median, and times the first norms: at the end of training gradients are small and one hard batch is 50
times that; it is not 10 times what training began with."""
SPIKES = 3
UNCLEARED = 3
"""Steps with gradients of earlier batches that make a habit; missing-zero-grad speaks from as many on."""
FADED = 1e-4
"""Gradient per weight in the first quarter of the layers as a share of that in the last. Ten plain layers lose as much;
residual and normalised networks stay within 0.01 to 100."""
DEEP = 4
"""Layers with a weight matrix below which nothing can fade."""


def lr_too_high(seen: Seen) -> list[Finding] | None:
    """Steps so large that the weights are thrown about, and the loss is no better for it.

    The median layer moved by 20 % of its size or more in a step, and, after at least 10 comparable losses, the last
    ones are not 10 % better than the first, while either the loss had at least doubled (or was lost) or the steps
    stayed so large. Or it moved by its whole size and the loss rose by half: a warning when the network later learns
    from the ruins. Within 20 steps. Silent: large first steps that the loss survives; tiny networks; line searches;
    losses that cannot be compared (policies, adversaries); small steps whose loss rises anyway; uncleared gradients
    (another rule: what is too large is the sum, and the rate may be right); gradients that explode before any step.
    """
    said = []
    for root in seen.trained_roots():
        told = _moved_by(seen, root)
        losses = loss_series(seen, root.key)
        if told is None or told.kind == "LBFGS" or root.n_params < TINY or len(losses) < ENOUGH:
            continue
        if _adds_up(seen, told) or (not seen.of("clip", told.key) and _amplified(seen, root)):
            continue
        if not root.update_ratio or not math.isfinite(losses[0][1]) or losses[0][1] <= 0:
            continue
        # NaN is no size: a gradient that was NaN turns the weights into it, however small the rate
        step, move = max(root.update_ratio, key=lambda x: -1.0 if math.isnan(x[1]) else x[1])
        start, values = losses[0][1], [v for _, v in losses]
        lost = any(not math.isfinite(v) for v in values)
        now = values[-1] if lost else median(values[-TAIL:])
        worst = math.inf if lost else sorted(values)[-2]
        lasting = len(values) >= 2 * ENOUGH and median(r for _, r in root.update_ratio[: 2 * ENOUGH]) >= MOVE
        suffered = worst >= SUFFERED * start or lasting
        better = math.isfinite(now) and now < NO_BETTER * start
        thrown = move >= THROWN and worst >= SHAKEN * start
        if math.isnan(move) or move < MOVE or not (thrown or (suffered and not better)):
            continue
        lr = _rate(told)
        reach = FIRST / move if math.isfinite(move) else 0.0
        factor = 10.0 ** max(-4, min(-1, round(math.log10(max(reach, 1e-4)))))
        said.append(
            Finding(
                "lr-too-high",
                "warning" if better else "error",
                "the learning rate is too high",
                f"at step {step} the median layer of {root.kind} moved by {number(move)}× its own size (usual: "
                f"0.001 to 0.05); the loss began at {number(start)}, rose to {number(max(values, key=_size))} and is "
                f"{number(now)} after {len(values)} passes; rate {number(lr)}{_by(told)}",
                f"change{at(told.place)}: lr={number(lr * factor)}",
                told.place,
                step=step,
                cure={"kind": "lr", "factor": factor},
            )
        )
    return said or None


def _adds_up(seen: Seen, told: OptimizerSeen) -> bool:
    """Whether its gradients are added to those that earlier steps had used, at 3 steps or more."""
    return sum(bool(fact(e, "stale")) for e in seen.of("step", told.key)) >= UNCLEARED


def _size(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _moved_by(seen: Seen, root: RootSeen) -> OptimizerSeen | None:
    return next((o for o in seen.optimizers.values() if root.key in o.roots and o.n_steps), None)


def _rate(told: OptimizerSeen) -> float:
    rates = [r for _, group in told.lr_history for r in group if math.isfinite(r)]
    return max(rates, default=math.nan)


def _by(told: OptimizerSeen) -> str:
    return f" ({told.kind}, {told.place})" if told.place else f" ({told.kind})"


def lr_too_low(seen: Seen) -> list[Finding | NotChecked] | None:
    """A network fresh from its initialiser hardly moves, though it has gradients and its loss stands still.

    Needs 50 steps, watched one by one. All of: most of its weights look as an initialiser leaves them; its median layer
    moved by less than 5e-5 of its size at every step; gradients are there; the last quarter of the losses is within
    1 % of the first, or of chance where the first ones lie above it, and the rest of the run, as far as it was looked
    at, is no better. Silent: fine-tuning (trained weights), ends of schedules and converged runs (they moved more
    before), a warm-up that is still rising, gradients that vanish on their way (another rule: no rate helps there).
    """
    if vanishing_gradients(seen):
        return None
    said: list[Finding | NotChecked] = []
    for root in seen.trained_roots():
        told = _moved_by(seen, root)
        moves = [r for _, r in root.update_ratio if math.isfinite(r)]
        if told is None or not moves or max(moves) >= STANDING or max(moves) == 0:  # zero: parameters-never-change
            continue
        if len(moves) < LONG:
            said.append(NotChecked("lr-too-low", f"needs {LONG} watched steps, saw {len(moves)}"))
            continue
        rates = [max(group) for _, group in told.lr_history if group]
        if len(rates) > 1 and rates[-1] >= max(rates) > rates[0]:
            said.append(NotChecked("lr-too-low", "the rate is still rising"))
            continue
        losses = [v for _, v in loss_series(seen, root.key)]
        norm = median(n for _, n in root.grad_norm)
        if not is_new(root) or not norm > 0 or len(losses) < LONG:
            continue
        first, last, still = _course(seen, root)
        if not still:
            continue
        lr = _rate(told)
        factor = 10.0 ** max(1, min(6, round(math.log10(GOOD / max(moves)))))
        said.append(
            Finding(
                "lr-too-low",
                "warning",
                "the learning rate is too low",
                f"in {len(moves)} steps the median layer of {root.kind} moved at most by {number(max(moves))} of its "
                f"size a step (usual: 0.001 to 0.05): {number(1 / max(moves))} steps to change once; gradient norm "
                f"{number(norm)}, loss {number(first)} to {number(last)}; rate {number(lr)}{_by(told)}",
                f"change{at(told.place)}: lr={number(lr * factor)}",
                told.place,
                step=0,
                cure={"kind": "lr", "factor": factor},
            )
        )
    return said or None


def _course(seen: Seen, root: RootSeen) -> tuple[float, float, bool]:
    """(loss at first, loss at last, whether that is a standstill).

    A network whose first outputs are off loses what is above chance to its last bias alone: that is no learning yet.
    """
    series = loss_series(seen, root.key)
    losses = [v for _, v in series]
    quarter = len(losses) // 4
    first, last = median(losses[:quarter]), median(losses[-quarter:])
    chances = {x.chance for x in seen.losses if x.root == root.key and x.name == "cross_entropy" and not x.weighted}
    chance = chances.pop() if len(chances) == 1 else None
    later = [v for step, v in series if step >= FULL_STEPS]
    fallen = last < FELL * first or (len(later) >= LATER and median(later) < FELL * first)
    return first, last, not fallen and last >= STILL * min(first, chance or first) > 0


def exploding_gradients(seen: Seen) -> list[Finding] | None:
    """Gradients that are infinite, that the network multiplies a thousandfold, or that shoot up again and again.

    - NaN or infinite gradients without a GradScaler, while the loss is finite: error.
    - A norm above 1000 times that of the loss's own gradient (about 1 for cross-entropy, 2·√loss for mean squares) at 5
      of the first 20 steps, or at all of them before the loss was lost, with inputs of usual size: error. Not when
      steps had thrown the weights about before (``lr-too-high``).
    - 3 spikes of 50 times the median and 10 times the first norms, under a named loss: warning.
    Silent: clipped gradients (that is the cure), GradScaler's first steps, sums instead of means, other losses
    without a bound (they carry the scale of their targets), uncleared gradients (another rule), small gradients that
    grow.
    """
    said = []
    for root in seen.trained_roots():
        told = _moved_by(seen, root)
        if told is None or told.fused_or_scaled or seen.of("clip", told.key):
            continue
        if any(fact(e, "stale") for e in seen.of("step", told.key) if not fact(e, "closure")):
            continue
        found = _broken(root) or _amplified(seen, root) or _spikes(seen, root)
        if found is None:
            continue
        severe, evidence, module, step = found
        place = _backward_place(seen, root)
        said.append(
            Finding(
                "exploding-gradients",
                "error" if severe else "warning",
                "gradients explode",
                evidence,
                f"after loss.backward(){at(place)} insert: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
                + ("; and begin with smaller weights, or normalise between the layers" if severe else ""),
                place,
                module=module,
                step=step,
                cure={"kind": "clip", "max_norm": 1.0},
            )
        )
    return said or None


def _backward_place(seen: Seen, root: RootSeen) -> Place | None:
    return most_common_place(e for e in seen.of("backward") if e.who in (root.key, None))


def _broken(root: RootSeen) -> tuple[bool, str, str | None, int] | None:
    broken = [x for x in in_order(root) if x.n_grad_nonfinite and x.first_nonfinite_step is not None]
    if not broken or (root.nan and root.nan.get("what") in ("input", "loss", "output", "weights")):
        return None
    last = max(broken, key=lambda x: (-(x.first_nonfinite_step or 0), x.order))
    told = f"the gradient of '{last.path}' was NaN or infinite at {last.n_grad_nonfinite} steps, first at step "
    return (
        True,
        told + f"{last.first_nonfinite_step}, while the loss was finite",
        last.path,
        last.first_nonfinite_step or 0,
    )


def _amplified(seen: Seen, root: RootSeen) -> tuple[bool, str, str | None, int] | None:
    passes = [e for e in seen.of("backward", root.key) if fact(e, "loss")]
    if not passes or any(_own_gradient(e) is None for e in passes):
        return None
    if any(abs(b.std) > SCALED_INPUT or abs(b.mean) > SCALED_INPUT for b in seen.train_batches() if b.root == root.key):
        return None
    own = {e.step: _own_gradient(e) or 1.0 for e in passes}
    early = root.grad_norm[: 2 * ENOUGH]
    large = [(s, n) for s, n in early if n >= AMPLIFIED * own.get(s, 1.0)]
    n_alive = sum(math.isfinite(n) for _, n in early)
    cut_short = n_alive < len(early) and len(large) >= n_alive  # the loss was lost before five, and all were large
    if not large or (len(large) < TAIL and not cut_short) or _thrown_before(root, large[0][0]):
        return None
    layers = [x for x in in_order(root) if mixes(x) and x.grad_norm]
    shape = ""
    if len(layers) > 1:
        first, last = (median(n for _, n in x.grad_norm[:TAIL]) for x in (layers[0], layers[-1]))
        shape = f"; {number(last)} in '{layers[-1].path}', {number(first)} in '{layers[0].path}'"
    step, most = max(large, key=lambda x: x[1] if math.isfinite(x[1]) else 0.0)
    told = (
        f"the gradient of {root.kind} had a norm of {number(AMPLIFIED)} times that of {fact(passes[0], 'loss')} itself "
        f"or more at {len(large)} of the first {count(len(early), 'step')}: {number(most)} at step {step}, where the "
        f"loss's own is at most {number(own.get(step, 1.0))}{shape}"
    )
    return True, told, layers[0].path if layers else None, large[0][0]


def _own_gradient(event: Event) -> float | None:
    """Norm that the gradient of a loss with regard to its input has at most; None when it cannot be told.

    1 for the bounded ones as a mean. Of the mean of n squares it is 2·√(loss/n), at most 2·√loss: large losses of
    unscaled targets have large gradients in networks that multiply by nothing.
    """
    if fact(event, "reduction") != "mean" or fact(event, "scaled"):
        return None
    if fact(event, "loss") == "mse_loss":
        value = fact(event, "value")
        return max(1.0, 2 * math.sqrt(value)) if value is not None and math.isfinite(value) else 1.0
    return 1.0 if fact(event, "loss") in BOUNDED else None


def _thrown_before(root: RootSeen, step: int) -> bool:
    """Whether steps had thrown the weights about before that step: then its gradient shows what they made of them."""
    return any(not r < MOVE for s, r in root.update_ratio if s < step)


def _spikes(seen: Seen, root: RootSeen) -> tuple[bool, str, str | None, int] | None:
    norms = [(s, n) for s, n in root.grad_norm if math.isfinite(n)]
    if len(norms) < 2 * ENOUGH or not any(fact(e, "loss") for e in seen.of("backward", root.key)):
        return None
    usual, start = median(n for _, n in norms), median(n for _, n in norms[:TAIL])
    spikes = [(s, n) for s, n in norms[TAIL:] if n > SPIKE * usual and n > SPIKE_START * start]
    if len(spikes) < SPIKES:
        return None
    told = (
        f"the gradient norm of {root.kind} is usually {number(usual)} and shot up {len(spikes)} times, at step "
        f"{spikes[0][0]} to {number(spikes[0][1])}, at most to {number(max(n for _, n in spikes))}"
    )
    return False, told, None, spikes[0][0]


def vanishing_gradients(seen: Seen) -> list[Finding] | None:
    """The first layers get gradients ten thousand times smaller than the last ones.

    Compares the gradient per weight (norm / √n) of the first and the last quarter of the layers that mix units, over
    the later half of the first 20 steps, so that a last layer that begins at zero has grown by then: the median layer
    of the last quarter with the largest of the first and of what comes before it (norms, tables). Needs 4 layers and
    10 steps. Silent: a first layer that alone gets little (queries and keys do while attention is even) beside others
    that get enough; frozen layers; dead units (another rule); converged runs (both ends are small).
    """
    said = []
    for root in seen.trained_roots():
        layers = [x for x in in_order(root) if mixes(x) and x.requires_grad and len(x.grad_norm) >= ENOUGH]
        if len(layers) < DEEP or any(a.dead_frac and a.dead_frac[-1][1] >= 0.5 for a in root.activations):
            continue
        n = max(1, len(layers) // 4)
        front, back = layers[:n], layers[-n:]
        until = [x for x in in_order(root) if x.order <= front[-1].order and len(x.grad_norm) >= ENOUGH]
        low, high = max(map(_per_weight, until)), median(map(_per_weight, back))
        if not high > 0 or not low < FADED * high:
            continue
        squash = next((a for a in root.activations if a.function in ("sigmoid", "tanh")), None)
        remedy = (
            f"ReLU or GELU instead of {squash.function}{at(squash.place)}, or a norm or skip connection between layers"
            if squash
            else "a norm or a skip connection between layers, or He's initialisation: nn.init.kaiming_normal_(weight)"
        )
        said.append(
            Finding(
                "vanishing-gradients",
                "warning",
                "gradients vanish on their way to the first layers",
                f"over {len(front[0].grad_norm)} steps the gradient per weight of {root.kind} is at most "
                f"{number(low)} up to '{front[-1].path}' and {number(high)} in '{back[-1].path}': {number(low / high)} "
                f"of it after {len(layers)} layers",
                remedy,
                squash.place if squash else root.place,
                module=front[0].path or None,
                step=front[0].grad_norm[0][0],
            )
        )
    return said or None


def _per_weight(layer: LayerSeen) -> float:
    norms = [n for _, n in layer.grad_norm[: 2 * ENOUGH]]
    return median(norms[len(norms) // 2 :]) / math.sqrt(max(1, math.prod(layer.shape)))
