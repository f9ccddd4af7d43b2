"""The training loop: a generator of step records. Whoever iterates logs, scores, saves and stops.

    for record in steps(model, batches, task, config, arithmetic=..., start=...):
        ...

The order of things is the order of the lines below; nothing calls back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dimwise.data.batches import Batches
from dimwise.seeds import derive
from dimwise.tasks import Task
from dimwise.train.config import TrainConfig
from dimwise.train.direct import backward, updater
from dimwise.train.ema import WeightAverage
from dimwise.train.precision import Arithmetic
from dimwise.train.schedule import learning_rate

StepFunction = Callable[[nn.Module, Tensor, Tensor, Task], Tensor]
"""``step(model, x, y, task) -> loss``: what a technique varies instead of the trainer."""


@dataclass(slots=True)  # not frozen: that would triple the time it takes to make one
class Step:
    """What happened in one optimizer step."""

    step: int
    """Number of the step in the run, from 0."""
    epoch: int
    """Epoch it belongs to, from 0."""
    loss: float
    """Mean loss over the samples of the step, before the step."""
    lr: float
    n_samples: int
    ends_epoch: bool
    x: Tensor
    y: Tensor
    """The last batch of the step, or the one whose loss is not finite, for whoever wants to look at it."""


@dataclass
class Moving:
    """Everything that moves during training and must be saved to continue: see ``checkpoint.py``."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    average: WeightAverage | None = None
    step: int = 0
    """Optimizer steps already taken."""


def plain_step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    """The step of ordinary supervised learning: the task's loss of the model's outputs."""
    return task.loss(model(x), y)


def steps_per_epoch(batches: Batches, config: TrainConfig) -> int:
    """Optimizer steps in one epoch: batches, grouped by ``accumulate``."""
    return -(-batches.n_batches // config.accumulate)


def steps(
    moving: Moving,
    batches: Batches,
    task: Task,
    config: TrainConfig,
    *,
    arithmetic: Arithmetic,
    step_function: StepFunction = plain_step,
) -> Iterator[Step]:
    """Train, one record per optimizer step, from ``moving.step`` to the end of the last epoch.

    The record is yielded after the step was taken; gradients are still there to be looked at. A loss that is not
    finite is yielded *before* its step is taken, so the parameters are still the last good ones: stop there.

    Args:
        moving: model, optimizer and counters; changed in place.
        batches: where each epoch's batches come from.
        task: whose loss is minimised.
        config: epochs, accumulate, clip_norm, schedule, seed.
        arithmetic: precision of forward and backward.
        step_function: computes the loss of one batch.
    """
    model, optimizer, scaler = moving.model, moving.optimizer, moving.scaler
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    per_epoch = steps_per_epoch(batches, config)
    n_steps = per_epoch * config.epochs
    varying = config.schedule != "constant" or config.warmup_epochs > 0
    lr = config.lr
    seed_generator = seeder(parameters[0].device)
    seed = step_seed(config, 0)
    update = updater(optimizer)
    model.train()
    for epoch in range(moving.step // per_epoch, config.epochs):
        within = moving.step - epoch * per_epoch
        for window in _windows(batches.epoch(epoch, within * config.accumulate), config.accumulate):
            if varying:
                lr = learning_rate(moving.step, n_steps, per_epoch, config)
                for group in optimizer.param_groups:
                    group["lr"] = lr
            seed_generator(seed + moving.step)  # dropout follows from seed and step
            for parameter in parameters:  # as zero_grad does, without its profiling hooks
                parameter.grad = None
            loss, n_samples, x, y = _backward(model, window, task, arithmetic, scaler, step_function)
            ends_epoch = moving.step + 1 == (epoch + 1) * per_epoch
            record = Step(moving.step, epoch, loss, lr, n_samples, ends_epoch, x, y)
            if loss - loss != 0.0:  # NaN or infinite: the only numbers that differ from themselves so
                yield record
                return
            if scaler is not None:
                scaler.unscale_(optimizer)  # so that whoever looks at the gradients sees the real ones
            if config.clip_norm:
                torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm, foreach=True)
            if scaler is not None:
                scaler.step(optimizer)
                scaler.update()
            else:
                update()
            if moving.average is not None:
                moving.average.update(moving.step)
            moving.step += 1
            yield record


def _backward(
    model: nn.Module,
    window: list[tuple[Tensor, Tensor]],
    task: Task,
    arithmetic: Arithmetic,
    scaler: torch.amp.GradScaler | None,
    step_function: StepFunction,
) -> tuple[float, int, Tensor, Tensor]:
    """Gradients of the mean loss over all samples of the window; that loss, their number, the last batch."""
    if len(window) == 1:
        x, y = window[0]
        with arithmetic.context():
            loss = step_function(model, x, y, task)
        backward(loss if scaler is None else scaler.scale(loss))
        return loss.item(), y.shape[0], x, y
    # k passes must give the gradient of one pass over all samples, also when the last pass is smaller.
    n_all = sum(len(y) for _, y in window)
    total = 0.0
    for x, y in window:
        with arithmetic.context():
            loss = step_function(model, x, y, task) * (len(y) / n_all)
        backward(loss if scaler is None else scaler.scale(loss))
        total += loss.item()
        if total - total != 0.0:
            break  # this batch is the one to look at
    return total, n_all, x, y


def step_seed(config: TrainConfig, step: int) -> int:
    """What the generator of dropout is seeded with before step number ``step``."""
    return derive(config.seed, "step") + step


def _windows(pairs: Iterator[tuple[Tensor, Tensor]], size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    if size == 1:
        for pair in pairs:
            yield [pair]
        return
    window = []
    for pair in pairs:
        window.append(pair)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def seeder(device: torch.device) -> Callable[[int], object]:
    """Seeds the generator dropout draws from; 1 µs on the CPU, where ``torch.manual_seed`` takes ten."""
    if device.type == "cuda":
        generator = torch.cuda.default_generators[device.index or 0]
        return generator.manual_seed
    return torch.default_generator.manual_seed
