"""Begin to watch: PyTorch's own global hooks, and a few of its functions wrapped; all of it given back at the end."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from dimwise.doctor.seen import ProcessSeen
from dimwise.doctor.watch import forward, stepping, ties
from dimwise.doctor.watch.live import is_compiling
from dimwise.doctor.watch.state import Watch, guarded, idle
from dimwise.doctor.watch.windows import between_steps, hook_modules, open_window
from dimwise.doctor.watch.wraps import wrap


def begin(spool: Path | None = None, *, max_steps: int | None = None) -> Watch:
    """Start watching this process.

    Args:
        spool: folder where what was seen is written from time to time and at the end; None keeps it in memory.
        max_steps: optimizer steps after which it looks away for good; without a spool, everything is given back then,
            so that the rest of the training costs nothing.
    """
    watch = Watch(spool=spool, max_steps=max_steps)
    live = watch.live
    live.seen.process = ProcessSeen(pid=os.getpid(), rank=int(os.environ.get("RANK", "0") or 0))
    watch.on = True
    hook_modules(watch)
    _hook_optimizers(watch)
    wrap(watch)
    warnings.filterwarnings("ignore", message="Using `torch.compile\\(module\\)` when there are global hooks")
    return watch


def _hook_optimizers(watch: Watch) -> None:
    live = watch.live

    def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if live.full and not idle(watch):
            forward.abandon(live)
            guarded(watch, lambda: stepping.before_step(live, optimizer, args, kwargs))

    def after(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if live.full:
            if not idle(watch):
                guarded(watch, lambda: stepping.after_step(live, optimizer))
                guarded(watch, lambda: between_steps(watch))
            return
        live.step += 1
        live.seen.n_steps += 1
        known = live.optimizers.get(id(optimizer))
        if known is not None:
            known.seen.n_steps += 1
        if live.step >= live.next_window:
            guarded(watch, lambda: open_window(watch))

    for handle in (register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)):
        watch.patches.on_undo(handle.remove)
    registration = hooks.register_module_parameter_registration_hook(
        lambda module, name, param: None if is_compiling() else ties.registration(live, module, name, param)
    )
    watch.patches.on_undo(registration.remove)
