"""Feature reduction: the network is cut early, what it has found by then is reduced, and a linear head answers.

Idea: the last layers of a network often sharpen what is linearly separable already. Cut there, keep the directions
in which the features vary, and fit a linear layer to them. The same on the inputs is the baseline that every network
should beat.

Mathematics: f (D) = features; f ≈ μ + Pᵀ z, P (n, D) the eigenvectors of the n largest eigenvalues λ of their
covariance; the share of variance kept is Σ_{i≤n} λ_i / Σ λ_i. Head: y = W z' + b on z' = z / √λ, by logistic
regression (least squares for regression). Merged: y = (W diag(1/√λ) P) f + b', one layer of K · D numbers; or two of
n · (D + K) where those are fewer.

Use when: a network is deeper than its task needs, a trained one is used for another task of few classes, or as a
first look at what is learnt where (``from dimwise.fold import features, pca``; scree and projection as pictures are in
``dimwise.view.components``).

Cost: one pass over ``samples`` training inputs for each place tried, eigenvectors of a D × D matrix (1 s for 1000),
a logistic regression. No gradient, no epochs.

Pitfalls: directions of small variance may be those that decide: look at the score, not at the variance. Where maps are
averaged to a coarse grid, position is lost. A network that is cut cannot be taught its old end again. Features of
late layers are made for the old labels. Places where nothing varies (dead activations), or with fewer components than
are asked for, are passed over by the search.

Source: Pearson 1901 (principal components); Alain, Bengio 2017, arXiv:1610.01644 (linear heads on each layer).
Deviation: the place to cut is found on the validation split.

Evidence: tests/fold/test_reduce.py (components against scikit-learn; merged equals step by step).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dimwise.errors import DataError, ModelError, RecipeError
from dimwise.fold._components import Components, linear_head, merged, pca
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._extract import INPUT, extractor, features, stages
from dimwise.fold._modules import working_copy
from dimwise.fold.distill import KINDS
from dimwise.recipe import config
from dimwise.seeds import derive
from dimwise.train.evaluate import predict_outputs

__all__ = ["Components", "ReduceConfig", "features", "pca", "reduce"]

_DRAWN_COMPONENTS = 60
_DRAWN_SAMPLES = 600


@config
class ReduceConfig:
    """Where the network is cut, and how much of its features is kept."""

    layer: str = ""
    """Name of the layer after which to cut, or input for no network at all; empty looks for the earliest whose score
    is within ``drop``. Default: empty."""
    drop: Annotated[float, Field(ge=0, le=1)] = 0.005
    """For layer = "": validation score that may be lost, 0 to 1. Default: half a point."""
    components: Annotated[int, Field(ge=0)] = 0
    """Principal components to keep; 0 takes as many as ``variance`` asks for. Default: 0."""
    variance: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the features' variance to keep. Default: nearly all; what is left out is mostly noise."""
    grid: Annotated[int, Field(ge=0)] = 2
    """Maps are averaged to grid × grid values a channel; 0 keeps every position. Default: 2, which keeps up from down
    and left from right."""
    samples: Annotated[int, Field(ge=2)] = 5000
    """Training inputs that components and head are fitted to, drawn by seed. Default: enough for some hundred."""
    places: Annotated[int, Field(ge=1)] = 8
    """For layer = "": most places tried, spread over the network. Default: each costs a pass and a regression."""
    head: Literal["auto", "one", "two"] = "auto"
    """one: components and head merged into one layer; two: kept apart; auto: what has fewer numbers. Default: auto."""


def reduce(model: nn.Module, config: ReduceConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    """Cut the network, reduce its features to their principal components, and fit a linear head.

    Args:
        model: any module with one input; it is not changed.
        config: where, how much.
        evidence: training data to fit to, the validation score to choose by, cost for the report.

    Returns:
        (an ``nn.Sequential`` of body, grid, flatten and head in evaluation mode, the report).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when there is no such layer, the network cannot be cut there, or nothing varies there.
        DataError: without training data, or with features that are not finite.
        RecipeError: for a task without a linear head, or more components than there are at any place tried.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("reduce", model, evidence.example, evidence.seed)
    if evidence.data.task not in KINDS:
        raise RecipeError(f"no linear head for the task {evidence.data.task!r}", expected="one of: " + ", ".join(KINDS))
    inputs, targets = _samples(config, evidence)
    untouched: dict[str, str] = {}
    if config.layer:
        found = _fitted(original, config.layer, inputs, targets, config, evidence)
    else:
        found = _earliest(original, x, inputs, targets, config, evidence, untouched)
    made = found.model.to(x.device).eval()
    row: dict[str, Any] = {
        "name": found.layer,
        "features": found.n_features,
        "components": found.n_components,
        "variance": round(float(found.components.explained_variance()[: found.n_components].sum()), 6),
    }
    report = compare("reduce", config, evidence, model, made, layers=[row], untouched=untouched, started=started)
    return made, replace(report, drawn=_drawn(found, targets, evidence))


@dataclass(frozen=True)
class _Fitted:
    layer: str
    model: nn.Module
    n_features: int
    n_components: int
    components: Components
    plane: Any
    """(N', 2) some samples along the first two components; one column where there is one component."""


def _drawn(found: _Fitted, targets: Tensor, evidence: Evidence) -> dict[str, Any]:
    """What each component explains, and classified samples in the plane of the first two."""
    shares = found.components.explained_variance()[: max(_DRAWN_COMPONENTS, found.n_components)]
    told: dict[str, Any] = {"scree": {"shares": shares.round(6).tolist(), "kept": found.n_components}}
    if evidence.data.task == "classification" and found.plane.shape[1] == 2:
        classes = targets[: len(found.plane)].tolist()
        told["projection"] = {"points": found.plane.round(4).tolist(), "classes": classes}
    return told


def _samples(config: ReduceConfig, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Normalised training inputs and their targets, in a seeded order."""
    data = evidence.data
    if len(data.train) < 2:
        raise DataError(
            f"{data.name} has {len(data.train)} training inputs",
            expected="some hundred of them, to fit components and head to",
        )
    generator = torch.Generator().manual_seed(derive(evidence.seed, "reduce"))
    rows = torch.randperm(len(data.train), generator=generator)[: config.samples]
    return data.normalise(data.train.inputs[rows]), data.train.targets[rows]


def _earliest(
    model: nn.Module,
    x: Tensor,
    inputs: Tensor,
    targets: Tensor,
    config: ReduceConfig,
    evidence: Evidence,
    untouched: dict[str, str],
) -> _Fitted:
    """Cut at the first place whose validation score is near enough; else where it is best."""
    least = evidence.score(model) - config.drop
    tried: list[tuple[float, _Fitted]] = []
    refused: RecipeError | None = None
    places = [INPUT, *stages(model, x)[:-1]]
    step = max(1, -(-len(places) // config.places))
    chosen = sorted({*places[::step], places[-1]}, key=places.index)
    for place in chosen:
        try:
            found = _fitted(model, place, inputs, targets, config, evidence)
        except ModelError as error:
            untouched[place] = error.what
            continue
        except RecipeError as error:  # fewer components here than are asked for
            untouched[place], refused = str(error), refused or error
            continue
        score = evidence.score(found.model)
        tried.append((score, found))
        if score >= least:
            break
        untouched[place] = f"cut there, the validation score is {score:.4f}"
    if not tried and refused is not None:
        raise refused
    if not tried:
        told = "; ".join(f"{place}: {why}" for place, why in list(untouched.items())[:2])
        raise ModelError(f"{type(model).__name__} cannot be cut anywhere ({told})", next_step="Name a layer.")
    best = max(tried, key=lambda pair: (min(pair[0], least), pair[0]))[1]
    untouched.pop(best.layer, None)
    return best


def _fitted(
    model: nn.Module, layer: str, inputs: Tensor, targets: Tensor, config: ReduceConfig, evidence: Evidence
) -> _Fitted:
    body = extractor(model, layer)
    sample = _shown(body, inputs[:1])
    if not sample.is_floating_point():
        raise ModelError(
            f"at {layer!r} there are whole numbers, such as tokens: names, which have no components",
            expected="features with fractions",
            next_step="Name a later layer.",
        )
    parts: OrderedDict[str, nn.Module] = OrderedDict(body=body)
    shrink = grid(tuple(sample.shape), config.grid)
    if shrink is not None:
        parts["grid"] = shrink
    parts["flatten"] = nn.Flatten()
    seen = predict_outputs(nn.Sequential(parts), inputs)  # (N, D)
    components = pca(seen)
    noise = np.finfo(float).eps * float(np.abs(components.mean).max())  # what equal numbers differ from their mean by
    if not components.variances[0] > (10 * noise) ** 2:
        raise ModelError(
            f"the features at {layer!r} are the same for all inputs",
            expected="features that vary",
            next_step="Look for dead activations or equal inputs, or name another layer.",
        )
    n = config.components or components.count_for(config.variance)
    if n > len(components.variances):
        raise RecipeError(
            f"reduce.components is {n}",
            expected=f"at most {len(components.variances)}, as many as the features at {layer!r} have variance in",
        )
    z = components.project(seen, n) / components.variances[:n] ** 0.5
    weight, bias = linear_head(z, targets, evidence.data.task, evidence.data.n_outputs)
    parts["head"] = _head(components, n, weight, bias, config)
    plane = components.project(seen[:_DRAWN_SAMPLES], 2)
    return _Fitted(layer, nn.Sequential(parts).eval(), seen.shape[1], n, components, plane)


def _shown(body: nn.Module, inputs: Tensor) -> Tensor:
    """What a part of a network puts out, in the shape in which it does, on the CPU."""
    with torch.no_grad():
        device = next((p.device for p in body.parameters()), torch.device("cpu"))
        out: Tensor = body(inputs.to(device)).cpu()
    return out


def grid(shape: tuple[int, ...], size: int) -> nn.Module | None:
    """What averages maps (N, C, H, W) or (N, C, D, H, W) to about ``size`` values a side; None where nothing is to do.

    Example:
        >>> grid((1, 8, 7, 7), 2)(torch.zeros(1, 8, 7, 7)).shape, grid((1, 8), 2), grid((1, 8, 2, 2), 2)
        (torch.Size([1, 8, 2, 2]), None, None)
    """
    sides = shape[2:]
    if size == 0 or len(sides) not in (2, 3) or max(sides) <= size:
        return None
    kernel = [max(1, side // size) for side in sides]
    if len(sides) == 2:
        return nn.AvgPool2d((kernel[0], kernel[1]))
    return nn.AvgPool3d((kernel[0], kernel[1], kernel[2]))


def _head(components: Components, n: int, weight: Any, bias: Any, config: ReduceConfig) -> nn.Module:
    (down, shift), (whole, offset) = merged(components, n, weight, bias)
    k, d = whole.shape
    if config.head == "one" or (config.head == "auto" and k * d <= n * (d + k)):
        return _linear(whole, offset)
    return nn.Sequential(
        _linear(down, shift), _linear(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
    )


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight, made.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias.contiguous())
    return made
