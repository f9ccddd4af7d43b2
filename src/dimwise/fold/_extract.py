"""What a layer inside a network puts out: looked at, or made a network of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn

from dimwise.errors import ModelError, a_kind, first_line, nearest
from dimwise.measure import evaluating

INPUT = "input"
"""Names what goes into the network, where a layer is asked for."""


def features(model: nn.Module, layer: str, inputs: Tensor, *, batch_size: int = 500) -> Tensor:
    """What any layer puts out, in evaluation mode.

    Args:
        model: any network; left as it was.
        layer: name of a module, as ``named_modules`` gives it, or ``input``. One that runs several times gives its
            last output; of several tensors the first counts.
        inputs: (N, ...) what the network takes.
        batch_size: inputs at once; bounds memory.

    Returns:
        (N, ...) on the CPU, whatever shape the layer puts out.

    Raises:
        ModelError: when there is no such layer, it does not run, or it puts out no tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> features(net, "1", torch.randn(5, 4)).shape
        torch.Size([5, 3])
    """
    if layer == INPUT and layer not in dict(model.named_modules()):
        return inputs.cpu()
    module = _named(model, layer)
    found: list[Tensor] = []
    last: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: Any) -> None:
        last[:] = [_first_tensor(layer, output).detach().clone()]  # the next layer may write over it

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    handle = module.register_forward_hook(keep)
    try:
        with evaluating(model):
            for x in inputs.split(batch_size):
                last.clear()
                model(x.to(device))
                if not last:
                    raise ModelError(f"layer {layer!r} does not run", next_step="Name a layer that does.")
                found.append(last[0].cpu())
    finally:
        handle.remove()
    return torch.cat(found)


def _named(model: nn.Module, layer: str) -> nn.Module:
    known = dict(model.named_modules())
    if layer not in known or not layer:
        names = [name for name in known if name]
        raise ModelError(
            f"{type(model).__name__} has no layer {layer!r}",
            expected=f"{INPUT}, or such as " + (", ".join(map(repr, names[:3])) or "none: it has no layers with names"),
            next_step=nearest(layer, names),
        )
    return known[layer]


def _first_tensor(layer: str, output: Any) -> Tensor:
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ModelError(f"layer {layer!r} puts out {a_kind(output)}", expected="a tensor")
    return output


def stages(model: nn.Module, x: Tensor) -> list[str]:
    """Places at which a network may be cut: its parts in the order in which they run, each once, from coarse to fine.

    Containers that only run their parts one after the other are opened, all other modules taken as wholes.

    Example:
        >>> stages(nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))), torch.zeros(2, 4))
        ['0', '1.0', '1.1']
    """
    names = dict(_parts(model, ""))
    order: list[str] = []
    handles = [module.register_forward_hook(_note(order, name, len(x))) for name, module in names.items() if name]
    try:
        with evaluating(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in order if order.count(name) == 1]


def _note(order: list[str], name: str, n: int) -> Callable[[nn.Module, Any, Any], None]:
    def note(_: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() > 1 and len(output) == n:
            order.append(name)

    return note


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        full = f"{prefix}.{name}" if prefix else name
        if type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            yield from _parts(child, full)
        else:
            yield full, child


class _Tracer(fx.Tracer):
    """Follows only what leads to one layer; every other module is one step."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.layer.startswith(module_qualified_name + ".")


def extractor(model: nn.Module, layer: str, *, before: bool = False) -> nn.Module:
    """The front part of a network as a network: what a layer puts out, or with ``before`` what it takes in.

    Args:
        model: not changed; the parts are copies.
        layer: name of a module that runs, or ``input``.
        before: stop in front of the layer.

    Raises:
        ModelError: when there is no such layer, or the way to it depends on values and cannot be followed.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> front = extractor(net, "1")
        >>> front(torch.zeros(5, 4)).shape, [name for name, _ in front.named_children()]
        (torch.Size([5, 3]), ['0', '1'])
    """
    if layer == INPUT and layer not in dict(model.named_modules()):
        return nn.Identity()
    _named(model, layer)
    copy = deepcopy(model).eval()
    try:
        graph = _Tracer(layer).trace(copy)
    except Exception as error:  # the user's forward may raise anything
        raise ModelError(
            f"{type(model).__name__} cannot be cut at {layer!r}: {first_line(error)}",
            expected="a forward pass without branches that depend on values",
            next_step="Cut at another layer, or distil it.",
        ) from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if not calls:
        raise ModelError(f"layer {layer!r} does not run", next_step="Name a layer that does.")
    end = calls[-1].args[0] if before else calls[-1]
    for node in reversed(list(graph.nodes)):
        if node is end:
            break
        if node.op != "placeholder":
            graph.erase_node(node)
    graph.output(end)
    made = fx.GraphModule(copy, graph, type(model).__name__)
    made.graph.eliminate_dead_code()
    made.recompile()
    made.delete_all_unused_submodules()
    return made.eval()
