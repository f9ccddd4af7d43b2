"""Make the smaller network, and prove that it is the one that was meant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dimwise.fold._channels.branches import gone, shut_
from dimwise.fold._channels.groups import Alive, Axis, Channels, Labels, stays
from dimwise.fold._channels.heads import fewer_heads_
from dimwise.fold._channels.sizes import rewrite_


def cut(model: nn.Module, channels: Channels, alive: Alive) -> nn.Module:
    """A copy of ``model`` from which the channels of dead classes are gone: parameters, buffers, sizes of modules.

    Args:
        model: the network that was traced; not changed.
        channels: what :func:`~dimwise.fold._channels.trace.trace` found in it.
        alive: (n_classes,) which classes stay.

    Example:
        >>> from dimwise.fold._channels.trace import trace
        >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> found = trace(net, torch.zeros(2, 4))
        >>> cut(net, found, np.array([1, 0, 1, 0, 1, 0], dtype=bool))
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """

    def select(tensor: Tensor, dim: int, labels: Labels) -> Tensor:
        return tensor.index_select(dim, _positions(stays(labels, alive), tensor))

    dead = gone(channels, alive)
    if dead:  # what is inside them is not computed any more: it need not be cut
        alive = alive.copy()
        alive[np.concatenate([g.classes for g in dead])] = True
    small = _changed(model, channels, select)
    for group in dead:
        shut_(small, group)
    for padding in channels.paddings:
        module = small.get_submodule(padding.module)
        module.zeros_before = int(stays(padding.before, alive).sum())  # type: ignore[assignment]
        module.zeros_after = int(stays(padding.after, alive).sum())  # type: ignore[assignment]
    if channels.rewrites:
        rewrite_(small, channels.sites, alive)
    return small


def silence(model: nn.Module, channels: Channels, alive: Alive) -> nn.Module:
    """A copy of ``model`` of the same size in which dead channels are zero where made and not read.

    Where no norm takes statistics over channels it computes exactly what :func:`cut` computes: the oracle of pruning.
    """

    def clear(tensor: Tensor, dim: int, labels: Labels) -> Tensor:
        return tensor.index_fill(dim, _positions(~stays(labels, alive), tensor), 0)

    return _changed(model, channels, clear)


def disagreement(model: nn.Module, channels: Channels, alive: Alive, x: Tensor) -> str | None:
    """What goes wrong when the cut network is run on ``x``, compared with the silenced one; None when nothing does.

    Something does when the forward pass has a number of channels written into its code, which no trace can show.
    """
    with torch.no_grad():
        want = _tensors(silence(model, channels, alive).eval()(x))
        try:
            got = _tensors(cut(model, channels, alive).eval()(x))
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if [t.shape for t in got] != [t.shape for t in want]:
        return f"output {_shapes(got)} instead of {_shapes(want)}"
    if channels.inexact[~alive].any():
        return None
    for a, b in zip(got, want, strict=True):
        scale = b.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        off = ((a - b).abs().max() / scale).item()
        if not off < 1e-3:  # rounding stays near 1e-6; a channel in the wrong place is near 1
            return f"outputs off by {off:.2g} of their largest"
    return None


def guilty(model: nn.Module, channels: Channels, alive: Alive, x: Tensor) -> dict[str, str]:
    """Groups that cannot be cut as planned even alone, with what goes wrong: group name -> disagreement."""
    found = {}
    for group in channels.groups:
        alone = channels.all_alive()
        alone[group.classes] = alive[group.classes]
        problem = None if alone.all() else disagreement(model, channels, alone, x)
        if problem:
            found[group.name] = problem
    return found


def _changed(model: nn.Module, channels: Channels, change: Callable[[Tensor, int, Labels], Tensor]) -> nn.Module:
    """A copy of ``model`` with ``change`` applied to each labelled axis of each tensor."""
    copy = deepcopy(model)
    owners = _owners(copy)
    axes: dict[str, list[Axis]] = defaultdict(list)
    for axis in channels.axes:
        axes[axis.tensor].append(axis)
    for name, along in axes.items():
        old = attrgetter(name)(copy)
        new = old.detach()
        for axis in along:
            new = change(new, axis.dim, axis.labels)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for module, attribute in owners[id(old)]:  # more than one where weights are shared
            setattr(module, attribute, new)
            _resize(module)
    return copy


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                owners[id(tensor)].append((module, name))
    return owners


def _resize(module: nn.Module) -> None:
    """Make a module's own record of its sizes agree with its tensors; some of them compute with it."""
    if isinstance(module, nn.modules.conv._ConvNd):
        made, read = module.weight.shape[:2]
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            module.in_channels, module.out_channels = made, read * module.groups
            return
        if module.groups == module.in_channels > 1:  # depthwise
            module.groups = made * module.in_channels // module.out_channels
        module.in_channels, module.out_channels = read * module.groups, made
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        known = module.weight if module.weight is not None else module.running_mean
        if known is not None:
            module.num_features = len(known)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        layer = "" if isinstance(module, nn.RNNCellBase) else "_l0"
        module.input_size = getattr(module, f"weight_ih{layer}").shape[1]
        module.hidden_size = getattr(module, f"weight_hh{layer}").shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        fewer_heads_(module)


def _positions(mask: Alive, like: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask)).to(like.device)


def _tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors)
