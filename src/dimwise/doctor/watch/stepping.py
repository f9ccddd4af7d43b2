"""What moves the parameters: optimizers, what is done between backward and step, updates by hand."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.doctor.finding import Place
from dimwise.doctor.seen import LayerSeen, OptimizerSeen
from dimwise.doctor.watch.live import Live, LiveOptimizer, LiveRoot, sample
from dimwise.doctor.watch.place import here

_PROBES = 3
_DEAD_LOOKS = frozenset((*range(12), 15, 20, 30, 50, 80, 120, 180))
"""Steps at which rows of gradients are looked at for dead units."""
_KEEP = 600
"""Entries of a history that is written per step."""


# -- optimizers -------------------------------------------------------------------------------------------------------


def optimizer_of(live: Live, optimizer: torch.optim.Optimizer, place: Place | None = None) -> LiveOptimizer:
    """The watcher's view of an optimizer, made at first sight."""
    known = live.optimizers.get(id(optimizer))
    if known is not None and known.optimizer() is optimizer:
        return known
    key = len(live.seen.optimizers)
    told = OptimizerSeen(key, type(optimizer).__name__, place)
    live.seen.optimizers[key] = told
    made = live.optimizers[id(optimizer)] = LiveOptimizer(told, weakref.ref(optimizer))
    refresh(live, made, optimizer)
    return made


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimizer that have a shape by now, in order."""
    everything = (p for group in optimizer.param_groups for p in group["params"])
    return [p for p in everything if not nn.parameter.is_lazy(p)]


def refresh(live: Live, made: LiveOptimizer, optimizer: torch.optim.Optimizer) -> None:
    """Its groups as they are now."""
    told = made.seen
    everything = parameters(optimizer)
    for p in everything:
        live.owner[id(p)] = told.key
        if id(p) not in made.first_seen:
            made.first_seen[id(p)] = sample(p)
    told.n_tensors, told.n_params = len(everything), sum(p.numel() for p in everything)
    told.n_frozen = sum(not p.requires_grad for p in everything)
    told.groups = [
        {
            "lr": float(g.get("lr", math.nan)),
            "weight_decay": float(g.get("weight_decay", 0.0) or 0.0),
            "momentum": float(g.get("momentum", 0.0) or 0.0),
            "n_tensors": len(g["params"]),
            "n_small": sum(not nn.parameter.is_lazy(p) and p.dim() < 2 for p in g["params"]),
        }
        for g in optimizer.param_groups
    ]


def before_step(live: Live, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Global optimizer pre-hook."""
    if not live.full:
        return
    made = optimizer_of(live, optimizer, here(4))
    everything = parameters(optimizer)
    grads = [p.grad for p in everything if p.grad is not None]
    if made.used and _cleared(made):
        _forget_used(made)
    state = "none" if not grads else "some"
    norm: float | None = None
    if grads:
        dense = [g for g in grads if not g.is_sparse]
        with torch.no_grad():
            norms = torch._foreach_norm(dense) if dense else []
            norm = float(torch.linalg.vector_norm(torch.stack([n.float().cpu() for n in norms]))) if norms else None
        if norm == 0.0:
            state = "zero"
    if made.given and state != "some":  # by hand: p.grad = None, p.grad.zero_()
        live.event("grads_cleared", made.seen.key, None)
    made.given = False
    made.idle_steps = 0 if state == "some" else made.idle_steps + 1
    closure = len(args) > 1 or kwargs.get("closure") is not None  # the first is the optimizer itself
    lrs = tuple(float(g.get("lr", math.nan)) for g in optimizer.param_groups)
    live.event(
        "step",
        made.seen.key,
        here(4),
        grads=state,
        stale=made.stale or (made.used and state == "some" and made.n_backward == 0),
        n_backward=made.n_backward,
        grad_norm=norm,
        lrs=lrs,
        closure=closure,
        zeroed=made.zeroed_since_step,
    )
    if not made.seen.lr_history or made.seen.lr_history[-1][1] != lrs:
        made.seen.lr_history.append((live.step, lrs))
        del made.seen.lr_history[1:-_KEEP]
    _look_at_gradients(live, made, norm)
    made.probes = [weakref.ref(p) for p in everything if p.grad is not None][:: max(1, len(everything) // _PROBES)]
    made.had_grad |= {id(p) for p in everything if p.grad is not None}


def after_step(live: Live, optimizer: torch.optim.Optimizer) -> None:
    """Global optimizer post-hook: what the step changed."""
    if live.full:
        made = optimizer_of(live, optimizer)
        _look_at_updates(live, made)
        made.used, made.n_backward, made.zeroed_since_step = True, 0, False
    made_or_none = live.optimizers.get(id(optimizer))
    if made_or_none is not None:
        made_or_none.seen.n_steps += 1
    stepped(live)


def stepped(live: Live) -> None:
    """One more step, of whoever."""
    live.step += 1
    live.seen.n_steps += 1
    live.seen.n_watched_steps += live.full


def _cleared(made: LiveOptimizer) -> bool:
    probes = [p for ref in made.probes if (p := ref()) is not None]
    return bool(probes) and all(p.grad is None or not bool(p.grad.any()) for p in probes)


def _forget_used(made: LiveOptimizer) -> None:
    made.used = made.stale = False


def reached(live: Live, ids: Iterable[int]) -> list[int]:
    """Keys of the optimizers whose parameters are among ``ids``."""
    return sorted({live.owner[i] for i in ids if i in live.owner})


def stale_before_backward(live: Live, reached_keys: list[int]) -> None:
    """Gradients that a step has used and nobody cleared: what this backward pass adds to them is added to the past."""
    for made in live.optimizers.values():
        if made.seen.key not in reached_keys:
            continue
        if made.used:
            if _cleared(made):
                if not made.zeroed_since_step:
                    live.event("grads_cleared", made.seen.key, None)
                _forget_used(made)
            elif made.probes:
                made.stale = True
        made.n_backward += 1


def after_backward(live: Live) -> None:
    """Whether what a backward pass gave is more than nothing; asked of optimizers whose last step found nothing."""
    for made in live.optimizers.values():
        optimizer = made.optimizer()
        if made.given or not made.n_backward or not (made.idle_steps or not made.seen.n_steps) or optimizer is None:
            continue
        grads = [p.grad for p in parameters(optimizer) if p.grad is not None]
        made.given = any(bool(g.any()) for g in grads[:: max(1, len(grads) // _PROBES)] if not g.is_sparse)


def zeroed(live: Live, who: torch.optim.Optimizer | nn.Module) -> None:
    """``zero_grad`` of an optimizer or a module is about to run."""
    if not live.full:
        return
    if isinstance(who, torch.optim.Optimizer):
        made = optimizer_of(live, who)
        had = any(p.grad is not None for p in parameters(who))
        _forget_used(made)
        made.zeroed_since_step, made.given = True, False
        live.event("zero_grad", made.seen.key, here(3), had_grads=had)
        return
    live.readied.add(who)
    own = {id(p) for p in who.parameters()}
    for made in live.optimizers.values():
        optimizer = made.optimizer()
        if optimizer is not None and own & {id(p) for p in parameters(optimizer)}:
            made.zeroed_since_step, made.given = True, False
            if own >= {id(p) for p in parameters(optimizer)}:
                _forget_used(made)
            live.event("zero_grad", made.seen.key, here(3), had_grads=any(p.grad is not None for p in who.parameters()))


def clipped(live: Live, given: Any, *, method: str, limit: float, norm: float | None) -> None:
    """``clip_grad_norm_`` or ``clip_grad_value_`` ran."""
    if not live.full:
        return
    first = given if isinstance(given, Tensor) else next(iter(given), None)
    key = live.owner.get(id(first)) if first is not None else None
    fresh = True
    for made in live.optimizers.values():
        if made.seen.key == key:
            fresh = made.n_backward > 0
    live.event("clip", key, here(3), method=method, total_norm=norm, max_norm=limit, fresh=fresh)


# -- layers -----------------------------------------------------------------------------------------------------------


def _layers_of(live: Live, made: LiveOptimizer) -> list[tuple[LiveRoot, LayerSeen, str, nn.Module, Tensor]]:
    own = {id(p) for p in parameters(opt)} if (opt := made.optimizer()) is not None else set()
    found: list[tuple[LiveRoot, LayerSeen, str, nn.Module, Tensor]] = []
    roots = set()
    for root in live.root_by_key.values():
        if root.module() is None:
            continue
        for layer, name, ref in root.weights:
            module = ref()
            weight = module._parameters.get(name) if module is not None else None
            if module is not None and weight is not None and id(weight) in own:
                found.append((root, layer, name, module, weight))
                roots.add(root.seen.key)
                made.homes.add(id(weight))
    made.seen.roots = tuple(sorted(roots))
    return found


def _look_at_gradients(live: Live, made: LiveOptimizer, norm: float | None) -> None:
    layers = _layers_of(live, made)
    if norm is not None:
        for key in made.seen.roots:
            history = live.seen.roots[key].grad_norm
            history.append((live.step, norm))
            del history[20:-_KEEP]
    optimizer = made.optimizer()
    decay = (
        {id(p): float(g.get("weight_decay", 0.0) or 0.0) for g in optimizer.param_groups for p in g["params"]}
        if optimizer
        else {}
    )
    made.before = {}
    with torch.no_grad():
        for root, layer, _, module, weight in layers:
            layer.optimizers = tuple(sorted({*layer.optimizers, made.seen.key}))
            layer.decay = decay.get(id(weight), 0.0)
            layer.decayed_small = sum(
                p is not None and p.dim() < 2 and decay.get(id(p), 0.0) > 0 for p in module._parameters.values()
            )
            made.before[id(weight)] = sample(weight)
            grad = weight.grad
            if grad is None or grad.is_sparse:
                layer.n_grad_missing += grad is None and weight.requires_grad
                continue
            layer.n_grad += 1
            size = float(torch.linalg.vector_norm(grad.float()))
            layer.n_grad_zero += size == 0.0
            if not math.isfinite(size):
                layer.n_grad_nonfinite += 1
                if layer.first_nonfinite_step is None:
                    layer.first_nonfinite_step = live.step
            _append(layer.grad_norm, (live.step, size))
            _append(layer.weight_norm, (live.step, float(torch.linalg.vector_norm(weight.detach().float()))))
            if live.step in _DEAD_LOOKS and grad.dim() >= 2 and not isinstance(module, nn.Embedding):
                _dead_rows(live, root, layer, grad)


def _dead_rows(live: Live, root: LiveRoot, layer: Any, grad: Tensor) -> None:
    transposed = "Transpose" in layer.kind
    rows = (grad.transpose(0, 1) if transposed else grad).reshape(grad.shape[1 if transposed else 0], -1)
    dead = torch.linalg.vector_norm(rows.float(), dim=1) == 0
    _append(layer.dead_frac, (live.step, float(dead.float().mean())))
    so_far = root.dead.get(layer.path)
    root.dead[layer.path] = dead if so_far is None or so_far.shape != dead.shape else so_far & dead
    looks = root.n_dead_looks[layer.path] = root.n_dead_looks.get(layer.path, 0) + 1
    if looks >= 3:
        layer.always_dead_frac = float(root.dead[layer.path].float().mean())


def _look_at_updates(live: Live, made: LiveOptimizer) -> None:
    ratios: dict[int, list[float]] = {}
    with torch.no_grad():
        for root, layer, _, _, weight in _layers_of(live, made):
            before = made.before.get(id(weight))
            if before is None:
                continue
            now = sample(weight)
            moved, size = float((now - before).norm()), float(before.norm())
            first = root.first_values.get(layer.path)
            layer.changed = layer.changed or (first is not None and not torch.equal(now, first))
            if size > 0:
                _append(layer.update_ratio, (live.step, moved / size))
                if weight.dim() >= 2:
                    ratios.setdefault(root.seen.key, []).append(moved / size)
    made.before = {}
    _replica(live, made)
    for key, values in ratios.items():
        values.sort()
        _append(live.seen.roots[key].update_ratio, (live.step, values[len(values) // 2]))


def _replica(live: Live, made: LiveOptimizer) -> None:
    """With several processes: one number that says whether they still hold the same parameters."""
    optimizer = made.optimizer()
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if optimizer is None or not ready or len(live.seen.process.checksums) >= 400:
        return
    total = sum(float(p.detach().double().sum()) for p in parameters(optimizer))
    live.seen.process.checksums.append((live.step, total))


def _append(history: list[tuple[int, float]], entry: tuple[int, float]) -> None:
    history.append(entry)
    del history[20:-_KEEP]  # the first twenty and the latest stay


def conclude(live: Live) -> None:
    """What can only be said at the end, of parameters, optimizers and layers no optimizer holds."""
    used = {
        id(p)
        for root in live.root_by_key.values()
        if root.seen.n_train_forwards and (module := root.module()) is not None
        for p in module.parameters()
    }
    for made in live.optimizers.values():
        optimizer = made.optimizer()
        if optimizer is None:
            continue
        refresh(live, made, optimizer)
        everything = parameters(optimizer)
        made.seen.n_stale_tensors = sum(id(p) not in used for p in everything) if used else 0
        made.seen.n_homeless = len(made.homes - used) if used else 0
        made.seen.n_without_grad = sum(p.requires_grad and id(p) not in made.had_grad for p in everything)
        made.seen.n_unchanged = sum(
            p.requires_grad and id(p) in made.first_seen and torch.equal(sample(p), made.first_seen[id(p)])
            for p in everything
        )
    for root in live.root_by_key.values():
        module = root.module()
        if module is None:
            continue
        root.seen.readied = root.seen.readied or module in live.readied
        unused = []
        for layer, name, ref in root.weights:
            part = ref()
            weight = part._parameters.get(name) if part is not None else None
            if weight is None:
                continue
            first = root.first_values.get(layer.path)
            if first is not None and not torch.equal(sample(weight), first):
                layer.changed = True
            keys = {live.owner[id(weight)]} if id(weight) in live.owner else set()
            layer.optimizers = tuple(sorted({*layer.optimizers, *keys}))
            if not keys and weight.grad is not None:
                layer.n_grad = max(layer.n_grad, 1)
            if not layer.calls_train and not layer.calls_eval and not layer.n_grad and weight.grad is None:
                unused.append(layer.path)
        root.seen.unused = unused if root.seen.n_train_forwards else []


# -- updates by hand --------------------------------------------------------------------------------------------------


def manual_steps(live: Live) -> None:
    """Parameters that no optimizer holds and that changed since the last backward pass: an update written by hand."""
    for root in live.root_by_key.values():
        module = root.module()
        if module is None or not root.seen.n_train_forwards:
            continue
        free = next((p for p in module.parameters() if p.requires_grad and id(p) not in live.owner), None)
        if free is None:
            continue
        now = sample(free)
        if root.probe is not None and root.probe.shape == now.shape and not torch.equal(root.probe, now):
            grad = free.grad
            stale = grad is not None and bool(grad.any())
            norm = float(grad.norm()) if grad is not None else None
            live.event("manual_step", root.seen.key, None, stale=stale, grad_norm=norm)
            stepped(live)
        root.probe = now
