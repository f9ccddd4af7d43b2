"""What the watcher holds while a script runs: references to live objects beside the plain numbers of ``Seen``."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.doctor.finding import Place
from dimwise.doctor.seen import FULL_STEPS, Event, LayerSeen, OptimizerSeen, RootSeen, Seen

WRAPPERS = ("DistributedDataParallel", "DataParallel", "OptimizedModule", "FullyShardedDataParallel")
MODE_MODULES = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
MAX_EVENTS = 20_000
SAMPLE = 4096
"""Elements of a weight that stand for it where its movement is measured."""


@dataclass(eq=False)
class Pass:
    """One forward pass of a root; hung on the autograd graph of its outputs, so that a loss finds its way back."""

    root: int
    event: Event | None
    batch: int | None
    n: int | None
    training: bool
    grad: bool
    output_shape: tuple[int, ...] = ()
    output_numel: int = 0
    loader: int | None = None
    """Key of the loader that gave its batch."""
    prints: list[int] = field(default_factory=list)
    """Fingerprints of its batch's rows."""
    numbers: bool = False
    """Whether it was given numbers, alone or beside tokens."""
    probabilities: bool = False
    """Whether each row of its output is a distribution: not negative, sum 1."""
    met_backward: bool = False


@dataclass(eq=False)
class LiveRoot:
    """A network while it lives."""

    seen: RootSeen
    module: weakref.ref[nn.Module]
    paths: dict[int, str]
    """id(module) -> path inside the root."""
    weights: list[tuple[LayerSeen, str, weakref.ref[nn.Module]]] = field(default_factory=list)
    """(layer, name of its largest parameter, its module)"""
    first_values: dict[str, Tensor] = field(default_factory=dict)
    inputs: Any = None
    """Positional arguments of the last training pass, until its step."""
    named_inputs: dict[str, Any] = field(default_factory=dict)
    """Its named ones."""
    gives_probabilities: bool = True
    """Whether every output with gradients so far was one of distributions; outputs are read until one is not."""
    probe: Tensor | None = None
    """A few values of a parameter no optimizer holds, as of the last backward pass."""
    dead: dict[str, Tensor] = field(default_factory=dict)
    n_dead_looks: dict[str, int] = field(default_factory=dict)
    strangers: list[nn.Module] = field(default_factory=list)
    """Modules it calls that are not registered inside; held, so that their ids stay theirs."""
    lazy: bool = False
    """Whether some of its layers have not learnt their shapes yet."""
    n_calls: int = 0
    order: dict[str, int] = field(default_factory=dict)
    """path -> position of its first call in the forward pass"""
    copies: list[tuple[str, str, weakref.ref[Tensor], weakref.ref[Tensor]]] = field(default_factory=list)
    """Embedding and linear weights that were equal at first sight, by name."""


@dataclass(eq=False)
class LiveOptimizer:
    """An optimizer while it lives."""

    seen: OptimizerSeen
    optimizer: weakref.ref[torch.optim.Optimizer]
    used: bool = False
    """Its gradients were used by a step and have not been seen cleared since."""
    stale: bool = False
    """A backward pass added to gradients that a step had already used."""
    n_backward: int = 0
    idle_steps: int = 0
    """Its latest steps in a row that found no gradient, or zeros."""
    given: bool = False
    """A backward pass gave it gradients other than zero, and no zero_grad has been called since."""
    probes: list[weakref.ref[Tensor]] = field(default_factory=list)
    """A few parameters that had gradients at its last step."""
    zeroed_since_step: bool = False
    before: dict[int, Tensor] = field(default_factory=dict)
    first_seen: dict[int, Tensor] = field(default_factory=dict)
    homes: set[int] = field(default_factory=set)
    """Weights that belonged to a network when it stepped."""
    had_grad: set[int] = field(default_factory=set)
    scaled: bool = False


@dataclass(eq=False)
class Live:
    """The watcher's whole state in one process."""

    seen: Seen = field(default_factory=Seen)
    full: bool = True
    """Whether everything is looked at; else only steps are counted."""
    thread: int = field(default_factory=threading.get_ident)
    started: float = field(default_factory=time.perf_counter)
    step: int = 0
    window_left: int = 0
    next_window: int = FULL_STEPS
    armed: int = 0
    last_armed: int = -10_000
    root_now: nn.Module | None = None
    pass_now: Pass | None = None
    nested: int = 0
    call_order: int = 0
    norm_feed: tuple[int, str] | None = None
    """(id of the last output of a layer with bias, its path)"""
    norm_feed_value: Any = None
    first_leaf_done: bool = False
    drawing: tuple[int, Tensor] | None = None
    """(id of a module at work that has no business drawing random numbers, where they stood before it)"""
    roots: dict[int, LiveRoot] = field(default_factory=dict)
    """id(module) -> root."""
    root_by_key: dict[int, LiveRoot] = field(default_factory=dict)
    readied: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet)
    """Modules whose train() or zero_grad() the user's own code called."""
    skip_modules: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet)
    """Modules without parameters, which are never roots."""
    optimizers: dict[int, LiveOptimizer] = field(default_factory=dict)
    """id(optimizer) -> optimizer."""
    owner: dict[int, int] = field(default_factory=dict)
    """id(parameter) -> key of the optimizer that holds it."""
    pending: list[Pass] = field(default_factory=list)
    """Passes with gradients since the last backward pass."""
    recent_grad_passes: deque[Pass] = field(default_factory=lambda: deque(maxlen=64))
    graphs: deque[tuple[int, weakref.ref[Any]]] = field(default_factory=lambda: deque(maxlen=4096))
    """(step, token that lives as long as the autograd graph of that step's loss)"""
    watching_s: float = 0.0
    depth: int = 0
    """Of our own callbacks, so that what they do is not watched."""
    scaler_factor: bool = False
    last_train_hash: int | None = None
    step_s: float = 0.0
    """What one step of the script takes without us."""
    timed_from: tuple[float, float] | None = None
    """(clock, watching_s) at the step from which steps are timed"""
    last_step_at: int = 0
    full_cost_s: float = 0.0
    loader_now: int | None = None
    kept: dict[int, Any] = field(default_factory=dict)
    """By key of the BatchesSeen: ``inputs.Kept``."""
    batch_keys: dict[tuple[Any, ...], int] = field(default_factory=dict)
    memory_tried: bool = False
    n_batches: int = 0
    """Batches of all purposes so far."""
    loaders: dict[int, Any] = field(default_factory=dict)
    """id(loader) -> ``loading.LiveLoader``."""
    loader_by_key: dict[int, Any] = field(default_factory=dict)
    """By key of the LoaderSeen, those that are gone included."""
    schedule_starts: dict[int, int] = field(default_factory=dict)
    """By key of the SchedulerSeen: steps its optimizer had taken when it was made."""
    registered: Any = None
    """``ties.Registered``: who owns which parameter."""

    def event(self, kind: str, who: int | None, place: Place | None, **facts: Any) -> Event | None:
        """Write down an event; nothing is kept past a limit no run of full watching reaches."""
        if len(self.seen.events) >= MAX_EVENTS:
            return None
        made = Event(kind, self.step, who, place, facts)
        self.seen.events.append(made)
        return made


def elements(value: Any, depth: int = 0) -> list[Tensor]:
    """The tensors inside a (nested) output or argument."""
    if isinstance(value, Tensor):
        return [value]
    if depth > 3:
        return []
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = list(vars(value).values())
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in elements(v, depth + 1)]
    return []


def sample(tensor: Tensor) -> Tensor:
    """A copy of at most ``SAMPLE`` elements, evenly spread."""
    flat = tensor.detach().reshape(-1)
    if flat.numel() > SAMPLE:
        flat = flat[:: flat.numel() // SAMPLE]
    return flat.to(torch.float32, copy=True)


def is_compiling() -> bool:
    """Whether PyTorch is tracing this very code."""
    return torch.compiler.is_compiling()
