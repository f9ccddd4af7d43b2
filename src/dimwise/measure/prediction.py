"""Peak memory of a step before anything is allocated: the step runs on shapes alone and its allocator is played.

What is predicted is what PyTorch's allocator holds: storages of parameters, buffers, input, activations, gradients,
optimizer state and oneDNN's own copies, each from the operator that makes it until its last reference
goes. The resident size of a process on a CPU is larger, since the C library keeps freed blocks that do not fit what
is asked for next; how much larger is in ``benchmarks/records/memory.json``, and ``fits`` leaves room for it.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.utils._python_dispatch import TorchDispatchMode

from dimwise.errors import ModelError, nearest
from dimwise.measure._scratch import Recurrent, beside_recurrent, inside_encoder_layer, reordered
from dimwise.measure._state import evaluating, tensors_in

PRECISIONS = ("fp32", "bf16")
HEADROOM_FRAC = 0.75
"""Part of the prediction that ``fits`` keeps free. Default: enough for the resident size of 19 cases of 20 in the
record; most need half of it."""
_TRIES = 12

_RNN = torch.ops.aten.mkldnn_rnn_layer.default
_RNN_BACKWARD = torch.ops.aten.mkldnn_rnn_layer_backward.default
_CONV = torch.ops.aten.convolution.default
_CONV_BACKWARD = torch.ops.aten.convolution_backward.default
_ENCODER_LAYER = torch.ops.aten._transformer_encoder_layer_fwd.default
_ADD = torch.ops.aten.add.Tensor
_NUMBER = torch.ops.aten._local_scalar_dense.default


@dataclass(frozen=True)
class MemoryParts:
    """What is live at the moment of the peak, in bytes; the parts add up to ``total``."""

    parameters: int
    """With buffers."""
    gradients: int
    """Those of parameters, as far as they exist at the peak."""
    optimizer_state: int
    activations: int
    """What is computed on the way: outputs kept for backward, temporaries, autocast's copies of weights."""
    inputs: int
    workspace: int
    """What fused operators take inside: oneDNN's copies in its own order, its notes in recurrent layers."""

    @property
    def total(self) -> int:
        """Peak bytes."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class MemoryPrediction:
    """Peak bytes of one training step (with everything the steps before it left) and of inference."""

    training: MemoryParts
    inference: MemoryParts

    def fits(self, available_bytes: float, *, train: bool = True, headroom_frac: float = HEADROOM_FRAC) -> bool:
        """Whether the peak and its headroom stay within the memory that is there.

        Args:
            available_bytes: free memory, model not yet loaded.
            train: a training step; False asks for inference.
            headroom_frac: part of the prediction to leave free for what the allocator cannot reuse, at least 0.

        Example:
            >>> predict_memory(nn.Linear(100, 50), (1, 100)).fits(1e6)
            True
        """
        peak = (self.training if train else self.inference).total
        return peak * (1 + headroom_frac) <= available_bytes


def predict_memory(
    model: nn.Module,
    batch: Tensor | tuple[int, ...],
    precision: str = "fp32",
    *,
    task_loss: Callable[[Tensor], Tensor] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> MemoryPrediction:
    """Peak bytes of a training step and of inference, without computing or allocating either.

    Forward, backward and optimizer step run on tensors that have shape, type and device but no values; the peak
    is the largest sum of the storages alive at one time. Two steps are run: the second has the optimizer's state.

    Args:
        model: is left as it was, on the CPU or on CUDA.
        batch: an input (B, ...), of which only shape and type matter (a meta tensor will do), or a shape, for float32.
        precision: fp32, or bf16 for autocast in forward.
        task_loss: outputs → scalar loss; None takes the mean square of the outputs. Tensors that it brings along
            (targets) must be made inside it, or are counted from their first use.
        optimizer: model → optimizer; None leaves the step out, and with it the optimizer's state.

    Raises:
        ModelError: for an unknown precision, an input the network cannot take, or a network whose shapes depend on
            values, which only a real run can measure.

    Source: the technique is that of ``torch.utils._python_dispatch`` with fake tensors; live storages as in
    :func:`dimwise.measure.peak_memory`. Deviation: sums of gradients at forks are taken as done in place, as
    PyTorch's engine does when nobody watches.

    Example:
        >>> found = predict_memory(nn.Linear(100, 50, bias=False), (1, 100))
        >>> found.inference.total, found.inference.parameters  # 4 · (5000 + 100 + 50) and 4 · 5000
        (20600, 20000)
    """
    if precision not in PRECISIONS:
        raise ModelError(
            f"precision is {precision!r}", expected="one of: fp32, bf16", next_step=nearest(precision, PRECISIONS)
        )
    shape = tuple(batch.shape) if isinstance(batch, Tensor) else tuple(batch)
    dtype = batch.dtype if isinstance(batch, Tensor) else torch.float32
    try:
        play = _Play(model, shape, dtype, precision)
        training = play.training(task_loss, optimizer)
        return MemoryPrediction(training, _Play(model, shape, dtype, precision).inference())
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
        raise ModelError(
            f"the network's shapes depend on values ({_line(error)})",
            expected="shapes that follow from the shape of the input",
            next_step="Measure a real step instead: dimwise.measure.peak_memory.",
        ) from error
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"the network cannot take input of shape {shape} and type {_type(dtype)}: {_line(error)}",
            next_step="Give one batch as the network is called with it.",
        ) from error


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:160]


def largest_batch(
    model: nn.Module,
    example: Tensor | tuple[int, ...],
    available_bytes: float,
    precision: str = "fp32",
    *,
    train: bool = True,
    task_loss: Callable[[Tensor], Tensor] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    headroom_frac: float = HEADROOM_FRAC,
    most: int = 65_536,
) -> int:
    """The most inputs at once whose predicted peak fits.

    The peak is nearly affine in the batch size, bytes(B) ≈ a + b·B, so two predictions give the size and a third
    confirms it; where the peak changes place with B, the bracket is narrowed by further ones, at most a dozen.

    Args:
        example: as ``batch`` of :func:`predict_memory`; its first dimension is replaced.
        available_bytes: free memory, model not yet loaded.
        train: training step; False asks for inference.
        headroom_frac: as for :meth:`MemoryPrediction.fits`.
        most: where the search ends.
        model, precision, task_loss, optimizer: as for :func:`predict_memory`.

    Returns:
        The batch size, 0 when not even one input fits; within 1 % below the largest.

    Example:
        >>> largest_batch(nn.Linear(100, 50, bias=False), (1, 100), 26_000, train=False, headroom_frac=0)
        10
    """
    rest = tuple(example.shape[1:]) if isinstance(example, Tensor) else tuple(example[1:])
    dtype = example.dtype if isinstance(example, Tensor) else torch.float32

    def need(n: int) -> float:
        batch = torch.empty((n, *rest), dtype=dtype, device="meta")
        found = predict_memory(model, batch, precision, task_loss=task_loss, optimizer=optimizer)
        return (found.training if train else found.inference).total * (1 + headroom_frac)

    # Two inputs first: batch normalisation over single values cannot train on one.
    low, low_bytes = 2, need(2)
    if low_bytes > available_bytes:
        return _one(need, available_bytes)
    high, high_bytes = min(16, most), need(min(16, most))
    for _ in range(_TRIES):
        if high_bytes <= available_bytes:
            if high >= most:
                return most
            low, low_bytes, guess = high, high_bytes, _where(low, low_bytes, high, high_bytes, available_bytes)
            high = min(most, max(low + 1, guess + 1))
            high_bytes = need(high)
            continue
        if high - low <= max(1, low // 100):
            break
        middle = min(high - 1, max(low + 1, _where(low, low_bytes, high, high_bytes, available_bytes)))
        found = need(middle)
        if found <= available_bytes:
            low, low_bytes = middle, found
            if high - low > 1 and need(low + 1) > available_bytes:
                break
        else:
            high, high_bytes = middle, found
    return low


def _one(need: Callable[[int], float], available_bytes: float) -> int:
    try:
        return int(need(1) <= available_bytes)
    except ModelError:
        return 0


def _where(low: int, low_bytes: float, high: int, high_bytes: float, available_bytes: float) -> int:
    """The size at which the line through both points reaches what is available."""
    slope = (high_bytes - low_bytes) / (high - low)
    return low + int((available_bytes - low_bytes) / slope) if slope > 0 else 2 * high


class _Play:
    """One model on fake tensors, and the log of its storages.

    Args:
        model: copied; the copy has no values.
        shape: of the input.
        dtype: of the input.
        precision: of forward.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, precision: str) -> None:
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.log = _Log(most_bytes=2 if precision == "bf16" else 8)
        first = next((t for t in (*model.parameters(), *model.buffers())), None)
        self.device = first.device if first is not None else torch.device("cpu")
        self.precision = precision
        self.model = self._without_values(model)
        with self.fake:
            self.input = torch.empty(shape, dtype=dtype, device=self.device)
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            self.log.add(tensor, "parameters")
        self.log.add(self.input, "inputs")

    def _without_values(self, model: nn.Module) -> nn.Module:
        memo: dict[int, Any] = {}
        for parameter in model.parameters():
            fake = self.fake.from_tensor(parameter.detach())
            memo[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for buffer in model.buffers():
            memo[id(buffer)] = self.fake.from_tensor(buffer.detach())
        return copy.deepcopy(model, memo)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def inference(self) -> MemoryParts:
        with self.fake, self.log, evaluating(self.model), self._autocast():
            self.model(self.input)
        return self.log.at_peak()

    def training(
        self,
        task_loss: Callable[[Tensor], Tensor] | None,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None,
    ) -> MemoryParts:
        model, log = self.model.train(), self.log
        with self.fake, log, torch.enable_grad():
            updates = None if optimizer is None else optimizer(model)
            for _ in range(2):
                with self._autocast():
                    outputs = model(self.input)
                    loss = outputs.float().square().mean() if task_loss is None else task_loss(outputs)
                del outputs
                with log.going_backward():
                    loss.backward()
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        log.add(parameter.grad, "gradients")
                if updates is not None:
                    with log.numbers_known():
                        updates.step()
                    for state in updates.state.values():
                        for tensor in tensors_in(state):
                            log.add(tensor, "optimizer_state")
                model.zero_grad(set_to_none=True)
                del loss
        return self.log.at_peak()


@dataclass
class _Event:
    """A storage that comes (bytes > 0) or goes (bytes < 0)."""

    number: int
    n_bytes: int
    is_sum: bool = False
    """Made by an addition in backward: the engine adds in place when the old gradient has no other use."""


class _Log(TorchDispatchMode):
    """Every storage from the operator that makes it until it is freed, in order."""

    def __init__(self, *, most_bytes: int) -> None:
        super().__init__()
        self._most_bytes = most_bytes
        """Of one value where autocast rules: fused operators obey it inside, unseen."""
        self._events: list[_Event] = []
        self._part: dict[int, str] = {}
        self._storages: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._backward = False
        self._know_numbers = False
        self._scratch = Recurrent()

    def add(self, tensor: Tensor, part: str | None = None, *, is_sum: bool = False) -> None:
        """Note a storage, unless it is known; ``part`` names, or renames, what it is."""
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse tensors have none; their parts come by themselves
            return
        key, n_bytes = storage._cdata, storage.nbytes()
        if key not in self._storages:
            number, events = len(self._part), self._events
            self._part[number] = "activations"

            def freed(_: object) -> None:
                events.append(_Event(number, -n_bytes))
                self._storages.pop(key, None)

            self._storages[key] = number, weakref.ref(storage, freed)
            events.append(_Event(number, n_bytes, is_sum))
        if part is not None:
            self._part[self._storages[key][0]] = part

    @contextlib.contextmanager
    def going_backward(self) -> Iterator[None]:
        self._backward = True
        try:
            yield
        finally:
            self._backward = False

    @contextlib.contextmanager
    def numbers_known(self) -> Iterator[None]:
        """Inside, an optimizer that reads its step count gets a number."""
        self._know_numbers = True
        try:
            yield
        finally:
            self._know_numbers = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _NUMBER and self._know_numbers:
            return 1.0
        for tensor in tensors_in((args, kwargs or {})):
            self.add(tensor)
        result = func(*args, **(kwargs or {}))
        if func is _RNN:
            notes = torch.empty(self._scratch.notes_of_rnn(args), dtype=torch.uint8, device=args[0].device)
            result = (*result[:3], notes)
        is_sum = self._backward and func is _ADD
        for tensor in tensors_in(result):
            self.add(tensor, is_sum=is_sum)
        if func is _RNN:
            self.add(result[3], "workspace")
            self._for_a_moment(beside_recurrent(args[0], args[1:5], args[10], backward=False))
        elif func is _RNN_BACKWARD:
            self._for_a_moment(beside_recurrent(args[0], args[1:5], args[15], backward=True))
        elif func is _ENCODER_LAYER:
            self._for_a_moment(inside_encoder_layer(args[0], args[14], min(self._most_bytes, args[0].element_size())))
        elif func is _CONV:
            self._for_a_moment(reordered(args[0], args[1], result, *args[3:9], backward=False))
        elif func is _CONV_BACKWARD:
            self._for_a_moment(reordered(args[1], args[2], args[0], *args[4:10], backward=True))
        return result

    def _for_a_moment(self, n_bytes: int) -> None:
        number = len(self._part)
        self._part[number] = "workspace"
        self._events += [_Event(number, n_bytes), _Event(number, -n_bytes)]

    def at_peak(self) -> MemoryParts:
        """What was live when most was."""
        events = _in_place(self._events)
        live = most = 0
        at = -1
        for i, event in enumerate(events):
            live += event.n_bytes
            if live > most:
                most, at = live, i
        found = dict.fromkeys((f.name for f in fields(MemoryParts)), 0)
        for event in events[: at + 1]:
            found[self._part[event.number]] += event.n_bytes
        return MemoryParts(**found)


def _in_place(events: list[_Event]) -> list[_Event]:
    """A sum whose first term goes at once was, without anybody watching, written over that term."""
    found = list(events)
    for i in range(len(found) - 1):
        if found[i].is_sum and found[i + 1].n_bytes == -found[i].n_bytes:
            found[i], found[i + 1] = found[i + 1], found[i]
    return found
