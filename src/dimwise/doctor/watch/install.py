"""Begin and end watching: PyTorch's own global hooks, and a few of its functions wrapped; all of it given back.

For the first steps everything is looked at. Then only steps are counted, and a window of a few fully watched steps
opens from time to time, so rarely that the script's time grows by about a hundredth; a validation opens one, too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, dataloader

from dimwise.doctor import wire
from dimwise.doctor.finding import Place
from dimwise.doctor.seen import FULL_STEPS, ProcessSeen, Seen
from dimwise.doctor.watch import backward, forward, inputs, loading, stepping
from dimwise.doctor.watch.live import Live, is_compiling
from dimwise.doctor.watch.patches import Patches
from dimwise.doctor.watch.place import here, is_users

_WINDOW_STEPS = 3
_COST_FRAC = 0.01
"""Part of the time that windows after the first steps may take."""
_LEAST_GAP = 50
_WRITE_EVERY_S = 2.0
_ARM_GAP = 25
_UNSAID: Any = object()


@dataclass(eq=False)
class Watch:
    """One watch: its state, what it replaced, where it writes."""

    live: Live = field(default_factory=Live)
    patches: Patches = field(default_factory=Patches)
    spool: Path | None = None
    max_steps: int | None = None
    """Steps after which it looks away for good; None never."""
    module_handles: list[Any] = field(default_factory=list)
    written_at: float = 0.0
    failures: int = 0
    forked: bool = False
    """A child of the watched process; most are workers, which have nothing to tell."""
    on: bool = False


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
    _hook_modules(watch)
    _hook_optimizers(watch)
    _wrap(watch)
    warnings.filterwarnings("ignore", message="Using `torch.compile\\(module\\)` when there are global hooks")
    return watch


def end(watch: Watch) -> Seen:
    """Stop watching and give everything back; what was seen."""
    if watch.on:
        conclude(watch)
        watch.on = False
        _unhook_modules(watch)
        watch.patches.undo()
    return watch.live.seen


def conclude(watch: Watch) -> Seen:
    """Bring what was seen up to date (it may go on afterwards)."""
    live, seen = watch.live, watch.live.seen
    for part in (
        lambda: inputs.conclude(live),
        lambda: stepping.conclude(live),
        lambda: loading.conclude(live),
        lambda: stepping.schedules_conclude(live),
        lambda: forward.recheck_ties(live),
        lambda: _process(live),
    ):
        _guarded(watch, part)
    seen.seconds = time.perf_counter() - live.started
    seen.watching_s = live.watching_s
    return seen


def write(watch: Watch) -> None:
    """Write what was seen to the spool, if there is one and something was seen."""
    if watch.spool is None or not watch.on:
        return
    seen = conclude(watch)
    if seen.n_backward or seen.n_steps or seen.roots or not watch.forked:
        with contextlib.suppress(OSError):
            wire.write(watch.spool / f"seen-{os.getpid()}.json", seen)
    watch.written_at = time.perf_counter()


def _guarded(watch: Watch, action: Callable[[], Any]) -> None:
    """Whatever goes wrong in the watcher must not reach the script."""
    start = time.perf_counter()
    live = watch.live
    live.depth += 1
    try:
        action()
    except Exception as error:  # noqa: BLE001
        watch.failures += 1
        note = f"the watcher failed: {type(error).__name__}: {error}"
        if os.environ.get("DIMWISE_DEBUG", "0") not in ("", "0"):
            import traceback

            traceback.print_exc()
        if note not in live.seen.notes and len(live.seen.notes) < 20:
            live.seen.notes.append(note)
    finally:
        live.depth -= 1
        if not live.depth:
            live.watching_s += time.perf_counter() - start


def _idle(watch: Watch) -> bool:
    """Whether this very moment is not to be watched: our own doing, another thread, or PyTorch tracing."""
    live = watch.live
    return live.depth > 0 or threading.get_ident() != live.thread or not watch.on


# -- modules ----------------------------------------------------------------------------------------------------------


def _hook_modules(watch: Watch) -> None:
    if watch.module_handles:
        return
    live = watch.live

    def before(module: nn.Module, args: Any) -> None:
        if is_compiling() or _idle(watch):
            return
        _guarded(watch, lambda: forward.before(live, module, args))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if is_compiling() or live.root_now is None or _idle(watch):
            return
        _guarded(watch, lambda: forward.after(live, module, args, output))

    watch.module_handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after, always_call=True),
    ]


def _unhook_modules(watch: Watch) -> None:
    for handle in watch.module_handles:
        handle.remove()
    watch.module_handles = []
    forward.abandon(watch.live)


def _set_full(watch: Watch, full: bool) -> None:
    live = watch.live
    if full == live.full:
        return
    live.full = full
    if full:
        _hook_modules(watch)
        for made in live.optimizers.values():  # what happened meanwhile is unknown
            made.used = made.stale = made.zeroed_since_step = False
            made.n_backward, made.probes = 0, []
        for root in live.root_by_key.values():
            root.probe = None
        live.full_cost_s = live.watching_s
    else:
        _unhook_modules(watch)
        for root in live.root_by_key.values():
            root.inputs = None


# -- optimizers -------------------------------------------------------------------------------------------------------


def _hook_optimizers(watch: Watch) -> None:
    live = watch.live

    def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if live.full and not _idle(watch):
            forward.abandon(live)
            _guarded(watch, lambda: stepping.before_step(live, optimizer, args, kwargs))

    def after(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if live.full:
            if not _idle(watch):
                _guarded(watch, lambda: stepping.after_step(live, optimizer))
                _guarded(watch, lambda: _between_steps(watch))
            return
        live.step += 1
        live.seen.n_steps += 1
        known = live.optimizers.get(id(optimizer))
        if known is not None:
            known.seen.n_steps += 1
        if live.step >= live.next_window:
            _guarded(watch, lambda: _open_window(watch))

    for handle in (register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)):
        watch.patches.on_undo(handle.remove)
    registration = hooks.register_module_parameter_registration_hook(
        lambda module, name, param: None if is_compiling() else forward.registration(live, module, name, param)
    )
    watch.patches.on_undo(registration.remove)


def _between_steps(watch: Watch) -> None:
    """After a fully watched step: write, and look away when it is time."""
    live = watch.live
    now = time.perf_counter()
    if live.step in (3, 8, 20) or now - watch.written_at > _WRITE_EVERY_S:
        write(watch)
    if live.armed > 0:
        live.armed -= 1
    if watch.max_steps is not None and live.step >= watch.max_steps:
        live.next_window = 1 << 62
        _set_full(watch, False)
        return
    if live.window_left > 0:
        live.window_left -= 1
        if live.window_left == 0 and live.armed == 0:
            _close_window(watch)
    elif live.step >= FULL_STEPS and live.armed == 0:
        _close_window(watch)


def _close_window(watch: Watch) -> None:
    live = watch.live
    now = time.perf_counter()
    write(watch)
    cost_s = live.watching_s - live.full_cost_s
    steps = max(1, live.step - int(live.last_step_at))
    if live.step_ms == 0.0:  # the first steps, all watched: what one of them takes without us
        live.step_ms = max(1e-3, (now - live.started - live.watching_s) / max(1, live.step) * 1e3)
    per_step_s = cost_s / steps
    window_s = per_step_s * _WINDOW_STEPS + 0.02  # and the file that is written
    gap = max(_LEAST_GAP, int(window_s / (_COST_FRAC * live.step_ms / 1e3)))
    live.next_window = live.step + gap
    live.last_step_at = live.step
    _set_full(watch, False)


def _open_window(watch: Watch) -> None:
    live = watch.live
    live.window_left = _WINDOW_STEPS
    live.last_step_at = live.step
    _set_full(watch, True)


def _arm(watch: Watch) -> None:
    """A validation may begin: watch until the second next step, unless that was done a moment ago."""
    live = watch.live
    if live.full or live.step - live.last_armed < max(_ARM_GAP, live.next_window - live.last_step_at):
        return
    if watch.max_steps is not None and live.step >= watch.max_steps:
        return
    live.last_armed = live.step
    live.window_left, live.armed = _WINDOW_STEPS, 0
    live.last_step_at = live.step
    _set_full(watch, True)


# -- functions --------------------------------------------------------------------------------------------------------


def _wrap(watch: Watch) -> None:
    live, patches = watch.live, watch.patches

    def autograd_backward(original: Any) -> Any:
        def run(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and not _idle(watch):
                if watch.spool is None and watch.max_steps is not None and live.step >= watch.max_steps:
                    end(watch)  # not from a step's own hook, which may not change the hooks it is one of
                elif live.full:
                    forward_abandon(live)
                    retain, create = bool(kwargs.get("retain_graph")), bool(kwargs.get("create_graph"))
                    _guarded(watch, lambda: backward.before(live, tensors, retain=retain, create_graph=create))
                else:
                    live.seen.n_backward += 1
            return original(tensors, *args, **kwargs)

        return run

    def zero_grad(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            if live.full and not is_compiling() and not _idle(watch):
                _guarded(watch, lambda: stepping.zeroed(live, self))
            return original(self, *args, **kwargs)

        return run

    def optimizer_made(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if not _idle(watch):
                place = here(2)
                _guarded(watch, lambda: stepping.optimizer_of(live, self, place))

        return run

    patches.replace(torch.autograd, "backward", autograd_backward)
    patches.replace(torch.optim.Optimizer, "zero_grad", zero_grad)
    patches.replace(nn.Module, "zero_grad", zero_grad)
    patches.replace(torch.optim.Optimizer, "__init__", optimizer_made)
    _wrap_clipping(watch)
    _wrap_schedulers(watch)
    _wrap_loading(watch)
    _wrap_modes(watch)
    _wrap_processes(watch)


def forward_abandon(live: Live) -> None:
    """No pass is under way while a loss is differentiated."""
    if live.root_now is not None and live.nested == 0:
        forward.abandon(live)


def _wrap_clipping(watch: Watch) -> None:
    live = watch.live

    def norm(original: Any) -> Any:
        def run(parameters: Any, max_norm: Any, *args: Any, **kwargs: Any) -> Any:
            given = parameters if isinstance(parameters, torch.Tensor) else list(parameters)
            total = original(given, max_norm, *args, **kwargs)
            if live.full and not is_compiling() and not _idle(watch):
                _guarded(
                    watch,
                    lambda: stepping.clipped(live, given, method="norm", limit=float(max_norm), norm=float(total)),
                )
            return total

        return run

    def value(original: Any) -> Any:
        def run(parameters: Any, clip_value: Any, *args: Any, **kwargs: Any) -> Any:
            given = parameters if isinstance(parameters, torch.Tensor) else list(parameters)
            result = original(given, clip_value, *args, **kwargs)
            if live.full and not is_compiling() and not _idle(watch):
                _guarded(
                    watch,
                    lambda: stepping.clipped(live, given, method="value", limit=float(clip_value), norm=None),
                )
            return result

        return run

    for owner in (nn.utils, nn.utils.clip_grad):
        watch.patches.replace(owner, "clip_grad_norm_", norm)
        watch.patches.replace(owner, "clip_grad_value_", value)


def _wrap_schedulers(watch: Watch) -> None:
    live = watch.live
    keys: dict[int, int] = {}
    from torch.optim import lr_scheduler

    def made(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if not _idle(watch) and id(self) not in keys:
                _guarded(watch, lambda: stepping.scheduler_made(live, self, keys))

        return run

    def stepped(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            key = keys.get(id(self))
            if key is not None and not _idle(watch):
                _guarded(watch, lambda: stepping.scheduler_stepped(live, self, key))
            return result

        return run

    kinds = [k for k in vars(lr_scheduler).values() if isinstance(k, type) and issubclass(k, lr_scheduler.LRScheduler)]
    for kind in kinds:
        if "__init__" in vars(kind):
            watch.patches.replace(kind, "__init__", made)
        if "step" in vars(kind):
            watch.patches.replace(kind, "step", stepped)


def _wrap_loading(watch: Watch) -> None:
    live = watch.live

    def iterate(original: Any) -> Any:
        def run(self: Any) -> Any:
            if _idle(watch):
                return original(self)
            _arm(watch)
            _guarded(watch, lambda: loading.iterated(live, self))
            iterator = original(self)
            with contextlib.suppress(AttributeError):
                iterator._dimwise_loader = self
            return iterator

        return run

    def following(original: Any) -> Any:
        def run(self: Any) -> Any:
            loader = getattr(self, "_dimwise_loader", None)
            if loader is None or not live.full or _idle(watch):
                return original(self)
            loading.asked(live, loader)
            batch = original(self)
            loading.given(live, loader)
            return batch

        return run

    watch.patches.replace(DataLoader, "__iter__", iterate)
    watch.patches.replace(dataloader._BaseDataLoaderIter, "__next__", following)


def _wrap_modes(watch: Watch) -> None:
    live = watch.live

    def mode(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not live.full and not is_compiling():
                _arm(watch)
            return original(self, *args, **kwargs)

        return run

    def no_grad(original: Any) -> Any:
        def run(self: Any) -> Any:
            if not live.full and not is_compiling() and live.depth == 0:
                _arm(watch)
            return original(self)

        return run

    def dropout(original: Any) -> Any:
        def run(input: Any, p: float = 0.5, training: Any = _UNSAID, inplace: bool = False) -> Any:
            unsaid, training = training is _UNSAID, True if training is _UNSAID else training
            if unsaid and live.full and live.root_now is not None and not is_compiling() and not _idle(watch):
                caller = sys._getframe(1).f_code.co_filename
                if not caller.endswith("dropout.py") and p > 0:
                    _guarded(watch, lambda: forward.functional_dropout(live))
            return original(input, p, training, inplace)

        return run

    def seeded(original: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not live.seen.roots:
                live.seen.seeded = True
            return original(*args, **kwargs)

        return run

    def scaled(original: Any) -> Any:
        def run(self: Any, outputs: Any) -> Any:
            live.scaler_factor = self.is_enabled()
            return original(self, outputs)

        return run

    watch.patches.replace(nn.Module, "eval", mode)
    watch.patches.replace(torch.no_grad, "__enter__", no_grad)
    watch.patches.replace(torch.inference_mode, "__enter__", no_grad)
    watch.patches.replace(nn.functional, "dropout", dropout)
    watch.patches.replace(torch.amp.GradScaler, "scale", scaled)
    for owner in (torch, torch.random):
        watch.patches.replace(owner, "manual_seed", seeded)
    _wrap_syncs(watch)


def _wrap_syncs(watch: Watch) -> None:
    """Count what makes the host wait for the device, during some of the first steps only."""
    live = watch.live
    counts: dict[Any, int] = {}
    state = {"step": -1}

    def counted(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            if 2 <= live.step < 60 and live.full and live.seen.n_backward and not is_compiling() and not _idle(watch):
                caller = sys._getframe(1)  # the optimizer fetches values of its own
                place = None
                if is_users(caller.f_code.co_filename):
                    place = Place(caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name)
                if place is not None:
                    live.seen.n_syncs += 1
                    counts[place] = counts.get(place, 0) + 1
                    if state["step"] != live.step:
                        state["step"] = live.step
                        live.seen.n_sync_steps += 1
                    ranked = sorted(counts.items(), key=lambda item: -item[1])[:5]
                    live.seen.sync_places = ranked
            return original(self, *args, **kwargs)

        return run

    for name in ("item", "tolist", "cpu", "numpy"):
        watch.patches.replace(torch.Tensor, name, counted)


def _wrap_processes(watch: Watch) -> None:
    live = watch.live
    wrapped: dict[int, int] = {}

    def wrapping(name: str) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def run(self: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
                original(self, module, *args, **kwargs)
                if _idle(watch):
                    return
                inner: Any = module
                depth = 1
                while type(inner).__name__ in ("DistributedDataParallel", "DataParallel") and hasattr(inner, "module"):
                    inner, depth = inner.module, depth + 1
                wrapped[id(inner)] = wrapped.get(id(inner), 0) + 1
                live.seen.process.wrapped = name
                live.event(
                    "wrap", None, here(2), name=name, inner=type(inner).__name__, times=wrapped[id(inner)], depth=depth
                )

            return run

        return make

    watch.patches.replace(nn.parallel.DistributedDataParallel, "__init__", wrapping("DistributedDataParallel"))
    watch.patches.replace(nn.parallel.DataParallel, "__init__", wrapping("DataParallel"))


def _process(live: Live) -> None:
    """Rank, size of the group, and which frameworks own the loop."""
    process = live.seen.process
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        process.rank, process.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    names = {"lightning": "lightning", "pytorch_lightning": "lightning", "accelerate": "accelerate"}
    live.seen.frameworks = tuple(sorted({word for name, word in names.items() if name in sys.modules}))
