"""When everything is looked at, when only steps are counted, what is written meanwhile, and how a watch ends.

For the first steps everything is looked at. Then only steps are counted, and a window of a few fully watched steps
opens from time to time, so rarely that the script's time grows by about a hundredth; a validation opens one, too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from dimwise.doctor import wire
from dimwise.doctor.seen import FULL_STEPS, Seen
from dimwise.doctor.watch import forward, inputs, loading, schedules, stepping, ties
from dimwise.doctor.watch.live import Live, is_compiling
from dimwise.doctor.watch.state import Watch, guarded, idle

_WINDOW_STEPS = 3
_COST_FRAC = 0.01
"""Part of the time that windows after the first steps may take."""
_LEAST_GAP = 50
_WRITE_EVERY_S = 2.0
_ARM_GAP = 25
_WARM_STEPS = 20


def end(watch: Watch) -> Seen:
    """Stop watching and give everything back; what was seen."""
    if watch.on:
        conclude(watch)
        watch.on = False
        unhook_modules(watch)
        watch.patches.undo()
    return watch.live.seen


def conclude(watch: Watch) -> Seen:
    """Bring what was seen up to date (it may go on afterwards)."""
    live, seen = watch.live, watch.live.seen
    for part in (
        lambda: inputs.conclude(live),
        lambda: stepping.conclude(live),
        lambda: loading.conclude(live),
        lambda: schedules.conclude(live),
        lambda: ties.recheck(live),
        lambda: _process(live),
    ):
        guarded(watch, part)
    seen.seconds = time.perf_counter() - live.started
    seen.watching_s = live.watching_s
    return seen


def write(watch: Watch) -> None:
    """Write what was seen to the spool, if there is one and something was seen."""
    if watch.spool is None or not watch.on:
        return
    start = time.perf_counter()
    seen = conclude(watch)
    if seen.n_backward or seen.n_steps or seen.roots or not watch.forked:
        with contextlib.suppress(OSError):
            wire.write(watch.spool / f"seen-{os.getpid()}.json", seen)
    now = time.perf_counter()
    watch.write_s, watch.written_at = now - start, now


def hook_modules(watch: Watch) -> None:
    """Watch every forward pass; nothing when that is done already."""
    if watch.module_handles:
        return
    live = watch.live

    def before(module: nn.Module, args: Any) -> None:
        if is_compiling() or idle(watch):
            return
        guarded(watch, lambda: forward.before(live, module, args))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if is_compiling() or live.root_now is None or idle(watch):
            return
        guarded(watch, lambda: forward.after(live, module, args, output))

    watch.module_handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after, always_call=True),
    ]


def unhook_modules(watch: Watch) -> None:
    """Look away from forward passes."""
    for handle in watch.module_handles:
        handle.remove()
    watch.module_handles = []
    forward.abandon(watch.live)


def set_full(watch: Watch, full: bool) -> None:
    """Look at everything, or only count steps."""
    live = watch.live
    if full == live.full:
        return
    live.full = full
    if full:
        hook_modules(watch)
        for made in live.optimizers.values():  # what happened meanwhile is unknown
            made.used = made.stale = made.zeroed_since_step = False
            made.n_backward, made.probes = 0, []
        for root in live.root_by_key.values():
            root.probe = None
        live.full_cost_s = live.watching_s
    else:
        unhook_modules(watch)
        for root in live.root_by_key.values():
            root.inputs = None


def between_steps(watch: Watch) -> None:
    """After a fully watched step: write, and look away when it is time."""
    live = watch.live
    _tick(live)
    if live.step in (3, 8, 20) or _may_write(watch):
        write(watch)
    if live.armed > 0:
        live.armed -= 1
    if watch.max_steps is not None and live.step >= watch.max_steps:
        live.next_window = 1 << 62
        set_full(watch, False)
        return
    if live.window_left > 0:
        live.window_left -= 1
        if live.window_left == 0 and live.armed == 0:
            _close_window(watch)
    elif live.step >= FULL_STEPS and live.armed == 0:
        _close_window(watch)


def _may_write(watch: Watch) -> bool:
    """Whether the last file is old enough for the next to cost about a hundredth of the time between them."""
    return time.perf_counter() - watch.written_at > max(_WRITE_EVERY_S, watch.write_s / _COST_FRAC)


def _tick(live: Live) -> None:
    """Measure what a step takes without us: from the twentieth on, when what is slow at first is over."""
    if live.step == _WARM_STEPS:
        live.timed_from = (time.perf_counter(), live.watching_s)
    elif live.step > _WARM_STEPS and live.timed_from is not None and live.step <= FULL_STEPS:
        elapsed_s = time.perf_counter() - live.timed_from[0] - (live.watching_s - live.timed_from[1])
        live.step_s = max(1e-6, elapsed_s / (live.step - _WARM_STEPS))


def _close_window(watch: Watch) -> None:
    live = watch.live
    if _may_write(watch):
        write(watch)
    cost_s = (live.watching_s - live.full_cost_s) / max(1, live.step - live.last_step_at) * _WINDOW_STEPS
    gap = max(_LEAST_GAP, int(cost_s / (_COST_FRAC * max(1e-6, live.step_s))))
    live.next_window = live.step + gap
    live.last_step_at = live.step
    set_full(watch, False)


def open_window(watch: Watch) -> None:
    """Look at everything for a few steps."""
    live = watch.live
    live.window_left = _WINDOW_STEPS
    live.last_step_at = live.step
    set_full(watch, True)


def arm(watch: Watch) -> None:
    """A validation may begin: watch until the second next step, unless that was done a moment ago."""
    live = watch.live
    if live.full or live.step - live.last_armed < max(_ARM_GAP, live.next_window - live.last_step_at):
        return
    if watch.max_steps is not None and live.step >= watch.max_steps:
        return
    live.last_armed = live.step
    live.window_left, live.armed = _WINDOW_STEPS, 0
    live.last_step_at = live.step
    set_full(watch, True)


def _process(live: Live) -> None:
    """Rank, size of the group, and which frameworks own the loop."""
    process = live.seen.process
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        process.rank, process.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    names = {"lightning": "lightning", "pytorch_lightning": "lightning", "accelerate": "accelerate"}
    live.seen.frameworks = tuple(sorted({word for name, word in names.items() if name in sys.modules}))
