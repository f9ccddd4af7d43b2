"""Cross-layer equalisation: channels that one layer makes and the next one reads are brought to one size.

Idea: int8 gives a tensor 255 steps for all of its channels. A channel a hundred times larger than the others leaves
them two or three. Between two layers a channel may be made smaller by the first and larger by the second: the network
computes the same, and the steps are shared fairly.

Mathematics: with a positively homogeneous f between them, f(s x) = s f(x) for s > 0, W₂ f(W₁ x + b₁) =
W₂ S f(S⁻¹ W₁ x + S⁻¹ b₁) for any diagonal S > 0. s_c = √(r₁c / r₂c) makes the ranges of both equal, r₁c s_c⁻¹ = r₂c s_c
= √(r₁c r₂c), where r₂c = max |W₂| over what reads channel c, and r₁c = max |W₁| over what makes it, or the largest
|activation| that the second layer is measured to read of it: behind a ReLU what lies below zero counts for nothing.
Repeated over all pairs until no s moves, as a layer belongs to two pairs.

Use when: before int8, for networks whose int8 score collapses, above all with depthwise layers or trained without
weight decay; before a layer-wise palette or 4 bits as well.

Cost: a trace (1 to 3 s) and some ms per layer. Exact up to rounding; no time at inference.

Pitfalls: ReLU6 and other bounded activations are not homogeneous: their pairs stay (``relu6="relu"`` replaces them,
which changes the network where they were at their bound). Residual sums tie channels of several layers: they stay.
So do a norm whose folding is seen to change the network, and a pair that does.
With weight scales per channel, what r₁ = weights gains is in the activations between, so measure both kinds.

Source: Nagel, van Baalen, Blankevoort, Welling 2019, arXiv:1906.04721, section 4.1; for activations Xiao et al. 2023,
arXiv:2211.10438 (the same s with r₁ measured, α = 0.5). Deviation: high biases are not absorbed, which is not exact.

Evidence: tests/fold/test_equalise.py (the same outputs for every model of the table; a net with stretched channels
that int8 breaks and equalisation mends).
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dimwise.errors import DataError, ModelError
from dimwise.fold._channels.look import Look, kind
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._modules import difference, swap_, working_copy
from dimwise.fold.fuse import find as find_norms
from dimwise.fold.fuse import folded_as_meant
from dimwise.measure import evaluating
from dimwise.recipe import config
from dimwise.seeds import derive


@config
class EqualiseConfig:
    """How channels are equalised."""

    ranges: Literal["weights", "activations"] = "weights"
    """What makes a channel of the first layer large: its weights, or the largest activation that the second layer reads
    of it on training inputs. Default: weights, which needs no data."""
    relu6: Literal["keep", "relu"] = "keep"
    """keep: pairs with a ReLU6 between stay; relu: ReLU6 is replaced, which may change outputs. Default: exact."""
    rounds: Annotated[int, Field(ge=1)] = 20
    """Most passes over all pairs; they end when no scale moves by a thousandth. Default: 20."""
    largest: Annotated[float, Field(gt=1)] = 1e4
    """Scales are held between 1 / largest and largest. Default: keeps dead channels from exploding."""
    n_calibration: Annotated[int, Field(ge=1)] = 256
    """For ranges = activations: training inputs to look at. Default: as in quantize."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Largest difference of the outputs, as a fraction of the largest; a pair that makes more stays. Default: some
    hundred roundings of float32."""


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing between that would mind a scale."""

    first: str
    second: str
    n_positions: int = 1
    """Inputs of the second layer that come from one channel of the first, where a flatten lies between."""


def equalise(model: nn.Module, config: EqualiseConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    """Bring the channels between neighbouring layers to one size; norms are folded first.

    Args:
        model: any module with one input that can be traced; it is not changed.
        config: which ranges, and what happens to ReLU6.
        evidence: an example for the trace, training inputs for activations, score and cost for the report.

    Returns:
        (a new module in evaluation mode that computes the same, the report).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced.
        DataError: for ranges = activations without training inputs.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("equalise", model, evidence.example, evidence.seed)
    norms, untouched = fuse_norms(original, x)
    start = norms if config.relu6 == "keep" else _without_relu6(norms)
    pairs, reasons = find(start, x)
    untouched |= reasons
    made, scales = equalised(start, pairs, config, evidence)
    if pairs and not difference(start, made, x) <= config.tolerance:  # NaN is no agreement
        good: list[Pair] = []
        for pair in pairs:  # together with those before it: small differences add up
            off = difference(start, equalised(start, [*good, pair], config, evidence)[0], x)
            if off <= config.tolerance:
                good.append(pair)
            else:
                untouched[pair.first] = f"scaled, the outputs are off by {off:.2g} of their largest"
        pairs = good
        made, scales = equalised(start, pairs, config, evidence)
    rows = [
        {
            "name": pair.first,
            "into": pair.second,
            "smallest_scale": float(s.min()),
            "largest_scale": float(s.max()),
        }
        for pair, s in zip(pairs, scales, strict=True)
    ]
    report = compare("equalise", config, evidence, model, made, layers=rows, untouched=untouched, started=started)
    return made, report


def fuse_norms(model: nn.Module, x: Tensor) -> tuple[nn.Module, dict[str, str]]:
    """The network with those norms folded that leave it the same, and why others stay."""
    found, untouched = find_norms(model, x)
    return folded_as_meant(model, found, x, untouched), untouched


def _without_relu6(model: nn.Module) -> nn.Module:
    made = deepcopy(model)
    for module in list(made.modules()):
        if isinstance(module, nn.ReLU6):
            made = swap_(made, module, nn.ReLU())
    return made


# What may be scaled --------------------------------------------------------------------------------------------------

# fmt: off
_HOMOGENEOUS = frozenset({
    "relu", "leaky_relu", "dropout", "feature_dropout", "clone", "alias", "contiguous", "max_pool1d", "max_pool2d",
    "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
})
# fmt: on
"""f(s x) = s f(x) for s > 0, channel by channel."""
_FLATTENING = ("flatten", "view", "reshape")


def find(model: nn.Module, x: Tensor) -> tuple[list[Pair], dict[str, str]]:
    """Pairs of layers that share channels nobody else sees, and for every other layer why its channels stay.

    Args:
        model: in evaluation mode, without norms.
        x: (N, ...) input.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Sigmoid())
        >>> find(net, torch.zeros(2, 1, 4, 4))
        ([Pair(first='0', second='3', n_positions=4)], {'3': 'sigmoid follows, which is not homogeneous'})
    """
    look = Look.at(model, x)
    pairs, untouched = [], {}
    for node in look.nodes:
        name = look.layer(node)
        if not name:
            continue
        found = _reader(node, name, look)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            untouched[name] = found
    return pairs, untouched


def _reader(node: fx.Node, name: str, look: Look) -> Pair | str:
    """The pair that a layer is the first of, or why there is none."""
    shape = node.meta["val"].shape
    dense = kind(node) == "linear"
    if isinstance(look.model.get_submodule(name), _ConvTransposeNd):
        return "it is a transposed convolution"
    n_positions, here = 1, node
    while True:
        users = list(here.users)
        if len(users) != 1:
            return "its output is read in several places"
        user = users[0]
        if user.op == "output":
            return "its output is the network's"
        there = look.layer(user)
        if there and user.args[0] is here:
            module = look.model.get_submodule(there)
            fits = isinstance(module, _ConvNd) != dense and not isinstance(module, _ConvTransposeNd)
            if isinstance(module, nn.Linear) and not dense:
                fits = len(here.meta["val"].shape) == 2
            elif isinstance(module, nn.Linear):
                fits = n_positions == 1
            return Pair(name, there, n_positions) if fits else f"{there} reads its channels in another order"
        if kind(user) in _FLATTENING:
            after = user.meta["val"].shape
            channels = shape[1] if not dense else shape[-1]
            if dense or len(after) != 2 or after[0] != shape[0] or after[1] % channels:
                return f"{kind(user)} moves its channels"
            n_positions = after[1] // channels
        elif kind(user) not in _HOMOGENEOUS or (dense and "pool" in kind(user)):
            return f"{kind(user) or user.name} follows, which is not homogeneous"
        here = user


# The scales ----------------------------------------------------------------------------------------------------------


def equalised(
    model: nn.Module, pairs: list[Pair], config: EqualiseConfig, evidence: Evidence
) -> tuple[nn.Module, list[Tensor]]:
    """A copy of ``model`` with the channels of all pairs at one size, and the scale s (C,) of each pair."""
    made = deepcopy(model)
    seen = _largest_activations(made, pairs, config, evidence) if config.ranges == "activations" else {}
    n_channels = [len(made.get_parameter(f"{pair.first}.weight")) for pair in pairs]
    total = [torch.ones(n, dtype=torch.float64) for n in n_channels]
    for _ in range(config.rounds):
        moved = 0.0
        for pair, s in zip(pairs, total, strict=True):
            step = _step(made, pair, seen, s, config.largest)
            _scale_(made, pair, step)
            s *= step
            moved = max(moved, float((step.log().abs()).max()))
        if moved < 1e-3:
            break
    return made, total


def _step(model: nn.Module, pair: Pair, seen: dict[str, Tensor], so_far: Tensor, largest: float) -> Tensor:
    """(C,) float64 √(r₁ / r₂), within what is left of the limits; 1 for a channel that nobody makes or reads."""
    weight = model.get_parameter(f"{pair.first}.weight").detach().double().cpu()
    r1 = seen[pair.first] / so_far if seen else weight.flatten(1).abs().amax(1)
    r2 = _read(model, pair).abs().flatten(1).amax(1)
    alive = (r1 > 0) & (r2 > 0)
    s = torch.where(alive, r1 / torch.where(alive, r2, 1.0), 1.0).sqrt()
    return (so_far * s).clamp(1 / largest, largest) / so_far


def _read(model: nn.Module, pair: Pair) -> Tensor:
    """(C, ...) float64: the weights of the second layer by the channel that they read."""
    layer: Any = model.get_submodule(pair.second)
    weight = layer.weight.detach().double().cpu()  # (out, in / groups, ...)
    if isinstance(layer, nn.Linear):
        return weight.T.reshape(-1, pair.n_positions * len(weight))
    grouped = weight.reshape(layer.groups, len(weight) // layer.groups, *weight.shape[1:])
    return grouped.transpose(1, 2).reshape(layer.in_channels, -1)


@torch.no_grad()
def _scale_(model: nn.Module, pair: Pair, s: Tensor) -> None:
    """W₁ ← S⁻¹ W₁, b₁ ← S⁻¹ b₁, W₂ ← W₂ S."""
    first: Any = model.get_submodule(pair.first)
    second: Any = model.get_submodule(pair.second)
    s = s.to(first.weight.device)
    first.weight.copy_(first.weight.double() / s.view(-1, *[1] * (first.weight.dim() - 1)))
    if first.bias is not None:
        first.bias.copy_(first.bias.double() / s)
    weight = second.weight.double()
    if isinstance(second, nn.Linear):
        second.weight.copy_(weight * s.repeat_interleave(pair.n_positions))
        return
    inside = s.view(second.groups, 1, -1, *[1] * (weight.dim() - 2))
    grouped = weight.reshape(second.groups, len(weight) // second.groups, *weight.shape[1:])
    second.weight.copy_((grouped * inside).view_as(weight))


def _largest_activations(
    model: nn.Module, pairs: list[Pair], config: EqualiseConfig, evidence: Evidence
) -> dict[str, Tensor]:
    """First layer -> (C,) float64 largest |activation| of each channel that the second reads over training inputs."""
    data = evidence.data
    if not len(data.train):
        raise DataError(
            f"the training split of {data.name!r} is empty: no activation to measure",
            expected="some hundred inputs",
            next_step="Use equalise with ranges='weights', which needs none.",
        )
    generator = torch.Generator().manual_seed(derive(evidence.seed, "equalise"))
    rows = torch.randperm(len(data.train), generator=generator)[: config.n_calibration]
    found: dict[str, Tensor] = {}

    def keep(name: str, n_channels: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            values = args[0].detach().abs().movedim(-1 if isinstance(module, nn.Linear) else 1, 0)
            channels = values.reshape(n_channels, -1).amax(1).double().cpu()  # positions of a channel lie together
            found[name] = torch.maximum(found[name], channels) if name in found else channels

        return hook

    hooks = [
        model.get_submodule(pair.second).register_forward_pre_hook(
            keep(pair.first, len(model.get_parameter(f"{pair.first}.weight")))
        )
        for pair in pairs
    ]
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            for part in rows.split(64):
                model(data.normalise(data.train.inputs[part.to(data.train.inputs.device)]).to(device))
    finally:
        for hook in hooks:
            hook.remove()
    bad = next((name for name, value in found.items() if not value.isfinite().all()), None)
    if bad is not None:
        raise ModelError(f"layer {bad!r} returns NaN or infinity for a training input", expected="finite activations")
    return found
