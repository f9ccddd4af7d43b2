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


def first_bad_module(model: nn.Module, x: Tensor, arithmetic: Arithmetic) -> str:
    """The first module, in the order of the forward pass, that returns NaN or infinity for finite input.

    A module whose own weights are not finite is named with that fact. When the forward pass is clean, the loss
    itself is.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> _ = net[1].weight.data.fill_(float("nan"))
        >>> first_bad_module(net, torch.ones(1, 1), Arithmetic())
        "'1' (Linear), whose weights hold NaN or infinity"
    """
    if not torch.isfinite(x).all():
        return "the input itself, which holds NaN or infinity"
    guilty: list[str] = []
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if guilty or not isinstance(output, Tensor) or torch.isfinite(output).all():
                return
            broken = not all(torch.isfinite(p).all() for p in module.parameters(recurse=False))
            guilty.append(f"'{name}' ({type(module).__name__})" + ", whose weights hold NaN or infinity" * broken)

        return hook

    for name, module in model.named_modules():
        if name and not list(module.children()):
            handles.append(module.register_forward_hook(watch(name)))
    try:
        with torch.no_grad(), arithmetic.context():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return guilty[0] if guilty else "the loss itself: all outputs are finite"
