"""What a search may choose from: a student or lighter blocks, a cut, numbers rounded; and how long each is trained.

A point is a small dict such as {"student": 2, "cut": 1, "numbers": 0} of places in the literal lists below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from dimwise.fold import GRAPH_FOLDS
from dimwise.fold._steps import Step, in_order, parse
from dimwise.fold.distill import keeps_part

STUDENTS = (
    "",
    "distill(scale=0.75)",
    "distill(scale=0.5)",
    "distill(scale=0.375)",
    "distill(scale=0.25)",
    "distill(scale=0.1875)",
    "distill(scale=0.125)",
    "distill(depth=0.5, scale=1.0, inherit=true)",
    "distill(depth=0.34, scale=1.0, inherit=true)",
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
    "cast",
    "share(palette16)",
    "quantize share(palette16)",
    "qat quantize",
    "quantize(static)",
    "cast(bf16, arithmetic=true)",
)
"""What is done to its numbers; what fails on the subject itself is not tried again."""
ONLY_ON = {"cast(bf16, arithmetic=true)": "openvino"}
"""Ways to write numbers that gain on one runtime of graphs alone."""
ON_PYTORCH = {
    "pytorch": ("cast(bf16, arithmetic=true)",),
    "pytorch-compiled": ("quantize", "quantize(static)", "cast(bf16, arithmetic=true)"),
}
"""Ways to write the numbers of a network itself, where PyTorch serves; int8 is only emulated where nothing compiles."""
FIRST = (
    ("distill(scale=0.5)", "", ""),
    ("distill(scale=0.5)", "", "quantize"),
    ("", "prune(macs=0.5)", ""),
    ("", "prune(macs=0.5)", "quantize"),
    ("", "prune(macs=0.5, allocation=latency)", ""),
    ("distill(depth=0.5, scale=1.0, inherit=true)", "", ""),
)
"""Student, cut and numbers of what is tried before anything is proposed, after each way to write numbers."""
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
    _passes: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

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
        untrained = [
            n for n, text in enumerate(self.numbers) if all(s.name not in self.epochs for s in self._read[text])
        ]
        return [{**least, "numbers": n} for n in untrained]

    def listed(self) -> list[dict[str, int]]:
        """The points that are tried first: each way to write numbers alone, then :data:`FIRST`."""
        alone = [{"student": 0, "cut": 0, "numbers": n} for n in range(1, len(self.numbers))]
        lists = self.students, self.cuts, self.numbers
        there = [texts for texts in FIRST if all(text in known for text, known in zip(texts, lists, strict=True))]
        return alone + [
            {"student": self.students.index(s), "cut": self.cuts.index(c), "numbers": self.numbers.index(n)}
            for s, c, n in there
        ]

    def steps(self, point: Point, rung: int = -1) -> tuple[Step, ...]:
        """The composition of a point, trained as long as the rung says."""
        return in_order([self._long(step, rung) for text in self._texts(point) for step in self._read[text]])

    @cached_property
    def _read(self) -> dict[str, tuple[Step, ...]]:
        """Text -> its steps; a search asks for them thousands of times."""
        return {text: parse(text, self.base) for text in {*self.students, *self.cuts, *self.numbers}}

    def on_network(self, point: Point) -> tuple[Step, ...]:
        """What stands in the network's place and what leaves it, as the lists say it."""
        student, cut, _ = self._texts(point)
        return (*self._read[student], *self._read[cut])

    def _texts(self, point: Point) -> tuple[str, str, str]:
        return self.students[point["student"]], self.cuts[point["cut"]], self.numbers[point["numbers"]]

    def _long(self, step: Step, rung: int) -> Step:
        if step.name not in self.epochs:
            return step
        return Step(step.name, replace(step.config, epochs=self._n_epochs(step, rung)))

    def _n_epochs(self, step: Step, rung: int) -> int:
        return max(1, round(self.epochs[step.name] * RUNGS[rung])) if step.name in self.epochs else 0

    def passes(self, text: str) -> int:
        """Passes over the training data that a composition costs."""
        if text not in self._passes:  # a search asks thousands of times
            steps = parse(text, self.base)
            self._passes[text] = sum(step.config.epochs for step in steps if step.name in self.epochs)
        return self._passes[text]

    def rung_of(self, point: Point, passes: int) -> int:
        """The highest rung of a point whose training is no longer than so many passes, else the lowest: a search that
        goes on with more time trains longer at each rung."""
        rungs = self.rungs(point)
        return max((rung for rung in rungs if self.n_epochs(point, rung) <= passes), default=rungs[0])

    def n_epochs(self, point: Point, rung: int) -> int:
        """Passes over the training data that a point costs at a rung; 0 when nothing is trained."""
        return sum(self._n_epochs(step, rung) for text in self._texts(point) for step in self._read[text])

    def rungs(self, point: Point) -> tuple[int, ...]:
        """The rungs at which this point's training differs; the last one alone when nothing is trained."""
        top = len(RUNGS) - 1
        if not self.n_epochs(point, top):
            return (top,)
        counts = [self.n_epochs(point, rung) for rung in range(top + 1)]
        return tuple(rung for rung in range(top + 1) if rung == top or counts[rung] < counts[rung + 1])

    def operations(self, point: Point) -> float:
        """About the fraction of the multiply-accumulates that a point keeps."""
        student, cut, _ = self._texts(point)
        return self._kept(student) * self._kept(cut)

    def _kept(self, text: str) -> float:
        return math.prod(map(_fraction, self._read[text]))

    def features(self, point: Point, rung: int) -> list[float]:
        """Numbers a model of scores can learn from: logarithms of the fractions, the kinds of folds, the training."""
        student, cut, _ = self._texts(point)
        kept = [math.log2(self._kept(text)) for text in (student, cut)]
        return [*kept, *self.kinds(point), math.log(RUNGS[rung], 3)]

    def kinds(self, point: Point) -> list[float]:
        """Which kinds of folds a point has, one by one, 0 or 1."""
        student, cut, _ = self._texts(point)
        found = ["depth" in student, student == "separable", "latency" in cut, "lowrank" in cut]
        found += [point["numbers"] == n for n in range(1, len(self.numbers))]
        return [float(one) for one in found]


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


def training_folds() -> tuple[str, ...]:
    """The folds of the lists that train, in the lists' order.

    Example:
        >>> training_folds()
        ('distill', 'separable', 'prune', 'lowrank', 'qat')
    """
    steps = [step for text in (*STUDENTS, *CUTS, *NUMBERS) for step in parse(text)]
    return tuple(dict.fromkeys(step.name for step in steps if hasattr(step.config, "epochs")))


def space_of(
    numbers: Sequence[str],
    base: Mapping[str, Any],
    epochs: Mapping[str, int],
    *,
    network_folds: Sequence[str],
    only_graph: bool = False,
) -> Space:
    """The choices that are left.

    Args:
        numbers: folds of the graph that work on this subject, beside none.
        base: fold -> its settings.
        epochs: fold -> epochs of a full training.
        network_folds: folds of the network that work; for a graph without its network distill or none.
        only_graph: leave out the students that keep part of a network.
    """
    students = _working(STUDENTS, network_folds)
    if only_graph:
        told = {text: [step.config for step in parse(text, base)] for text in students}
        students = tuple(text for text, configs in told.items() if not any(keeps_part(c) or c.hints for c in configs))
    return Space(
        students=_different(students, base),
        cuts=_different(_working(CUTS, network_folds), base),
        numbers=_different(("", *_working(numbers, (*GRAPH_FOLDS, *network_folds))), base),
        epochs=dict(epochs),
        base=dict(base),
    )


def _working(texts: Sequence[str], folds: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if all(step.name in folds for step in parse(text)))


def _different(texts: Sequence[str], base: Mapping[str, Any]) -> tuple[str, ...]:
    """Without those that the settings make the same as an earlier one."""
    first: dict[tuple[Step, ...], str] = {}
    for text in texts:
        first.setdefault(parse(text, base), text)
    return tuple(first.values())


def is_whole(point: Point) -> bool:
    """Whether a point is the network itself, with its numbers perhaps written otherwise."""
    return not point["student"] and not point["cut"]


def key_of(point: Point) -> tuple[int, int, int]:
    """A point as a key."""
    return (point["student"], point["cut"], point["numbers"])


def understood(point: Point, space: Space) -> bool:
    """Whether a point, read from a file, is one of this space; no point at all is."""
    sizes = {"student": len(space.students), "cut": len(space.cuts), "numbers": len(space.numbers)}
    return not point or (set(point) == set(sizes) and all(0 <= point[name] < n for name, n in sizes.items()))
