"""What a search may choose from: a student or lighter blocks, a cut, numbers rounded; and how long each is trained.

A point is a small dict such as {"student": 2, "cut": 1, "numbers": 0} of places in the literal lists below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dimwise.fold import GRAPH_FOLDS
from dimwise.fold._steps import Step, in_order, parse

STUDENTS = (
    "",
    "distill(scale=0.75)",
    "distill(scale=0.5)",
    "distill(scale=0.375)",
    "distill(scale=0.25)",
    "distill(scale=0.1875)",
    "distill(scale=0.125)",
    "distill(depth=0.5, scale=1.0)",
    "distill(depth=0.5, scale=0.75)",
    "distill(depth=0.5, scale=0.5)",
    "separable",
)
"""What stands in the network's place; nothing, first, for the network itself."""
CUTS = (
    "",
    "prune(macs=0.75)",
    "prune(macs=0.5)",
    "prune(macs=0.35)",
    "prune(macs=0.25)",
    "prune(macs=0.5, allocation=latency)",
    "prune(macs=0.25, allocation=latency)",
    "lowrank(macs=0.6)",
    "lowrank(macs=0.4)",
)
"""What leaves it; nothing first."""
NUMBERS = (
    "",
    "quantize",
    "quantize(weights)",
    "quantize(int4)",
    "quantize(dynamic)",
    "share(palette16)",
    "qat quantize",
)
"""What is done to its numbers; what fails on the subject itself is not tried again."""
FIRST = (
    "distill(scale=0.5)",
    "prune(macs=0.5)",
    "prune(macs=0.5, allocation=latency)",
    "distill(depth=0.5, scale=1.0)",
)
"""Tried before anything is proposed; the first two with int8 on top as well."""
RUNGS = (1 / 9, 1 / 3, 1.0, 3.0)
"""Lengths of training over the full one, in thirds as in successive halving (Jamieson, Talwalkar 2016). What is smaller
than the original may need more than the original got: the last is for what no other gets to the budget."""

SEPARABLE = 0.2
"""About what 3x3 convolutions of some dozens of channels keep when they become separable: 1/9 + 1/channels."""

Point = Mapping[str, int]


@dataclass(frozen=True)
class Space:
    """The choices that this subject has."""

    students: tuple[str, ...]
    cuts: tuple[str, ...]
    numbers: tuple[str, ...]
    epochs: Mapping[str, int]
    """Fold -> epochs of a full training, such as {"distill": 60, "prune": 5}."""
    base: Mapping[str, Any]
    """Fold -> the config that its settings start from."""

    @property
    def size(self) -> int:
        """How many points there are."""
        return len(self.students) * len(self.cuts) * len(self.numbers)

    def points(self) -> list[dict[str, int]]:
        """All of them."""
        return [
            {"student": s, "cut": c, "numbers": n}
            for s in range(len(self.students))
            for c in range(len(self.cuts))
            for n in range(len(self.numbers))
        ]

    def smallest(self) -> list[dict[str, int]]:
        """The smallest point for each way to write numbers: little is faster or smaller than these."""
        alone = [{"student": s, "cut": 0, "numbers": 0} for s in range(len(self.students))]
        if len(alone) == 1:  # else no channel is left to leave the least student
            alone = [{"student": 0, "cut": c, "numbers": 0} for c in range(len(self.cuts))]
        least = min(alone, key=self.operations)
        return [{**least, "numbers": n} for n in range(len(self.numbers)) if not self._trains(self.numbers[n])]

    def listed(self) -> list[dict[str, int]]:
        """The points that are tried first: each fold alone, at the middle, and with int8 on top."""
        found = [{"student": 0, "cut": 0, "numbers": n} for n in range(1, len(self.numbers))]
        for text in FIRST:
            for n in range(min(2, len(self.numbers)) if text in FIRST[:2] else 1):
                if text in self.students:
                    found.append({"student": self.students.index(text), "cut": 0, "numbers": n})
                if text in self.cuts:
                    found.append({"student": 0, "cut": self.cuts.index(text), "numbers": n})
        return found

    def steps(self, point: Point, rung: int = -1) -> tuple[Step, ...]:
        """The composition of a point, trained as long as the rung says."""
        texts = self.students[point["student"]], self.cuts[point["cut"]], self.numbers[point["numbers"]]
        return in_order([self._long(step, rung) for text in texts for step in parse(text, self.base)])

    def _long(self, step: Step, rung: int) -> Step:
        if step.name not in self.epochs:
            return step
        return Step(step.name, replace(step.config, epochs=max(1, round(self.epochs[step.name] * RUNGS[rung]))))

    def _trains(self, text: str) -> bool:
        return any(step.name in self.epochs for step in parse(text, self.base))

    def n_epochs(self, point: Point, rung: int) -> int:
        """Passes over the training data that a point costs at a rung; 0 when nothing is trained."""
        return sum(getattr(step.config, "epochs", 0) for step in self.steps(point, rung))

    def rungs(self, point: Point) -> tuple[int, ...]:
        """The rungs at which this point's training differs; the last one alone when nothing is trained."""
        top = len(RUNGS) - 1
        if not self.n_epochs(point, top):
            return (top,)
        counts = [self.n_epochs(point, rung) for rung in range(top + 1)]
        return tuple(rung for rung in range(top + 1) if rung == top or counts[rung] < counts[rung + 1])

    def operations(self, point: Point) -> float:
        """About the fraction of the multiply-accumulates that a point keeps."""
        steps = parse(self.students[point["student"]]) + parse(self.cuts[point["cut"]])
        return math.prod(map(_fraction, steps))

    def features(self, point: Point, rung: int | None = None) -> list[float]:
        """Numbers a model can learn from: logarithms of the fractions, the kinds of folds one by one."""
        student, cut = self.students[point["student"]], self.cuts[point["cut"]]
        found = [math.log2(math.prod(map(_fraction, parse(text)))) for text in (student, cut)]
        found += [float("depth" in student), float(student == "separable")]
        found += [float("latency" in cut), float("lowrank" in cut)]
        found += [float(point["numbers"] == n) for n in range(1, len(self.numbers))]
        if rung is not None:
            found.append(math.log(RUNGS[rung], 3))
        return found


def _fraction(step: Step) -> float:
    """About the fraction of the multiply-accumulates that a fold keeps.

    Example:
        >>> [_fraction(step) for step in parse("distill(scale=0.5, depth=0.5) prune(macs=0.4)")]
        [0.125, 0.4]
    """
    if step.name == "distill":
        return float(step.config.scale**2 * step.config.depth)
    if step.name == "separable":
        return SEPARABLE
    return float(step.config.macs)


def space_of(
    numbers: Sequence[str], base: Mapping[str, Any], epochs: Mapping[str, int], *, network_folds: Sequence[str]
) -> Space:
    """The choices that are left.

    Args:
        numbers: folds of the graph that work on this subject, beside none.
        base: fold -> its settings.
        epochs: fold -> epochs of a full training.
        network_folds: folds of the network that work; none for a graph without its network.
    """
    return Space(
        students=_working(STUDENTS, network_folds),
        cuts=_working(CUTS, network_folds),
        numbers=("", *_working(numbers, (*GRAPH_FOLDS, *network_folds))),
        epochs=dict(epochs),
        base=dict(base),
    )


def _working(texts: Sequence[str], folds: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if all(step.name in folds for step in parse(text)))


def key_of(point: Point) -> tuple[int, int, int]:
    """A point as a key."""
    return (point["student"], point["cut"], point["numbers"])


def understood(point: Point, space: Space) -> bool:
    """Whether a point, read from a file, is one of this space; no point at all is."""
    sizes = {"student": len(space.students), "cut": len(space.cuts), "numbers": len(space.numbers)}
    return not point or (set(point) == set(sizes) and all(0 <= point[name] < n for name, n in sizes.items()))
