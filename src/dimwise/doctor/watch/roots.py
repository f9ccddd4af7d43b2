"""Networks as they are at first sight: what they are made of, and what their weights looked like."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.doctor.seen import LayerSeen, RootSeen
from dimwise.doctor.watch import ties
from dimwise.doctor.watch.live import WRAPPERS, Live, LiveRoot, sample


def root_of(live: Live, module: nn.Module) -> LiveRoot:
    """The root that belongs to this module, made at first sight."""
    known = live.roots.get(id(module))
    if known is not None and known.module() is module:
        if known.lazy:
            _describe_late(known, module)
        return known
    key = len(live.root_by_key)
    seen = RootSeen(key, type(module).__name__)
    paths = {id(part): path for path, part in module.named_modules()}
    root = LiveRoot(seen, weakref.ref(module), paths)
    seen.n_params = sum(p.numel() for p in module.parameters() if not lazy(p))
    seen.n_trainable = sum(p.numel() for p in module.parameters() if p.requires_grad and not lazy(p))
    seen.n_mode_modules = sum(_depends_on_mode(part) for part in module.modules())
    for path, part in module.named_modules():
        describe(root, path, part)
    root.lazy = any(lazy(p) for p in module.parameters())
    ties.broken(live, root, module)
    ties.copies(root, module)
    live.roots[id(module)] = live.root_by_key[key] = root
    live.seen.roots[key] = seen
    live.seen.cuda = live.seen.cuda or any(p.device.type != "cpu" for p in module.parameters())
    return root


def _describe_late(root: LiveRoot, module: nn.Module) -> None:
    """Layers whose shapes are learnt from the first batch are described once they have them."""
    root.lazy = any(lazy(p) for p in module.parameters())
    if root.lazy:
        return
    for path, part in module.named_modules():
        if path not in root.seen.layers:
            describe(root, path, part)
    root.seen.n_params = sum(p.numel() for p in module.parameters())
    root.seen.n_trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)


def lazy(p: Tensor) -> bool:
    """Whether it has no values to look at: its shape is learnt from the first batch, or it is many under vmap."""
    return isinstance(p, nn.UninitializedParameter) or ties.is_many(p)


def can_be_root(live: Live, module: nn.Module) -> bool:
    """Whether it is a network of its own: with parameters, no wrapper, none of ours."""
    if module in live.skip_modules or type(module).__name__ in WRAPPERS:
        return False
    if next(module.parameters(), None) is None:
        live.skip_modules.add(module)
        return False
    return True


def owns_parameters(module: nn.Module) -> bool:
    """Whether parameters are registered with it directly."""
    return any(p is not None for p in module._parameters.values())


def _depends_on_mode(part: nn.Module) -> bool:
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p > 0
    if isinstance(part, nn.RNNBase):
        return part.dropout > 0
    return isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats


def modes(module: nn.Module) -> tuple[int, int]:
    """Mode-dependent modules (in training mode, in evaluation mode)."""
    states = [part.training for part in module.modules() if _depends_on_mode(part)]
    return sum(states), len(states) - sum(states)


def describe(root: LiveRoot, path: str, part: nn.Module) -> None:
    """One part that owns parameters becomes a layer of its root."""
    own = {n: p for n, p in part._parameters.items() if p is not None and not lazy(p)}
    if not own:
        return
    name, weight = max(own.items(), key=lambda item: (item[1].dim() >= 2, item[1].numel()))
    layer = LayerSeen(
        path,
        type(part).__name__,
        weight=name,
        shape=tuple(weight.shape),
        n_params=sum(p.numel() for p in own.values()),
        requires_grad=any(p.requires_grad for p in own.values()),
    )
    layer.init = _first_sight(weight)
    root.seen.layers[path] = layer
    root.weights.append((layer, name, weakref.ref(part)))
    root.first_values[path] = sample(weight)


def _first_sight(weight: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        values = weight.detach().float()
        low, high = (float(v) for v in torch.aminmax(values)) if values.numel() else (0.0, 0.0)
        mean = float(values.mean()) if values.numel() else 0.0
        std = float(values.std(correction=0)) if values.numel() else 0.0
    fan_in = math.prod(weight.shape[1:]) if weight.dim() > 1 else 1
    fan_out = weight.shape[0] * math.prod(weight.shape[2:]) if weight.dim() > 1 else 1
    constant = values.numel() > 1 and low == high
    return {
        "mean": mean,
        "std": std,
        "absmax": max(abs(low), abs(high)),
        "constant": constant,
        "zero": constant and low == 0.0,
        "fan_in": fan_in,
        "fan_out": fan_out,
    }
