"""Learning-rate schedules: what they were made for, how often they were stepped, and when."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import torch

from dimwise.doctor.finding import Place
from dimwise.doctor.seen import SchedulerSeen
from dimwise.doctor.watch.live import Live
from dimwise.doctor.watch.place import here
from dimwise.doctor.watch.stepping import optimizer_of


def made(live: Live, scheduler: Any, keys: dict[int, int]) -> None:
    """A learning-rate schedule was built."""
    key = len(live.seen.schedulers)
    keys[id(scheduler)] = key
    optimizer = getattr(scheduler, "optimizer", None)
    owner = optimizer_of(live, optimizer) if isinstance(optimizer, torch.optim.Optimizer) else None
    told = SchedulerSeen(key, type(scheduler).__name__, owner.seen.key if owner else None, here(3))
    for name in ("total_steps", "T_max", "total_iters", "T_0"):
        length = getattr(scheduler, name, None)
        if isinstance(length, int):
            told.total_steps = length
            break
    told.step_size = getattr(scheduler, "step_size", None)
    gamma = getattr(scheduler, "gamma", None)
    told.gamma = float(gamma) if isinstance(gamma, (int, float)) else None
    base = getattr(scheduler, "base_lrs", None)
    told.base_lr = max((float(r) for r in base), default=None) if base else None
    live.schedule_starts[key] = owner.seen.n_steps if owner else 0
    live.seen.schedulers[key] = told


def stepped(live: Live, scheduler: Any, key: int) -> None:
    """Its ``step`` ran (its own first one, inside its constructor, is not told)."""
    told = live.seen.schedulers[key]
    told.n_steps += 1
    optimizer = getattr(scheduler, "optimizer", None)
    owner = live.optimizers.get(id(optimizer))
    no_step_yet = owner is not None and owner.seen.n_steps == 0
    told.n_before_optimizer += no_step_yet
    if told.step_place is None:
        told.step_place = here(3)
    if live.full and owner is not None:
        lrs = tuple(float(g.get("lr", math.nan)) for g in scheduler.optimizer.param_groups)
        live.event("scheduler", key, told.step_place, lrs=lrs, before_first_step=no_step_yet)


def conclude(live: Live) -> None:
    """How many steps each schedule's optimizer took in its time, and how long an epoch of its loader is."""
    lens = [
        math.ceil(x.n_rows / x.batch_size) for x in live.seen.loaders.values() if x.trains and x.n_rows and x.batch_size
    ]
    for told in live.seen.schedulers.values():
        if told.optimizer is not None:
            started = live.schedule_starts.get(told.key, 0)
            told.optimizer_steps = live.seen.optimizers[told.optimizer].n_steps - started
        if not told.n_steps and told.place is not None:
            told.written_line = written_step(told.place)
        told.loader_len = lens[0] if lens else None


def written_step(made_at: Place) -> int | None:
    """Line of the same file that calls ``step`` of what is assigned at ``made_at``; None when there is none.

    Tells a schedule that waits for its turn (a worse epoch, say) from one that was forgotten.
    """
    try:
        tree = ast.parse(Path(made_at.file).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    nodes = list(ast.walk(tree))
    names = {
        _last_name(target)
        for node in nodes
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.lineno <= made_at.line <= (node.end_lineno or 0)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    } - {None}
    calls = (n.func for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    lines = [call.lineno for call in calls if call.attr == "step" and _last_name(call.value) in names]
    return min(lines, default=None)


def _last_name(node: ast.expr) -> str | None:
    """'scheduler' of both ``scheduler`` and ``self.scheduler``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
