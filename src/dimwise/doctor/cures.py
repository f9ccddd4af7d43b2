"""Cures applied from outside, in the watched process: what the remedy says, without a changed line in the script.

Each cure is a function that replaces what it must (:class:`dimwise.doctor.watch.patches.Patches`) and tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from dimwise.doctor.watch.patches import Patches


def apply(cure: Mapping[str, Any], patches: Patches) -> None:
    """Apply one cure, told as data, until ``patches`` are undone.

    Raises:
        KeyError: for a kind that has no cure from outside.

    Example:
        >>> patches = Patches()
        >>> apply({"kind": "lr", "factor": 0.1}, patches)
        >>> torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0).param_groups[0]["lr"]
        0.1
        >>> patches.undo()
    """
    CURES[cure["kind"]](cure, patches)


def _zero_grad(_cure: Mapping[str, Any], patches: Patches) -> None:
    """Gradients that a step has used are cleared before the next backward pass."""
    used: dict[int, torch.optim.Optimizer] = {}

    def backward(original: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            for optimizer in used.values():
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        p.grad = None
            used.clear()
            return original(*args, **kwargs)

        return run

    def after(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        used[id(optimizer)] = optimizer

    patches.replace(torch.autograd, "backward", backward)
    patches.on_undo(register_optimizer_step_post_hook(after).remove)


def _keep_grad(_cure: Mapping[str, Any], patches: Patches) -> None:
    """``zero_grad`` between backward and step does nothing; gradients are cleared after the step."""
    fresh = {"backward": False}

    def backward(original: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            fresh["backward"] = True
            return original(*args, **kwargs)

        return run

    def zero(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            return None if fresh["backward"] else original(self, *args, **kwargs)

        return run

    def after(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        fresh["backward"] = False
        optimizer.zero_grad()

    patches.replace(torch.autograd, "backward", backward)
    patches.replace(torch.optim.Optimizer, "zero_grad", zero)
    patches.replace(nn.Module, "zero_grad", zero)
    patches.on_undo(register_optimizer_step_post_hook(after).remove)


def _mode(*, training: bool) -> Callable[[Mapping[str, Any], Patches], None]:
    def cure_mode(_cure: Mapping[str, Any], patches: Patches) -> None:
        """Networks are in training mode for passes with gradients, or in evaluation mode for those without."""
        inside: list[nn.Module] = []
        modes: list[tuple[nn.Module, bool]] = []

        def before(module: nn.Module, _args: Any) -> None:
            if torch.is_grad_enabled() is training and module.training is not training and not inside:
                inside.append(module)
                modes.extend((part, part.training) for part in module.modules())
                module.train(training)

        def after(module: nn.Module, _args: Any, _output: Any) -> None:
            if inside and inside[0] is module:
                for part, mode in modes:
                    part.training = mode
                inside.clear()
                modes.clear()

        patches.on_undo(hooks.register_module_forward_pre_hook(before).remove)
        patches.on_undo(hooks.register_module_forward_hook(after, always_call=True).remove)

    return cure_mode


def watch_answers(told: list[tuple[int, float]], step: Callable[[], int], patches: Patches) -> None:
    """For proofs about evaluation: how much answers change when half of the batch is left out.

    Number of one pass without gradients: ‖a − b‖ / ‖a − mean(a)‖, a the answers to the first half of the rows in the
    company of the others, b their answers alone. A network in evaluation mode answers alike (0, up to rounding); one
    whose dropout is on, or whose norms look at the batch, does not. Randomness and buffers are as if nobody had asked.

    Args:
        told: is extended by (step, number), at most 20 times.
        step: which step it is.
        patches: what ends it.
    """
    inside: list[nn.Module] = []
    asking: list[bool] = []

    def before(module: nn.Module, _args: Any) -> None:
        if not inside:
            inside.append(module)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if not inside or inside[0] is not module or asking:
            return
        rows = len(output) if isinstance(output, Tensor) and output.ndim and output.is_floating_point() else 0
        fits = [isinstance(a, Tensor) and a.ndim > 0 and len(a) == rows for a in args]
        if rows >= 4 and args and all(fits) and not torch.is_grad_enabled() and len(told) < 20:
            kept = [(b, b.clone()) for b in module.buffers()]
            state = torch.get_rng_state()
            first = output[: rows // 2].clone()
            asking.append(True)
            alone = module(*(a[: rows // 2] for a in args))
            asking.clear()
            torch.set_rng_state(state)
            for buffer, value in kept:
                buffer.copy_(value)
            spread = (first - first.mean()).norm()
            told.append((step(), float((first - alone).norm() / spread.clamp_min(1e-12))))
        inside.clear()

    patches.on_undo(hooks.register_module_forward_pre_hook(before).remove)
    patches.on_undo(hooks.register_module_forward_hook(after).remove)


def _lr(cure: Mapping[str, Any], patches: Patches) -> None:
    """Every optimizer starts with its rates times ``factor``."""

    def made(original: Any) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            for group in self.param_groups:
                if "lr" in group:
                    group["lr"] = group["lr"] * float(cure["factor"])

        return run

    patches.replace(torch.optim.Optimizer, "__init__", made)


def _clip(cure: Mapping[str, Any], patches: Patches) -> None:
    """The gradient's norm is limited right before each step."""

    def before(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, float(cure["max_norm"]))

    patches.on_undo(register_optimizer_step_pre_hook(before).remove)


def _scale_loss(cure: Mapping[str, Any], patches: Patches) -> None:
    """Each loss is divided before it is differentiated."""

    def backward(original: Any) -> Any:
        def run(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            one = tensors / cure["divisor"] if isinstance(tensors, Tensor) else tensors
            return original(one, *args, **kwargs)

        return run

    patches.replace(torch.autograd, "backward", backward)


def _loader(change: Callable[[Mapping[str, Any], dict[str, Any]], None]) -> Callable[..., None]:
    def cure_loader(cure: Mapping[str, Any], patches: Patches) -> None:
        """DataLoaders are made with other arguments."""

        def made(original: Any) -> Any:
            def run(
                self: Any, dataset: Any, batch_size: Any = 1, shuffle: Any = None, *rest: Any, **named: Any
            ) -> None:
                told = {"batch_size": batch_size, "shuffle": shuffle, **named}
                if "batch_sampler" not in named or named["batch_sampler"] is None:
                    change(cure, told)
                original(self, dataset, told.pop("batch_size"), told.pop("shuffle"), *rest, **told)

            return run

        patches.replace(DataLoader, "__init__", made)

    return cure_loader


def _shuffled(_cure: Mapping[str, Any], told: dict[str, Any]) -> None:
    if told.get("sampler") is None:
        told["shuffle"] = True


def _resized(cure: Mapping[str, Any], told: dict[str, Any]) -> None:
    if told["batch_size"] is not None:
        told["batch_size"] = int(cure["size"])


def _normalise(_cure: Mapping[str, Any], patches: Patches) -> None:
    """What goes into a network is standardised by mean and deviation of its first training batch."""
    known: dict[int, tuple[Tensor, Tensor]] = {}
    inside: list[nn.Module] = []

    def before(module: nn.Module, args: Any) -> Any:
        if inside or next(module.parameters(), None) is None:
            return None
        inside.append(module)
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return None
        x = args[0]
        if id(module) not in known:
            known[id(module)] = x.detach().mean(), x.detach().std().clamp_min(1e-6)
        mean, std = known[id(module)]
        return ((x - mean) / std, *args[1:])

    def after(module: nn.Module, _args: Any, _output: Any) -> None:
        if inside and inside[0] is module:
            inside.clear()

    patches.on_undo(hooks.register_module_forward_pre_hook(before).remove)
    patches.on_undo(hooks.register_module_forward_hook(after, always_call=True).remove)


def _drop_softmax(_cure: Mapping[str, Any], patches: Patches) -> None:
    """Cross-entropy of probabilities takes their logarithm first: log p differs from logits by a constant."""

    def loss(original: Any) -> Any:
        def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if type(input.grad_fn).__name__ == "SoftmaxBackward0":
                input = input.clamp_min(1e-12).log()
            return original(input, *args, **kwargs)

        return run

    patches.replace(nn.functional, "cross_entropy", loss)


def _drop_sigmoid(_cure: Mapping[str, Any], patches: Patches) -> None:
    """BCE with logits that is given probabilities takes their logit first."""

    def loss(original: Any) -> Any:
        def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if type(input.grad_fn).__name__ == "SigmoidBackward0":
                input = torch.logit(input, eps=1e-6)
            return original(input, *args, **kwargs)

        return run

    patches.replace(nn.functional, "binary_cross_entropy_with_logits", loss)


CURES: dict[str, Callable[[Mapping[str, Any], Patches], None]] = {
    "zero_grad": _zero_grad,
    "keep_grad": _keep_grad,
    "train_mode": _mode(training=True),
    "eval_mode": _mode(training=False),
    "lr": _lr,
    "clip": _clip,
    "scale_loss": _scale_loss,
    "shuffle": _loader(_shuffled),
    "batch_size": _loader(_resized),
    "normalise": _normalise,
    "drop_softmax": _drop_softmax,
    "drop_sigmoid": _drop_sigmoid,
}
"""Kind of a finding's ``cure`` -> what applies it."""
