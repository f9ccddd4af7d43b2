"""Follow every channel through the traced graph of a network.

``torch.export`` turns a forward pass into a list of ATen operators with known shapes. :class:`Flow` walks over it once
and keeps for every tensor the *atoms* along its channel dimension: one integer per channel, −1 where it can never
leave. A filter makes atoms; an addition unites those it adds, in a union-find; a concatenation concatenates them; a
reshape is done to the atoms themselves, by the very operator that reshapes the tensor. The rules are in ``rules.py``.
An operator without a rule is never guessed at: the channels that reach it stay, and the reason is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn

from dimwise.fold._channels.branches import branches
from dimwise.fold._channels.groups import Axis, Channels, Group, Labels, Padding, Product, Role, Site


@dataclass(frozen=True)
class Value:
    """What is known of one tensor in the graph."""

    shape: tuple[int, ...]
    dim: int = 0
    """The dimension along which the channels lie; without atoms it means nothing."""
    atoms: Labels | None = None
    """(shape[dim],) the channel at each position, −1 for one that stays; None when all stay."""
    tensor: str | None = None
    """Qualified name, when this is a parameter or buffer as it is."""
    layers: tuple[str, ...] = ()
    """The layer that made it, and the norms it passed since, while nothing else happened to it."""
    site: int | None = None
    """Index of the place in the code that gave it its size, when it is made of zeros."""


@dataclass(frozen=True)
class Grid(Value):
    """A tensor along several of whose dimensions channels lie, such as heads and their inner width.

    Only rules that know grids see one; for all others it is settled first: its channels then leave together in
    lines, so that they lie along a single dimension.
    """

    grid: Labels = field(default_factory=lambda: np.full((), -1))
    """The channel at each position, of the tensor's rank; size 1 along dimensions where they are all the same."""


@dataclass(frozen=True)
class Op:
    """One operator of the graph, with what a rule may ask of it."""

    name: str
    """Without overload and in-place mark: ``conv2d`` for ``aten.conv2d.padding``, ``add`` for ``aten.add_.Tensor``."""
    target: Callable[..., Any]
    shapes: list[tuple[int, ...]]
    """Shape of each output tensor."""
    module: str
    """Qualified name of the innermost module it was called in."""
    args: dict[str, Any]
    """By the names of the operator's schema; tensors are :class:`Value`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.shapes[0]

    def values(self) -> list[Value]:
        """All tensors among the arguments, those in lists too."""
        return [v for v in _leaves(self.args.values()) if isinstance(v, Value)]


Rule = Callable[["Flow", Op], Any]


class Atoms:
    """Union-find over channels, each with the layer that made it and perhaps a reason to stay.

    Example:
        >>> atoms = Atoms()
        >>> a, b = atoms.fresh(2, "conv1"), atoms.fresh(2, "conv2")
        >>> atoms.unite(a, b[::-1], "")
        >>> atoms.find(0) == atoms.find(3), atoms.find(0) == atoms.find(2)
        (True, False)
    """

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.maker: list[str] = []
        self.reasons: dict[int, str] = {}

    def fresh(self, n: int, maker: str) -> Labels:
        """n new channels made by a layer; an empty name marks channels that no layer makes."""
        start = len(self.parent)
        self.parent += range(start, start + n)
        self.maker += [maker] * n
        return np.arange(start, start + n)

    def find(self, atom: int) -> int:
        """The representative of the channels that leave with this one."""
        while self.parent[atom] != atom:
            self.parent[atom] = atom = self.parent[self.parent[atom]]  # each second step is halved
        return atom

    def unite(self, a: Labels, b: Labels, reason: str) -> None:
        """Position by position, a and b leave together; one that meets −1 stays, for the given reason."""
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            if i >= 0 and j >= 0:
                self.parent[self.find(j)] = self.find(i)
            else:
                self.fix((i, j), reason)

    def fix(self, atoms: Iterable[int], reason: str) -> None:
        """These stay; the first reason given is kept."""
        for atom in atoms:
            if atom >= 0:
                self.reasons.setdefault(int(atom), reason)


class Flow:
    """The walk: what it has seen so far."""

    def __init__(self, rules: dict[str, Rule], model: nn.Module, n_inputs: int, of_grids: frozenset[str]) -> None:
        self.rules = rules
        self.of_grids = of_grids
        self.model = model
        self.n_inputs = n_inputs
        self.atoms = Atoms()
        self.axes: dict[tuple[str, int], tuple[Labels, Role]] = {}
        self.products: list[Product] = []
        self.paddings: list[Padding] = []
        self.spent: dict[str, str] = {}  # parameters used in a way that is not followed, and by what
        self.inexact: set[int] = set()
        """Channels over which a norm takes its statistics: the others change when one leaves."""
        self.heads: set[int] = set()
        """Channels that are the inside of attention heads, any number of which may leave."""
        self.gates: dict[str, int] = {}
        """How many rows of a recurrent layer's weights make one unit."""
        self.grids: list[Labels] = []
        self.added: list[tuple[str, ...]] = []
        """``layers`` of values that are added to others."""
        self.sites: list[Site] = []
        """Places where the forward pass names a size, with atoms for classes."""

    # What rules may do ------------------------------------------------------------------------------------------

    def fix(self, value: Value, reason: str) -> None:
        """The channels of a value stay; a parameter's too, wherever else it is used."""
        if value.atoms is not None:
            self.atoms.fix(value.atoms.tolist(), reason)
        if isinstance(value, Grid):
            self.atoms.fix(value.grid.ravel().tolist(), reason)
        if value.tensor is not None:
            self.spent.setdefault(value.tensor, reason)

    def tie(self, tensor: str, dim: int, labels: Labels, role: Role) -> None:
        """Position i of this axis belongs to channel labels[i]; used twice, both uses agree."""
        known = self.axes.setdefault((tensor, dim), (labels, role))
        if known[0] is not labels:
            self.atoms.unite(known[0], labels, f"{tensor} is shared with channels that stay")

    def count(self, site: int, place: int, labels: Labels) -> None:
        """A size named in the code turns out to count these channels."""
        self.sites[site] = replace(self.sites[site], counts=((place, labels[:, None]),))

    def along(self, value: Value, dim: int, reason: str) -> Labels:
        """The atoms of a value along one dimension; channels that lie along another one stay."""
        if value.atoms is not None and value.dim == dim % len(value.shape):
            return value.atoms
        self.fix(value, reason)
        return np.full(value.shape[dim], -1)

    def join(self, op: Op, values: Sequence[Value], shape: tuple[int, ...]) -> Value:
        """Values that meet element by element, broadcast to ``shape``: their channels leave together."""
        dims = {v.dim + len(shape) - len(v.shape) for v in values if v.atoms is not None}
        if len(dims) != 1:
            along = "channels that lie along different dimensions" if dims else "it with others that stay"
            for v in values:
                self.fix(v, f"{op.name} joins {along}")
            return Value(shape)
        (dim,) = dims
        merged: Labels | None = None
        for v in values:
            axis = dim + len(v.shape) - len(shape)
            if v.tensor is not None or axis < 0 or v.shape[axis] != shape[dim]:
                continue  # parameters follow below; a single number for all channels ties nothing
            atoms = np.full(shape[dim], -1) if v.atoms is None else v.atoms
            if merged is not None:
                self.atoms.unite(merged, atoms, f"its channels meet by {op.name} others that cannot leave")
            merged = atoms if merged is None else np.where(merged < 0, atoms, merged)
        for v in values:
            axis = dim + len(v.shape) - len(shape)
            if v.tensor is None:
                continue
            if merged is not None and axis >= 0 and v.shape[axis] == shape[dim]:
                self.tie(v.tensor, axis, merged, "scales")
            else:
                self.fix(v, f"its numbers are shared by all channels of {op.name}")
        return carrying(shape, dim, merged)

    def shaped(self, shape: tuple[int, ...], grid: Labels) -> Value:
        """The value whose channels lie as in ``grid`` (of the same rank, size 1 where they do not vary)."""
        dims = self._varying(grid)
        index = tuple(slice(None) if d in dims else slice(1) for d in range(grid.ndim))
        if len(dims) > 1:
            self.grids.append(grid[index])
            return Grid(shape, grid=grid[index])
        if not dims:
            if (grid >= 0).any():
                self.atoms.fix(grid.ravel().tolist(), "it is a single channel")
            return Value(shape)
        return carrying(shape, dims[0], grid[index].ravel())

    def grid_of(self, value: Value) -> Labels:
        """The channels of any value as a grid; −1 where there are none."""
        if isinstance(value, Grid):
            return value.grid
        if value.atoms is None:
            return np.full((1,) * len(value.shape), -1)
        return value.atoms.reshape([-1 if d == value.dim else 1 for d in range(len(value.shape))])

    def even(self, grid: Labels, dim: int) -> Labels:
        """Channels along one dimension leave together; returns the grid without it."""
        first, *others = (grid.take([i], dim) for i in range(grid.shape[dim]))
        for other in others:
            self.atoms.unite(first.ravel(), other.ravel(), "it is one of several that leave together, and one stays")
        return first

    def settle(self, value: Value) -> Value:
        """A grid becomes a line along its longest dimension: whole slices of it leave."""
        if not isinstance(value, Grid):
            return value
        grid = self._line(value.grid)
        return self.shaped(value.shape, grid)

    def _line(self, grid: Labels) -> Labels:
        dims = self._varying(grid)
        longest = max(dims, key=lambda d: grid.shape[d], default=0)
        for dim in dims:
            if dim != longest:
                grid = self.even(grid, dim)
        return grid

    def _varying(self, grid: Labels) -> list[int]:
        found = np.array([self.atoms.find(a) if a >= 0 else -1 for a in grid.ravel().tolist()]).reshape(grid.shape)
        return [d for d, n in enumerate(grid.shape) if n > 1 and (found != found.take([0], d)).any()]

    def adopt(self, value: Value) -> Value:
        """A parameter with one long axis becomes channels of its own, to be reshaped and united like any others."""
        long = [d for d, n in enumerate(value.shape) if n > 1]
        if value.tensor is None or len(long) != 1:
            return value
        known = self.axes.get((value.tensor, long[0]))
        atoms = self.atoms.fresh(value.shape[long[0]], "") if known is None else known[0]
        self.tie(value.tensor, long[0], atoms, "scales")
        return Value(value.shape, long[0], atoms)

    def unknown(self, op: Op, reason: str = "") -> Any:
        """Whatever reaches this operator stays as it is."""
        for value in op.values():
            self.fix(value, reason or f"its channels pass through {op.name}, which is not followed")
        return [Value(shape) for shape in op.shapes] if len(op.shapes) > 1 else Value(op.shape if op.shapes else ())

    # The walk itself --------------------------------------------------------------------------------------------

    def walk(self, graph: fx.Graph, inputs: Sequence[Any]) -> Any:
        """Follow one graph from its inputs; returns what its output node holds."""
        known: dict[fx.Node, Any] = {}
        arriving = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                known[node] = next(arriving)
            elif node.op == "get_attr":
                known[node] = _attribute(graph, node)
            elif node.op == "call_function":
                known[node] = self._call(node, known)
            else:
                return fx.map_arg(node.args[0], lambda n: known[n])
        raise AssertionError("a graph without an output")

    def _call(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        args, kwargs = cast(Any, fx.map_arg((node.args, node.kwargs), lambda n: known[n]))
        name = getattr(node.target, "__name__", str(node.target))
        if name == "getitem":
            return args[0][args[1]] if isinstance(args[0], (list, tuple)) else args[0]
        inner = [a for a in args if isinstance(a, fx.GraphModule)]
        if len(inner) == 1 and name.startswith("wrap_with_"):  # a with-block: no_grad, autocast
            return self.walk(inner[0].graph, args[args.index(inner[0]) + 1 :])
        op = _operator(node, args, kwargs)
        if op.name not in self.of_grids and torch.Tag.pointwise not in getattr(node.target, "tags", ()):
            op = replace(op, args={name: self._settled(arg) for name, arg in op.args.items()})
        if any(not isinstance(n, int) for shape in op.shapes for n in shape):
            return self.unknown(op, f"{op.name} returns a size that depends on the data")
        rule = self.rules.get(op.name)
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = self.rules["pointwise"]
        made = self.unknown(op) if rule is None else rule(self, op)
        alone = len(node.users) == 1  # else its numbers go elsewhere too, and no constant can stand for them
        return replace(made, layers=()) if isinstance(made, Value) and made.layers and not alone else made

    def _settled(self, arg: Any) -> Any:
        if isinstance(arg, (list, tuple)):
            return type(arg)(self._settled(a) for a in arg)
        return self.settle(arg) if isinstance(arg, Value) else arg

    # What it found ----------------------------------------------------------------------------------------------

    def channels(self) -> Channels:
        """Number the classes that can leave, and sort them into groups."""
        atoms = self.atoms
        while any(len(self._varying(grid)) > 1 for grid in self.grids):  # what one settles may tie another
            for grid in self.grids:
                self._line(grid)
        for (tensor, _), (labels, _) in self.axes.items():
            if tensor in self.spent:
                atoms.fix(labels.tolist(), self.spent[tensor])
        members: dict[int, list[int]] = defaultdict(list)
        for atom in range(len(atoms.parent)):
            members[atoms.find(atom)].append(atom)
        why = {root: _reason(atoms, family) for root, family in members.items()}
        free = {root: i for i, root in enumerate(root for root in members if not why[root])}
        label = np.array([free.get(atoms.find(a), -1) for a in range(len(atoms.parent))] + [-1])
        axes = tuple(Axis(t, d, label[labels], role) for (t, d), (labels, role) in self.axes.items())
        return Channels(
            n_classes=len(free),
            axes=axes,
            products=tuple(self.products),
            groups=branches(
                self.model,
                axes,
                _groups(self, {free[root]: members[root] for root in free}, axes),
                self.added,
                [p.tensor for p in self.products],
            ),
            gates=self.gates,
            paddings=tuple(Padding(p.module, label[p.before], label[p.after]) for p in self.paddings),
            untouched=_untouched(atoms, why),
            inexact=np.isin(np.arange(len(free)), label[sorted(self.inexact)])
            if self.inexact
            else np.zeros(len(free), bool),
            sites=tuple(
                site
                for s in self.sites
                if (site := s.relabelled(label)) is not None and site.worth_changing(self.model)
            ),
        )


def carrying(shape: tuple[int, ...], dim: int, atoms: Labels | None) -> Value:
    """A value with atoms along ``dim``, or a plain one if none of them can leave."""
    if atoms is None or (atoms < 0).all():
        return Value(shape)
    return Value(shape, dim % len(shape), atoms)


def _reason(atoms: Atoms, family: list[int]) -> str:
    """Why a class stays, or nothing if it may leave."""
    given = [atoms.reasons[a] for a in family if a in atoms.reasons]
    if given:
        return given[0]
    return "" if any(atoms.maker[a] for a in family) else "no layer makes it"


def _groups(flow: Flow, families: dict[int, list[int]], axes: tuple[Axis, ...]) -> tuple[Group, ...]:
    """Classes with the same makers form a group: of those, any may leave and the layers stay rectangular."""
    atoms, heads = flow.atoms, {flow.atoms.find(a) for a in flow.heads if a >= 0}
    by_makers: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, family in families.items():
        by_makers[tuple(dict.fromkeys(atoms.maker[a] for a in family if atoms.maker[a]))].append(number)
    groups = []
    for layers, classes in by_makers.items():
        made = [axis.labels for axis in axes if axis.role == "makes" and axis.layer == layers[0]]
        n_channels = max(int(np.isin(labels, classes).sum()) for labels in made) // flow.gates.get(layers[0], 1)
        whole = all(atoms.find(families[c][0]) in heads for c in classes)
        groups.append(Group(layers, np.array(classes), n_channels, whole))
    return tuple(groups)


def _untouched(atoms: Atoms, why: dict[int, str]) -> dict[str, str]:
    """Layers none of whose channels may leave, with the first reason."""
    reasons = [why[atoms.find(atom)] for atom in range(len(atoms.parent))]
    moving = {maker for maker, reason in zip(atoms.maker, reasons, strict=True) if not reason}
    found: dict[str, str] = {}
    for maker, reason in zip(atoms.maker, reasons, strict=True):
        if maker and maker not in moving:
            found.setdefault(maker, reason)
    return found


def _operator(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Op:
    target = cast(Callable[..., Any], node.target)
    schema = getattr(target, "_schema", None)
    names = [a.name for a in schema.arguments] if schema else [f"arg{i}" for i in range(len(args))]
    packet = getattr(target, "overloadpacket", None)
    name = packet.__name__ if packet else getattr(target, "__name__", str(target))
    results = _leaves([node.meta.get("val")])
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return Op(
        name=name if name.startswith("__") else name.removesuffix("_"),
        target=target,
        shapes=[tuple(r.shape) for r in results if isinstance(r, torch.Tensor)],
        module=stack[-1][0].partition("@")[0] if stack else "",  # "@1": called a second time
        args=dict(zip(names, args, strict=False)) | kwargs,
    )


def _attribute(graph: fx.Graph, node: fx.Node) -> Any:
    found: Any = graph.owning_module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return Value(tuple(found.shape)) if isinstance(found, torch.Tensor) else found


def _leaves(things: Iterable[Any]) -> list[Any]:
    leaves: list[Any] = []
    for thing in things:
        leaves += _leaves(thing) if isinstance(thing, (list, tuple)) else [thing]
    return leaves
