"""Small readings of :class:`~dimwise.doctor.seen.Seen` that rules of several families share. No thresholds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from dimwise.doctor.finding import Place
from dimwise.doctor.seen import ActivationSeen, BatchesSeen, LayerSeen, LossSeen, RootSeen, Seen

Curve = Sequence[tuple[int, float]]
"""(step, value), oldest first."""


def percent(fraction: float) -> str:
    """A fraction between 0 and 1 in percent.

    Example:
        >>> percent(0.995), percent(0.12)
        ('99.5 %', '12 %')
    """
    return f"{100 * fraction:.3g} %"


def amount(n_bytes: float) -> str:
    """Bytes in the unit that people use for memory.

    Example:
        >>> amount(3 * 2**30), amount(700 * 2**20)
        ('3.00 GiB', '700 MiB')
    """
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def place_of(told: Any) -> Place | None:
    """The place inside a free-form observation: as such, as text, or a mapping once it came from a file.

    Example:
        >>> place_of("train.py:48")
        Place(file='train.py', line=48, function='')
    """
    if isinstance(told, str):
        file, _, line = told.rpartition(":")
        return Place(file, int(line)) if line.isdigit() else None
    return Place(**told) if isinstance(told, dict) else told


def module_of(act: ActivationSeen) -> str:
    """The module that an activation's path names, without how it is reached ('fc1 →', 'relu (2)').

    Example:
        >>> module_of(ActivationSeen("cell.gates → (3)", "tanh"))
        'cell.gates'
    """
    return re.sub(r" \(\d+\)$", "", act.path).removesuffix(" →")


def typical(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    listed = list(values)
    return median(listed) if listed else math.nan


def lowest_of_last(curve: Curve, n: int) -> float:
    """The least of the last ``n`` values: what held at every one of them; 0 when there are fewer."""
    return min(v for _, v in curve[-n:]) if len(curve) >= n else 0.0


def entropy(counts: Iterable[int]) -> float:
    """Entropy of the labels in nats: the loss of a network that knows their frequencies and nothing else.

    Example:
        >>> round(entropy([50, 50]), 4)
        0.6931
    """
    listed = [c for c in counts if c > 0]
    total = sum(listed)
    return -sum(c / total * math.log(c / total) for c in listed) if total else 0.0


def trained(seen: Seen, key: int | None) -> RootSeen | None:
    """The root ``key`` when it was trained; without a key, the only trained root there is."""
    if key is not None:
        root = seen.roots.get(key)
        return root if root is not None and root.n_train_forwards else None
    roots = list(seen.trained_roots())
    return roots[0] if len(roots) == 1 else None


def ends_in(seen: Seen, loss: LossSeen, function: str) -> ActivationSeen | None:
    """The activation ``function`` that is the very output of the network whose output this loss consumed."""
    root = trained(seen, loss.root)
    found = (a for a in root.activations if a.is_last and a.function == function) if root else iter(())
    return next(found, None)


def is_norm(kind: str) -> bool:
    """Whether a class name is that of a normalisation.

    Example:
        >>> is_norm("BatchNorm2d"), is_norm("LayerNorm"), is_norm("Linear")
        (True, True, False)
    """
    return "Norm" in kind


def mixes(layer: LayerSeen) -> bool:
    """Whether it is a linear map from units to units: linear, convolution, recurrent; no table, no scale."""
    known = ("Linear", "Conv", "RNN", "LSTM", "GRU", "Bilinear")
    return any(word in layer.kind for word in known) and len(layer.shape) >= 2


def in_order(root: RootSeen) -> list[LayerSeen]:
    """Its layers as the forward pass meets them; those it never called (order 0) left out."""
    return sorted((x for x in root.layers.values() if x.order), key=lambda layer: layer.order)


def around(root: RootSeen, path: str) -> list[LayerSeen]:
    """Layers that live beside the module ``path`` or inside it: those an activation found there can come from."""
    parent = path.rpartition(".")[0]
    inside = f"{parent}." if parent else ""
    return [layer for layer in root.layers.values() if layer.path.startswith(inside)]


def all_frozen(layers: Sequence[LayerSeen]) -> bool:
    """Whether there are layers and none of them is trained."""
    return bool(layers) and not any(layer.requires_grad for layer in layers)


def row_size(batches: BatchesSeen) -> int:
    """Numbers in one input row."""
    return math.prod(batches.shape)


def pair_like(loss: LossSeen) -> bool:
    """Whether its classes are the rows of the batch themselves, as in contrastive losses (N × N, 2N × (2N − 1))."""
    if len(loss.input_shape) != 2:
        return False
    n_rows, n_columns = loss.input_shape
    return abs(n_rows - n_columns) <= 1
