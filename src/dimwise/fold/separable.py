"""Efficient blocks: a convolution becomes a depthwise and a pointwise one, taught by the original.

Idea: a convolution filters in space and mixes channels at once. Done one after the other, as in MobileNet, it takes
a fraction of the work. Started from the trained kernels, not at random, the new layers soon answer as the old did.

Mathematics: W (O, I, k, k) ≈ Σ_{j≤m} P_j[o, i] D_j[i, y, x]: per input channel i the first m singular vectors of the
matrix (O) × (k k), the best approximation of that form. MACs per position: m I (k² + O) instead of I O k²; with one
filter per channel (m = 1) a fraction 1/O + 1/k².

Use when: convolutions with k ≥ 3 and many channels take most of the time, and there is data to train on. Before
pruning and quantizing. ``distill`` into a MobileNet is the other way to the same end.

Cost: a decomposition per layer (ms), then ``epochs`` of distillation: more than after pruning, as more is lost.

Pitfalls: without training the score is gone. A depthwise convolution moves many bytes per multiplication, so that a
ninth of the MACs is rarely a ninth of the time: measure. Depthwise layers are the hardest to quantize: one scale per
channel. Narrow layers gain nothing.

Source: Howard et al. 2017, arXiv:1704.04861 (the block); Jaderberg et al. 2014, arXiv:1405.3866, scheme 1 (filters per
input channel from a decomposition). Deviation: no norm and no ReLU between the two, so that they start as the
convolution they replace.

Evidence: tests/fold/test_separable.py (the error is what was cut; exact with all singular vectors).
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from dimwise.errors import ModelError, a_kind
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._factor import CONVOLUTIONS, bare, fill_
from dimwise.fold._modules import require_known, tied, with_those_that_run, working_copy
from dimwise.fold._tune import recover
from dimwise.measure import Row, profile
from dimwise.recipe import config


@config
class SeparableConfig:
    """Which convolutions become separable, and how they are trained."""

    layers: tuple[str, ...] = ()
    """Names of the convolutions to replace; empty takes all that are worth it. Default: empty."""
    least_frac: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Without names: least share of the network's multiply-accumulates that a layer must take. Default: one in 50."""
    min_channels: Annotated[int, Field(ge=1)] = 16
    """Without names: fewest input and output channels. Default: 16; the first layer, with 1 or 3, stays."""
    multiplier: Annotated[int, Field(ge=1, le=64)] = 1
    """Depthwise filters per input channel, m above. Default: 1, MobileNet's; 2 is nearer to the original."""
    epochs: Annotated[int, Field(ge=0)] = 10
    """Epochs of training afterwards; 0 returns the network as replaced. Default: more than after pruning."""
    lr_frac: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Learning rate as a fraction of the training rate. Default: a half."""
    teacher: bool = True
    """Train towards the original's outputs as well as the labels. Default: on; it is at hand."""


def separable(model: nn.Module, config: SeparableConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    """Replace convolutions by depthwise and pointwise ones where that costs less, and distil from the original.

    Args:
        model: any module with one input; it is not changed.
        config: which layers, how near, how long to train.
        evidence: training data, an example for shapes, score and cost for the report.

    Returns:
        (a new module in evaluation mode, the report).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when it cannot be run, ``layers`` names what cannot be replaced, or nothing is worth it.
        NonFiniteLoss: as in training.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("separable", model, evidence.example, evidence.seed)
    require_known("separable", "layers", config.layers, model)
    counted = profile(original, x)
    rows = {row.name: row for row in counted.rows}
    new: dict[str, nn.Module] = {}
    untouched: dict[str, str] = {}
    bound = tied(original)
    for name, module in original.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd):
            continue
        reason = "its weights are used by another layer too" if name in bound else ""
        reason = reason or _why_not(name, module, rows.get(name or "model"), counted.macs, config)
        if reason:
            untouched[name] = reason
        else:
            new[name] = blocks(module, config.multiplier)
    made = with_those_that_run(original, new, x, untouched)
    if not new or any(name not in new for name in config.layers):
        raise _nothing(model, config, untouched, new)
    done = [
        {
            "name": name,
            "way": "depthwise + pointwise",
            "energy": round(energy(original.get_submodule(name), config.multiplier), 6),
            "macs_frac": round(_frac(original.get_submodule(name), config.multiplier), 4),
        }
        for name in new
    ]
    if config.epochs:
        made = recover(
            made,
            original,
            evidence,
            fold="separable",
            epochs=config.epochs,
            lr_frac=config.lr_frac,
            teacher=config.teacher,
        ).to(x.device)
    made.eval()
    report = compare("separable", config, evidence, model, made, layers=done, untouched=untouched, started=started)
    return made, report


def _why_not(
    name: str, module: nn.modules.conv._ConvNd, row: Row | None, whole_macs: int, config: SeparableConfig
) -> str:
    """Empty when the convolution can be replaced and is worth it."""
    if type(module) not in CONVOLUTIONS:  # a subclass may do anything with its weight
        return f"{a_kind(module)} is not taken apart"
    if row is None or not row.calls:
        return "it does not run as a layer"
    if module.groups > 1:
        return "it is grouped or depthwise already"
    if max(module.kernel_size) == 1:
        return "it is pointwise already"
    if not torch.isfinite(module.weight).all():
        return "its weights are not finite"
    if _frac(module, config.multiplier) >= 1:
        return "two layers would cost more than one"
    if config.layers:
        return "" if name in config.layers else "not named in separable.layers"
    if min(module.in_channels, module.out_channels) < config.min_channels:
        return f"fewer than {config.min_channels} channels"
    if row.macs < config.least_frac * whole_macs:
        return f"less than {config.least_frac:.0%} of the multiply-accumulates"
    return ""


def _nothing(
    model: nn.Module, config: SeparableConfig, untouched: dict[str, str], new: dict[str, nn.Module]
) -> ModelError:
    named = [name for name in config.layers if name not in new] or list(untouched)
    told = "; ".join(f"{name}: {untouched.get(name, 'it is no convolution')}" for name in named[:3])
    return ModelError(
        f"no convolution of {type(model).__name__} is made separable ({told or 'it has no convolution'})",
        expected="one with one group, a kernel above 1 and enough channels",
        next_step="It can still be quantized or distilled.",
    )


def blocks(layer: Any, multiplier: int = 1) -> nn.Sequential:
    """The depthwise and the pointwise convolution that come nearest to a convolution.

    Args:
        layer: a convolution (O, I, k…) with one group.
        multiplier: m, filters per input channel; at most min(O, k…) of them differ from zero.

    Example:
        >>> made = blocks(nn.Conv2d(4, 8, 3, stride=2, padding=1))
        >>> [tuple(p.shape) for p in made.parameters()]
        [(4, 1, 3, 3), (8, 4, 1, 1), (8,)]
        >>> made(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 8, 4, 4])
    """
    weight = layer.weight.detach().double()
    out, inside = weight.shape[:2]
    u, sigma, v = torch.linalg.svd(weight.flatten(2).transpose(0, 1), full_matrices=False)  # (I, O, k…) each
    rank = min(multiplier, sigma.shape[1])
    root = sigma[:, :rank].sqrt()
    depthwise = bare(
        type(layer),
        inside,
        inside * rank,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
        groups=inside,
    )
    fill_(depthwise, (root[..., None] * v[:, :rank]).reshape(inside * rank, 1, *weight.shape[2:]), None, layer)
    pointwise = bare(type(layer), inside * rank, out, 1)
    mix = (u[..., :rank] * root[:, None]).permute(1, 0, 2).reshape(out, inside * rank, *[1] * (weight.dim() - 2))
    fill_(pointwise, mix, layer.bias, layer)
    return nn.Sequential(depthwise, pointwise)


def energy(layer: Any, multiplier: int = 1) -> float:
    """Share of the squared singular values, over all input channels, that ``multiplier`` filters each keep.

    Example:
        >>> layer = nn.Conv2d(2, 2, 3)
        >>> energy(layer, 1) < energy(layer, 2) == 1.0
        True
    """
    squares = torch.linalg.svdvals(layer.weight.detach().double().flatten(2).transpose(0, 1)).square()
    total = squares.sum()
    return min(1.0, float(squares[:, :multiplier].sum() / total)) if total > 0 else 1.0


def _frac(layer: Any, multiplier: int) -> float:
    """Multiply-accumulates of the blocks as a fraction of the layer's: m I (k² + O) over I O k²."""
    size, out = layer.weight[0, 0].numel(), layer.out_channels
    return float(min(multiplier, size, out) * (size + out) / (size * out))
