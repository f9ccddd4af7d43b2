"""Which arithmetic, layout and order of operations train fastest here: measured, not assumed.

bf16 is many times faster on a CPU that has matrix units for it and several times slower on one that has not;
channels-last halves the time of one network and doubles that of another. So ``auto`` times the candidates on the
real first batch and keeps the fastest whose loss agrees with plain fp32. A few rows tell first whether a precision is
hopeless: without units for it one step of a large network took half a minute in bf16, and one second in fp32.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.tasks import Task
from dimwise.train import guards
from dimwise.train.config import TrainConfig
from dimwise.train.optimizer import optimizer
from dimwise.train.strided import Dilating, is_strided_depthwise

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_NOTHING_TO_GAIN_MS = 1.0  # a step this short is calls, not arithmetic: casts to bf16 would add some more
_WORTH_THREADS = 0.9  # all threads must take at most so much of one thread's time
_TRIAL_FRAC = 0.02  # of the training, for timing candidates; half as much again goes to the number of threads
_LONG_STEP_MS = 10.0  # from here on a precision must show on a few rows that it is worth a whole step
_FEW_FRAC = 1 / 16  # of the batch
_HOPELESS = 4.0  # times as long as fp32
# At its peak rate from the first step on, a deep network's loss explodes, and what explodes agrees with nothing.
_TRIAL_LR_FRAC = 0.01
_AGREE_FRAC = 0.02  # losses further apart than this after a few steps are not the same training


@dataclass(frozen=True)
class Arithmetic:
    """How forward and backward are computed.

    Example:
        >>> Arithmetic("fp32", "contiguous").name
        'fp32'
        >>> Arithmetic("bf16", "channels_last", swap_pool=True).name
        'bf16, channels-last, pool before ReLU'
    """

    precision: str = "fp32"
    layout: str = "contiguous"
    compiled: bool = False
    swap_pool: bool = False
    """Max-pool before ReLU: the same function (ReLU is monotone), a quarter of the work for the ReLU."""
    device: str = "cpu"
    threads: int = 0
    """Compute threads; 0 leaves PyTorch's number."""
    dilate: bool = False
    """Gradients of strided depthwise convolutions by convolutions without stride: the same up to rounding."""

    @property
    def name(self) -> str:
        """For tables and records."""
        words = [self.precision]
        words += ["channels-last"] * (self.layout == "channels_last")
        words += ["pool before ReLU"] * self.swap_pool
        words += ["dilated gradients"] * self.dilate
        words += ["compiled"] * self.compiled
        words += ["one thread"] * (self.threads == 1)
        return ", ".join(words)

    def context(self) -> AbstractContextManager[Any]:
        """Autocast, or nothing for fp32; and dilated gradients."""
        casts: AbstractContextManager[Any] = _NOTHING
        if self.precision != "fp32":
            casts = torch.autocast(self.device, dtype=DTYPES[self.precision])
        return _both(casts, Dilating()) if self.dilate else casts

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs in the layout and, for autocast's first operation, the type they will be read in."""
        if self.precision != "fp32" and x.is_floating_point():
            x = x.to(DTYPES[self.precision])
        if x.dim() == 4:
            x = x.contiguous(memory_format=self._memory_format)
        return x

    def model_(self, model: nn.Module) -> nn.Module:
        """Put the weights into the layout, in place; compile when asked (returns the compiled face)."""
        if any(p.dim() == 4 for p in model.parameters()):
            model.to(memory_format=self._memory_format)  # type: ignore[call-overload]
        if self.compiled:
            return torch.compile(model)  # type: ignore[return-value]
        return model

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format


_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def _both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


@dataclass(frozen=True)
class Choice:
    """The arithmetic that was chosen, and what the others took."""

    arithmetic: Arithmetic
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """Rows of {"name", "ms" (median per step), "loss" (after the trial steps), "agrees"}."""

    def as_dict(self) -> dict[str, Any]:
        """For the record of the run."""
        chosen = self.arithmetic
        return {
            "chosen": chosen.name,
            "precision": chosen.precision,
            "layout": chosen.layout,
            "compiled": chosen.compiled,
            "swap_pool": chosen.swap_pool,
            "dilate": chosen.dilate,
            "threads": chosen.threads,
            "candidates": self.candidates,
        }


def choose(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    task: Task,
    config: TrainConfig,
    *,
    device: torch.device,
    n_steps: int = 0,
    budget_s: float = 1.0,
) -> Choice:
    """The fastest arithmetic whose loss agrees, among what the config leaves open.

    Args:
        model: as it will be trained; copies are timed, it is not touched.
        x: (B, ...) normalised float32 inputs of the first batch.
        y: (B, ...) their targets.
        task: whose loss is computed.
        config: precision, layout and compile; "auto" leaves one open.
        device: where it runs.
        n_steps: length of the training that follows; the trial takes a few hundredths of it. 0: unknown.
        budget_s: most seconds for all candidates together, warming up left out.

    Returns:
        The choice; when only one candidate is possible it is taken unmeasured.
    """
    candidates = _candidates(model, x, config, device)
    if len(candidates) == 1:
        return Choice(candidates[0])
    open_threads = config.threads == 0 and device.type == "cpu" and torch.get_num_threads() > 1
    if open_threads:
        # First of all: on a small network, or a busy machine, threads wait for each other, and every trial with them.
        plain = _Trial(model, x, y, task, config, candidates[0])
        plain.run(2)
        all_ms, one_ms = plain.ms_by_threads(_budget_s(budget_s / 2, n_steps, plain.ms))
        if one_ms < all_ms / _WORTH_THREADS:
            with guards.threads(1):
                return _alone(_fastest(model, x, y, task, config, candidates, n_steps, budget_s, one_ms))
    return _fastest(model, x, y, task, config, candidates, n_steps, budget_s)


def _budget_s(most_s: float, n_steps: int, step_ms: float) -> float:
    return min(most_s, _TRIAL_FRAC * n_steps * step_ms / 1e3) if n_steps else most_s


def _alone(choice: Choice) -> Choice:
    """The same on one thread."""
    arithmetic = dataclasses.replace(choice.arithmetic, threads=1)
    rows = [{**row, "name": f"{row['name']}, one thread"} for row in choice.candidates]
    return Choice(arithmetic, rows)


def _fastest(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    task: Task,
    config: TrainConfig,
    candidates: list[Arithmetic],
    n_steps: int,
    budget_s: float,
    plain_ms: float | None = None,
) -> Choice:
    """The race on the threads at hand; the last arguments as in :func:`choose`, and what the plainest takes."""
    if plain_ms is not None and plain_ms < _NOTHING_TO_GAIN_MS:
        return Choice(candidates[0], [{"name": candidates[0].name, "ms": round(plain_ms, 4)}])
    trials: list[_Trial] = []
    hopeless: dict[str, bool] = {candidates[0].precision: False}
    for arithmetic in candidates:
        precision = arithmetic.precision
        try:
            if precision not in hopeless:
                hopeless[precision] = trials[0].ms > _LONG_STEP_MS and _is_hopeless(
                    model, x, y, task, config, arithmetic, candidates[0]
                )
            if hopeless[precision]:
                continue
            trial = _Trial(model, x, y, task, config, arithmetic)
            trial.run(3)
        except RuntimeError:  # a precision this device has no kernel for
            if arithmetic is candidates[0]:
                raise  # the plainest must work: this is the model's own error
            continue
        trials.append(trial)
    budget_s = _budget_s(budget_s, n_steps, trials[0].ms)
    _race(trials, budget_s)
    reference = trials[0].losses[2]  # the first candidate is the plainest: fp32 unless told otherwise
    rows = [t.row(reference) for t in trials]
    agreeing = [t for t, row in zip(trials, rows, strict=True) if row["agrees"]] or trials[:1]
    fastest = min(agreeing, key=lambda t: t.ms)
    if plain_ms is None and config.threads == 0 and trials[0].on_cpu and torch.get_num_threads() > 1:
        all_ms, one_ms = fastest.ms_by_threads(budget_s / 2)
        if one_ms < all_ms / _WORTH_THREADS:
            alone = dataclasses.replace(fastest.arithmetic, threads=1)
            rows.append({**fastest.row(reference), "name": alone.name, "ms": round(one_ms, 4)})
            return Choice(alone, rows)
    return Choice(fastest.arithmetic, rows)


def _is_hopeless(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    task: Task,
    config: TrainConfig,
    arithmetic: Arithmetic,
    plainest: Arithmetic,
) -> bool:
    """Whether a few rows take several times as long as in the plainest arithmetic."""
    n_few = max(2, round(_FEW_FRAC * len(x)))
    these, plain = (_Trial(model, x[:n_few], y[:n_few], task, config, a) for a in (arithmetic, plainest))
    plain.run(3)
    these.run(1)
    if these.times_ms[0] < _HOPELESS * plain.times_ms[0]:
        return False
    these.run(2)  # the first step makes kernels, which says little
    return min(these.times_ms[1:]) > _HOPELESS * min(plain.times_ms[1:])


def _race(trials: list[_Trial], budget_s: float) -> None:
    racing = list(trials)
    deadline = time.perf_counter() + budget_s
    while time.perf_counter() < deadline or len(racing[0].times_ms) < 6:
        for trial in racing:  # interleaved, so that a busy moment falls on all alike
            trial.run(1)
        limit_ms = 2 * min(t.ms for t in racing)
        racing = [t for t in racing if t is trials[0] or t.ms < limit_ms]  # the hopeless leave the race


class _Trial:
    """A copy of the model that takes real training steps on one batch and times them."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, task: Task, config: TrainConfig, arithmetic: Arithmetic
    ) -> None:
        self.arithmetic = arithmetic
        torch.manual_seed(0)  # whatever else is random in the network falls alike in all trials
        self._model = copy.deepcopy(model).train()
        for part in self._model.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0  # which values it drops depends on the layout; the losses must be comparable
        if arithmetic.swap_pool:
            swap_relu_and_pool_(self._model)
        self._face = arithmetic.model_(self._model)
        self._optimizer = optimizer(self._model, dataclasses.replace(config, lr=_TRIAL_LR_FRAC * config.lr))
        self._x, self._y, self._task = arithmetic.inputs(x), y, task
        self.times_ms: list[float] = []
        self.losses: list[float] = []

    def run(self, n_steps: int) -> None:
        for _ in range(n_steps):
            start = time.perf_counter()
            self._optimizer.zero_grad()
            with self.arithmetic.context():
                loss = self._task.loss(self._face(self._x), self._y)
            loss.backward()
            self._optimizer.step()
            self.losses.append(loss.item())
            self.times_ms.append((time.perf_counter() - start) * 1e3)

    def ms_by_threads(self, budget_s: float) -> tuple[float, float]:
        """Milliseconds per step (with all threads, with one), measured in turn."""
        n_all = torch.get_num_threads()
        times: dict[int, list[float]] = {n_all: [], 1: []}
        deadline = time.perf_counter() + budget_s
        try:
            while time.perf_counter() < deadline or len(times[1]) < 3:
                for n_threads, found in times.items():
                    torch.set_num_threads(n_threads)
                    self.run(1)  # the first step after the change makes or parks threads
                    start = time.perf_counter()
                    self.run(2)
                    found.append((time.perf_counter() - start) / 2 * 1e3)
        finally:
            torch.set_num_threads(n_all)
        return statistics.median(times[n_all]), statistics.median(times[1])

    @property
    def on_cpu(self) -> bool:
        """Whether threads matter."""
        return self._x.device.type == "cpu"

    @property
    def ms(self) -> float:
        """Median per step, without the first two."""
        warm = self.times_ms[2:] or self.times_ms
        return sorted(warm)[len(warm) // 2]

    def row(self, reference: float) -> dict[str, Any]:
        loss = self.losses[2]
        agrees = abs(loss - reference) <= _AGREE_FRAC * max(abs(reference), 1e-3)
        return {"name": self.arithmetic.name, "ms": round(self.ms, 4), "loss": loss, "agrees": agrees}


def _candidates(model: nn.Module, x: Tensor, config: TrainConfig, device: torch.device) -> list[Arithmetic]:
    precisions = [config.precision] if config.precision != "auto" else ["fp32", "bf16"]
    layouts = [config.layout] if config.layout != "auto" else ["contiguous", "channels_last"]
    if x.dim() != 4:
        layouts = ["contiguous"]
    compiled = {"yes": [True], "no": [False], "auto": [False, True]}[config.compile]
    # Only "auto" may reorder; someone who names precision and layout gets the model as it is written.
    is_free = config.layout == "auto"
    swaps = [False, True] if is_free and swap_relu_and_pool_(copy.deepcopy(model)) else [False]
    strided = device.type == "cpu" and any(map(is_strided_depthwise, model.modules()))
    dilates = [False, True] if is_free and strided else [False]
    return [
        Arithmetic(p, layout, c, s, device.type, dilate=d)
        for c in compiled
        for p in precisions
        for layout in layouts
        for s in swaps
        for d in dilates
        if not (c and d)  # what is compiled has kernels of its own
    ]


def swap_relu_and_pool_(model: nn.Module) -> list[tuple[nn.Sequential, int]]:
    """Turn each (ReLU, MaxPool2d) inside an ``nn.Sequential`` into (MaxPool2d, ReLU), in place.

    max(relu(a), relu(b)) = relu(max(a, b)), so outputs and gradients are the same. Parameters keep their names
    where neither part has any, which is the case here. Left alone: a Sequential with its own ``forward``, parts with
    hooks, and pooling that returns indices.

    Returns:
        What was swapped, for :func:`unswap_`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> swapped = swap_relu_and_pool_(net)
        >>> type(net[1]).__name__, unswap_(swapped), type(net[1]).__name__
        ('MaxPool2d', None, 'ReLU')
    """
    swapped = []
    for part in model.modules():
        if not isinstance(part, nn.Sequential) or type(part).forward is not nn.Sequential.forward:
            continue
        for i in range(len(part) - 1):
            if _may_swap(part[i], part[i + 1]):
                part[i], part[i + 1] = part[i + 1], part[i]
                swapped.append((part, i))
    return swapped


def _may_swap(first: nn.Module, second: nn.Module) -> bool:
    if type(first) is not nn.ReLU or type(second) is not nn.MaxPool2d or second.return_indices:
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in (first, second))


def unswap_(swapped: list[tuple[nn.Sequential, int]]) -> None:
    """Undo :func:`swap_relu_and_pool_`."""
    for part, i in reversed(swapped):
        part[i], part[i + 1] = part[i + 1], part[i]
