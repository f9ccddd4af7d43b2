"""The functions of PyTorch that are wrapped while a watch is on; each calls the original with what it got."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, dataloader

from dimwise.doctor.finding import Place
from dimwise.doctor.watch import backward, forward, loading, schedules, stepping
from dimwise.doctor.watch.live import Live, is_compiling
from dimwise.doctor.watch.place import here, is_users
from dimwise.doctor.watch.state import Watch, guarded, idle
from dimwise.doctor.watch.windows import arm, end

_UNSAID: Any = object()


def wrap(watch: Watch) -> None:
    """Wrap them all; ``watch.patches`` gives them back."""
    live, patches = watch.live, watch.patches

    def autograd_backward(original: Any) -> Any:
        def run(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and not idle(watch):
                if watch.spool is None and watch.max_steps is not None and live.step >= watch.max_steps:
                    end(watch)  # not from a step's own hook, which may not change the hooks it is one of
                elif live.full:
                    _abandon_outer(live)
                    retain, create = bool(kwargs.get("retain_graph")), bool(kwargs.get("create_graph"))
                    guarded(watch, lambda: backward.before(live, tensors, retain=retain, create_graph=create))
                else:
                    live.seen.n_backward += 1
            result = original(tensors, *args, **kwargs)
            if live.full and not is_compiling() and not idle(watch):
                guarded(watch, lambda: stepping.after_backward(live))
            return result

        return run

    def zero_grad(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            if live.full and not is_compiling() and not idle(watch):
                guarded(watch, lambda: stepping.zeroed(live, self))
            return original(self, *args, **kwargs)

        return run

    def optimizer_made(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if not idle(watch):
                place = here(2)
                guarded(watch, lambda: stepping.optimizer_of(live, self, place))

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
    _wrap_hooks(watch)


def _abandon_outer(live: Live) -> None:
    """No pass is under way while a loss is differentiated."""
    if live.root_now is not None and live.nested == 0:
        forward.abandon(live)


def _wrap_clipping(watch: Watch) -> None:
    live = watch.live

    def norm(original: Any) -> Any:
        def run(parameters: Any, max_norm: Any, *args: Any, **kwargs: Any) -> Any:
            given = parameters if isinstance(parameters, torch.Tensor) else list(parameters)
            total = original(given, max_norm, *args, **kwargs)
            if live.full and not is_compiling() and not idle(watch):
                guarded(
                    watch,
                    lambda: stepping.clipped(live, given, method="norm", limit=float(max_norm), norm=float(total)),
                )
            return total

        return run

    def value(original: Any) -> Any:
        def run(parameters: Any, clip_value: Any, *args: Any, **kwargs: Any) -> Any:
            given = parameters if isinstance(parameters, torch.Tensor) else list(parameters)
            result = original(given, clip_value, *args, **kwargs)
            if live.full and not is_compiling() and not idle(watch):
                guarded(
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

    def made(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if not idle(watch) and id(self) not in keys:
                guarded(watch, lambda: schedules.made(live, self, keys))

        return run

    def stepped(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            key = keys.get(id(self))
            if key is not None and not idle(watch):
                guarded(watch, lambda: schedules.stepped(live, self, key))
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
            if idle(watch):
                return original(self)
            arm(watch)
            guarded(watch, lambda: loading.iterated(live, self))
            with loading.reporting(live, self):
                iterator = original(self)
            with contextlib.suppress(AttributeError):
                iterator._dimwise_loader = self
            return iterator

        return run

    def following(original: Any) -> Any:
        def run(self: Any) -> Any:
            loader = getattr(self, "_dimwise_loader", None)
            if loader is None or not live.full or idle(watch):
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
                arm(watch)
            return original(self, *args, **kwargs)

        return run

    def train(original: Any) -> Any:
        def run(self: Any, mode: bool = True) -> Any:
            if mode and live.full and not is_compiling() and is_users(sys._getframe(1).f_code.co_filename):
                live.readied.add(self)  # not its parts: those are called by PyTorch's code
            return original(self, mode)

        return run

    def no_grad(original: Any) -> Any:
        def run(self: Any) -> Any:
            if not live.full and not is_compiling() and live.depth == 0:
                arm(watch)
            return original(self)

        return run

    def dropout(original: Any) -> Any:
        def run(input: Any, p: float = 0.5, training: Any = _UNSAID, inplace: bool = False) -> Any:
            unsaid, training = training is _UNSAID, True if training is _UNSAID else training
            if unsaid and live.full and live.root_now is not None and not is_compiling() and not idle(watch):
                caller = sys._getframe(1).f_code.co_filename
                if not caller.endswith("dropout.py") and p > 0:
                    guarded(watch, lambda: forward.functional_dropout(live))
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
    watch.patches.replace(nn.Module, "train", train)
    watch.patches.replace(torch.no_grad, "__enter__", no_grad)
    watch.patches.replace(torch.inference_mode, "__enter__", no_grad)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d"):  # alpha_dropout is off unless told otherwise
        watch.patches.replace(nn.functional, name, dropout)
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
            if 2 <= live.step < 60 and live.full and live.seen.n_backward and not is_compiling() and not idle(watch):
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
                if idle(watch):
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


_MAX_HOOKS = 4096
_HOOKS = {
    "register_forward_hook": ("forward hook", "_forward_hooks"),
    "register_forward_pre_hook": ("forward pre-hook", "_forward_pre_hooks"),
    "register_full_backward_hook": ("backward hook", "_backward_hooks"),
    "register_hook": ("gradient hook", "_backward_hooks"),
}


def _wrap_hooks(watch: Watch) -> None:
    """Count hooks of the same code that one module or parameter holds at the same time."""
    live = watch.live
    told: dict[tuple[int, Any], dict[str, Any]] = {}

    def piled(owner: Any, kind: str, held: Any, hook: Any, place: Place | None) -> None:
        code = _code(hook)
        passing = isinstance(owner, torch.Tensor) and not owner.is_leaf  # an activation, gone after this pass
        if code is None or passing or len(told) >= _MAX_HOOKS or not is_users(code.co_filename):
            return
        n = sum(_code(other) is code for other in (held or {}).values())
        one = told.setdefault(
            (id(owner), code), {"kind": kind, "on": type(owner).__name__, "n": 0, "since": live.step, "place": place}
        )
        if n == 1:
            one["since"] = live.step
        one |= {"n": n, "step": live.step}
        if n > 1 and one not in live.seen.hooks_piled and len(live.seen.hooks_piled) < 20:
            live.seen.hooks_piled.append(one)

    def registering(kind: str, held: str) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def run(self: Any, hook: Any, *args: Any, **kwargs: Any) -> Any:
                handle = original(self, hook, *args, **kwargs)
                if not is_compiling() and not idle(watch):
                    place = here(2)
                    guarded(watch, lambda: piled(self, kind, getattr(self, held, None), hook, place))
                return handle

            return run

        return make

    for name, (kind, held) in _HOOKS.items():
        owner = torch.Tensor if name == "register_hook" else nn.Module
        watch.patches.replace(owner, name, registering(kind, held))


def _code(hook: Any) -> Any:
    """The code a hook runs, through partial and bound methods; None for what is not written in Python."""
    hook = getattr(hook, "func", hook)
    return getattr(getattr(hook, "__func__", hook), "__code__", None)
