"""BatchNorm folding: a norm that follows or precedes a linear layer becomes part of its weights.

Idea: after training a BatchNorm is a fixed scale and shift per channel. So is part of what a convolution or a dense
layer does: the two are one layer, and the norm costs nothing any more.

Mathematics: BN(y) = a · y + c per channel, with a = γ / √(σ² + ε) and c = β − a μ. After a layer y = W x + b:
W' = diag(a) W, b' = a b + c. Before a layer: W (a x + c) + b = (W diag(a)) x + (b + W c), which holds at the border
of an image only without padding, as padded zeros are not shifted. Averages commute with BN, and so does a maximum
where a > 0: such pooling may stand between layer and norm.

Use when: training is over and the network runs eagerly; before rounding, so that what is rounded is what is run.
Exporters and runtimes such as ONNX Runtime fold these norms themselves: there the artifact gains nothing.

Cost: a trace (1 to 3 s) and some ms per layer. Exact up to rounding; one pass over each activation less.

Pitfalls: what is folded trains badly from there on: fold last. A norm with statistics of its own batch cannot
leave; neither can one whose input is read elsewhere, is the sum of two branches, or went through an activation first.
Forward hooks on the norm are lost.

Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2 (after a convolution). Deviation: also before a layer.

Evidence: tests/fold/test_fuse.py (the same outputs for every model of the table).
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dimwise.errors import ModelError
from dimwise.fold._channels.look import Look, kind
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._modules import difference, require_known, swap_, working_copy
from dimwise.recipe import config


@config
class FuseConfig:
    """Which norms are folded."""

    skip: tuple[str, ...] = ()
    """Names of norms to keep as they are. Default: none."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Largest difference of the outputs, as a fraction of the largest output; a norm that makes more is kept. Default:
    some hundred roundings of float32."""


def fuse(model: nn.Module, config: FuseConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    """Fold every BatchNorm that can be into the layer beside it; an ``nn.Identity`` keeps its place.

    Args:
        model: any module with one input that can be traced; it is not changed.
        config: what to leave alone.
        evidence: an example for the trace and the comparison, score and cost for the report.

    Returns:
        (a new module in evaluation mode, the report). Without a norm to fold, an equal module.

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced, or ``skip`` names what is not there.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("fuse", model, evidence.example, evidence.seed)
    require_known("fuse", "skip", config.skip, model)
    pairs, untouched = find(original, x)
    for name in config.skip:
        untouched[name] = "named in fuse.skip"
    pairs = [pair for pair in pairs if pair.norm not in untouched]
    made, done = fold_those_that_agree(original, pairs, x, config.tolerance, untouched)
    rows = [{"name": pair.norm, "into": pair.layer, "place": "after" if pair.after else "before"} for pair in done]
    report = compare("fuse", config, evidence, model, made, layers=rows, untouched=untouched, started=started)
    return made, report


@dataclass(frozen=True)
class Pair:
    """A norm and the layer that takes it in."""

    norm: str
    layer: str
    after: bool
    """Whether the norm follows the layer."""


def find(model: nn.Module, x: Tensor) -> tuple[list[Pair], dict[str, str]]:
    """The norms that can be folded, and for every other one why not.

    Args:
        model: in evaluation mode.
        x: (N, ...) input.

    Raises:
        ModelError: when the network cannot be traced.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3)).eval()
        >>> find(net, torch.zeros(2, 4))
        ([Pair(norm='1', layer='0', after=True)], {'3': 'it stands between relu and the output'})
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    if not norms:
        return [], {}
    look = Look.at(model, x)
    pairs, untouched = [], {}
    calls: dict[str, list[fx.Node]] = {name: [] for name in norms}
    for node in look.nodes:
        if kind(node) == "batch_norm":
            calls.get(look.caller(node), []).append(node)
    for name, norm in norms.items():
        if len(calls[name]) != 1:
            untouched[name] = "it is used in several places" if calls[name] else "the trace shows no use of it"
        elif norm.running_mean is None:
            untouched[name] = "it keeps no running statistics, so it normalises each batch by itself"
        else:
            found = _beside(name, calls[name][0], look)
            if isinstance(found, Pair):
                pairs.append(found)
            else:
                untouched[name] = found
    return pairs, untouched


_ANY_SCALE = ("dropout", "feature_dropout", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
"""What commutes with a scale and a shift per channel (dropout does nothing in evaluation mode)."""
_RISING = ("max_pool1d", "max_pool2d", "max_pool3d")
"""What does so when no scale turns the order around."""


def _beside(name: str, node: fx.Node, look: Look) -> Pair | str:
    """The layer that can take the norm in, or why there is none."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    flat = len(node.meta["val"].shape) == 2
    norm = look.model.get_submodule(name)
    assert isinstance(norm, _BatchNorm)
    rising = bool((_affine(norm)[0] > 0).all())
    while len(source.users) == 1 and (kind(source) in _ANY_SCALE or (rising and kind(source) in _RISING)):
        source = source.args[0]
        assert isinstance(source, fx.Node)
    before = look.layer(source)
    if before and (flat or kind(source) != "linear"):  # behind a dense layer with positions, dim 1 is no channel
        if len(source.users) == 1:
            return Pair(name, before, after=True)
        return f"the output of {before} is read elsewhere too"
    readers = list(node.users)
    if len(readers) == 1 and readers[0].args and readers[0].args[0] is node:
        behind = look.layer(readers[0])
        module = look.model.get_submodule(behind) if behind else None
        if isinstance(module, nn.Linear) and flat:
            return Pair(name, behind, after=False)
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
            if module.padding == "valid" or (module.padding != "same" and not any(module.padding)):
                return Pair(name, behind, after=False)
            return f"{behind} pads its input with zeros that the norm does not shift"
    there = ", ".join(_told(reader) for reader in readers) or "nothing"
    return f"it stands between {_told(source)} and {there}"


def _told(node: fx.Node) -> str:
    return {"placeholder": "the input", "output": "the output"}.get(node.op) or kind(node) or node.name


def folded_as_meant(model: nn.Module, pairs: list[Pair], x: Tensor, untouched: dict[str, str]) -> nn.Module:
    """A copy with those norms folded that leave the network what it is; for folds that go on from there.

    Compared in float64, where rounding is no difference: in float32 it alone grows to a sixth of the outputs where
    channels are stretched fifty layers deep, which is what such folds are for.

    Args:
        model: in evaluation mode; not changed.
        pairs: what :func:`find` found.
        x: (N, ...) input.
        untouched: receives norm -> why it stays.
    """
    exact, told = x.double() if x.is_floating_point() else x, dict(untouched)
    try:
        _, good = fold_those_that_agree(deepcopy(model).double(), pairs, exact, 1e-6, told)
    except ModelError:  # it computes in float32 alone
        _, good = fold_those_that_agree(model, pairs, x, 1e-2, told := dict(untouched))
    untouched |= told
    return folded(model, good)


def fold_those_that_agree(
    original: nn.Module, pairs: list[Pair], x: Tensor, tolerance: float, untouched: dict[str, str]
) -> tuple[nn.Module, list[Pair]]:
    """The network with its norms folded: all at once; when that is not the same, each alone, so that the guilty stay.

    Args:
        original: in evaluation mode; not changed.
        pairs: what :func:`find` found.
        x: (N, ...) input on which outputs are compared.
        tolerance: largest difference, as a fraction of the largest output.
        untouched: receives norm -> why it stays.

    Returns:
        (a new network, the pairs that were folded).

    Raises:
        ModelError: when the network cannot be run on ``x``.
    """

    def wrong(made: nn.Module) -> str:
        try:
            off = difference(original, made, x)
        except ModelError as error:
            return error.what
        return "" if off <= tolerance else f"without it outputs are off by {off:.2g} of their largest"

    difference(original, original, x)  # a network that fails by itself is told as such
    made = folded(original, pairs)
    if not wrong(made):
        return made, pairs
    good: list[Pair] = []
    for pair in pairs:
        reason = wrong(folded(original, [pair]))
        if reason:
            untouched[pair.norm] = reason
        elif wrong(folded(original, [*good, pair])):
            untouched[pair.norm] = "together with the others outputs are off"
        else:
            good.append(pair)
    return folded(original, good), good


def folded(model: nn.Module, pairs: list[Pair]) -> nn.Module:
    """A copy of ``model`` in which the norms of ``pairs`` are part of their layers.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
        >>> folded(net, [Pair("1", "0", after=True)])
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): Identity()
        )
    """
    made = deepcopy(model)
    for pair in pairs:
        norm, layer = made.get_submodule(pair.norm), made.get_submodule(pair.layer)
        assert isinstance(norm, _BatchNorm)
        (_take_in_after_ if pair.after else _take_in_before_)(layer, *_affine(norm))
        swap_(made, norm, nn.Identity())
    return made


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """a and c of BN(y) = a y + c, (C,) float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    a = (norm.running_var.detach().double() + norm.eps).rsqrt()  # (C,)
    if norm.weight is not None:
        a = a * norm.weight.detach().double()
    c = -a * norm.running_mean.detach().double()
    return a, c if norm.bias is None else c + norm.bias.detach().double()


def _take_in_after_(layer: Any, a: Tensor, c: Tensor) -> None:
    """W' = diag(a) W, b' = a b + c."""
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, ...): output channels lie inside the groups
        scale = a.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (weight.view(layer.groups, -1, *weight.shape[1:]) * scale).view_as(weight)
    else:
        scaled = weight * a.view(-1, *[1] * (weight.dim() - 1))
    bias = c if layer.bias is None else a * layer.bias.detach().double() + c
    _set_(layer, scaled, bias)


def _take_in_before_(layer: Any, a: Tensor, c: Tensor) -> None:
    """W' = W diag(a), b' = b + W c."""
    weight = layer.weight.detach().double()  # (out, in / groups, ...)
    groups = getattr(layer, "groups", 1)
    inside = (1, 1, -1, *[1] * (weight.dim() - 2))
    grouped = weight.view(groups, -1, *weight.shape[1:])
    a, c = a.view(groups, *inside[1:]), c.view(groups, *inside[1:])
    bias = (grouped * c).flatten(2).sum(2).flatten()  # (out,)
    if layer.bias is not None:
        bias = bias + layer.bias.detach().double()
    _set_(layer, (grouped * a).view_as(weight), bias)


def _set_(layer: Any, weight: Tensor, bias: Tensor) -> None:
    for name, value in (("weight", weight), ("bias", bias)):
        old = getattr(layer, name)
        like = layer.weight if old is None else old
        setattr(layer, name, nn.Parameter(value.to(like), requires_grad=layer.weight.requires_grad))
