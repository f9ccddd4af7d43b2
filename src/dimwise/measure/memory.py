"""The most memory that is taken at one time: by the tensors of a network, or by a whole process that serves one.

``peak_memory`` counts storages of parameters, buffers, input, activations, gradients and optimizer state, each once
however many views it has, from the operator that makes it until the last reference goes. It does not count on the CPU:
scratch space inside an operator (such as weights repacked for a matrix product), fragmentation, and the process itself.
On CUDA the number is the caching allocator's, which includes scratch space. A runtime other than PyTorch tells nothing
about its tensors, but a process of its own can be watched from outside: ``process_peak_memory``.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dimwise.measure._state import evaluating, tensors_in


def peak_memory(
    model: nn.Module,
    example: Tensor,
    *,
    task_loss: Callable[[Tensor], Tensor] | None = None,
    train: bool = False,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> int:
    """Peak bytes of live tensors.

    Args:
        model: is left as it was: a training step is taken with a copy. On the meta device nothing is computed
            and the peak is that of the shapes.
        example: (B, ...) input on the model's device.
        task_loss: outputs → scalar loss, with ``train``; None takes the mean square of the outputs.
        train: measure forward, backward and optimizer step instead of inference.
        optimizer: model → optimizer, with ``train``; None leaves the step out, and with it the optimizer's state.
            Two steps are taken, since the first one makes that state.

    Returns:
        Bytes, at least those of parameters, buffers and example.

    Example:
        >>> peak_memory(nn.Linear(100, 50, bias=False), torch.zeros(1, 100))  # 4 · (5000 + 100 + 50)
        20600
    """
    if example.device.type == "cuda":
        return _cuda_peak(model, example, train, task_loss, optimizer)
    if not train:
        return _live_peak(model, example, lambda: _infer(model, example))
    trained = copy.deepcopy(model)
    return _live_peak(trained, example, lambda: _steps(trained, example, task_loss, optimizer))


def process_peak_memory(
    call: str, words: Sequence[str], *, imports: Sequence[str] = (), timeout_s: float = 20.0
) -> int | None:
    """Bytes that one call in a fresh process needs at its peak, above what the process held before it.

    Resident memory of the whole process is read from the system (its high-water mark, set back before the call where
    the system can do that), so that loading, weights, scratch space and the allocator's reserve are counted, and
    libraries named in ``imports`` are not. Repeated, it differs by a few percent.

    Args:
        call: ``package.module:function``.
        words: its arguments, text.
        imports: modules that the process imports first.
        timeout_s: a process that takes longer is ended.

    Returns:
        Bytes, or None when the process failed: a measurement that cannot be had must not cost a run.

    Example:
        >>> process_peak_memory("builtins:bytearray", ["no number"]) is None
        True
    """
    root = str(Path(__file__).parent.parent.parent)
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-P", "-m", "dimwise.measure._fresh", call, ",".join(imports), *words]
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
        return int(done.stdout.split()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _infer(model: nn.Module, example: Tensor) -> None:
    with evaluating(model):
        model(example)


def _steps(
    model: nn.Module,
    example: Tensor,
    task_loss: Callable[[Tensor], Tensor] | None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None,
) -> None:
    model.train()
    updates = None if optimizer is None else optimizer(model)
    with _same_random_numbers(), torch.enable_grad():
        for _ in range(2):
            outputs = model(example)
            loss = outputs.float().square().mean() if task_loss is None else task_loss(outputs)
            del outputs
            loss.backward()
            if updates is not None:
                updates.step()
            model.zero_grad(set_to_none=True)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Dropout draws numbers; whoever asked for a measurement must not see that."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


def _live_peak(model: nn.Module, example: Tensor, work: Callable[[], None]) -> int:
    live = _Live()
    for tensor in (*model.parameters(), *model.buffers(), example):
        live.add(tensor)
    with live:
        work()
    return live.peak_bytes


class _Live(TorchDispatchMode):
    """Follows every storage that an operator takes or makes, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensor: Tensor) -> None:
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse tensors have none; their parts come by themselves
            return
        key, n_bytes = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def freed(_: object) -> None:
            self.live_bytes -= n_bytes
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, freed)
        self.live_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs or {})):
            self.add(tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self.add(tensor)
        return result


def _cuda_peak(
    model: nn.Module,
    example: Tensor,
    train: bool,
    task_loss: Callable[[Tensor], Tensor] | None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None,
) -> int:
    device = example.device
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    if train:
        _steps(copy.deepcopy(model), example, task_loss, optimizer)
        resident = _bytes_of([example])
    else:
        _infer(model, example)
        resident = _bytes_of([*model.parameters(), *model.buffers(), example])
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + resident


def _bytes_of(tensors: list[Tensor]) -> int:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
