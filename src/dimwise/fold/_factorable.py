"""Which layers of a network can be factorised, what that would cost, and what they put out on training inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dimwise.errors import ModelError, a_kind
from dimwise.fold import _factor
from dimwise.fold._evidence import Evidence
from dimwise.fold._factor import Factors, Moments
from dimwise.fold._modules import difference, tied
from dimwise.fold._tune import training_batches
from dimwise.measure import evaluating, profile

if TYPE_CHECKING:
    from dimwise.fold.lowrank import LowrankConfig


@dataclass(frozen=True)
class Layer:
    """A layer that can be factorised, in all the ways that may be."""

    name: str
    macs: float
    """Of the whole layer, for the inputs it was looked at with."""
    input_shape: tuple[int, ...]
    ways: tuple[Factors, ...]
    n_seen: int | None = None
    """Outputs on training inputs, where they were too few and the ways are those of the weights; else None."""
    calls: int = 1
    """In one pass through the network."""
    batch: int = 1
    """Of the inputs it was looked at with."""

    @property
    def one_input(self) -> tuple[int, ...]:
        """The shape that it is given of one input of the network, which may come as many rows."""
        return (max(1, self.input_shape[0] // self.batch), *self.input_shape[1:])

    def cost(self, way: Factors, rank: int) -> float:
        """Multiply-accumulates at a rank; for an embedding those of the product that it had not before."""
        return self.macs * way.unit * rank

    def at(self, energy: float, round_to: int) -> tuple[Factors, int] | None:
        """The cheapest way that keeps a share of the energy, and its rank; None when none costs less than the layer."""
        found = [(way.unit * rank, way, rank) for way in self.ways for rank in [way.rank_for(energy, round_to)]]
        cost, way, rank = min(found, key=lambda f: f[0])
        return (way, rank) if cost < 1 else None


def look(
    model: nn.Module, config: LowrankConfig, evidence: Evidence, x: Tensor
) -> tuple[float, list[Layer], dict[str, str]]:
    """The layers that can be factorised.

    Returns:
        (multiply-accumulates of the network for ``x``, the layers, layer -> why it must stay).
    """
    difference(model, model, x)  # a network that fails by itself is told as such
    counted = profile(model, x)
    rows = {row.name: row for row in counted.rows}
    chosen: dict[str, nn.Module] = {}
    untouched: dict[str, str] = {}
    bound = tied(model)
    for name, module in model.named_modules():
        row = rows.get(name or "model")
        reason = _why_not(module, config)
        if reason is None:
            continue
        if name in config.skip:
            reason = "named in lowrank.skip"
        elif name in bound:
            reason = "its weights are used by another layer too"
        elif not reason and (row is None or not row.calls):
            reason = "it does not run as a layer"
        if reason:
            untouched[name] = reason
        else:
            chosen[name] = module
    if not chosen:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(untouched.items())[:3]) or "no layer with weights"
        raise ModelError(
            f"no layer of {type(model).__name__} can be factorised ({told})",
            expected="a dense layer, or a convolution with one group",
            next_step="It can still be quantized or distilled.",
        )
    seen, few = _moments(model, chosen, config, evidence) if config.data else ({}, {})
    layers = []
    for name, module in chosen.items():
        row = rows[name or "model"]
        ways = tuple(_ways(name, module, seen.get(name), row.input_shape, row.output_shape, config))
        layers.append(Layer(name, row.macs or 0.0, row.input_shape, ways, few.get(name), row.calls, len(x)))
    return counted.macs, layers, untouched


def _why_not(module: nn.Module, config: LowrankConfig) -> str | None:
    """Empty when it can be factorised; None when it is no layer to speak of."""
    # Exact types: a subclass may do anything with its weight, as the output layer inside attention does.
    if type(module) is nn.Embedding:
        plain = module.max_norm is None and not module.sparse
        return ("" if plain else "an embedding with limits of its own") if config.embeddings else None
    if type(module) is nn.Linear:
        return ""
    if type(module) in _factor.CONVOLUTIONS:
        assert isinstance(module, nn.modules.conv._ConvNd)
        if config.convolutions == "none":
            return "lowrank.convolutions is none"
        if module.groups > 1:
            return "a grouped convolution"
        if config.convolutions == "spatial" and _flat_kernel(module):
            return "its kernel has one dimension"
        return ""
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return f"{a_kind(module)} is not taken apart"
    return None


def _flat_kernel(module: nn.modules.conv._ConvNd) -> bool:
    return len(module.kernel_size) != 2 or min(module.kernel_size) == 1


def _ways(
    name: str,
    module: nn.Module,
    moments: Moments | None,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    config: LowrankConfig,
) -> list[Factors]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    if not torch.isfinite(weight).all():
        raise ModelError(f"the weights of layer {name!r} are not finite", next_step="Train the network again.")
    if isinstance(module, nn.Linear):
        return [_factor.of_linear(module, moments)]
    if isinstance(module, nn.Embedding):
        return [_factor.of_embedding(module)]
    assert isinstance(module, nn.modules.conv._ConvNd)
    by_shape = config.convolutions
    ways = []
    if by_shape != "spatial":
        ways.append(_factor.channel(module, moments))
    wanted = by_shape == "spatial" or (by_shape == "best" and moments is None)  # energies of one kind are compared
    if isinstance(module, nn.Conv2d) and not _flat_kernel(module) and wanted:
        ways.append(_factor.spatial(module, input_shape[-1], output_shape[-1]))
    return ways


MOST_ROWS = 4096
"""Positions of a batch that enter a covariance: neighbours in a map say nearly the same."""


def _moments(
    model: nn.Module, chosen: dict[str, nn.Module], config: LowrankConfig, evidence: Evidence
) -> tuple[dict[str, Moments], dict[str, int]]:
    """Mean and covariance of each layer's outputs on training inputs; of how many, for layers where they are too few.

    About their mean n outputs span n − 1 dimensions at most: fewer than the layer has, and its covariance would call
    a lower rank perfect.
    """
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def hook(name: str, axis: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def add(module: nn.Module, args: Any, output: Tensor) -> None:
            y = output.detach().movedim(axis, -1).flatten(0, -2).double()  # (positions, O)
            y = y[:: -(-len(y) // MOST_ROWS)]
            n, first, second = sums.get(name, (0, torch.zeros((), device=y.device), torch.zeros((), device=y.device)))
            sums[name] = (n + len(y), first + y.sum(0), second + y.T @ y)

        return add

    handles = []
    for name, module in chosen.items():
        if isinstance(module, nn.modules.conv._ConvNd):
            if config.convolutions != "spatial":
                handles.append(module.register_forward_hook(hook(name, 1 - module.weight.dim())))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(hook(name, -1)))
    device = next(model.parameters()).device
    need = "Set data=false, which looks at the weights alone."
    try:
        with evaluating(model):
            for inputs, _ in training_batches(evidence, config.batches, fold="lowrank", need=need):
                model(inputs.to(device))
    finally:
        for handle in handles:
            handle.remove()
    found, few = {}, {}
    for name, (n, first, second) in sums.items():
        mean = first / n
        covariance = second / n - mean[:, None] * mean
        if not torch.isfinite(covariance).all():
            raise ModelError(
                f"layer {name!r} puts out NaN or infinity on training inputs",
                next_step="Look for them in the data, or set data=false.",
            )
        weight = chosen[name].get_parameter("weight")
        if n <= min(len(weight), weight[0].numel()):
            few[name] = n
        else:
            found[name] = Moments(mean, covariance)
    return found, few
