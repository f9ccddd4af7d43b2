"""What is differentiated: the loss, its value, whether old gradients were in the way, whether old graphs live on."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.doctor.watch import graph, inputs, stepping
from dimwise.doctor.watch.live import Live, LiveRoot, elements
from dimwise.doctor.watch.place import here

_DEEP_LOOKS = frozenset((0, 1, 2, 3, 5, 7, 10, 13, 16, 20, 30, 50, 80, 120, 180))
"""Steps at which activations are read from the graph; enough to see what lasts, few enough to stay cheap."""
_OLD_STEPS = 5


class _Token:
    """Lives as long as the autograd graph it hangs on."""

    __slots__ = ("__weakref__",)


def before(live: Live, tensors: Any, *, retain: bool, create_graph: bool) -> None:
    """``torch.autograd.backward`` is about to run."""
    seen = live.seen
    seen.n_backward += 1
    if not live.full:
        return
    loss = next((t for t in elements(tensors)), None)
    if loss is None:
        return
    if loss.grad_fn is None:
        live.event(
            "backward",
            None,
            here(3),
            value=_value(loss),
            grad_fn="leaf",
            loss=None,
            reduction=None,
            scaled=False,
            retain=retain,
            create_graph=create_graph,
            alive=0,
            reached=(),
        )
        return
    stepping.manual_steps(live)
    deep = live.step in _DEEP_LOOKS or live.step > 200
    found = graph.walk(loss, deep=deep, scaler=live.scaler_factor)
    live.scaler_factor = False
    value = _value(loss)
    name, reduction = graph.losses(live, found, value)
    graph.broadcasts(live, found)
    if deep:
        graph.activations(live, found)
    reached = stepping.reached(live, found.parameters)
    root = found.passes[0].root if found.passes else None
    _passes(live, found)
    stepping.stale_before_backward(live, reached)
    if value is not None:
        seen.loss_history.append((live.step, value, root))
        if root is not None and found.passes[0].batch is not None:
            firsts = seen.batches[found.passes[0].batch].loss_first
            if len(firsts) < 50:
                firsts.append(value)
    live.event(
        "backward",
        root,
        here(3),
        value=value,
        grad_fn=type(loss.grad_fn).__name__,
        loss=name,
        reduction=reduction,
        scaled=found.scaled,
        retain=retain,
        create_graph=create_graph,
        alive=_graphs(live, loss),
        reached=tuple(reached),
        beyond=_beyond(live, found),
    )
    if value is not None and not math.isfinite(value) and root is not None:
        _origin(live, live.root_by_key[root])


def _value(loss: Tensor) -> float | None:
    return float(loss.detach()) if loss.numel() == 1 else None


def _beyond(live: Live, found: graph.Walked) -> int | None:
    """How many leaves get gradients that are no network's parameters; asked only while there is no optimizer."""
    if live.optimizers:
        return None
    modules = (m for root in live.root_by_key.values() if (m := root.module()) is not None)
    return len(found.parameters - {id(p) for module in modules for p in module.parameters()})


def _passes(live: Live, found: graph.Walked) -> None:
    for made in found.passes:
        if made.met_backward:
            continue
        made.met_backward = True
        root = live.seen.roots[made.root]
        root.n_train_forwards += 1
        inputs.trained_on(live, made)
        if made.event is not None:
            made.event.facts["trained"] = True
    # A pass with gradients that a whole step long met no backward was evaluation with gradients left on.
    keep = []
    for made in live.pending:
        if made.met_backward:
            continue
        if made.event is not None and made.event.step >= live.step - 1:
            keep.append(made)
        else:
            _never_differentiated(live, made)
    live.pending = keep


def _never_differentiated(live: Live, made: Any) -> None:
    root = live.seen.roots[made.root]
    inputs.never_trained_on(live, made)
    if not made.training:
        root.n_grad_eval_forwards += 1
    if made.event is not None:
        made.event.facts["trained"] = False


def close(live: Live) -> None:
    """At the end: what is still pending was never differentiated."""
    for made in live.pending:
        if not made.met_backward:
            _never_differentiated(live, made)
    live.pending = []


def _graphs(live: Live, loss: Tensor) -> int:
    """Hang a token on this graph; how many tokens of graphs older than a few steps still live."""
    token = _Token()
    node: Any = loss.grad_fn
    node.metadata["dimwise_token"] = token
    alive = 0
    while live.graphs and live.graphs[0][1]() is None:
        live.graphs.popleft()
    for step, known in live.graphs:
        if step < live.step - _OLD_STEPS and known() is not None:
            alive += 1
    live.graphs.append((live.step, weakref.ref(token)))
    return alive


def _origin(live: Live, root: LiveRoot) -> None:
    """The first module that made NaN or infinity, by running the same inputs through once more, without gradients."""
    if root.seen.nan is not None:
        return
    module = root.module()
    told: dict[str, Any] = {"step": live.step, "module": None, "kind": None, "what": "loss"}
    root.seen.nan = told
    if module is None or root.inputs is None:
        return
    if not all(
        bool(torch.isfinite(t).all()) for t in elements([root.inputs, root.named_inputs]) if t.is_floating_point()
    ):
        told["what"] = "input"
        return
    if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        path = next(n for n, p in module.named_parameters() if not bool(torch.isfinite(p).all()))
        told |= {"what": "weights", "module": path}
        return
    found: list[tuple[str, str]] = []
    handles = [m.register_forward_hook(_finite(p, found)) for p, m in module.named_modules()]
    buffers = [(b, b.clone()) for b in module.buffers()]
    full, live.full = live.full, False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(*root.inputs, **root.named_inputs)
    except Exception:  # noqa: BLE001 - the user's network may need more than its inputs; then the loss is all we name
        return
    finally:
        live.full = full
        for handle in handles:
            handle.remove()
        for buffer, own in buffers:
            buffer.copy_(own)
    if found:
        told |= {"what": "output", "module": found[0][0], "kind": found[0][1]}


def _finite(path: str, found: list[tuple[str, str]]) -> Any:
    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        if not found and any(t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in elements(output)):
            found.append((path, type(module).__name__))

    return hook
