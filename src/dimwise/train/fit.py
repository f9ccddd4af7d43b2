"""Train a network: from what the user has to a :class:`dimwise.train.job.Job`, whose loop does the work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.data.augment import AugmentConfig
from dimwise.data.grow import shrink
from dimwise.data.sets import Data, Split
from dimwise.errors import UserError
from dimwise.progress import SILENT, Progress
from dimwise.tasks import Task, get
from dimwise.train import guards
from dimwise.train.checkpoint import Checkpoint
from dimwise.train.config import TrainConfig
from dimwise.train.ema import WeightAverage
from dimwise.train.evaluate import evaluate
from dimwise.train.feed import Source, check, device_of, feed, first_batch, require_labels
from dimwise.train.job import Fitted, Interrupted, Job, RunFolder
from dimwise.train.loop import Moving, StepFunction, plain_step
from dimwise.train.optimizer import optimizer
from dimwise.train.precision import Arithmetic, Choice, choose, swap_relu_and_pool_, unswap_

__all__ = ["Fitted", "Interrupted", "evaluate", "fit"]


def fit(
    model: nn.Module,
    data: Source,
    task: Task | str | None = None,
    config: TrainConfig | None = None,
    *,
    valid: Split | None = None,
    augment: AugmentConfig | None = None,
    run_dir: Path | None = None,
    step: StepFunction = plain_step,
    progress: Progress = SILENT,
    resume: bool = False,
    watched: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Fitted:
    """Train ``model`` in place and return it with the weights that were kept.

    Args:
        model: any ``nn.Module`` returning (B, K) outputs.
        data: dimwise data; or normalised tensors (inputs, targets); or a ``Dataset`` or ``DataLoader`` of pairs.
        task: what is learnt; default: what ``data`` says, else classification.
        config: every switch; default ``TrainConfig()``.
        valid: held-out split of normalised inputs, for data that does not bring its own.
        augment: what happens to training batches on their way.
        run_dir: folder where metrics and checkpoints go; None keeps everything in memory.
        step: the loss of one batch; what techniques such as distillation vary.
        progress: where progress is shown.
        resume: continue from the checkpoint in ``run_dir``, exactly: with the same initial model, data and config. A
            run that was stopped before its first checkpoint starts again.
        watched: what looks on, opened around the steps alone: after arithmetic was chosen by the clock, and not around
            a compiled network, which would be compiled anew.

    Raises:
        NonFiniteLoss: when the loss becomes NaN or infinite; names step, module and last checkpoint.
        Interrupted: on Ctrl-C, after the step at hand was finished and saved.
        ModelError: network, inputs, targets and task do not go together.
        DataError: no rows, no batches, or a class without an output.
        RunError: ``run_dir`` cannot be written, holds another training, or does not fit what is resumed.

    Example:
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> fitted = fit(nn.Linear(4, 2), (x, (x[:, 0] > 0).long()), config=TrainConfig(epochs=20, lr=0.1))
        >>> evaluate(fitted.model, Split(x, (x[:, 0] > 0).long()), None, get("classification"))[1] > 0.9
        True
    """
    config = config or TrainConfig()
    named = task or (data.task if isinstance(data, Data) else "classification")
    task = get(named, label_smoothing=config.label_smoothing) if isinstance(named, str) else named
    if resume and run_dir is None:
        raise UserError("resume needs a run folder", next_step="Pass run_dir=...")
    guards.require_threads(config.threads)
    folder = RunFolder(Path(run_dir), resume=resume) if run_dir is not None else None
    saved = folder.saved(progress) if folder else None
    device = device_of(config)
    model.to(device)
    with guards.threads(config.threads), guards.own_randomness(device):
        choice, n_outputs = _choice(model, data, task, config, device, saved, augment, plain=step is plain_step)
        with guards.threads(choice.arithmetic.threads), _arranged(model, choice.arithmetic) as face:
            source = feed(
                data,
                config,
                valid=valid,
                augment=augment,
                arithmetic=choice.arithmetic,
                device=device,
                n_outputs=n_outputs,
            )
            moving = Moving(model, optimizer(model, config))
            moving.average = WeightAverage(model, config.ema) if config.ema else None
            if choice.arithmetic.precision == "fp16":
                moving.scaler = torch.amp.GradScaler(device.type)
            # The compiled face shares the weights; only forward and backward go through it.
            stepping = step if face is model else _through(face, step)
            with watched() if face is model else nullcontext():
                return Job(moving, source, task, config, choice, stepping, folder, progress).run(saved)


def _choice(
    model: nn.Module,
    data: Source,
    task: Task,
    config: TrainConfig,
    device: torch.device,
    saved: Checkpoint | None,
    augment: AugmentConfig | None,
    *,
    plain: bool,
) -> tuple[Choice, int]:
    """How it is computed, and the number of outputs (0 when unknown)."""
    batch, n_outputs = first_batch(data, config, device), 0
    if batch is not None and plain:
        targets = data.train.targets if isinstance(data, Data) else data[1]  # type: ignore[index]
        n_outputs = check(model, batch, targets, task)
        require_labels(n_outputs, data)
        if augment is not None and augment.grow_from < 1:
            check(model, (shrink(batch[0], augment.grow_from), batch[1]), targets, task)
    if saved is not None:  # the clock may decide differently today; the numbers must not
        told = dict(saved.counters["choice"])
        candidates = told.pop("candidates")
        return Choice(dataclasses.replace(Arithmetic(**told), device=device.type), candidates), n_outputs
    if batch is None:
        precision = "fp32" if config.precision == "auto" else config.precision
        layout = "contiguous" if config.layout == "auto" else config.layout
        return Choice(Arithmetic(precision, layout, config.compile == "yes", False, device.type)), n_outputs
    n_samples = len(data.train) if isinstance(data, Data) else len(data[1])  # type: ignore[index]
    n_steps = -(-n_samples // (config.batch_size * config.accumulate)) * config.epochs
    return choose(model, *batch, task, config, device=device, n_steps=n_steps), n_outputs


@contextmanager
def _arranged(model: nn.Module, arithmetic: Arithmetic) -> Iterator[nn.Module]:
    """The model in the layout and order it is trained in; inside, its (compiled) face; its own order afterwards."""
    swapped = swap_relu_and_pool_(model) if arithmetic.swap_pool else []
    contiguous = all(p.is_contiguous() for p in model.parameters())
    try:
        yield arithmetic.model_(model)
    finally:
        unswap_(swapped)
        if contiguous:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _through(face: nn.Module, step: StepFunction) -> StepFunction:
    def stepping(_model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        return step(face, x, y, task)

    return stepping
