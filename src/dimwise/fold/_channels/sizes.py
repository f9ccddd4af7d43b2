"""Forward passes with sizes written into them: ``x.view(b, t, self.heads, self.width)`` in a network with fewer heads.

No trace can change somebody's code. But the calls that name sizes can be given others on their way: a module that
needs it becomes one of a subclass of its own, whose forward pass is the user's, under a mode that looks at six
functions. Nothing else changes: it trains, exports and copies as before.
"""

from __future__ import annotations

import copyreg
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dimwise.fold._channels.groups import Alive, Labels, Site, stays


@dataclass(frozen=True)
class Change:
    """One call that names sizes: which of them become what."""

    kind: str
    rank: int
    places: tuple[tuple[int, int, int, bool], ...]
    """(place, the number in the code, what it becomes, whether the batch multiplies both)."""

    def apply(self, sizes: Sequence[int], *, force: bool = False) -> list[int] | None:
        """The new sizes; None when these are not the ones that are meant.

        Args:
            sizes: those of the call.
            force: whatever number is there: it may have been computed from another tensor that was cut as well.
        """
        new = list(sizes)
        for place, before, after, in_batch in self.places:
            if sizes[place] == -1:
                continue
            if in_batch and sizes[place] % before == 0:
                new[place] = sizes[place] // before * after
            elif not in_batch and (force or sizes[place] == before):
                new[place] = after
            elif sizes[place] != after:
                return None
        return new


def rewrite_(model: nn.Module, sites: Sequence[Site], alive: Alive) -> None:
    """Let the modules whose forward pass names sizes find the calls changed, for the channels that are left.

    Args:
        model: the cut network; changed.
        sites: what the trace found.
        alive: (n_classes,) which classes stay.
    """
    for site in sites:
        places = tuple(_place(place, labels, alive, site.n_inputs) for place, labels in site.counts)
        module: Any = model.get_submodule(site.module)
        known: tuple[Change, ...] = getattr(module, "size_changes", ())
        if not isinstance(module, Resized):
            module.__class__ = _resized(module.__class__)
        change = Change(site.kind, site.rank, places)
        module.size_changes = tuple(dict.fromkeys((*(_further(old, change) for old in known), change)))


def _place(place: int, labels: Labels, alive: Alive, n_inputs: int) -> tuple[int, int, int, bool]:
    before, after = len(labels), int(stays(labels, alive).any(1).sum())
    return (
        (place, before // n_inputs, after // n_inputs, True)
        if _repeats(labels, n_inputs)
        else ((place, before, after, False))
    )


def _repeats(labels: Labels, n_inputs: int) -> bool:
    """Whether the batch was folded into this dimension: different slices, and the same ones again for each input."""
    n = len(labels) // n_inputs
    if n_inputs < 2 or len(labels) % n_inputs or (labels == labels[0]).all():
        return False
    return bool((labels.reshape(n_inputs, -1) == labels[:n].ravel()).all())


def _further(old: Change, new: Change) -> Change:
    """A change of an earlier cut, when a later one goes on from it."""
    if (old.kind, old.rank) != (new.kind, new.rank):
        return old
    steps = {(place, before): after for place, before, after, _ in new.places}
    places = tuple((place, before, steps.get((place, after), after), b) for place, before, after, b in old.places)
    return Change(old.kind, old.rank, places)


class Resized:
    """Goes before a user's class: its forward pass, with other sizes."""

    size_changes: tuple[Change, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The user's own."""
        with _Resizing(self.size_changes):
            return super().forward(*args, **kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As the user's class does it: a class that is made here is no attribute of its module, where pickle looks."""
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return (make, args, *rest)
        return (_new, (type(self).__bases__[1], *args[1:]), *rest)


def _new(kind: Any, *args: Any) -> nn.Module:
    resized = _resized(kind)
    return resized.__new__(resized, *args)


@functools.cache
def _resized(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (Resized, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


class _Resizing(TorchFunctionMode):
    def __init__(self, changes: tuple[Change, ...]) -> None:
        super().__init__()
        self.changes = changes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = _KINDS.get(getattr(func, "__name__", ""))
        if kind is None or not any(c.kind == kind for c in self.changes):
            return func(*args, **kwargs)
        args, kwargs = self._changed(kind, args, kwargs)
        return func(*args, **kwargs)

    def _changed(
        self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = _Call.read(kind, args, kwargs)
        if call is None or call.clear():
            return args, kwargs
        for force in (False, True):
            for change in self.changes:
                sizes = call.changed(change, force=force)
                if sizes is not None:
                    return call.write(sizes)
        return args, kwargs


_KINDS = {name: name for name in ("view", "reshape", "expand", "unflatten", "split", "zeros")} | {"new_zeros": "zeros"}


@dataclass(frozen=True)
class _Call:
    """A call that names sizes, taken apart."""

    kind: str
    x: Tensor | None
    sizes: tuple[int, ...]
    rank: int
    dim: int
    write: Callable[[Sequence[int]], tuple[tuple[Any, ...], dict[str, Any]]]
    single: bool = False
    """One size for all parts of a split, however many there are."""

    def clear(self) -> bool:
        """Whether the sizes in the code are right beyond doubt."""
        return not (self.single or self.kind == "zeros" or -1 in self.sizes) and self.fits(self.sizes)

    def changed(self, change: Change, *, force: bool) -> list[int] | None:
        """What a change makes of the sizes; None when it is not for this call, or would not run."""
        if change.kind != self.kind or (change.rank != self.rank and not self.single):
            return None
        if force and (self.kind == "zeros" or -1 in self.sizes):
            return None  # nothing would show a mistake
        sizes = list(self.sizes * change.rank if self.single else self.sizes)
        if self.single and self.fits(sizes):
            return None
        new = change.apply(sizes, force=force)
        return new if new is not None and new != sizes and self.fits(new) else None

    @staticmethod
    def read(kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
        """The call behind these arguments; None for a form that names no sizes (``view(dtype)``)."""
        x = args[0] if args and isinstance(args[0], Tensor) else None
        own = args[1:] if x is not None else args
        if kind in ("unflatten", "split"):
            return _Call._read_part(kind, x, own, dict(kwargs))
        name = next((n for n in ("size", "shape") if n in kwargs), None)
        sizes = kwargs[name] if name else own[0] if len(own) == 1 and not isinstance(own[0], int) else own
        if not isinstance(sizes, (tuple, list)) or any(isinstance(n, (Tensor, float)) for n in sizes):
            return None

        def write(new: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            first = () if x is None else (x,)
            return ((*first, tuple(new)), {k: v for k, v in kwargs.items() if k != name})

        return _Call(kind, x, tuple(sizes), len(sizes), 0, write)

    @staticmethod
    def _read_part(kind: str, x: Tensor | None, own: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
        names = ("dim", "sizes") if kind == "unflatten" else ("split_size", "dim")
        given = dict(zip(names, own, strict=False)) | kwargs
        given["split_size"] = given.pop("split_size_or_sections", given.get("split_size"))
        sizes, dim = given[names[1] if kind == "unflatten" else "split_size"], given.get("dim", 0)
        if x is None or sizes is None or not isinstance(dim, int):
            return None
        single = not isinstance(sizes, (tuple, list))

        def write(new: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if kind == "unflatten":
                return (x, dim, tuple(new)), {}
            return (x, new[0] if single else list(new), dim), {}

        sizes = (sizes,) if single else tuple(sizes)
        return _Call(kind, x, sizes, len(sizes), dim, write, single)

    def fits(self, sizes: Sequence[int]) -> bool:
        """Whether the call would run with these sizes."""
        if self.x is None or self.kind == "zeros":
            return True
        shape = self.x.shape
        if self.kind == "expand":
            pairs = zip(reversed(shape), reversed(tuple(sizes)), strict=False)
            return all(new in (-1, old) or old == 1 for old, new in pairs)
        if self.kind == "split":
            return sum(sizes) == shape[self.dim]
        whole = shape[self.dim] if self.kind == "unflatten" else math.prod(shape)
        known = math.prod(n for n in sizes if n != -1)
        return bool(known and whole % known == 0) if -1 in sizes else known == whole
