"""What can be seen from inside a step: gradient norms, and who made the first NaN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dimwise.train.precision import Arithmetic


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """L2 norm of the gradient of each weight (dimension ≥ 2), by the name of its module.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> layer(torch.ones(1, 1)).sum().backward()
        >>> gradient_norms(layer)
        {'weight': 1.0}
    """
    found = {
        name.removesuffix(".weight"): p.grad
        for name, p in model.named_parameters()
        if p.grad is not None and p.dim() > 1
    }
    if not found:
        return {}
    norms = torch._foreach_norm(list(found.values()))
    return dict(zip(found, torch.stack([n.float() for n in norms]).tolist(), strict=True))


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """A copy of each weight of dimension ≥ 2, by the name of its module: where :func:`update_ratios` starts from."""
    return {name: p.detach().clone() for name, p in _weights(model).items()}


def update_ratios(model: nn.Module, before: dict[str, Tensor]) -> dict[str, float]:
    """‖w − w₀‖ / ‖w₀‖ of each weight, with w₀ its value before the last step; about 0.001 is usual.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> before = matrices(layer)
        >>> _ = layer.weight.data.mul_(1.25)
        >>> round(update_ratios(layer, before)["weight"], 4)
        0.25
    """
    weights = _weights(model)
    if not before:
        return {}
    old = [before[name] for name in weights]
    moved = torch._foreach_norm(torch._foreach_sub([p.detach() for p in weights.values()], old))
    ratios = torch.stack(moved).float() / torch.stack(torch._foreach_norm(old)).float().clamp_min(1e-12)
    return dict(zip(weights, ratios.tolist(), strict=True))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name.removesuffix(".weight"): p for name, p in model.named_parameters() if p.requires_grad and p.dim() > 1}


def first_bad_parameter(model: nn.Module) -> str | None:
    """The first parameter that holds NaN or infinity, by name, or None."""
    return next((name for name, p in model.named_parameters() if not torch.isfinite(p).all()), None)


def first_bad_module(model: nn.Module, x: Tensor, arithmetic: Arithmetic) -> str:
    """The first module, in the order of the forward pass, that returns NaN or infinity for finite input.

    A module whose own weights are not finite is named with that fact. When the forward pass is clean, the loss
    itself is. The pass runs in the mode the network is in; running statistics are put back afterwards.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> _ = net[1].weight.data.fill_(float("nan"))
        >>> first_bad_module(net, torch.ones(1, 1), Arithmetic())
        "'1' (Linear), whose weights hold NaN or infinity"
    """
    if not torch.isfinite(x).all():
        return "the input itself, which holds NaN or infinity"
    guilty: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if guilty or all(torch.isfinite(t).all() for t in _tensors(output)):
                return
            broken = not all(torch.isfinite(p).all() for p in module.parameters(recurse=False))
            place = f"'{name}' ({type(module).__name__})" if name else f"{type(module).__name__}.forward"
            guilty.append(place + ", whose weights hold NaN or infinity" * broken)

        return hook

    # A hook fires when its module is done, so the innermost and earliest culprit comes first.
    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        with torch.no_grad(), arithmetic.context():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
        for buffer, own in buffers:
            buffer.copy_(own)
    return guilty[0] if guilty else "the loss itself: all outputs are finite"


def _tensors(output: Any) -> list[Tensor]:
    parts = output if isinstance(output, (list, tuple)) else [output]
    return [p for p in parts if isinstance(p, Tensor)]
