"""What a candidate is worth: which ones no other beats, which meet a budget, and what training one more promises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dimwise.plan.budget import Budget
from dimwise.plan.predict import Guess
from dimwise.plan.record import Line

COSTS = ("latency_ms", "size_bytes", "memory_bytes")


def meets_costs(measured: Mapping[str, float], budget: Budget, *, slack: float = 0.0) -> bool:
    """Whether the limits that need no training hold, up to a relative slack.

    Example:
        >>> meets_costs({"latency_ms": 1.05}, Budget(latency_ms=1.0)), meets_costs({"latency_ms": 1}, Budget())
        (False, True)
    """
    for name in COSTS:
        limit = getattr(budget, name)
        if limit and name in measured and measured[name] > limit * (1 + slack):
            return False
    return True


def meets(line: Line, first: Line, budget: Budget) -> bool:
    """Whether a line meets the whole budget."""
    drop = first.measured["score"] - line.measured.get("score", -math.inf)
    return line.state == "whole" and drop <= budget.drop + 1e-9 and meets_costs(line.measured, budget)


def frontier(lines: Sequence[Line]) -> list[Line]:
    """The whole lines that no other one beats in score, latency and size together, fastest first.

    A line is beaten by one that is at least as good in all three and better in one; of equals the first stays.
    """
    whole = [line for line in lines if line.state == "whole" and "score" in line.measured]
    found = []
    for i, line in enumerate(whole):
        rivals = (other for j, other in enumerate(whole) if j != i)
        if not any(_beats(other, line, earlier=whole.index(other) < i) for other in rivals):
            found.append(line)
    return sorted(found, key=lambda line: line.measured["latency_ms"])


def frontiers(lines: Sequence[Line], first: Line, budget: Budget) -> list[Line]:
    """The frontier, and that of what meets the budget: a limit on memory may leave what others beat elsewhere."""
    found, within = frontier(lines), frontier([line for line in lines if meets(line, first, budget)])
    return found + [line for line in within if line not in found]


def _beats(a: Line, b: Line, *, earlier: bool) -> bool:
    mine = (-a.measured["score"], a.measured["latency_ms"], a.measured["size_bytes"])
    other = (-b.measured["score"], b.measured["latency_ms"], b.measured["size_bytes"])
    if mine == other:
        return earlier
    return all(x <= y for x, y in zip(mine, other, strict=True))


def worth(
    costs: Mapping[str, float],
    loss: Guess,
    lines: Sequence[Line],
    budget: Budget,
    *,
    later: Guess | None = None,
    slack: float = 0.0,
) -> float:
    """What a candidate promises: the probability that it keeps the score, times how much better it would be.

    Better is the logarithm (base 2) of what is to be minimised against the best that meets the budget so far. When
    none does, anything that might is worth 1, and a little more the smaller it is.

    Args:
        costs: its latency and size, measured or predicted.
        loss: 1 − score as predicted for the next training.
        lines: what was measured so far; the first without steps is the network as it was trained.
        budget: limits and preference.
        later: the same after the longest training; a short one is worth what it may lead to, half.
        slack: how far beyond the limits predictions may lie.
    """
    if not meets_costs(costs, budget, slack=slack):
        return 0.0
    first = next(line for line in lines if not line.steps and line.state == "whole")
    allowed = 1 - first.measured["score"] + budget.drop + 1e-9
    chance = loss.below(allowed)
    if later is not None:
        chance = max(chance, 0.5 * later.below(allowed))
    what = "latency_ms" if budget.prefer == "latency" else "size_bytes"
    best = min((line.measured[what] for line in lines if meets(line, first, budget)), default=None)
    mine = costs[what]
    if best is None:
        return chance * (1 + 0.1 * math.log2(max(first.measured[what] / mine, 1e-3)))
    return chance * max(0.0, math.log2(best / mine))
