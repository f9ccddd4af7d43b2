"""Read a loss's autograd graph before it is differentiated: which loss, of what, through which activations.

PyTorch's own nodes keep what their derivative needs (``_saved_result``, ``_saved_target``, ...). Reading them shows
the loss function, its targets, softmax before cross-entropy, shapes that broadcast, and every ReLU, sigmoid and tanh
on the way, however the user wrote them, without replacing a single function.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dimwise.doctor.seen import ActivationSeen, LossSeen
from dimwise.doctor.watch import inputs
from dimwise.doctor.watch.live import Live, Pass
from dimwise.doctor.watch.place import here

_MAX_NODES = 20_000
_NAMES = {
    "NllLossBackward0": "nll_loss",
    "NllLoss2DBackward0": "nll_loss",
    "BinaryCrossEntropyBackward0": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogitsBackward0": "binary_cross_entropy_with_logits",
    "MseLossBackward0": "mse_loss",
    "L1LossBackward0": "l1_loss",
    "SmoothL1LossBackward0": "smooth_l1_loss",
    "HuberLossBackward0": "huber_loss",
    "KlDivBackward0": "kl_div",
}
_REDUCTIONS = {0: "none", 1: "mean", 2: "sum"}
_SCALINGS = ("MulBackward0", "DivBackward0")
_REARRANGING = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "T",
    "Permute",
    "Select",
    "Slice",
    "Index",
    "Expand",
    "Clone",
    "ToCopy",
    "Alias",
)
"""Operations that move values about and leave them as they are: what made the values lies below."""
_ACTIVATIONS = {
    "ReluBackward0": "relu",
    "ThresholdBackward0": "relu",
    "SigmoidBackward0": "sigmoid",
    "TanhBackward0": "tanh",
}


@dataclass
class Walked:
    """What was found between a loss and the parameters."""

    passes: list[Pass] = field(default_factory=list)
    losses: list[Any] = field(default_factory=list)
    """(name, node, node of its input)"""
    top: Any = None
    """The node under the scaling of the whole loss."""
    scaled: bool = False
    parameters: set[int] = field(default_factory=set)
    """id of the leaf tensors that gradients will reach."""
    activations: list[tuple[str, Any, str, bool]] = field(default_factory=list)
    """(function, node, path of the module it belongs to or that feeds it, whether it makes a root's output)"""
    feeds_broadcast: list[Any] = field(default_factory=list)


def walk(tensor: Tensor, *, deep: bool, scaler: bool) -> Walked:
    """Breadth first from the loss; stops at the roots' outputs unless ``deep``."""
    found = Walked()
    node: Any = tensor.grad_fn
    if node is None:
        return found
    top, skip = node, scaler
    while type(top).__name__ in _SCALINGS and sum(n is not None for n, _ in top.next_functions) == 1:
        found.scaled = found.scaled or not (skip or _by_one(top))
        skip = False
        top = next(n for n, _ in top.next_functions if n is not None)
    found.top = top
    waiting, seen_nodes = deque([node]), {node}
    while waiting and len(seen_nodes) < _MAX_NODES:
        node = waiting.popleft()
        name = type(node).__name__
        if name == "AccumulateGrad":
            found.parameters.add(id(node.variable))
            continue
        told = node.metadata
        hung = told.get("dimwise") if told else None
        if hung is not None:
            found.passes.append(hung)
        if name in _NAMES:
            found.losses.append((_NAMES[name], node, node.next_functions[0][0] if node.next_functions else None))
        elif name == "MeanBackward0" or name == "SumBackward0":
            found.feeds_broadcast.append(node)
        elif deep and name in _ACTIVATIONS:
            path = told.get("dimwise_path") if told else None
            found.activations.append((_ACTIVATIONS[name], node, path or _feeder(node), hung is not None))
        for other, _ in node.next_functions:
            if other is not None and other not in seen_nodes:
                seen_nodes.add(other)
                waiting.append(other)
    return found


def _by_one(node: Any) -> bool:
    """Whether a multiplication or division changes nothing."""
    other = getattr(node, "_saved_other", None)
    return isinstance(other, Tensor) and other.numel() == 1 and float(other.detach()) == 1.0


def _down_to_maker(node: Any) -> list[Any]:
    """``node`` and what lies below it, to the operation that made its values; between only what rearranges them."""
    way: list[Any] = []
    while node is not None:
        way.append(node)
        name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
        node = next((n for n, _ in node.next_functions if n is not None), None) if name in _REARRANGING else None
    return way


def _feeder(node: Any) -> str:
    """Path of the nearest tagged module below, for a function called inside somebody's forward."""
    for _ in range(6):
        node = next((n for n, _ in node.next_functions if n is not None), None)
        if node is None:
            return ""
        path = (node.metadata or {}).get("dimwise_path")
        if path:
            return f"{path} →"
    return ""


def losses(live: Live, found: Walked, value: float | None) -> tuple[str | None, str | None]:
    """File what each loss function was given; returns (name, reduction) of the one that is the whole loss."""
    whole: tuple[str | None, str | None] = (None, None)
    for name, node, feeding in found.losses:
        reduction = _REDUCTIONS.get(int(getattr(node, "_saved_reduction", 1)), "mean")
        way = _down_to_maker(feeding)
        if name == "nll_loss" and way and type(way[-1]).__name__ == "LogSoftmaxBackward0":
            name = "cross_entropy"  # of sequences it gives the loss its log-softmax in another shape
            way = _down_to_maker(way[-1].next_functions[0][0])
        kind = type(way[-1]).__name__ if way else ""
        whole = (name, reduction) if node is found.top or _is_smoothed(found.top, node) else whole
        made = found.passes[0] if found.passes else None
        told = _loss_seen(live, name, made, here(4))
        told.n_calls += 1
        told.reduction, told.input_fn = reduction, kind
        told.n_watched += 1
        _judge(live, told, name, node, way, made, value if node is found.top and not found.scaled else None)
    return whole


def _is_smoothed(top: Any, node: Any) -> bool:
    """Whether ``top`` is cross-entropy with label smoothing, which PyTorch makes of this node and the mean log-odds."""
    if type(top).__name__ != "AddBackward0" or len(top.next_functions) != 2:
        return False
    ends = [_down_to(n, "LogSoftmaxBackward0") for n, _ in top.next_functions]
    log_softmax = node.next_functions[0][0] if node.next_functions else None
    return ends[0] is not None and ends[0] is ends[1] is log_softmax


def _down_to(node: Any, name: str, most: int = 8) -> Any:
    """The first operation of that name below, along the first operands; None when there is none nearby."""
    for _ in range(most):
        if node is None or type(node).__name__ == name:
            return node
        node = next((n for n, _ in node.next_functions if n is not None), None)
    return None


def _loss_seen(live: Live, name: str, made: Pass | None, place: Any) -> LossSeen:
    root = made.root if made is not None else None
    for told in live.seen.losses:
        if told.name == name and told.root == root and told.place == place:
            return told
    told = LossSeen(name, place, root)
    live.seen.losses.append(told)
    return told


def _judge(
    live: Live, told: LossSeen, name: str, node: Any, way: list[Any], made: Pass | None, value: float | None
) -> None:
    given, target = getattr(node, "_saved_self", None), getattr(node, "_saved_target", None)
    if given is None or target is None:
        return
    told.weighted = told.weighted or any(
        getattr(node, w, None) is not None for w in ("_saved_weight", "_saved_pos_weight")
    )
    told.input_shape, told.target_shape = tuple(given.shape), tuple(target.shape)
    _target_range(told, node, target)
    if made is not None:
        live.seen.roots[made.root].outputs_meet_loss = True
    with torch.no_grad():
        if name in ("cross_entropy", "nll_loss"):
            n_classes = int(given.shape[1] if given.dim() > 1 else given.shape[0])
            told.n_outputs, told.chance = n_classes, math.log(max(2, n_classes))
            if given.dim() == 2 and len(live.seen.accuracy_history) < 2000:
                right = float((given.argmax(1) == target).float().mean())
                live.seen.accuracy_history.append((live.step, right))
            if made is not None:
                inputs.labels(live, made, target, n_classes, weighted=told.weighted)
            if name == "cross_entropy":
                told.rows_sum_to_one += told.input_fn == "SoftmaxBackward0" or any(map(_gave_probabilities, way))
            else:
                told.rows_sum_to_one += probabilities(given)
        elif name == "binary_cross_entropy_with_logits":
            told.chance = math.log(2)
            told.in_unit_range += _unit(given) and (
                told.input_fn == "SigmoidBackward0" or (given.numel() >= 16 and made is not None)
            )
            _binary_labels(live, made, target, told)
        elif name == "binary_cross_entropy":
            told.chance = math.log(2)
            _binary_labels(live, made, target, told)
        if told.first_value is None:
            told.first_value = _mean_value(name, node, given, target, told.reduction, value)
        if name.endswith(("mse_loss", "l1_loss", "huber_loss")):
            _shapes(told, node)


def _target_range(told: LossSeen, node: Any, target: Tensor) -> None:
    kept = target.detach()
    if not kept.is_floating_point():
        ignored = int(getattr(node, "_saved_ignore_index", -100))
        kept = kept[kept != (ignored - 2**64 if ignored >= 2**63 else ignored)]
    if kept.numel():
        low, high = (float(v) for v in torch.aminmax(kept))
        told.target_low = low if told.target_low is None else min(told.target_low, low)
        told.target_high = high if told.target_high is None else max(told.target_high, high)


def _binary_labels(live: Live, made: Pass | None, target: Tensor, told: LossSeen) -> None:
    if made is None or target.numel() > 1_000_000:
        return
    one = target.detach().squeeze(-1) if target.dim() == 2 and target.shape[-1] == 1 else target.detach()
    if one.dim() == 1 and bool(((one == 0) | (one == 1)).all()):
        inputs.labels(live, made, one.long(), 2, weighted=told.weighted)


def _gave_probabilities(node: Any) -> bool:
    """Whether this operation ended a pass whose every row is a distribution, whichever way that was computed."""
    made = (node.metadata or {}).get("dimwise")
    return made is not None and bool(made.probabilities)


def probabilities(given: Tensor) -> bool:
    """Whether all rows are distributions over several outcomes, along the axis of classes or the last one."""
    rows = given.detach().float()
    if rows.dim() < 2 or not bool((rows >= 0).all()):
        return False
    return any(bool(((rows.sum(axis) - 1).abs() < 1e-3).all()) for axis in {1, rows.dim() - 1})


def _unit(given: Tensor) -> bool:
    low, high = torch.aminmax(given.detach().float())
    return 0.0 <= float(low) and float(high) <= 1.0 and float(high) > 0.0


def _mean_value(
    name: str, node: Any, given: Tensor, target: Tensor, reduction: str, value: float | None
) -> float | None:
    """The loss as a mean over its elements, whatever was done with it later."""
    if name in ("cross_entropy", "nll_loss"):
        ignored = int(getattr(node, "_saved_ignore_index", -100))
        keep = target != (ignored - 2**64 if ignored >= 2**63 else ignored)  # it is handed out unsigned
        if not bool(keep.any()):
            return value
        chosen = given.detach().gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1)
        return float(-chosen[keep].float().mean())
    if name == "binary_cross_entropy_with_logits":
        return float(torch.nn.functional.binary_cross_entropy_with_logits(given.detach().float(), target.float()))
    return value if reduction == "mean" else None


def _shapes(told: LossSeen, node: Any) -> None:
    shapes = [
        tuple(int(s) for s in n._saved_self_sym_sizes)
        for n, _ in node.next_functions
        if n is not None and type(n).__name__ == "ExpandBackward0"
    ]
    whole = tuple(node._saved_self.shape)
    for shape in shapes:
        if math.prod(shape) < math.prod(whole):
            told.shapes_differ += 1
            told.input_shape = shape
            n = math.prod(shape)
            told.target_shape = (n,) if whole == (n, n) else tuple(node._saved_target.shape)
            return


def broadcasts(live: Live, found: Walked) -> None:
    """A handwritten loss whose difference became (N, N) while the output has N elements."""
    if not found.passes or len(live.seen.broadcasts) >= 20:
        return
    n_out = found.passes[0].output_numel
    if n_out < 2:
        return
    for node in found.feeds_broadcast:
        sizes = getattr(node, "_saved_self_sym_sizes", None)
        if sizes is None or math.prod(int(s) for s in sizes) != n_out * n_out or len(sizes) != 2:
            continue
        below = node
        for _ in range(4):
            below = next((n for n, _ in below.next_functions if n is not None), None)
            if below is None:
                break
            if type(below).__name__ in ("SubBackward0", "RsubBackward0"):
                sides = [n for n, _ in below.next_functions if n is not None]
                live.seen.broadcasts.append(
                    {
                        "step": live.step,
                        "place": str(here(4)),
                        "output_shape": list(found.passes[0].output_shape),
                        "difference_shape": [int(s) for s in sizes],
                        "both_grad": len(sides) > 1,
                    }
                )
                return


def activations(live: Live, found: Walked) -> None:
    """How many units are dead or saturated, at every ReLU, sigmoid and tanh between loss and inputs."""
    if not found.passes:
        return
    root = live.seen.roots[found.passes[0].root]
    order = live.root_by_key[root.key].order
    counts: dict[tuple[str, str], int] = {}
    for function, node, path, is_last in found.activations:
        result = getattr(node, "_saved_result", None)
        if result is None or result.numel() == 0:
            continue
        times = counts[(path, function)] = counts.get((path, function), 0) + 1
        told = _activation_seen(root.activations, path, function, times)
        told.order = order.get(path.removesuffix(" →"), 0)
        told.is_last, told.shape = told.is_last or is_last, tuple(result.shape)
        with torch.no_grad():
            _squashed(told, function, result.detach(), live.step)


def _activation_seen(known: list[ActivationSeen], path: str, function: str, times: int) -> ActivationSeen:
    name = path if times == 1 else f"{path} ({times})"
    for told in known:
        if told.path == name and told.function == function:
            return told
    told = ActivationSeen(name, function)
    if len(known) < 256:
        known.append(told)
    return told


def _squashed(told: ActivationSeen, function: str, result: Tensor, step: int) -> None:
    if function == "relu":
        zero = result == 0
        told.zero_frac.append((step, float(zero.float().mean())))
        if result.dim() >= 2:
            # Units are channels of maps (B, C, H, W), else the last dimension: (B, C), (B, T, C).
            units = zero.movedim(1 if result.dim() >= 4 else -1, 0)
            told.dead_frac.append((step, float(units.reshape(units.shape[0], -1).all(1).float().mean())))
        return
    low = 0.0 if function == "sigmoid" else -1.0
    edge = 0.01 * (1.0 - low)
    told.saturated_frac.append((step, float(((result < low + edge) | (result > 1.0 - edge)).float().mean())))
