"""How rules read what was seen: cycles of an optimizer, series of losses, freshly made weights, numbers in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dimwise.doctor.finding import Place
from dimwise.doctor.seen import Event, LayerSeen, RootSeen, Seen

BOUNDED = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "smooth_l1_loss", "l1_loss", "huber_loss")
"""Losses whose gradient with regard to one output is at most 1 in size, whatever the output."""
ALIKE = 4
"""Layers whose weights have one and the same deviation before that says that nobody has trained them."""


@dataclass(frozen=True)
class Cycle:
    """What happened between two steps of one optimizer, and the step that ended it."""

    key: int
    step: Event
    between: tuple[Event, ...]

    def since_clear(self) -> tuple[Event, ...]:
        """The events after its gradients were last cleared; all of them when they were not."""
        for i in range(len(self.between) - 1, -1, -1):
            if clears(self.between[i], self.key):
                return self.between[i + 1 :]
        return self.between

    def backwards(self) -> list[Event]:
        """Backward passes that gave gradients to this optimizer's parameters."""
        return [e for e in self.between if reaches(e, self.key)]


def fact(event: Event, name: str, default: Any = None) -> Any:
    """A fact of an event, or ``default`` where the watcher could not tell it."""
    return event.facts.get(name, default)


def reaches(event: Event, key: int) -> bool:
    """Whether it is a backward pass that gave gradients to the parameters of optimizer ``key``."""
    if event.kind != "backward":
        return False
    reached = fact(event, "reached")
    return reached is None or key in reached


def clears(event: Event, key: int) -> bool:
    """Whether the event cleared gradients of optimizer ``key``: its zero_grad, a module's, or by hand."""
    return (event.kind == "zero_grad" and event.who in (key, None)) or (
        event.kind == "grads_cleared" and event.who == key
    )


def cycles(seen: Seen, key: int) -> Iterator[Cycle]:
    """The watched cycles of one optimizer, in order.

    The first cycle after a stretch that was not watched is left out: what came before it is not known whole.
    """
    between: list[Event] = []
    whole = True
    last_step = 0
    for event in seen.events:
        if event.step > last_step + 1:  # every optimizer step leaves an event, so a jump is an unwatched stretch
            between, whole = [], False
        last_step = max(last_step, event.step)
        if event.kind == "step" and event.who == key:
            if whole:
                yield Cycle(key, event, tuple(between))
            between, whole = [], True
        else:
            between.append(event)


def longest_run(marks: Sequence[bool]) -> tuple[int, int]:
    """(start, length) of the longest stretch of True.

    Example:
        >>> longest_run([True, False, True, True])
        (2, 2)
    """
    best = (0, 0)
    start = None
    for i, mark in enumerate([*marks, False]):
        if mark and start is None:
            start = i
        if not mark and start is not None:
            if i - start > best[1]:
                best = (start, i - start)
            start = None
    return best


def where(place: Place | None, what: str) -> str:
    """'train.py:48 loss.backward()', or 'loss.backward()' when the line is not known."""
    return f"{place} {what}" if place else what


def at(place: Place | None) -> str:
    """' at train.py:48', or nothing."""
    return f" at {place}" if place else ""


def number(value: float) -> str:
    """Three digits that a reader takes in at once.

    Example:
        >>> number(0.00123456), number(31.02), number(1234567.0), number(1200.0)
        ('0.00123', '31', '1.23e+06', '1200')
    """
    if value == int(value) and abs(value) < 1e5 if math.isfinite(value) else False:
        return str(int(value))
    return f"{value:.3g}"


def count(n: int, one: str, many: str = "") -> str:
    """'1 step', '3 steps'."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def most_common_place(events: Iterable[Event]) -> Place | None:
    """Where most of the events happened."""
    places = [e.place for e in events if e.place is not None]
    return max(set(places), key=places.count) if places else None


def median(values: Iterable[float]) -> float:
    """Of the finite ones; NaN when there are none."""
    finite = [v for v in values if math.isfinite(v)]
    return statistics.median(finite) if finite else math.nan


def loss_series(seen: Seen, root: int) -> list[tuple[int, float]]:
    """(step, loss) of one network, only where values of different steps can be compared.

    That is: the tensor that was differentiated is the very output of one of PyTorch's loss functions; or exactly one
    loss function was called on a batch of at least 8 rows before it (a sum of a loss and a penalty). Losses of policy
    gradients, of adversaries without a loss function and of episodes of different length are left out: they rise and
    fall while everything is well.
    """
    series: list[tuple[int, float]] = []
    pending: list[Event] = []
    for event in seen.events:
        if event.kind == "loss" and fact(event, "grad") and event.who == root:
            pending.append(event)
        elif event.kind == "backward":
            if event.who in (root, None):
                value = None
                if event.who == root and fact(event, "loss"):
                    value = fact(event, "value")
                elif len(pending) == 1 and (fact(pending[0], "input_shape") or (0,))[0] >= 8:
                    value = fact(pending[0], "value")
                if value is not None:
                    series.append((event.step, float(value)))
            pending = []
    return series


def is_fresh(layer: LayerSeen) -> bool | None:
    """Whether its weight looks as an initialiser of PyTorch leaves it rather than trained; None when too small to tell.

    Default of Linear and Conv: uniform in ±1/√fan_in, so its largest element is just below that bound and its
    standard deviation is bound/√3; hardly any trained weight keeps both. Embedding: N(0, 1). Else the standard
    deviation within 3 % of He's √(2/fan_in) or Glorot's √(2/(fan_in + fan_out)), with a mean of zero.
    """
    n = math.prod(layer.shape) if layer.shape else 0
    std, absmax = layer.init.get("std"), layer.init.get("absmax")
    if n < 64 or std is None or absmax is None or not std > 0:
        return None
    mean = layer.init.get("mean", 0.0)
    if abs(mean) > 4 * std / math.sqrt(n):
        return False
    fan_in, fan_out = layer.init.get("fan_in") or 0, layer.init.get("fan_out") or 0
    noise = max(0.03, 3 / math.sqrt(2 * n))
    if "Embedding" in layer.kind:
        return abs(std - 1) < noise
    if not fan_in:
        return None
    bound = 1 / math.sqrt(fan_in)
    if layer.kind in ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"):
        return abs(std - absmax / math.sqrt(3)) < noise * std  # uniform in ±1/√hidden
    if 0.9 * bound <= absmax <= 1.0001 * bound and abs(std - bound / math.sqrt(3)) < noise * std:
        return True
    usual = [math.sqrt(2 / fan_in), *([math.sqrt(2 / (fan_in + fan_out))] if fan_out else [])]
    return any(abs(std - u) < noise * u for u in usual)


def is_new(root: RootSeen) -> bool:
    """Whether most of its weights are as an initialiser leaves them: each by its size, or all by one deviation, as
    N(0, 0.02) is drawn in language models; training gives every layer its own.
    """
    layers = [layer for layer in root.layers.values() if layer.requires_grad]
    known = [(x, new) for x, new in ((x, is_fresh(x)) for x in layers) if new is not None]
    usual = median(x.init["std"] for x, _ in known)
    alike = [x for x, _ in known if _drawn_with(usual, x)]
    one = alike if len(alike) >= max(ALIKE, len(known) / 2) else []
    return sum(x.n_params for x, new in known if new or x in one) > 0.5 * sum(x.n_params for x, _ in known)


def _drawn_with(std: float, layer: LayerSeen) -> bool:
    n = math.prod(layer.shape)
    centred = abs(layer.init.get("mean", 0.0)) <= 4 * std / math.sqrt(n)
    return bool(centred and abs(layer.init["std"] - std) <= max(0.03, 3 / math.sqrt(2 * n)) * std)
