"""What a run says: the stages, which one was chosen, how it compares with the trained model.

The page and the terminal tell the same story; it is read here, once, from ``result.json``. Nothing in that
file is trusted to have the right type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dimwise.view.units import number


@dataclass(frozen=True)
class Stage:
    """One model of the run, measured: a row of the table, a bubble of the picture."""

    name: str
    score: float | None = None
    """On the test split; fraction 0 to 1 for shares."""
    valid_score: float | None = None
    size_bytes: float | None = None
    latency_ms: float | None = None
    """p50 at batch 1 on the runtime that would serve it."""
    latency_p95_ms: float | None = None
    params: float | None = None
    macs: float | None = None
    throughput_per_s: float | None = None
    best_batch: float | None = None
    peak_memory_bytes: float | None = None
    train_peak_memory_bytes: float | None = None
    runtime: str = ""
    threads: float | None = None
    meets_budget: bool | None = None
    reason: str = ""
    chosen: bool = False


_NUMBERS = (
    "score",
    "valid_score",
    "size_bytes",
    "latency_ms",
    "latency_p95_ms",
    "params",
    "macs",
    "throughput_per_s",
    "best_batch",
    "peak_memory_bytes",
    "train_peak_memory_bytes",
    "threads",
)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value when it is a list or tuple, else an empty one."""
    return value if isinstance(value, (list, tuple)) else ()


def stages(result: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages in their order; the first is the trained model, which the others are compared with.

    Whether one meets the budget is said by the run, or follows from the budget in the result.

    Example:
        >>> [s.name for s in stages({"stages": [{"name": "trained"}, {"name": "prune"}], "chosen": "prune"})]
        ['trained', 'prune']
    """
    reasons, budget = mapping(result.get("reasons")), mapping(result.get("budget"))
    made: list[Stage] = []
    for entry in sequence(result.get("stages")):
        row = mapping(entry)
        name = str(row.get("name", ""))
        stage = Stage(
            name=name,
            **{key: number(row.get(key)) for key in _NUMBERS},  # type: ignore[arg-type]
            runtime=str(row.get("runtime") or ""),
            reason=str(reasons.get(name) or row.get("reason") or ""),
            chosen=bool(name) and name == result.get("chosen"),
        )
        meets = row.get("meets_budget")
        if not isinstance(meets, bool):
            meets = not over_budget(stage, made[0], budget) if made and budget else None
        made.append(replace(stage, meets_budget=meets))
    return tuple(made)


def chosen(rows: Sequence[Stage]) -> Stage | None:
    """The chosen stage, if one is marked."""
    return next((row for row in rows if row.chosen), None)


def ratio(before: float | None, after: float | None) -> float | None:
    """before / after when both are positive: above 1 means that less is spent."""
    if before is None or after is None or before <= 0 or after <= 0:
        return None
    return before / after


_LIMITS = ("size_bytes", "latency_ms", "latency_p95_ms", "params", "macs", "peak_memory_bytes")


def over_budget(stage: Stage, base: Stage, budget: Mapping[str, Any]) -> dict[str, float]:
    """Which columns of a stage break a limit, with that limit.

    Limits are named as the columns are, zero meaning none; ``drop`` is what the validation score may lose against
    ``base``, 0 to 1.

    Example:
        >>> over_budget(Stage("b", latency_ms=2.0), Stage("a"), {"latency_ms": 1.0, "size_bytes": 0, "drop": 0.005})
        {'latency_ms': 1.0}
    """
    broken = {}
    for column in _LIMITS:
        limit, spent = number(budget.get(column)), getattr(stage, column)
        if limit and spent is not None and spent > limit:
            broken[column] = limit
    drop = number(budget.get("drop"))
    if drop is not None and base.valid_score is not None and stage.valid_score is not None:
        lowest = base.valid_score - drop
        if stage.valid_score < lowest - 1e-9:
            broken["valid_score"] = lowest
    return broken


def pareto(rows: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages no other one beats in both score and latency, fastest first.

    Example:
        >>> rows = [Stage("a", 0.9, latency_ms=1.0), Stage("b", 0.8, latency_ms=2.0), Stage("c", 0.95, latency_ms=3.0)]
        >>> [s.name for s in pareto(rows)]
        ['a', 'c']
    """
    placed = [row for row in rows if row.score is not None and row.latency_ms is not None]
    placed.sort(key=lambda row: (row.latency_ms or 0.0, -(row.score or 0.0)))
    front: list[Stage] = []
    for row in placed:
        if not front or (row.score or 0.0) > (front[-1].score or 0.0):
            front.append(row)
    return tuple(front)


def total_seconds(result: Mapping[str, Any]) -> float | None:
    """Wall time of the run: ``seconds`` is one number or one per stage."""
    value = result.get("seconds")
    if isinstance(value, Mapping):
        parts = [p for p in (number(v) for v in value.values()) if p is not None]
        return sum(parts) if parts else None
    return number(value)


@dataclass(frozen=True)
class History:
    """``metrics.jsonl`` as columns."""

    epochs: tuple[Mapping[str, Any], ...] = ()
    """Records of kind epoch, in order."""
    steps: tuple[Mapping[str, Any], ...] = ()
    """Records of kind step, in order."""

    @property
    def numbers(self) -> list[int]:
        """Numbers of the epochs as people count them, from 1, whether the records count from 0 or from 1."""
        seen = [number(record.get("epoch")) for record in (*self.epochs[:1], *self.steps[:1])]
        first = 1 if 0 in seen else 0
        return [int(number(record.get("epoch")) or 0) + first for record in self.epochs]

    def column(self, key: str) -> list[float | None]:
        """One value an epoch, None where it was not measured."""
        return [number(record.get(key)) for record in self.epochs]

    @property
    def best_epoch(self) -> int | None:
        """Number of the best epoch: highest validation score, then lowest loss, then the first."""
        best: tuple[float, float] | None = None
        found = None
        losses = self.column("valid_loss")
        for n, score, loss in zip(self.numbers, self.column("valid_score"), losses, strict=True):
            rank = None if score is None else (score, -loss if loss is not None else float("-inf"))
            if rank is not None and (best is None or rank > best):
                best, found = rank, n
        return found


def history(records: Sequence[Mapping[str, Any]]) -> History:
    """Split records into epochs and steps; of several with one number, the last stands.

    Example:
        >>> h = history([{"kind": "epoch", "epoch": 0, "valid_score": 0.9}, {"kind": "step", "step": 1}])
        >>> h.best_epoch, len(h.steps)
        (1, 1)
    """
    found: dict[str, dict[float, Mapping[str, Any]]] = {"epoch": {}, "step": {}}
    for record in records:
        kind = record.get("kind")
        if kind not in ("epoch", "step"):
            continue
        key = number(record.get(kind))
        if key is not None:
            found[kind][key] = record
    return History(*(tuple(found[kind][k] for k in sorted(found[kind])) for kind in ("epoch", "step")))
