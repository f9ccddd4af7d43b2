"""Train a network: the visible loop around :func:`dimwise.train.loop.steps`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dimwise.data.augment import AugmentConfig
from dimwise.data.batches import Batches, LoaderBatches, TensorBatches
from dimwise.data.sets import Data, Split
from dimwise.errors import NonFiniteLoss, UserError
from dimwise.progress import SILENT, Progress
from dimwise.runs.metrics import Metrics
from dimwise.tasks import Task, get
from dimwise.train import checkpoint
from dimwise.train.config import TrainConfig
from dimwise.train.ema import WeightAverage
from dimwise.train.evaluate import evaluate
from dimwise.train.health import first_bad_module, gradient_norms
from dimwise.train.loop import Moving, Step, StepFunction, plain_step, steps, steps_per_epoch
from dimwise.train.optimizer import optimizer
from dimwise.train.precision import Arithmetic, Choice, choose, swap_relu_and_pool_, unswap_

_LOG_EVERY_S = 0.1  # a curve of ten points a second is smooth; more would only fill the disk
_WHOLE_BYTES = 2 << 30  # data up to this size is normalised once instead of batch by batch


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C between two steps; with a run folder it can be resumed."""


@dataclass(frozen=True)
class Fitted:
    """What training gives back."""

    model: nn.Module
    """The network with the weights that were kept, in evaluation mode."""
    history: list[dict[str, Any]]
    """One record per epoch, as in ``metrics.jsonl``."""
    steps: int
    """Optimizer steps taken in the whole run."""
    seconds: float
    """Wall time of this call, scoring and checkpoints included."""
    images_per_s: float
    """Training inputs per second of the steps alone."""
    choice: Choice
    """Precision and layout, and what the others took."""
    stopped_early: bool = False


@dataclass
class _Best:
    """What scored best on the validation split so far."""

    score: float = -float("inf")
    loss: float = float("inf")
    step: int = 0
    epoch: int = -1
    lowest_loss: float = float("inf")
    bad_epochs: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


def fit(
    model: nn.Module,
    data: Data | tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any],
    task: Task | str | None = None,
    config: TrainConfig | None = None,
    *,
    valid: Split | None = None,
    augment: AugmentConfig | None = None,
    run_dir: Path | None = None,
    step: StepFunction = plain_step,
    progress: Progress = SILENT,
    resume: bool = False,
) -> Fitted:
    """Train ``model`` in place and return it with the weights that were kept.

    Args:
        model: any ``nn.Module`` returning (B, K) outputs.
        data: dimwise data; or normalised tensors (inputs, targets); or a ``Dataset`` or ``DataLoader`` of pairs.
        task: what is learnt; default: what ``data`` says, else classification.
        config: every switch; default ``TrainConfig()``.
        valid: held-out split of normalised inputs, for data that does not bring its own.
        augment: what happens to training batches on their way.
        run_dir: where metrics and checkpoints go; None keeps everything in memory.
        step: the loss of one batch; what techniques such as distillation vary.
        progress: where progress is shown.
        resume: continue from the checkpoint in ``run_dir``, exactly.

    Raises:
        NonFiniteLoss: when the loss becomes NaN or infinite; names step, module and last checkpoint.
        Interrupted: on Ctrl-C, after the step at hand was finished and saved.

    Example:
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> fitted = fit(nn.Linear(4, 2), (x, (x[:, 0] > 0).long()), config=TrainConfig(epochs=20, lr=0.1))
        >>> evaluate(fitted.model, Split(x, (x[:, 0] > 0).long()), None, get("classification"))[1] > 0.9
        True
    """
    config = config or TrainConfig()
    named = task or (data.task if isinstance(data, Data) else "classification")
    task = get(named, label_smoothing=config.label_smoothing) if isinstance(named, str) else named
    saved = checkpoint.load(_checkpoints(run_dir)) if resume else None
    device = _device(config)
    model.to(device)
    with _threads(config.threads):
        choice = _arithmetic(model, data, task, config, device, saved)
        swapped = swap_relu_and_pool_(model) if choice.arithmetic.swap_pool else []
        try:
            face = choice.arithmetic.model_(model)
            batches, held_out, normalise = _sources(data, valid, augment, config, choice.arithmetic, device)
            moving = Moving(model, optimizer(model, config))
            moving.average = WeightAverage(model, config.ema) if config.ema else None
            if choice.arithmetic.precision == "fp16":
                moving.scaler = torch.amp.GradScaler(device.type)
            # The compiled face shares the weights; only forward and backward go through it.
            stepping = step if face is model else _through(face, step)
            job = _Job(moving, batches, held_out, normalise, task, config, choice, stepping, run_dir, progress)
            return job.run(saved)
        finally:
            unswap_(swapped)


@dataclass
class _Job:
    """The parts of one training run, so that its loop reads in one piece."""

    moving: Moving
    batches: Batches
    held_out: Split | None
    normalise: nn.Module | None
    task: Task
    config: TrainConfig
    choice: Choice
    step: StepFunction
    run_dir: Path | None
    progress: Progress
    history: list[dict[str, Any]] = field(default_factory=list)
    best: _Best = field(default_factory=_Best)

    def run(self, saved: checkpoint.Checkpoint | None) -> Fitted:
        """The loop: each step is logged, each epoch scored, what must survive is saved."""
        moving, config = self.moving, self.config
        per_epoch = steps_per_epoch(self.batches, config)
        metrics = Metrics(self.run_dir / "metrics.jsonl") if self.run_dir else None
        if saved is not None:
            self._restore(saved, metrics)
        started = epoch_started = saved_at = logged_at = time.monotonic()
        n_seen, loss_sum, n_epoch, step_seconds, stopped = 0, 0.0, 0, 0.0, self._out_of_patience()
        with (
            self.progress.stage("train", total=per_epoch * config.epochs) as bar,
            _closing(metrics),
            _ctrl_c() as interrupt,
        ):
            if self.run_dir and saved is None:
                self._save()  # from the first moment on there is something to come back to
            records = iter(()) if stopped else self._steps()
            for record in records:
                now = time.monotonic()
                if record.loss - record.loss != 0.0:
                    raise self._not_finite(record)
                n_seen += record.n_samples
                n_epoch += record.n_samples
                loss_sum += record.loss * record.n_samples
                if now - logged_at > _LOG_EVERY_S:
                    logged_at = now
                    speed = n_seen / max(1e-9, step_seconds + now - epoch_started)
                    bar.update(moving.step, f"loss {record.loss:.4f}  {self._last_score()}{speed:,.0f}/s")
                    if metrics:
                        metrics.write(_step_row(record, speed, now - started))
                if record.ends_epoch:
                    step_seconds += now - epoch_started
                    row = self._end_epoch(record, loss_sum / n_epoch)
                    row |= {"seconds": now - epoch_started, "t": time.monotonic() - started}
                    self.history.append(row)
                    if metrics:
                        metrics.write(row)
                    loss_sum, n_epoch = 0.0, 0
                    stopped = self._out_of_patience()
                    epoch_started = time.monotonic()
                due = now - saved_at >= config.checkpoint_every_s
                if self.run_dir and (due or interrupt.requested or stopped):
                    if metrics:
                        metrics.flush()
                    self._save()
                    saved_at = time.monotonic()
                if interrupt.requested:
                    raise Interrupted(f"stopped after step {moving.step}")
                if stopped:
                    break
            if self.run_dir:
                self._save()
        self._keep()
        seconds = time.monotonic() - started
        speed = n_seen / step_seconds if step_seconds else 0.0
        self.moving.model.eval()
        return Fitted(moving.model, self.history, moving.step, seconds, speed, self.choice, stopped)

    def _steps(self) -> Iterator[Step]:
        return steps(
            self.moving,
            self.batches,
            self.task,
            self.config,
            arithmetic=self.choice.arithmetic,
            step_function=self.step,
        )

    def _end_epoch(self, record: Step, train_loss: float) -> dict[str, Any]:
        """Score on the validation split when it is time, remember the best, describe the epoch."""
        row: dict[str, Any] = {
            "kind": "epoch",
            "epoch": record.epoch,
            "step": record.step,
            "train_loss": train_loss,
            "lr": record.lr,
            "grad_norms": gradient_norms(self.moving.model),
        }
        last = record.epoch + 1 == self.config.epochs
        if self.held_out is None or ((record.epoch + 1) % self.config.eval_every and not last):
            return row
        with self._averaged() as model:
            loss, score = evaluate(model, self.held_out, self.normalise, self.task)
            best = self.best
            if (score, -loss) > (best.score, -best.loss):
                best.score, best.loss, best.step, best.epoch = score, loss, self.moving.step, record.epoch
                best.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        best.bad_epochs = 0 if loss < best.lowest_loss else best.bad_epochs + 1
        best.lowest_loss = min(best.lowest_loss, loss)
        return row | {"valid_loss": loss, "valid_score": score}

    @contextmanager
    def _averaged(self) -> Iterator[nn.Module]:
        """The model with the averaged weights inside, with its own again afterwards."""
        model, average = self.moving.model, self.moving.average
        if average is None:
            yield model
            return
        own = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(average.state())
        try:
            yield model
        finally:
            model.load_state_dict(own)

    def _keep(self) -> None:
        """End with the weights the config asks for."""
        if self.config.keep == "best" and self.best.weights:
            checkpoint.load_weights(self.moving.model, self.best.weights)
        elif self.moving.average is not None:
            checkpoint.load_weights(self.moving.model, self.moving.average.state())

    def _out_of_patience(self) -> bool:
        return bool(self.config.patience) and self.best.bad_epochs >= self.config.patience

    def _last_score(self) -> str:
        row = self.history[-1] if self.history else {}
        return f"{self.task.score_name} {row['valid_score']:.4f}  " if "valid_score" in row else ""

    def _save(self) -> None:
        best = self.best
        # Before the first scoring, and without a validation split, the weights at hand are the best known.
        weights = best.weights or self.moving.model.state_dict()
        counters = {
            "best_step": best.step if best.weights else self.moving.step,
            "best": {k: v for k, v in vars(best).items() if k != "weights" and abs(v) != float("inf")},
            "has_best": bool(best.weights),
            "choice": {**vars(self.choice.arithmetic), "candidates": self.choice.candidates},
            "history": self.history,
        }
        checkpoint.save(_checkpoints(self.run_dir), self.moving, weights, counters)

    def _restore(self, saved: checkpoint.Checkpoint, metrics: Metrics | None) -> None:
        checkpoint.restore(self.moving, saved)
        for key, value in saved.counters["best"].items():
            setattr(self.best, key, value)
        if saved.counters["has_best"]:
            device = next(self.moving.model.parameters()).device
            self.best.weights = {k: v.to(device) for k, v in saved.best.items()}
        self.history.extend(saved.counters["history"])
        if metrics:
            metrics.write({"kind": "resume", "step": self.moving.step - 1})
            metrics.flush()

    def _not_finite(self, record: Step) -> NonFiniteLoss:
        module = first_bad_module(self.moving.model, record.x, self.choice.arithmetic)
        where = f" in epoch {record.epoch + 1}; the first module to make one is {module}"
        if self.run_dir is None:
            saved = "Lower train.lr, or set train.clip_norm=1."
        else:
            last = checkpoint.load(_checkpoints(self.run_dir)).step
            saved = (
                f"The last good checkpoint is checkpoints/last.safetensors of step {last}; "
                "lower train.lr, or set train.clip_norm=1."
            )
        return NonFiniteLoss(f"the loss is {record.loss} at step {record.step}{where}", next_step=saved)


def _checkpoints(run_dir: Path | None) -> Path:
    if run_dir is None:
        raise UserError("resume needs a run folder", next_step="Pass run_dir=...")
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _device(config: TrainConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is 'cuda' but this machine has none", next_step="Set train.device='auto'.")
    return torch.device(config.device)


@contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _arithmetic(
    model: nn.Module, data: Any, task: Task, config: TrainConfig, device: torch.device, saved: Any
) -> Choice:
    if saved is not None:  # the clock may decide differently today; the numbers must not
        told = dict(saved.counters["choice"])
        return Choice(candidates=told.pop("candidates"), arithmetic=Arithmetic(**told))
    first = _first_batch(data, config, device)
    if first is None:
        precision = "fp32" if config.precision == "auto" else config.precision
        layout = "contiguous" if config.layout == "auto" else config.layout
        return Choice(Arithmetic(precision, layout, config.compile == "yes", False, device.type))
    return choose(model, *first, task, config, device=device)


def _first_batch(data: Any, config: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor] | None:
    n = config.batch_size
    if isinstance(data, Data):
        return data.normalise(data.train.inputs[:n]).to(device), data.train.targets[:n].to(device)
    if isinstance(data, tuple):
        return data[0][:n].to(device), data[1][:n].to(device)
    return None  # reading from a loader would draw from its generator and warm its workers


def _sources(
    data: Any,
    valid: Split | None,
    augment: AugmentConfig | None,
    config: TrainConfig,
    arithmetic: Arithmetic,
    device: torch.device,
) -> tuple[Batches, Split | None, nn.Module | None]:
    """Training batches, the held-out split, and what normalises the latter."""
    if isinstance(data, (Dataset, DataLoader)):
        if augment is not None and augment != AugmentConfig():
            raise UserError(
                "augmentation is set but the data is a loader",
                expected="tensors or dimwise data",
                next_step="Augment inside the Dataset, or pass tensors.",
            )
        return LoaderBatches(data, config.batch_size, seed=config.seed, device=device), valid, None
    if isinstance(data, Data):
        inputs, targets, n_classes = data.normalise(data.train.inputs), data.train.targets, data.n_outputs
        held_out: Split | None = data.valid if len(data.valid) else None
        normalise: nn.Module | None = data.normalise
        if held_out is not None and held_out.inputs.numel() * 4 < _WHOLE_BYTES:
            held_out, normalise = Split(data.normalise(held_out.inputs), held_out.targets), None
    else:
        inputs, targets = data
        n_classes = 0 if targets.is_floating_point() else int(targets.max()) + 1
        held_out, normalise = valid, None
    batches = TensorBatches(
        arithmetic.inputs(inputs.to(device)),
        targets.to(device),
        config.batch_size,
        seed=config.seed,
        augmentation=augment,
        n_classes=n_classes,
    )
    return batches, held_out, normalise


def _through(face: nn.Module, step: StepFunction) -> StepFunction:
    def stepping(_model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        return step(face, x, y, task)

    return stepping


def _step_row(record: Step, speed: float, t: float) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": record.step,
        "epoch": record.epoch,
        "loss": record.loss,
        "lr": record.lr,
        "images_per_s": round(speed, 1),
        "t": round(t, 4),
    }


@contextmanager
def _closing(metrics: Metrics | None) -> Iterator[None]:
    try:
        yield
    finally:
        if metrics:
            metrics.close()


@dataclass
class _Interrupt:
    requested: bool = False


@contextmanager
def _ctrl_c() -> Iterator[_Interrupt]:
    """The first Ctrl-C asks for a stop between two steps; a second one stops at once."""
    interrupt = _Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals reach only the main thread
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
