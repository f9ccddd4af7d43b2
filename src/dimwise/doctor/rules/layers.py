"""Rules of the family 'model' about layers: how they start, what they are fed, which are idle."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.seen import LayerSeen, RootSeen, Seen

STUCK_LOOKS = 5
"""Backward passes with an all-zero gradient after which a zero weight counts as stuck. Zero-initialised last layers,
residual scales and LoRA's B get a gradient at the first pass, what lies before them at the second."""
NEARLY_ALL = 0.9
"""Fraction of a network's weight matrices that start at zero from which it is no design: residual networks that start
as the identity zero up to a half."""
LARGE_GAIN = 5.0
"""std × sqrt(fan_in / 2): 1 keeps the size of activations through a ReLU layer (He et al. 2015), PyTorch's default
gives 0.4. At 5 each layer multiplies them by 5; N(0, 1) weights on 64 inputs have 5.7."""
LOSS_BEYOND_CHANCE = 3.0
"""First loss over chance that confirms that a large initialisation harms; without it there is only a hint."""
BLOWN_UP = 100.0
"""The same where no loss tells of chance (regression, autoencoders): root mean square of the first outputs over that of
the inputs. PyTorch's own initialisation gives 0.1 to 1, He's about 1."""
TINY_VALUES = 8
"""Values per channel below which batch statistics are noise: the variance of n values has a relative standard error
of sqrt(2 / (n − 1)), 53 % at 8, 82 % at 4."""
TINY_ROWS = 2
"""Rows per batch at which batch statistics harm even with many positions a row: ResNet-50 on ImageNet loses 11 points
at 2 images (Wu & He 2018, Group Normalization, fig. 1), 3 at 4."""
TINY_CALLS = 5
"""Calls before it is said."""
GOOD_ROWS = 32
"""Batch size offered as the cure: where the same figure finds no loss."""
IDLE_PASSES = 10
"""Training passes before a module counts as unused; branches that alternate come up within a few."""


def bad_initialisation(seen: Seen) -> list[Finding] | NotChecked:
    """Weights that start equal, at zero for good, or far too large.

    Checked: a hidden weight matrix whose elements are all equal (error: all units compute the same); nearly all
    matrices zero, or a zero matrix whose gradient stayed zero for :data:`STUCK_LOOKS` passes (error); gain above
    :data:`LARGE_GAIN` in a network without normalisation whose first loss, or where no loss tells of chance whose first
    outputs confirm it (warning; unconfirmed a hint).
    Must not hit: norm scales, depthwise averages, zero-initialised last layers, residual scales, LoRA's B, frozen
    layers, embeddings, pretrained weights.
    """
    roots = [r for r in seen.trained_roots() if any(x.init for x in r.layers.values())]
    if not roots:
        return NotChecked("bad-initialisation", "no layer of a trained network was seen before its first step")
    told = [f for r in roots for f in (_constant(r), _zero(r), _too_large(seen, r))]
    return [f for f in told if f is not None]


def _matrices(root: RootSeen) -> list[LayerSeen]:
    return [x for x in reading.in_order(root) if reading.mixes(x) and x.init]


def _constant(root: RootSeen) -> Finding | None:
    hidden = _matrices(root)[:-1]  # equal rows of the last layer get different gradients from different labels
    equal = [x for x in hidden if x.init.get("constant") and not x.init.get("zero") and x.requires_grad]
    # one input a unit: behind the first layer that is a depthwise filter, whose units see different channels
    same = [x for x in equal if x.shape[0] > 1 and (x.shape[1] > 1 or x is hidden[0])]
    if not same:
        return None
    first = same[0]
    return Finding(
        "bad-initialisation",
        "error",
        "all weights of a layer start equal, so all its units compute and learn the same",
        f"{_names(same)}: all elements of {first.path}.{first.weight} {tuple(first.shape)} were "
        f"{first.init.get('mean', 0.0):.3g} at first sight; {first.shape[0]} units act as one",
        f"torch.nn.init.kaiming_normal_(model.{first.path}.{first.weight})",
        place=root.place,
        module=first.path,
        step=0,
    )


def _zero(root: RootSeen) -> Finding | None:
    matrices = _matrices(root)
    zero = [x for x in matrices if x.init.get("zero") and x.requires_grad]
    stuck = [x for x in zero if x.n_grad >= STUCK_LOOKS and x.n_grad_zero == x.n_grad]
    nearly_all = len(zero) >= max(2, NEARLY_ALL * len(matrices))
    if not nearly_all and not stuck:
        return None
    told = stuck or zero
    first = told[0]
    still = f"; its gradient was zero at all {first.n_grad} watched passes" if stuck else ""
    return Finding(
        "bad-initialisation",
        "error",
        "weights start at zero and pass no gradient",
        f"{len(zero)} of {len(matrices)} weight matrices of {root.kind} were all zero at first sight ({_names(told)})"
        f"{still}",
        f"torch.nn.init.kaiming_normal_(model.{first.path}.{first.weight}); only a last layer may start at zero",
        place=root.place,
        module=first.path,
        step=0,
    )


def _gain(layer: LayerSeen) -> float:
    return float(layer.init.get("std", 0.0)) * math.sqrt(max(float(layer.init.get("fan_in", 0) or 0), 1.0) / 2)


def _too_large(seen: Seen, root: RootSeen) -> Finding | None:
    if any(reading.is_norm(x.kind) for x in root.layers.values()):
        return None  # a norm divides the scale out again
    large = [x for x in _matrices(root) if x.requires_grad and _gain(x) >= LARGE_GAIN]
    if not large:
        return None
    worst = max(large, key=_gain)
    losses = [x for x in seen.losses if reading.trained(seen, x.root) is root and x.chance and x.first_value]
    beyond = max(((x.first_value or 0.0) / (x.chance or 1.0) for x in losses), default=0.0)
    if losses and beyond <= 1:
        return None  # it knows its task already: pretrained
    blown_up = _amplification(seen, root) if not losses else 0.0
    confirmed = beyond >= LOSS_BEYOND_CHANCE or blown_up >= BLOWN_UP
    good = float(worst.init["std"]) / _gain(worst)
    so = f"; the first loss was {beyond:.1f} times that of chance" if beyond >= LOSS_BEYOND_CHANCE else ""
    so = so or (f"; the first outputs were {blown_up:.0f} times as large as the inputs" if confirmed else "")
    return Finding(
        "bad-initialisation",
        "warning" if confirmed else "hint",
        "weights start far too large",
        f"{_names(large)}: {worst.path}.{worst.weight} had standard deviation {worst.init['std']:.3g} with "
        f"{worst.init.get('fan_in')} inputs a unit; {good:.3g} keeps the size of activations, so it multiplies them by "
        f"{_gain(worst):.1f}{so}",
        f"torch.nn.init.kaiming_normal_(model.{worst.path}.{worst.weight})  # standard deviation {good:.3g}",
        place=root.place,
        module=worst.path,
        step=0,
    )


def _amplification(seen: Seen, root: RootSeen) -> float:
    """Size of the first outputs over that of the inputs; 0 when either is not known."""
    sizes = [math.hypot(b.mean, b.std) for b in seen.train_batches() if b.root == root.key and b.floating]
    largest = max((x for x in sizes if math.isfinite(x)), default=0.0)
    return (root.first_output_size or 0.0) / largest if largest > 0 else 0.0


def dropout_in_eval(seen: Seen) -> list[Finding] | NotChecked:
    """Dropout or noise that stays on in evaluation: two passes over one input differ.

    Checked, while the network was in evaluation mode: calls of ``F.dropout`` with training=True from the network's own
    forward, of Dropout modules that ``model.eval()`` cannot reach, and of modules of the user's own that draw random
    numbers there to change one tensor and have no weights (dropout or noise written by hand). Must not hit:
    Monte-Carlo dropout, which switches its registered modules to training itself, samplers (a VAE's from mean and
    variance, Gumbel-softmax), and networks that were never evaluated.
    """
    if not any(r.n_eval_forwards or r.n_grad_eval_forwards for r in seen.roots.values()):
        return NotChecked("dropout-in-eval", "no network was evaluated")
    return [f for r in seen.roots.values() if (f := _dropout_in(r))]


def _dropout_in(root: RootSeen) -> Finding | None:
    passes = root.n_eval_forwards + root.n_grad_eval_forwards
    if root.functional_dropout_in_eval:
        what = f"{root.functional_dropout_in_eval} calls of F.dropout(training=True)"
        remedy = "x = F.dropout(x, p, training=self.training)"
    elif root.unregistered_dropout_in_eval:
        what = f"{root.unregistered_dropout_in_eval} calls of unregistered Dropout modules"
        remedy = "register it: self.dropout = nn.Dropout(p), or nn.ModuleList([...]) for several"
    elif root.own_noise_in_eval:
        what = f"{root.own_noise_in_eval} calls of a module that draws random numbers, though in evaluation mode,"
        remedy = "begin its forward with: if not self.training: return x"
    else:
        return None
    return Finding(
        "dropout-in-eval",
        "warning",
        "dropout stays on in evaluation: the same input gives different outputs",
        f"{what} in {passes} evaluation passes of {root.kind}, first at {root.dropout_place}",
        remedy,
        place=root.dropout_place,
    )


def batchnorm_tiny_batch(seen: Seen) -> list[Finding] | NotChecked:
    """Batch statistics of too few values.

    Checked: at three quarters of the recent calls in training mode fewer than :data:`TINY_VALUES` values a channel, or
    at most :data:`TINY_ROWS` rows; or PyTorch refused ('Expected more than 1 value per channel'). Must not hit: a
    small last batch of an epoch, norms frozen in evaluation mode, norms of a sample's own (layer, group, instance),
    SyncBatchNorm, whose batch is spread over processes.
    """
    refused = _refused(seen)
    norms = [(r, x) for r in seen.trained_roots() for x in r.layers.values() if x.batch_n and "Sync" not in x.kind]
    if not norms and refused is None:
        return NotChecked("batchnorm-tiny-batch", "no batch norm ran in training mode")
    tiny = [(r, x) for r, x in norms if _is_tiny(x)]
    if not tiny:
        return [refused] if refused else []
    root, layer = tiny[0]
    n, values = int(reading.typical(layer.batch_n)), int(reading.typical(layer.batch_rows))
    return [
        Finding(
            "batchnorm-tiny-batch",
            "warning",
            "batch norm estimates its statistics from too few rows",
            f"{len(tiny)} batch norms of {root.kind}, first '{layer.path}': typically {n} rows, {values} values a "
            f"channel, in {len(layer.batch_n)} watched calls",
            f"a batch of at least {GOOD_ROWS}, or nn.GroupNorm(8, channels) in place of {layer.kind}",
            place=root.place,
            module=layer.path,
            step=0,
            cure={"kind": "batch_size", "size": GOOD_ROWS},
        )
    ]


def _is_tiny(layer: LayerSeen) -> bool:
    calls = list(zip(layer.batch_n, layer.batch_rows, strict=False))
    few = sum(n <= TINY_ROWS or values < TINY_VALUES for n, values in calls)
    return "Batch" in layer.kind and len(calls) >= TINY_CALLS and few >= 0.75 * len(calls)


def _refused(seen: Seen) -> Finding | None:
    message = str((seen.error or {}).get("message", ""))
    said = re.search(r"Expected more than 1 value per channel.*", message)
    if not said:
        return None
    return Finding(
        "batchnorm-tiny-batch",
        "error",
        "batch norm cannot train on a single row",
        f"after {seen.n_steps} steps PyTorch stopped: {said[0]}",
        "DataLoader(..., drop_last=True) leaves the short last batch out",
        place=reading.place_of((seen.error or {}).get("place")),
        step=seen.n_steps,
    )


_NAN_REMEDY = {
    "output": "look at what this module divides by, takes the logarithm, root or exponential of; "
    "e.g. x.clamp_min(1e-8).log()",
    "weights": "the step before made them: lower the learning rate, or "
    "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before optimizer.step()",
    "loss": "the loss made it from finite outputs: use F.cross_entropy or F.logsigmoid on logits in place of "
    "torch.log, clamp_min before a division",
    "gradient": "its forward pass was finite: a root, norm or division at 0; x.clamp_min(1e-8) before it",
}


def nan_origin(seen: Seen) -> list[Finding] | None:
    """The first module, weight or loss that made a NaN or an infinity.

    Checked: where it was first seen, confirmed by a loss that is not finite (infinities inside a network are often
    meant: attention masks are −inf). Must not hit: such masks, overflows that a GradScaler skips, inputs (rule
    nan-in-input tells of those).
    """
    told = [f for r in seen.roots.values() if r.nan and (f := _nan_in(seen, r, r.nan))]
    return told or None


def _nan_in(seen: Seen, root: RootSeen, nan: dict) -> Finding | None:
    what = str(nan.get("what", ""))
    scaled = any(o.fused_or_scaled and root.key in o.roots for o in seen.optimizers.values())
    bad_loss = any(not math.isfinite(v) for _, v, who in seen.loss_history if who in (None, root.key))
    if what not in _NAN_REMEDY or (what == "gradient" and scaled and not bad_loss):
        return None
    if what == "output" and not bad_loss:
        return None
    where = str(nan.get("module") or "")
    name = f"'{where}' ({nan.get('kind', '')})" if where else root.kind
    finite = [v for _, v, who in seen.loss_history if who in (None, root.key) and math.isfinite(v)]
    before = f"; the last finite loss was {finite[-1]:.4g}" if finite else ""
    return Finding(
        "nan-origin",
        "error" if bad_loss or what in ("weights", "loss") else "warning",
        f"the first NaN or infinity is in the {what} of {name}",
        f"step {nan.get('step')}: {what} of {name} is not finite; everything before it in the pass was{before}",
        _NAN_REMEDY[what],
        place=root.place,
        module=where or None,
        step=nan.get("step"),
    )


def unused_modules(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Modules with parameters that no training pass called and no gradient reached.

    Checked after :data:`IDLE_PASSES` training passes. A hint: they cost memory, and DistributedDataParallel waits for
    their gradients. Must not hit: frozen copies inside the network (momentum encoders, averages).
    """
    if not any(r.n_train_forwards >= IDLE_PASSES for r in seen.trained_roots()):
        return NotChecked("unused-modules", f"fewer than {IDLE_PASSES} training passes were seen")
    return (f for r in seen.trained_roots() if r.n_train_forwards >= IDLE_PASSES and (f := _unused_in(r)))


def _unused_in(root: RootSeen) -> Finding | None:
    idle = []
    for path in root.unused:
        own = [x for x in root.layers.values() if x.path == path or x.path.startswith(f"{path}.")]
        if not reading.all_frozen(own):
            idle.append(path)
    if not idle:
        return None
    return Finding(
        "unused-modules",
        "hint",
        "modules with parameters are never used",
        f"{len(idle)} modules of {root.kind} were not called in {root.n_train_forwards} training passes: "
        f"{', '.join(idle[:5])}{', …' if len(idle) > 5 else ''}",
        f"call self.{idle[0]} in forward, or delete it",
        place=root.place,
        module=idle[0],
    )


def bias_before_norm(seen: Seen) -> Iterator[Finding] | None:
    """A bias that the norm behind it subtracts again. A hint: parameters and time for nothing.

    Checked: a trained layer with a bias feeds a norm that subtracts a mean per channel (batch norm in training mode,
    instance norm). Must not hit: layer norm and group norm (their mean goes over several channels), batch norm in
    evaluation mode (its mean is fixed), frozen layers.
    """
    return (f for r in seen.trained_roots() if (f := _cancelled_in(r)))


def _cancelled_in(root: RootSeen) -> Finding | None:
    fed = [x for x in reading.in_order(root) if x.bias_feeds and x.requires_grad and _subtracts_mean(root, x)]
    if not fed:
        return None
    n = sum(x.shape[0] for x in fed if x.shape)
    first = fed[0]
    return Finding(
        "bias-before-norm",
        "hint",
        "a bias before batch norm has no effect",
        f"{len(fed)} layers of {root.kind} ({_names(fed)}) have a bias that the norm subtracts again, e.g. "
        f"{first.path} → {first.bias_feeds_path or first.bias_feeds}; {n} parameters",
        f"{first.kind}(..., bias=False)",
        place=root.place,
        module=first.path,
    )


def _subtracts_mean(root: RootSeen, layer: LayerSeen) -> bool:
    kind = layer.bias_feeds or ""
    norm = root.layers.get(layer.bias_feeds_path)
    return "InstanceNorm" in kind or ("BatchNorm" in kind and norm is not None and bool(norm.batch_n))


def _names(layers: list[LayerSeen]) -> str:
    paths = [x.path or x.kind for x in layers]
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
