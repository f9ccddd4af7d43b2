"""Rules of the family 'model': what the network hands to the loss, and in which shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.seen import BatchesSeen, LossSeen, Seen

ODD_PROBABILITIES = 5
"""Calls whose rows were all probabilities, when it is not known what made them. One could be chance (a batch of one
row); logits of any network that learns leave the simplex within a step."""
ODD_UNIT_RANGE = 20
"""The same for logits between 0 and 1. A fresh network may give small positive logits for a few steps; one that
learns pushes the negatives below 0 well before."""
RAW = ("Addmm", "Mm", "Bmm", "Linear", "Convolution", "Add", "Mul", "Einsum", "Div", "Sub", "Dot")
"""Operations that make unbounded numbers: what comes out of them and lies between 0 and 1 does so by chance."""
FAR_ABOVE_CHANCE = 5.0
"""First loss over the loss of chance at which it is a warning. PyTorch's own initialisation on inputs of up to ±10
(physical units, left as they are) reaches 2 to 4 times; unscaled images and broken initialisations 10 to 1000."""
ABOVE_CHANCE = 2.0
"""... and at which it is worth a hint, if it is also one nat above."""
SOON = 20
"""Steps by which a loss that started above chance must have come down to it once, where starting high is by design."""
A_VOCABULARY = 50
"""Outputs from which they may be words or letters, of which the first is often none."""
MANY_EACH = 20
"""Rows per label seen before 'this output is never a label' is said: at random, a class as frequent as the others
stays unseen with probability exp(−20)."""

CROSS_ENTROPY = ("cross_entropy",)
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "bce_with_logits")


def _logits_loss(loss: LossSeen) -> bool:
    return loss.name in ("binary_cross_entropy_with_logits", "bce_with_logits")


def _made_by(seen: Seen, loss: LossSeen, function: str) -> bool:
    """Whether autograd or the network's last module says that ``function`` made the input of this loss."""
    name = loss.input_fn.lower()
    return (function in name and "log" not in name) or reading.ends_in(seen, loss, function) is not None


def softmax_before_cross_entropy(seen: Seen) -> Iterator[Finding] | list[Finding] | NotChecked:
    """Cross-entropy takes logits; a softmax in front of it squeezes them into 0..1.

    Checked: the rows that reach ``cross_entropy`` are probabilities (not negative, sum 1) at every watched call. One
    call is enough when a softmax is known to have made them, :data:`ODD_PROBABILITIES` otherwise. Must not hit:
    log-softmax (its rows do not sum to 1, and it is harmless), softmax inside attention, ``nll_loss(log(p))``,
    logits of one column, similarities of a contrastive loss.
    """
    losses = [x for x in seen.losses if x.name in ("cross_entropy", "nll_loss") and x.n_watched]
    if not losses:
        return NotChecked("softmax-before-cross-entropy", "no cross_entropy or nll_loss was called with gradients")
    return (found for x in losses if (found := _softmax_in(seen, x)))


def _softmax_in(seen: Seen, loss: LossSeen) -> Finding | None:
    known = _made_by(seen, loss, "softmax")
    enough = loss.rows_sum_to_one >= (1 if known else ODD_PROBABILITIES)
    if not enough or loss.rows_sum_to_one < loss.n_watched or (loss.n_outputs or 0) < 2:
        return None
    last = reading.ends_in(seen, loss, "softmax")
    place = loss.activation_place or (last.place if last else None)
    n = loss.n_outputs or 2
    rows = f"in {loss.rows_sum_to_one} of {loss.n_watched} watched calls at {loss.place} all rows summed to 1"
    if loss.name == "nll_loss":
        return Finding(
            "softmax-before-cross-entropy",
            "warning",
            "nll_loss receives probabilities, not their logarithms",
            f"{rows}; the loss is −p instead of −log p and falls to −1",
            f"{_at(place)}replace softmax by log_softmax, or hand the logits to F.cross_entropy",
            place=loss.place,
            step=0,
        )
    floor = math.log(math.e + n - 1) - 1
    return Finding(
        "softmax-before-cross-entropy",
        "error",
        "softmax is applied before cross_entropy, which applies it again",
        f"{rows} (made by {loss.input_fn or 'softmax'}); with {n} classes such a loss cannot fall below {floor:.3f}",
        f"{_at(place)}return the logits: drop the softmax before cross_entropy; apply it only to show probabilities",
        place=place or loss.place,
        module=last.path if last else None,
        step=0,
        cure={"kind": "drop_softmax"},
    )


def sigmoid_before_bce_with_logits(seen: Seen) -> Iterator[Finding] | list[Finding] | NotChecked:
    """``binary_cross_entropy_with_logits`` applies the sigmoid itself.

    Checked: its inputs lie within 0..1 at every watched call. One call is enough when a sigmoid is known to have made
    them; else :data:`ODD_UNIT_RANGE` calls, and only a warning, and not when a linear map made them. Must not hit:
    sigmoid with ``binary_cross_entropy`` (right), logits that start small, a zero-initialised last layer.
    """
    losses = [x for x in seen.losses if _logits_loss(x) and x.n_watched]
    if not losses:
        return NotChecked("sigmoid-before-bce-with-logits", "no binary_cross_entropy_with_logits was called")
    return (found for x in losses if (found := _sigmoid_in(seen, x)))


def _sigmoid_in(seen: Seen, loss: LossSeen) -> Finding | None:
    known = _made_by(seen, loss, "sigmoid")
    by_chance = loss.input_fn.startswith(RAW) or not loss.input_fn
    if loss.in_unit_range < loss.n_watched or (not known and (by_chance or loss.n_watched < ODD_UNIT_RANGE)):
        return None
    last = reading.ends_in(seen, loss, "sigmoid")
    place = loss.activation_place or (last.place if last else None)
    return Finding(
        "sigmoid-before-bce-with-logits",
        "error" if known else "warning",
        "sigmoid is applied before binary_cross_entropy_with_logits, which applies it again",
        f"in {loss.in_unit_range} of {loss.n_watched} watched calls at {loss.place} all inputs lay within 0 to 1 "
        f"(made by {loss.input_fn or 'sigmoid'}): no probability below 0.5 or above 0.731 can be told, "
        f"and the loss of a negative cannot fall below {math.log(2):.3f}",
        f"{_at(place)}return the logits: drop the sigmoid, or keep it and use F.binary_cross_entropy",
        place=place or loss.place,
        module=last.path if last else None,
        step=0,
        cure={"kind": "drop_sigmoid"} if known else None,
    )


def initial_loss_off(seen: Seen) -> Iterator[Finding] | list[Finding] | NotChecked:
    """The first loss is far above what outputs that know nothing give (ln classes, ln 2).

    Checked: first value (averaged over rows) over chance. Warning from :data:`FAR_ABOVE_CHANCE`, hint from
    :data:`ABOVE_CHANCE` and one nat above. Must not hit: a loss below chance (pretrained, resumed), weighted losses,
    contrastive ones (their classes are the batch), summed losses (the value is averaged). Token networks get a hint
    when their loss was down to chance once within :data:`SOON` steps: an output tied to an embedding of unit variance
    starts high by design.
    """
    losses = [x for x in seen.losses if x.chance and x.first_value is not None and not x.weighted]
    losses = [x for x in losses if not reading.pair_like(x) and math.isfinite(x.first_value or math.nan)]
    if not losses:
        return NotChecked("initial-loss-off", "no unweighted classification loss of PyTorch was called")
    return (found for x in losses if (found := _off_in(seen, x)))


def _off_in(seen: Seen, loss: LossSeen) -> Finding | None:
    value, chance = loss.first_value or 0.0, loss.chance or 1.0
    root = reading.trained(seen, loss.root)
    inputs = next((b for b in seen.train_batches() if root is None or b.root == root.key), None)
    tokens = inputs is not None and not inputs.floating
    if value < ABOVE_CHANCE * chance or value < chance + 1:
        return None
    large = inputs is not None and inputs.floating and math.hypot(inputs.mean, inputs.std) > FAR_ABOVE_CHANCE
    why = f"; inputs have standard deviation {inputs.std:.3g}" if inputs is not None and large else ""
    last = reading.in_order(root)[-1:] if root else []
    first = [v for _, v, who in seen.loss_history if loss.root is None or who == loss.root][:SOON]
    lasting = tokens and len(first) >= SOON and min(first) > chance
    why += f"; after {SOON} steps it was still {first[-1]:.3f}" if lasting else ""
    return Finding(
        "initial-loss-off",
        "warning" if value >= FAR_ABOVE_CHANCE * chance and (lasting or not tokens) else "hint",
        "the first loss is far above chance: the network starts out confident and wrong",
        f"first loss {value:.3f} at {loss.place}; outputs that know nothing give {chance:.3f} "
        f"({value / chance:.1f} times less){why}",
        "normalise the inputs: x = (x - mean) / std"
        if large
        else "start with small outputs: scale the last layer's weights down, e.g. "
        f"model.{last[0].path if last else 'head'}.weight.data.mul_({chance / value:.2g}), and its bias to 0",
        place=loss.place,
        module=last[0].path if last else None,
        step=0,
        cure={"kind": "normalise"} if large else None,
    )


def output_labels_mismatch(seen: Seen) -> Iterator[Finding] | list[Finding] | NotChecked:
    """Outputs and labels do not fit: too few, one alone, targets outside 0..1, or outputs that are never a label.

    Checked: an exception 'Target 10 is out of bounds' (error); cross_entropy over a single output, whose loss is 0
    whatever the network does (error); binary cross-entropy with targets outside 0..1, which has no lower bound
    (error); at most half of the outputs ever a label after :data:`MANY_EACH` rows for each label seen, or every output
    a label but the first (hints). Must not hit: vocabularies (tokens, one label a position), segmentation, contrastive
    losses, ignored labels.
    """
    if not seen.losses and not _out_of_bounds(seen):
        return NotChecked("output-labels-mismatch", "no classification loss of PyTorch was called with gradients")
    told = [_out_of_bounds(seen)]
    told += [_single_output(x) for x in seen.losses] + [_targets_outside(x) for x in seen.losses]
    told += [_outputs_unused(seen, b) or _first_unused(seen, b) for b in seen.train_batches()]
    return [f for f in told if f is not None]


def _out_of_bounds(seen: Seen) -> Finding | None:
    said = re.search(r"Target (-?\d+) is out of bounds", str((seen.error or {}).get("message", "")))
    if not said:
        return None
    label = int(said[1])
    n = next((x.n_outputs for x in seen.losses if x.n_outputs and not 0 <= label < x.n_outputs), None)
    outputs = f"; the network has {n} outputs (labels 0 to {n - 1})" if n else ""
    fix = "labels start at 0; targets = targets - 1 if yours start at 1"
    return Finding(
        "output-labels-mismatch",
        "error",
        "a label has no output",
        f"cross_entropy stopped at label {label}{outputs}",
        f"give the last layer {label + 1} outputs, or check the labels ({fix})" if label >= 0 else fix,
        place=reading.place_of((seen.error or {}).get("place")),
        step=seen.n_steps,
    )


def _single_output(loss: LossSeen) -> Finding | None:
    zero = loss.first_value is not None and abs(loss.first_value) < 1e-6
    if loss.name not in CROSS_ENTROPY or loss.n_outputs != 1 or not zero or loss.n_calls < 2:
        return None
    return Finding(
        "output-labels-mismatch",
        "error",
        "cross_entropy over one output is always 0",
        f"{loss.n_calls} calls at {loss.place} with 1 column; first loss {loss.first_value:.3g}, gradient 0",
        "give the network one output per class, or use F.binary_cross_entropy_with_logits(output, target.float())",
        place=loss.place,
        step=0,
    )


def _targets_outside(loss: LossSeen) -> Finding | None:
    low, high = loss.target_low, loss.target_high
    slack = 1e-3  # rounding of targets kept in half precision
    if loss.name not in BINARY or low is None or high is None or (low >= -slack and high <= 1 + slack):
        return None
    return Finding(
        "output-labels-mismatch",
        "error",
        "binary cross-entropy gets targets outside 0 to 1",
        f"targets at {loss.place} run from {low:g} to {high:g}; the loss then has no lower bound",
        "targets = (targets > 0).float() for labels −1/1; targets - 1 for labels 1/2",
        place=loss.place,
        step=0,
    )


def _outputs_unused(seen: Seen, batches: BatchesSeen) -> Finding | None:
    counts = {k: c for k, c in batches.label_counts.items() if k >= 0}
    total, n = sum(counts.values()), batches.n_classes or 0
    ordinary = batches.label_dims == 1 and batches.floating and len(counts) >= 2
    pairs = any(reading.pair_like(x) for x in seen.losses if x.root == batches.root)
    sorted_rows = batches.label_pairs > 0 and batches.label_changes < 0.2 * batches.label_pairs
    if not ordinary or pairs or sorted_rows or 2 * len(counts) > n or total < MANY_EACH * len(counts):
        return None
    return Finding(
        "output-labels-mismatch",
        "hint",
        "most outputs are never a label",
        f"the network has {n} outputs; {total} rows had only {len(counts)} labels ({min(counts)} to {max(counts)})",
        f"give the last layer {max(counts) + 1} outputs if there are no other classes",
        place=batches.place,
    )


def _first_unused(seen: Seen, batches: BatchesSeen) -> Finding | None:
    counts, n = batches.label_counts, batches.n_classes or 0
    total = sum(counts.values())
    all_others = n > 2 and sorted(counts) == list(range(1, n))
    pairs = any(reading.pair_like(x) for x in seen.losses if x.root == batches.root)
    if batches.label_dims != 1 or not all_others or n > A_VOCABULARY or pairs or total < MANY_EACH * len(counts):
        return None
    return Finding(
        "output-labels-mismatch",
        "hint",
        "the first output is never a label: labels start at 1",
        f"the network has {n} outputs; the labels of {total} rows run from 1 to {n - 1}, none is 0",
        f"target = target - 1 and {n - 1} outputs, unless class 0 is yet to come",
        place=batches.place,
    )


def loss_broadcasts(seen: Seen) -> list[Finding] | NotChecked:
    """Output and target have different shapes, and the loss pairs every output with every target.

    Checked: at one watched call the shapes differ in their number of dimensions (or are (N,1) and (1,N)) and broadcast
    to something larger than either, e.g. (N,1) against (N,) gives (N,N); likewise for handwritten losses. One call is
    enough: the network can then only learn the mean of all targets. Must not hit: a scalar or one-element target
    (``torch.ones(1)`` of a GAN), pairs made on purpose by ``unsqueeze`` on both sides (quantile regression, ranking,
    contrastive), one target for several heads.
    """
    if not seen.losses and not seen.broadcasts and not seen.n_backward:
        return NotChecked("loss-broadcasts", "no loss was computed")
    told = [_broadcast_in(x) for x in seen.losses] + [_handwritten(b) for b in seen.broadcasts]
    return [f for f in told if f is not None]


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The common shape, None when there is none."""
    n = max(len(a), len(b))
    pairs = list(zip((1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b, strict=True))
    return tuple(max(p) for p in pairs) if all(x == y or 1 in (x, y) for x, y in pairs) else None


def _crossed(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which rows of ``a`` meet other rows of ``b`` by accident; None when they do not."""
    both = _broadcast(a, b)
    if both is None or math.prod(both) <= max(math.prod(a), math.prod(b)):
        return None
    return both if len(a) != len(b) or len(a) == 2 else None


def _broadcast_in(loss: LossSeen) -> Finding | None:
    if not loss.shapes_differ:
        return None
    output, target = tuple(loss.input_shape), tuple(loss.target_shape)
    if output == target and len(output) == 1:
        target = (*target, 1)  # autograd tells the target's size alone; only a column differs from a row
    both = _crossed(output, target)
    if both is None:
        return None
    return _mixed(
        f"at {loss.place} output {_shape(output)} met target {_shape(target)} in "
        f"{loss.shapes_differ} of {loss.n_watched} watched calls; {loss.name} compared {_shape(both)}: "
        f"{math.prod(both)} pairs for {math.prod(output)} outputs",
        "target = target.view_as(output)",
        loss,
    )


def _mixed(evidence: str, line: str, loss: LossSeen) -> Finding:
    return Finding(
        "loss-broadcasts",
        "error",
        "output and target have different shapes; every output is compared with every target",
        evidence,
        f"make both the same shape before {loss.name}: {line}",
        place=loss.place,
        step=0,
    )


def _handwritten(told: dict) -> Finding | None:
    output, difference = tuple(told.get("output_shape", ())), tuple(told.get("difference_shape", ()))
    shapes = [tuple(s) for s in told.get("shapes") or ()]
    on_purpose = bool(told.get("both_grad")) or (len(shapes) == 2 and len(shapes[0]) == len(shapes[1]))
    if on_purpose or math.prod(difference) <= math.prod(output):
        return None
    return Finding(
        "loss-broadcasts",
        "error",
        "output and target have different shapes; every output is compared with every target",
        f"at {reading.place_of(told.get('place'))} the network gave {_shape(output)}, the difference to the target has "
        f"{_shape(difference)}: {math.prod(difference)} pairs for {math.prod(output)} outputs",
        "make both the same shape before subtracting: target = target.view_as(output)",
        place=reading.place_of(told.get("place")),
        step=told.get("step"),
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"


def _at(place: object) -> str:
    return f"{place}: " if place else ""
