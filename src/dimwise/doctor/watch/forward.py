"""What goes through networks: who is called, in which mode, on what, and what its weights looked like at first."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.doctor.seen import LayerSeen
from dimwise.doctor.watch import graph, inputs, memory, noise, pictures, roots
from dimwise.doctor.watch.live import Live, LiveRoot, Pass, elements
from dimwise.doctor.watch.place import here

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_KEEP_CALLS = 50
_MAX_READ = 65_536
"""Elements of an output up to which it is read at every pass: a fraction of a millisecond."""


def before(live: Live, module: nn.Module, args: tuple[Any, ...]) -> None:
    """Global forward pre-hook: the outermost network with parameters begins a pass."""
    if live.root_now is not None:
        if module is live.root_now:
            live.nested += 1
        elif not live.first_leaf_done and roots.owns_parameters(module):
            _first_leaf(live, module, args)
        noise.may_draw(live, module, args)
        return
    if not roots.can_be_root(live, module):
        return
    root = roots.root_of(live, module)
    live.root_now, live.nested, live.call_order, live.first_leaf_done = module, 0, 0, False
    root.n_calls += 1
    training, grad = module.training, torch.is_grad_enabled()
    tensors, named = elements(args), {}
    if not tensors:
        named = _named_arguments()
        tensors = sorted(elements(named), key=Tensor.numel, reverse=True)  # stable: inputs come before masks and labels
    rows = next((t.shape[0] for t in tensors if t.dim()), None)
    made = Pass(root.seen.key, None, None, rows, training, grad, numbers=any(t.is_floating_point() for t in tensors))
    made.event = live.event(
        "forward", root.seen.key, here(3), training=training, grad=grad, n=rows, batch=None, modes=roots.modes(module)
    )
    if root.seen.place is None and made.event is not None:
        root.seen.place = made.event.place
    live.pass_now = made
    if grad:
        root.inputs, root.named_inputs = args, named
        _foresee_memory(live, module, args, made)
    if tensors:
        made.batch = inputs.arrive(live, root, made, tensors[0])
        if made.event is not None:
            made.event.facts["batch"] = made.batch
    if roots.owns_parameters(module):
        _first_leaf(live, module, args)


def _named_arguments() -> dict[str, Any]:
    """Named arguments of the call at hand (``model(**batch)``), which PyTorch's global hooks are not given."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(6):
        if frame is None:
            break
        if frame.f_code.co_filename == nn.modules.module.__file__:
            found = frame.f_locals.get("kwargs")
            return dict(found) if isinstance(found, dict) else {}
        frame = frame.f_back
    return {}


def after(live: Live, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Global forward hook: a layer is done, or the pass is."""
    if live.root_now is None or live.pass_now is None:
        return
    if module is live.root_now:
        if live.nested:
            live.nested -= 1
            return
        _layer_called(live, module, args, output)
        _end(live, module, output)
        return
    _layer_called(live, module, args, output)


_RISKY_FRAC = 0.1
"""A step is worth predicting when its input, grown this many times, is no longer small against free memory..."""
_GROWTH = 100.0


def _foresee_memory(live: Live, module: nn.Module, args: tuple[Any, ...], made: Pass) -> None:
    """Once, before the first training pass: will the step fit? Only where it might not."""
    if live.memory_tried:
        return
    live.memory_tried = True
    if len(args) != 1 or not isinstance(args[0], Tensor) or not args[0].is_floating_point() or not made.n:
        return
    x = args[0].detach()
    if x.device.type != "cpu":
        return
    free = memory.available_bytes()
    weights = sum(p.numel() * p.element_size() for p in module.parameters() if not roots.lazy(p))
    if _GROWTH * x.numel() * x.element_size() + 4 * weights < _RISKY_FRAC * free:
        live.seen.memory = {"small": True}
        return
    precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
    live.seen.memory = memory.predicted(module, x, precision, free)
    if live.seen.memory is not None:
        live.seen.memory |= {"batch": made.n, "root": made.root, "place": str(made.event.place) if made.event else None}


def abandon(live: Live) -> None:
    """A pass ended by an exception, or is known to be over."""
    live.root_now = live.pass_now = None
    live.norm_feed = live.norm_feed_value = None


def _first_leaf(live: Live, module: nn.Module, args: tuple[Any, ...]) -> None:
    live.first_leaf_done = True
    made, root = live.pass_now, live.roots.get(id(live.root_now))
    if made is None or root is None:
        return
    x = next(iter(elements(args)), None)
    if x is None:
        return
    if made.batch is not None:
        inputs.measure(live, made, module, x)
    if isinstance(module, nn.modules.conv._ConvNd) and module.in_channels and root.seen.first_input_layout is None:
        root.seen.first_input_layout = {
            "path": root.paths.get(id(module), ""),
            "kind": type(module).__name__,
            "shape": list(x.shape),
            "in_channels": module.in_channels,
            **pictures.smoothness(x),
        }


def _layer_called(live: Live, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    root, made = live.roots.get(id(live.root_now)), live.pass_now
    if root is None or made is None:
        return
    if live.drawing is not None and live.drawing[0] == id(module):
        noise.drew(live, root, args, output)
    path = root.paths.get(id(module))
    live.call_order += 1
    if path is None:
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 and module.training and not made.training:
            root.seen.unregistered_dropout_in_eval += 1
            root.seen.dropout_place = root.seen.dropout_place or here(4)
        if not roots.owns_parameters(module):
            return
        path = _adopt(root, module)
    root.order.setdefault(path, live.call_order)
    layer = root.seen.layers.get(path)
    if layer is not None:
        layer.order = root.order[path]
        if made.grad:
            layer.calls_train += 1
        else:
            layer.calls_eval += 1
        if isinstance(module, _BATCH_NORMS):
            _norm_called(live, root, module, layer, args)
    if made.grad and isinstance(output, Tensor) and output.grad_fn is not None:
        _metadata(output)["dimwise_path"] = path
    has_bias = getattr(module, "bias", None) is not None and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
    live.norm_feed, live.norm_feed_value = ((id(output), path), output) if has_bias else (None, None)


def _adopt(root: LiveRoot, module: nn.Module) -> str:
    """A layer that is called but not registered (kept in a plain list): described under a made-up path."""
    path = f"<{type(module).__name__} {sum(not x.registered for x in root.seen.layers.values())}>"
    root.paths[id(module)] = path
    root.strangers.append(module)
    roots.describe(root, path, module)
    if path in root.seen.layers:
        root.seen.layers[path].registered = False
    return path


def _norm_called(live: Live, root: LiveRoot, module: nn.Module, layer: LayerSeen, args: tuple[Any, ...]) -> None:
    x = args[0] if args and isinstance(args[0], Tensor) else None
    if x is None:
        return
    if module.training and len(layer.batch_n) < _KEEP_CALLS:
        layer.batch_n.append(x.shape[0])
        layer.batch_rows.append(x.numel() // max(1, x.shape[1]) if x.dim() > 1 else x.numel())
    if live.norm_feed is not None and live.norm_feed[0] == id(x):
        feeder = root.seen.layers.get(live.norm_feed[1])
        if feeder is not None:
            feeder.bias_feeds, feeder.bias_feeds_path = layer.kind, layer.path


def _end(live: Live, module: nn.Module, output: Any) -> None:
    made, root = live.pass_now, live.roots.get(id(module))
    abandon(live)
    if made is None or root is None:
        return
    inputs.left(live, made)
    first = True
    live_graph = False
    for tensor in elements(output):
        if first:
            made.output_shape, made.output_numel, first = tuple(tensor.shape), tensor.numel(), False
            if made.grad and tensor.is_floating_point() and tensor.numel() and not inputs.in_transform():
                _look_at_output(root, made, tensor.detach())
        if tensor.grad_fn is not None:
            live_graph = True
            _metadata(tensor)["dimwise"] = made
    if live_graph and made.grad:
        live.pending.append(made)
        del live.pending[:-256]
    elif not made.grad or not live_graph:
        root.seen.n_eval_forwards += 1
        if made.training and made.event is not None and made.event.facts["modes"][1] == 0:
            root.seen.n_eval_in_train_mode += 1


def _look_at_output(root: LiveRoot, made: Pass, output: Tensor) -> None:
    """How large it is at first, and whether it is made of distributions, as long as it always was."""
    if root.seen.first_output_size is None:
        some = output.reshape(-1)[:: max(1, output.numel() // _MAX_READ)].double()
        root.seen.first_output_size = float(some.square().mean().sqrt())
    if root.gives_probabilities:
        readable = output.numel() <= _MAX_READ and output.device.type == "cpu"
        made.probabilities = root.gives_probabilities = readable and graph.probabilities(output)


def _metadata(tensor: Tensor) -> dict[str, Any]:
    """The dictionary of the operation that made a tensor; torch's stubs take it for a method."""
    node: Any = tensor.grad_fn
    told: dict[str, Any] = node.metadata
    return told


def functional_dropout(live: Live) -> None:
    """``F.dropout(x)`` was called from the user's own code with ``training=True``."""
    made, root = live.pass_now, live.roots.get(id(live.root_now))
    if made is None or root is None or made.training:
        return
    root.seen.functional_dropout_in_eval += 1
    root.seen.dropout_place = root.seen.dropout_place or here(3)
