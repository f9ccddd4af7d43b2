"""What layers the network of a point has: it is built untrained, which takes a tenth of serving and timing it.

Widths follow from what folds do, not from what their settings promise: pruning keeps channels in whole blocks, students
keep a few more than their scale says, and some cuts are out of reach.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from dimwise.fold import Evidence, PruneConfig
from dimwise.fold._steps import Step, write
from dimwise.measure import profile
from dimwise.plan.apply import Once, Skipped, Subject, network_of, tried
from dimwise.plan.space import RUNGS, Point, Space
from dimwise.runs.atomic import append

FILE = "shapes.jsonl"


@dataclass(frozen=True)
class LayerShape:
    """A layer of a network, and how wide it is."""

    name: str
    params: int
    macs: int
    n_in: int
    """Channels that each output reads; 1 where each reads its own."""
    n_out: int
    n_outputs: int
    """Numbers that one input makes."""

    def work(self, block: int) -> float:
        """Multiply-accumulates of kernels that take channels in blocks, the last one filled up; fewer inputs than a
        block, as of an image, are taken one by one.

        Example:
            >>> layer = LayerShape("conv", params=3456, macs=677_376, n_in=24, n_out=12, n_outputs=3136)
            >>> layer.work(1), layer.work(8) / layer.macs, layer.work(16) / layer.macs
            (677376, 1.33..., 1.77...)
        """
        if block == 1:
            return self.macs
        read = _filled(self.n_in, block) if self.n_in >= block else self.n_in
        return self.macs * (read / self.n_in) * (_filled(self.n_out, block) / self.n_out)


def _filled(n: int, block: int) -> int:
    return -(-n // block) * block


def layers_of(network: nn.Module, example: torch.Tensor) -> tuple[LayerShape, ...]:
    """The layers of a network in order.

    Args:
        network: not changed.
        example: (1, ...) what it takes.

    Example:
        >>> layers_of(nn.Sequential(nn.Linear(8, 3), nn.ReLU()), torch.zeros(1, 8))[0]
        LayerShape(name='0', params=27, macs=24, n_in=8, n_out=3, n_outputs=3)
    """
    found = []
    for row in profile(network, example).rows:
        n_outputs = math.prod(row.output_shape[1:])
        axis = 1 if "Conv" in row.kind else -1
        n_out = row.output_shape[axis] if len(row.output_shape) > 1 else 1
        n_in = row.input_shape[axis] if len(row.input_shape) > 1 else 1
        taps, rest = divmod(row.macs, max(1, n_outputs * n_in))  # of each output, and of channels it reads
        found.append(LayerShape(row.name, row.params, row.macs, n_in if taps and not rest else 1, n_out, n_outputs))
    return tuple(found)


@dataclass
class Shapes:
    """The shapes of a search's points, each built when it is first asked for and written down for the next sitting."""

    space: Space
    subject: Subject
    evidence: Evidence
    once: Once
    folder: Path
    limit_s: float
    """Building takes no longer than this in one sitting; what is asked for later is not known."""
    spent_s: float = 0.0
    _found: dict[str, tuple[LayerShape, ...] | None] = field(default_factory=dict)
    _told: dict[tuple[int, int], tuple[Step, ...]] = field(default_factory=dict)
    _keys: dict[tuple[Step, ...], str] = field(default_factory=dict)
    _aside: Once = field(default_factory=lambda: Once(8))
    """What is built only to be asked of its widths must not push trained networks out of ``once``."""

    def __post_init__(self) -> None:
        self._found.update(read(self.folder))

    def __call__(self, point: Point) -> tuple[LayerShape, ...] | None:
        """The layers of a point's network; None when it cannot be built, or there is no time for it. Where a cut would
        time layers, which takes many seconds, and is not known yet, those of a cut that need not stand for them."""
        steps = self._steps(point)
        if self._key(steps) not in self._found:
            steps = tuple(map(_quick, steps))
            too_late = self.subject.network is None or self.spent_s > self.limit_s
            if too_late and self._key(steps) not in self._found:
                return None
        began = time.monotonic()
        found = self._known(steps, self._aside)
        self.spent_s += time.monotonic() - began
        return found

    def know(self, point: Point) -> tuple[LayerShape, ...] | None:
        """The same whatever time it takes: none that counts where the network is made anyway, to be looked at."""
        return self._known(self._steps(point), self.once)

    def _steps(self, point: Point) -> tuple[Step, ...]:
        """As they are made for a look, so that each network is made once."""
        key = point["student"], point["cut"]
        if key not in self._told:  # a search asks thousands of times
            self._told[key] = self.space.steps({**point, "numbers": 0}, len(RUNGS) - 1)
        return self._told[key]

    def _known(self, steps: tuple[Step, ...], once: Once) -> tuple[LayerShape, ...] | None:
        text = self._key(steps)
        if text not in self._found:

            def layers() -> tuple[LayerShape, ...]:
                return layers_of(network_of(steps, self.subject, self.evidence, once), self.evidence.example)

            made = tried(layers, text)
            self._found[text] = None if isinstance(made, Skipped) else made
            add(self.folder, text, self._found[text])
        return self._found[text]

    def _key(self, steps: tuple[Step, ...]) -> str:
        """The steps as text; however long they train, widths are the same."""
        if steps not in self._keys:
            names = self.space.epochs
            same = [Step(s.name, replace(s.config, epochs=1)) if s.name in names else s for s in steps]
            self._keys[steps] = write(same)
        return self._keys[steps]


def _quick(step: Step) -> Step:
    """The step, or one that leaves about as much without timing layers.

    Example:
        >>> from dimwise.fold._steps import parse
        >>> write([_quick(step) for step in parse("prune(macs=0.3, allocation=latency)")])
        'prune(macs=0.3)'
    """
    if isinstance(step.config, PruneConfig) and step.config.allocation == "latency":
        return Step(step.name, replace(step.config, allocation="uniform"))
    return step


def add(folder: Path, network: str, shape: Sequence[LayerShape] | None) -> None:
    """Write one down where other processes and the next sitting read it.

    Args:
        folder: of the search.
        network: the composition that makes it.
        shape: its layers; None when it cannot be built.
    """
    rows = None if shape is None else [list(asdict(layer).values()) for layer in shape]
    append(folder / FILE, json.dumps({"network": network, "layers": rows}) + "\n")


def read(folder: Path) -> dict[str, tuple[LayerShape, ...] | None]:
    """What earlier sittings built; a line that cannot be read costs that line."""
    found: dict[str, tuple[LayerShape, ...] | None] = {}
    try:
        lines = (folder / FILE).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            told = json.loads(line)
            rows = told["layers"]
            shape = None if rows is None else tuple(LayerShape(str(name), *map(int, rest)) for name, *rest in rows)
            found[str(told["network"])] = shape
        except (ValueError, TypeError, KeyError):
            continue
    return found
