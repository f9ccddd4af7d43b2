"""What a user who calls a peer would know of his own loop: network, batch, loss, optimizer; read through hooks.

Run by the peers' Python; it imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

Said = list[tuple[str, str, str]]
"""(rule, level, message) of each finding."""

_LOSSES = (F.cross_entropy, F.mse_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
_MOST_OPERATIONS = 200


class Peer:
    """Where a peer may look into a loop; an adapter fills in the places where its README puts it."""

    def before_call(self, loop: Loop, model: nn.Module) -> None:
        """A network is about to be called with gradients on."""

    def before_backward(self, loop: Loop, loss: Tensor) -> None:
        """A training step has its loss (and, in a loop that never differentiates, is about to step)."""

    def after_backward(self, loop: Loop) -> None:
        """Gradients are there."""

    def before_step(self, loop: Loop) -> None:
        """An optimizer is about to step."""

    def evaluated(self, loss: Tensor) -> None:
        """A loss was computed without gradients."""

    def findings(self) -> Said:
        """What the peer has to say."""
        return []


@dataclass
class Call:
    """One call of a network that is part of no other."""

    module: nn.Module
    args: tuple[Any, ...]
    output: Any


@dataclass
class Operation:
    """One call of a PyTorch function outside any network."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


@dataclass
class Loop:
    """The training loop that runs in this process."""

    peer: Peer
    leave: Callable[[], None]
    """Ends the script at once: for a peer that is done after one batch."""
    optimizers: list[Optimizer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    """Networks called one after the other, each on the output of the one before."""
    made: list[Operation] = field(default_factory=list)
    """What was computed since, the loss among it."""
    depth: int = 0
    n_steps: int = 0
    """Training steps so far."""
    n_backward_since_step: int = 0
    at_work: bool = False
    """The peer itself computes: not the script's doing."""
    error: str | None = None
    """What ended the script before its own end."""
    failed: str | None = None
    """What went wrong in the peer."""

    def model(self) -> nn.Module:
        """The network that is trained; a chain of them as one."""
        modules = [call.module for call in self.calls]
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    def optimizer(self) -> Optimizer | None:
        """The newest optimizer of this network, else the newest of all."""
        ours = {id(p) for call in self.calls for p in call.module.parameters()}
        for one in reversed(self.optimizers):
            if any(id(p) in ours for p in parameters(one)):
                return one
        return self.optimizers[-1] if self.optimizers else None

    def loss_of(self, output: Any, loss: Tensor) -> Tensor:
        """The script's way from the network's output to its loss, gone once more with another output."""
        new: dict[int, Any] = {}
        _match(new, self.calls[-1].output, output)

        def swapped(value: Any) -> Any:
            return new.get(id(value), value) if isinstance(value, Tensor) else value

        for one in self.made:
            if any(id(t) in new for t in _tensors((one.args, one.kwargs))):
                _match(new, one.result, one.function(*tree_map(swapped, one.args), **tree_map(swapped, one.kwargs)))
            if id(loss) in new:
                break
        found: Tensor = new[id(loss)]
        return found

    def criterion(self, loss: Tensor) -> tuple[Callable[..., Tensor], Any]:
        """(loss function, targets): a plain cross-entropy as such, any other way as a function of the output."""
        last = self.made[-1] if self.made else None
        if last and last.function is F.cross_entropy and last.result is loss and last.args[0] is self.calls[-1].output:
            usual = {"weight": None, "ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
            if all(last.kwargs.get(key, value) == value for key, value in usual.items()):
                return F.cross_entropy, last.args[1]
        return lambda output: self.loss_of(output, loss), None

    def findings(self) -> tuple[Said, str | None]:
        """What the peer says, or why it could say nothing."""
        self.at_work = True
        try:
            return self.peer.findings(), self.failed or (None if self.n_steps else self.error)
        except Exception as error:  # noqa: BLE001 - a peer that fails is part of the record
            return [], f"{type(error).__name__}: {error}"[:200]


def parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    """All that an optimizer may change."""
    for group in optimizer.param_groups:
        yield from group["params"]


def watch(loop: Loop) -> None:
    """Hook the loop's eyes into PyTorch."""
    _watch_networks(loop)
    _watch_optimizers(loop)
    _watch_losses(loop)


def _watch_networks(loop: Loop) -> None:
    plain = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if loop.depth or loop.at_work or next(module.parameters(), None) is None:
            return plain(module, *args, **kwargs)
        if torch.is_grad_enabled():
            _work(loop, lambda: loop.peer.before_call(loop, module))
        loop.depth += 1
        try:
            output = plain(module, *args, **kwargs)
        finally:
            loop.depth -= 1
        if torch.is_grad_enabled():
            chained = loop.calls and len(args) == 1 and args[0] is loop.calls[-1].output
            loop.calls = [*(loop.calls if chained else []), Call(module, args, output)]
            loop.made = []
        return output

    nn.Module.__call__ = call  # type: ignore[method-assign, assignment]


def _watch_optimizers(loop: Loop) -> None:
    plain = Optimizer.__init__

    def init(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        plain(optimizer, *args, **kwargs)
        if not loop.at_work:
            loop.optimizers.append(optimizer)

    Optimizer.__init__ = init  # type: ignore[method-assign]

    def stepping(*_: Any) -> None:
        if loop.at_work:
            return
        if not loop.n_backward_since_step:
            scalars = [t for one in loop.made for t in _tensors(one.result) if t.numel() == 1 and t.requires_grad]
            if scalars:
                _training_step(loop, scalars[-1])
        loop.n_backward_since_step = 0
        _work(loop, lambda: loop.peer.before_step(loop))

    register_optimizer_step_pre_hook(stepping)


def _watch_losses(loop: Loop) -> None:
    plain = Tensor.backward

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if loop.at_work or loop.depth:
            return plain(loss, *args, **kwargs)
        loop.n_backward_since_step += 1
        _training_step(loop, loss)
        loop.at_work = True  # a recorder in force calls this function a second time, from inside
        try:
            plain(loss, *args, **kwargs)
        finally:
            loop.at_work = False
        _work(loop, lambda: loop.peer.after_backward(loop))
        return None

    Tensor.backward = backward  # type: ignore[method-assign]
    _Recorder(loop).__enter__()


def _training_step(loop: Loop, loss: Tensor) -> None:
    if loop.calls:
        loop.n_steps += 1
        _work(loop, lambda: loop.peer.before_backward(loop, loss))


def _work(loop: Loop, task: Callable[[], None]) -> None:
    """Let the peer work: its own calls are not the script's, its failure is not the script's end."""
    loop.at_work = True
    try:
        task()
    except Exception as error:  # noqa: BLE001 - a peer that fails is part of the record
        loop.failed = f"{type(error).__name__}: {error}"[:200]
    finally:
        loop.at_work = False


class _Recorder(TorchFunctionMode):
    """Keeps what is computed outside networks: the way from their output to the loss."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        loop = self.loop
        result = func(*args, **(kwargs or {}))
        if loop.depth or loop.at_work or not isinstance(result, Tensor | tuple | list):
            return result
        if not torch.is_grad_enabled():
            if func in _LOSSES and result.numel() == 1:
                _work(loop, lambda: loop.peer.evaluated(result))
        elif loop.calls and len(loop.made) < _MOST_OPERATIONS:
            loop.made.append(Operation(func, args, kwargs or {}, result))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, Tensor)]


def _match(new: dict[int, Any], before: Any, after: Any) -> None:
    new.update((id(old), fresh) for old, fresh in zip(_tensors(before), _tensors(after), strict=True))
