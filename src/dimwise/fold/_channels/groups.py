"""Which channels of a network must live and die together, and what each of them costs.

Every filter of a network makes one channel. Follow it, and it meets the norms that scale it, the residual
additions that tie it to other channels, the concatenations that move it, and the kernels that read it. A channel can
only leave if everything along its way leaves too. This file holds that knowledge as plain arrays:

- a **class** is a set of channels that leave together; classes are numbered 0 … n − 1;
- an **axis** is one dimension of one parameter or buffer, with the class of each of its positions (−1: never leaves);
- a **group** is a set of classes made by the same layers: what a share of may be removed.

So a network with residual links, concatenations, depthwise convolutions and flattened maps becomes a list of label
vectors, and pruning is indexing: position i of an axis stays if its class stays. ``trace.py`` finds it all from a
plain module and one input, by following channels through the exported graph (``flow.py``, with one rule per family of
operators in ``rules.py``); ``cut.py`` makes the smaller network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import nn

Labels = npt.NDArray[np.int64]
Alive = npt.NDArray[np.bool_]

Role = Literal["makes", "scales", "reads"]
"""What an axis does with its channels: filters make them, norms and biases scale them, kernels read them."""


@dataclass(frozen=True)
class Axis:
    """One dimension of one parameter or buffer, and the class of each of its positions."""

    tensor: str
    """Qualified name, such as ``layer1.0.conv1.weight``."""
    dim: int
    labels: Labels
    """(size,) class of each position; −1 stays whatever happens."""
    role: Role

    @property
    def layer(self) -> str:
        """Name of the module that owns the tensor (of the tensor itself at top level)."""
        return self.tensor.rpartition(".")[0] or self.tensor


@dataclass(frozen=True)
class Product:
    """One use of a weight in a convolution or dense layer: ``macs = positions · numel(weight)`` per input."""

    tensor: str
    positions: float
    """How often each number of the weight is multiplied for one input of the network."""
    numel: int


@dataclass(frozen=True)
class Padding:
    """A module that puts channels of zeros around its input, with the classes of the zeros."""

    module: str
    before: Labels
    after: Labels


@dataclass(frozen=True)
class Site:
    """A call in a forward pass that names sizes, such as ``x.view(n, t, heads, width)``, with what they count."""

    module: str
    """Qualified name of the module whose forward pass it is in."""
    kind: str
    """``view``, ``reshape``, ``unflatten``, ``split``, ``expand`` or ``zeros``."""
    rank: int
    """How many sizes there are (for ``split``: parts)."""
    counts: tuple[tuple[int, Labels], ...]
    """(place among the sizes, (size, others) the classes of each slice along that dimension)."""
    n_inputs: int
    """Batch size of the trace: a dimension into which the batch was folded repeats its classes as often."""

    def relabelled(self, label: Labels) -> Site | None:
        """With classes for atoms, of those places whose size may change; None when there are none."""
        counts = tuple((place, label[atoms]) for place, atoms in self.counts if (label[atoms] >= 0).any())
        return replace(self, counts=counts) if counts else None

    def worth_changing(self, model: nn.Module) -> bool:
        """PyTorch's own layers keep their sizes in attributes, which are set."""
        return not type(model.get_submodule(self.module)).__module__.startswith("torch.nn")


@dataclass(frozen=True)
class Branch:
    """A residual branch whose inside is one group: without it, it adds a constant."""

    inside: tuple[str, ...]
    """The layers that make and scale the channels inside."""
    ends: tuple[str, ...]
    """The one layer that reads them, and norms behind it, up to the addition."""


@dataclass(frozen=True)
class Group:
    """Classes made by the same layers. Removing k of them makes each of these layers narrower."""

    layers: tuple[str, ...]
    """The layers whose filters make the channels, in the order of the network."""
    classes: Labels
    n_channels: int
    """Channels of these classes in the first layer; more than classes where grouped kernels tie several."""
    heads: bool = False
    """Whether each class is a whole attention head: widths inside stay, so any number of them may leave."""
    branch: Branch | None = None
    """The residual branch that goes when all of these channels do."""

    @property
    def name(self) -> str:
        """The first layer's."""
        return self.layers[0]

    @property
    def unit(self) -> int:
        """Channels that leave with one class."""
        return max(1, self.n_channels // len(self.classes))


@dataclass(frozen=True)
class Channels:
    """The channels of one network: what :func:`trace` found."""

    n_classes: int
    axes: tuple[Axis, ...]
    products: tuple[Product, ...]
    groups: tuple[Group, ...]
    paddings: tuple[Padding, ...]
    untouched: dict[str, str]
    """Layer -> why none of its channels can leave."""
    inexact: Alive
    """(n_classes,) over which a norm takes its statistics: removing one is not quite the same as silencing it."""
    sites: tuple[Site, ...] = ()
    """Where the forward pass names sizes that may change."""
    gates: dict[str, int] = field(default_factory=dict)
    """Recurrent layer -> rows of its weights for one unit."""
    rewrites: bool = False
    """Whether these calls have to be given other sizes in a smaller network; see ``sizes.py``."""

    @property
    def exact(self) -> bool:
        """Whether removing a channel equals silencing it, for all of them."""
        return not bool(self.inexact.any())

    def is_exact(self, group: Group) -> bool:
        """Whether removing channels of this group equals silencing them."""
        return not bool(self.inexact[group.classes].any())

    def all_alive(self) -> Alive:
        """(n_classes,) of True."""
        return np.ones(self.n_classes, dtype=bool)

    def macs(self, alive: Alive) -> float:
        """Multiply-accumulates for one input in convolutions and dense layers when only ``alive`` classes are left."""
        table = self._table
        count = np.add.reduceat(stays(table.labels, alive).astype(np.int64), table.starts)
        return float((table.scale * count[table.first] * count[table.second]).sum())

    def without(self, name: str, reason: str) -> Channels:
        """The same network with one group left untouched."""
        layers = [layer for g in self.groups if g.name == name for layer in g.layers]
        groups = tuple(g for g in self.groups if g.name != name)
        return replace(self, groups=groups, untouched=self.untouched | dict.fromkeys(layers, reason))

    def with_branches_kept(self, names: Iterable[str]) -> Channels:
        """The same network; of these groups some channels must stay."""
        kept = set(names)
        return replace(self, groups=tuple(replace(g, branch=None) if g.name in kept else g for g in self.groups))

    @cached_property
    def _table(self) -> _Table:
        """All axes end to end, so that counting the living takes one call instead of one per axis."""
        index: dict[str, list[int]] = {}
        for i, axis in enumerate(self.axes):
            index.setdefault(axis.tensor, []).append(i)
        sizes = [len(axis.labels) for axis in self.axes]
        none = len(self.axes)  # an axis of one position that never leaves, for weights with fewer than two axes
        pairs = [[*index.get(p.tensor, []), none, none][:2] for p in self.products]
        full = [np.prod([sizes[i] for i in pair if i != none]) for pair in pairs]
        first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return _Table(
            labels=np.concatenate([*(axis.labels for axis in self.axes), np.array([-1])]),
            starts=np.cumsum([0, *sizes]),
            first=first,
            second=second,
            scale=np.array([p.positions * p.numel / n for p, n in zip(self.products, full, strict=True)]),
        )


@dataclass(frozen=True)
class _Table:
    labels: Labels
    starts: Labels
    first: Labels
    second: Labels
    scale: npt.NDArray[np.float64]


def stays(labels: Labels, alive: Alive) -> Alive:
    """Which positions stay: those of living classes and those that never leave.

    Example:
        >>> stays(np.array([0, 1, -1, 1]), np.array([True, False])).tolist()
        [True, False, True, False]
    """
    return np.append(alive, True)[labels]  # −1 indexes the last, which always stays
