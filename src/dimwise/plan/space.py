"""What a search may choose from: a narrower student, channels cut, numbers rounded; and how long each is trained.

A point is a small dict such as {"width": 2, "macs": 1, "numbers": 0} of places in the literal lists below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dimwise.fold._steps import Step, in_order, parse

WIDTHS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)
"""Scale of a distilled student; 1 stands for no student."""
MACS = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Fraction of the multiply-accumulates that pruning keeps; 1 stands for no pruning."""
NUMBERS = ("", "quantize", "quantize(weights)", "quantize(int4)", "quantize(dynamic)", "share(palette16)")
"""What is done to the exported graph; what fails on the subject itself is not tried again."""
RUNGS = (1 / 9, 1 / 3, 1.0, 3.0)
"""Lengths of training over the full one, in thirds as in successive halving (Jamieson, Talwalkar 2016). What is smaller
than the original may need more than the original got: the last is for what no other gets to the budget."""

Point = Mapping[str, int]


@dataclass(frozen=True)
class Space:
    """The choices that this subject has."""

    widths: tuple[float, ...]
    macs: tuple[float, ...]
    numbers: tuple[str, ...]
    epochs: Mapping[str, int]
    """Fold -> epochs of a full training, such as {"distill": 60, "prune": 5}."""
    base: Mapping[str, Any]
    """Fold -> the config that its settings start from."""

    @property
    def size(self) -> int:
        """How many points there are."""
        return len(self.widths) * len(self.macs) * len(self.numbers)

    def points(self) -> list[dict[str, int]]:
        """All of them."""
        return [
            {"width": w, "macs": m, "numbers": n}
            for w in range(len(self.widths))
            for m in range(len(self.macs))
            for n in range(len(self.numbers))
        ]

    def smallest(self) -> list[dict[str, int]]:
        """The smallest point for each way to write numbers: little is faster or smaller than these."""
        narrowest = len(self.widths) - 1  # channels of the least student cannot leave
        last = {"width": narrowest, "macs": 0 if narrowest else len(self.macs) - 1}
        return [{**last, "numbers": n} for n in range(len(self.numbers))]

    def listed(self) -> list[dict[str, int]]:
        """The points that are tried first: each fold alone, at the middle, and with int8 on top."""
        found = [{"width": 0, "macs": 0, "numbers": n} for n in range(1, len(self.numbers))]
        middle_w, middle_m = min(2, len(self.widths) - 1), min(2, len(self.macs) - 1)
        for n in range(min(2, len(self.numbers))):
            found += [{"width": 0, "macs": middle_m, "numbers": n}] if middle_m else []
            found += [{"width": middle_w, "macs": 0, "numbers": n}] if middle_w else []
        return found

    def steps(self, point: Point, rung: int = -1) -> tuple[Step, ...]:
        """The composition of a point, trained as long as the rung says."""
        steps: list[Step] = []
        if self.widths[point["width"]] < 1:
            steps.append(self._step("distill", rung, scale=self.widths[point["width"]]))
        if self.macs[point["macs"]] < 1:
            steps.append(self._step("prune", rung, macs=self.macs[point["macs"]]))
        return in_order((*steps, *parse(self.numbers[point["numbers"]], self.base)))

    def _step(self, name: str, rung: int, **changes: Any) -> Step:
        (step,) = parse(name, self.base)
        if "epochs" in {field.name for field in fields(step.config)}:
            changes["epochs"] = max(1, round(self.epochs[name] * RUNGS[rung]))
        return Step(name, replace(step.config, **changes))

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
        return self.widths[point["width"]] ** 2 * self.macs[point["macs"]]

    def features(self, point: Point, rung: int | None = None) -> list[float]:
        """Numbers a model can learn from: logarithms of the fractions, the kind of numbers one by one."""
        found = [math.log2(self.widths[point["width"]]), math.log2(self.macs[point["macs"]])]
        found += [float(point["numbers"] == n) for n in range(1, len(self.numbers))]
        if rung is not None:
            found.append(math.log(RUNGS[rung], 3))
        return found


def space_of(
    numbers: Sequence[str], base: Mapping[str, Any], epochs: Mapping[str, int], *, network_folds: Sequence[str]
) -> Space:
    """The choices that are left.

    Args:
        numbers: folds of the graph that work on this subject, beside none.
        base: fold -> its settings.
        epochs: fold -> epochs of a full training.
        network_folds: those that work, of distill and prune; none for a graph without its network.
    """
    return Space(
        widths=WIDTHS if "distill" in network_folds else (1.0,),
        macs=MACS if "prune" in network_folds else (1.0,),
        numbers=("", *numbers),
        epochs=dict(epochs),
        base=dict(base),
    )


def key_of(point: Point) -> tuple[int, int, int]:
    """A point as a key."""
    return (point["width"], point["macs"], point["numbers"])
