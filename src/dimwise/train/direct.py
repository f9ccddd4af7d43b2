"""Gradients and updates straight from PyTorch's engine and fused kernels, while nobody listens on the way there.

``Tensor.backward`` and ``Optimizer.step`` look for hooks, open profiler ranges, sort tensors by device and type: on a
small network that is a sixth of the step. What is called here is what they call, with what they pass, so the numbers
are the same bit for bit; whoever registers a hook or replaces one of them is served by them as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer

_Group = dict[str, Any]

# Imported under somebody's watch, these would be the watcher's: then nothing equals them and nothing goes past it.
_OWN_BACKWARD = torch.autograd.backward.__code__.co_filename == torch.autograd.__file__
_BACKWARD = (Tensor.backward, torch.autograd.backward) if _OWN_BACKWARD else None
_ENGINE = torch.autograd.Variable._execution_engine
_ONE = torch.ones((), dtype=torch.float32, device="cpu")

# Each class's step is wrapped by one and the same function when its first instance is made: another one is foreign.
_OWN = Optimizer.profile_hook_step(Optimizer.step).__code__


def backward(loss: Tensor) -> None:
    """The same as ``loss.backward()``, which is called wherever it is more than one number on the CPU.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor(3.0))
        >>> backward(weight * weight)
        >>> weight.grad
        tensor(6.)
    """
    plain = type(loss) is Tensor and loss.dim() == 0 and loss.dtype is torch.float32 and loss.is_cpu
    if not plain or (Tensor.backward, torch.autograd.backward) != _BACKWARD:
        loss.backward()
        return
    start = _ONE.clone()  # a hook may change it in place
    _ENGINE.run_backward((loss,), (start,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def updater(made: Optimizer) -> Callable[[], None]:
    """What takes one step of an optimizer: its kernel where that is all there is to do, ``made.step()`` elsewhere.

    Elsewhere: the first step of a parameter, which makes its state (plain SGD has none and stays there); optimizers
    other than PyTorch's fused SGD, Adam and AdamW; parameters of several types or devices; and, asked anew before each
    step, a registered hook or a replaced ``step``: whoever watches steps sees all of them.

    Args:
        made: the optimizer, with all its parameters; state and parameters are changed in place.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> update = updater(SGD([weight], lr=0.25, momentum=0.5, fused=True))
        >>> weight.grad = torch.ones(1)
        >>> update(), update(), weight.item()  # 1 − 0.25·1 − 0.25·1.5
        (None, None, 0.375)
    """
    launch = _LAUNCH.get(type(made))
    parameters = [p for group in made.param_groups for p in group["params"]]
    alike = len({(p.device, p.dtype) for p in parameters}) == 1
    if launch is None or not alike or not all(group["fused"] for group in made.param_groups):
        return lambda: made.step()  # looked up each time: it may be replaced meanwhile

    def update() -> None:
        state = made.state
        if _is_watched(made) or not all(p.grad is None or state.get(p) for p in parameters):
            made.step()
            return
        with torch.no_grad():
            for group in made.param_groups:
                chosen = [p for p in group["params"] if p.grad is not None]
                if chosen:
                    launch(chosen, [p.grad for p in chosen], [state[p] for p in chosen], group)

    return update


def _is_watched(made: Optimizer) -> bool:
    """Whether a hook is registered, on this optimizer or on all of them, or ``step`` is not PyTorch's own."""
    return bool(
        made._optimizer_step_pre_hooks
        or made._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or "step" in vars(made)  # as PyTorch's schedulers do
        or getattr(type(made).step, "__code__", None) is not _OWN
    )


def _sgd(parameters: list[Tensor], grads: list[Any], states: list[dict[str, Tensor]], group: _Group) -> None:
    torch._fused_sgd_(
        parameters,
        grads,
        [state["momentum_buffer"] for state in states],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


def _adam(parameters: list[Tensor], grads: list[Any], states: list[dict[str, Tensor]], group: _Group) -> None:
    taken = [state["step"] for state in states]
    torch._foreach_add_(taken, 1)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        parameters,
        grads,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        taken,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )


_LAUNCH: dict[type, Callable[..., None]] = {SGD: _sgd, Adam: _adam, AdamW: _adam}
