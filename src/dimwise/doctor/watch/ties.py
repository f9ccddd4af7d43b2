"""Parameters that were meant to be one: ties that broke, copies that drift apart."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from dimwise.doctor.watch.live import Live, LiveRoot


def broken(live: Live, root: LiveRoot, module: nn.Module) -> None:
    """Parameters that were one when they were registered and are two in this root."""
    for old, (first, second) in list(_registered(live).shared.items()):
        one, two = first[0](), second[0]()
        if one is None or two is None or id(one) not in root.paths or id(two) not in root.paths:
            continue
        now = one._parameters.get(first[1]), two._parameters.get(second[1])
        if now[0] is not None and now[1] is not None and now[0] is not now[1]:
            names = [f"{root.paths[id(m)]}.{n}".lstrip(".") for m, n in ((one, first[1]), (two, second[1]))]
            root.seen.untied.append((names[0], names[1]))
            _registered(live).shared.pop(old, None)


def copies(root: LiveRoot, module: nn.Module) -> None:
    """Embeddings and linear layers that hold equal values in two parameters: a tie that was meant, or a start."""
    tables = [(n, m.weight) for n, m in module.named_modules() if isinstance(m, nn.Embedding)]
    tables = [(n, w) for n, w in tables if not is_many(w)]
    maps = [(n, m.weight) for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    maps = [(n, w) for n, w in maps if not isinstance(w, nn.UninitializedParameter) and not is_many(w)]
    for one, table in tables:
        for other, weight in maps:
            if table is weight or table.shape != weight.shape or table.device != weight.device:
                continue
            if bool((table == table.flatten()[0]).all()) or not torch.equal(table, weight):
                continue
            names = [f"{path}.weight" for path in (one, other)]
            root.copies.append((names[0], names[1], weakref.ref(table), weakref.ref(weight)))


def is_many(p: Tensor) -> bool:
    """Whether it stands for one tensor of many, inside torch.func.vmap, where no value can be read."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(p):
        if functorch.is_batchedtensor(p):
            return True
        p = functorch.get_unwrapped(p)
    return False


def _recheck_copies(root: LiveRoot) -> None:
    for a, b, first, second in root.copies:
        one, two = first(), second()
        if one is None or two is None:
            continue  # the network is gone: what was seen last holds
        apart = one.requires_grad and two.requires_grad and not torch.equal(one, two)
        if apart and (a, b) not in root.seen.copied:
            root.seen.copied.append((a, b))
        elif not apart and (a, b) in root.seen.copied:
            root.seen.copied.remove((a, b))


class Registered:
    """Who registered which parameter, so that a tie that was broken later can be told."""

    def __init__(self) -> None:
        self.first: dict[int, tuple[weakref.ref[nn.Module], str, weakref.ref[Tensor]]] = {}
        self.shared: dict[
            tuple[int, str], tuple[tuple[weakref.ref[nn.Module], str], tuple[weakref.ref[nn.Module], str]]
        ] = {}

    def note(self, module: nn.Module, name: str, param: Tensor | None) -> None:
        if param is None:
            return
        known = self.first.get(id(param))
        if known is None or known[2]() is not param:
            self.first[id(param)] = (weakref.ref(module), name, weakref.ref(param))
            return
        owner = known[0]()
        if owner is not None and owner is not module:
            self.shared[(id(module), name)] = ((known[0], known[1]), (weakref.ref(module), name))


def _registered(live: Live) -> Registered:
    if live.registered is None:
        live.registered = Registered()
    known: Registered = live.registered
    return known


def registration(live: Live, module: nn.Module, name: str, param: Tensor | None) -> None:
    """Global parameter registration hook."""
    _registered(live).note(module, name, param)


def recheck(live: Live) -> None:
    """Ties may break after the first pass, too, and copies drift apart."""
    for root in live.root_by_key.values():
        _recheck_copies(root)
        module = root.module()
        if module is not None and _registered(live).shared:
            broken(live, root, module)
