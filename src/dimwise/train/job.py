"""One training run: the loop that logs, scores, saves and stops, and what it must remember to be resumed exactly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dimwise.data.sets import Split
from dimwise.errors import NonFiniteLoss, RunError
from dimwise.progress import Bar, Progress
from dimwise.recipe import as_dict
from dimwise.runs.atomic import run_error
from dimwise.runs.metrics import Metrics
from dimwise.tasks import Task
from dimwise.train import checkpoint, guards, health
from dimwise.train.checkpoint import Checkpoint
from dimwise.train.config import TrainConfig
from dimwise.train.evaluate import evaluate
from dimwise.train.feed import Feed
from dimwise.train.loop import Moving, Step, StepFunction, seeder, step_seed, steps, steps_per_epoch
from dimwise.train.precision import Choice

_LOG_EVERY_S = 0.1  # a curve of ten points a second is smooth; more would only fill the disk

# What a resumed run may be told anew: where it runs, how long it goes on and what is kept, not what a step computes.
_FREE = {"epochs", "patience", "keep", "eval_every", "checkpoint_every_s", "threads", "device"}


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
    """Wall time of this call from the first step on, scoring and checkpoints included."""
    images_per_s: float
    """Training inputs per second of the steps alone, in this call; 0 when no step was left to take."""
    choice: Choice
    """Precision and layout, and what the others took."""
    stopped_early: bool = False


class RunFolder:
    """The folder of a run, as training sees it.

    Args:
        path: made when it is not there.
        resume: whether a training is expected inside.

    Raises:
        RunError: when it cannot be made, or holds a training that is not to be resumed.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise run_error(self.checkpoints, error) from error
        if not resume and checkpoint.exists(self.checkpoints):
            raise RunError(
                f"'{path}' already holds a training",
                expected="a new run folder",
                next_step="Pass resume=True to continue it, or name another folder.",
            )

    def saved(self, progress: Progress) -> Checkpoint | None:
        """The checkpoint to continue from; None when there is none yet."""
        if not checkpoint.exists(self.checkpoints):
            return None
        found = checkpoint.load(self.checkpoints)
        checkpoint.tidy(self.checkpoints, found)
        if found.skipped:
            progress.say(f"{', '.join(found.skipped)} is damaged: going on from the checkpoint of step {found.step}")
        return found


@dataclass
class _Best:
    """What scored best on the validation split so far; ``weights`` are saved apart from the rest."""

    score: float = -float("inf")
    loss: float = float("inf")
    step: int = 0
    epoch: int = -1
    lowest_loss: float = float("inf")
    lowest_epoch: int = -1
    bad_epochs: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class _Tally:
    """Sums on the way; saved, so that an epoch in two parts ends with those of a whole one."""

    loss_sum: float = 0.0
    n_samples: int = 0
    """Of the epoch at hand."""
    epoch_s: float = 0.0
    """Stepping in the epoch at hand, scoring and saving left out."""
    run_s: float = 0.0
    """The whole run until the last save."""


class _Clock:
    """Wall time, and within it the time spent stepping."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """From here on."""
        self.started = self.saved_at = self.logged_at = self._stepping_since = time.monotonic()
        self.stepped_s = 0.0

    def pause(self, now: float) -> float:
        """Stop counting the time as stepping; returns the seconds of stepping since :meth:`go_on`."""
        stretch_s = now - self._stepping_since
        self.stepped_s += stretch_s
        return stretch_s

    def go_on(self) -> None:
        """Count the time as stepping again."""
        self._stepping_since = time.monotonic()

    def stepping_s(self, now: float) -> float:
        """Seconds of stepping since the start."""
        return max(1e-9, self.stepped_s + now - self._stepping_since)

    def run_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


@dataclass
class Job:
    """The parts of one training run, so that its loop reads in one piece."""

    moving: Moving
    feed: Feed
    task: Task
    config: TrainConfig
    choice: Choice
    step: StepFunction
    folder: RunFolder | None
    progress: Progress
    history: list[dict[str, Any]] = field(default_factory=list)
    best: _Best = field(default_factory=_Best)
    tally: _Tally = field(default_factory=_Tally)
    clock: _Clock = field(default_factory=_Clock)
    saved_step: int = -1

    def run(self, saved: Checkpoint | None) -> Fitted:
        """The loop: each step is logged, each epoch scored, what must survive is saved."""
        moving, tally, clock = self.moving, self.tally, self.clock
        per_epoch = steps_per_epoch(self.feed.batches, self.config)
        save_every_s = self.config.checkpoint_every_s if self.folder else float("inf")
        if saved is not None:
            self._restore(saved)
        n_samples, stopped = 0, self._out_of_patience()
        with (
            self._logging(resumed=saved is not None) as metrics,
            self.progress.stage("train", total=per_epoch * self.config.epochs) as bar,
            guards.ctrl_c() as interrupt,
        ):
            clock.start()
            self._save(metrics)  # from the first moment on there is something to come back to
            before = self._weights_before_last(per_epoch)
            clock.go_on()
            for record in () if stopped else self._steps():
                now = time.monotonic()
                if record.loss - record.loss != 0.0:  # NaN or infinite
                    raise self._not_finite(record)
                n_samples += record.n_samples
                tally.n_samples += record.n_samples
                tally.loss_sum += record.loss * record.n_samples
                if now - clock.logged_at > _LOG_EVERY_S:
                    clock.logged_at = now
                    self._log(record, n_samples / clock.stepping_s(now), bar, metrics)
                due = now - clock.saved_at >= save_every_s
                if record.ends_epoch or due:
                    tally.epoch_s += clock.pause(now)
                    if record.ends_epoch:
                        self._end_epoch(record, before, metrics)
                        stopped = self._out_of_patience()
                    if due:
                        self._save(metrics)
                    clock.go_on()
                if interrupt.requested:
                    self._save(metrics)
                    raise Interrupted(f"stopped after step {moving.step}")
                if stopped:
                    break
                if (moving.step + 1) % per_epoch == 0:
                    before = self._weights_before_last(per_epoch)
            self._save(metrics)
        self._keep()
        speed = n_samples / clock.stepped_s if n_samples else 0.0
        return Fitted(moving.model, self.history, moving.step, clock.run_s(), speed, self.choice, stopped)

    def _steps(self) -> Iterator[Step]:
        arithmetic = self.choice.arithmetic
        return steps(
            self.moving, self.feed.batches, self.task, self.config, arithmetic=arithmetic, step_function=self.step
        )

    def _weights_before_last(self, per_epoch: int) -> dict[str, Tensor]:
        """The weights now, when the next step is the last of its epoch: what the update is compared with."""
        return health.matrices(self.moving.model) if (self.moving.step + 1) % per_epoch == 0 else {}

    @contextmanager
    def _logging(self, *, resumed: bool) -> Iterator[Metrics | None]:
        if self.folder is None:
            yield None
            return
        with Metrics(self.folder.path / "metrics.jsonl") as metrics:
            if resumed:
                metrics.write({"kind": "resume", "step": self.moving.step - 1})
                metrics.flush()
            yield metrics

    def _log(self, record: Step, speed: float, bar: Bar, metrics: Metrics | None) -> None:
        last = self.history[-1] if self.history else {}
        score = f"{self.task.score_name} {last['valid_score']:.4f}  " if "valid_score" in last else ""
        bar.update(self.moving.step, f"loss {record.loss:.4f}  {score}{speed:,.0f}/s")
        if metrics:
            metrics.write(
                {
                    "kind": "step",
                    "step": record.step,
                    "epoch": record.epoch,
                    "loss": record.loss,
                    "lr": record.lr,
                    "images_per_s": round(speed, 1),
                    "t": round(self.tally.run_s + self.clock.run_s(), 4),
                }
            )

    def _end_epoch(self, record: Step, before: dict[str, Tensor], metrics: Metrics | None) -> None:
        """Score on the validation split when it is time, and write the record of the epoch."""
        self._check_weights()
        tally, model = self.tally, self.moving.model
        row: dict[str, Any] = {
            "kind": "epoch",
            "epoch": record.epoch,
            "step": record.step,
            "train_loss": tally.loss_sum / tally.n_samples,
            "lr": record.lr,
            "grad_norms": health.gradient_norms(model),
            "update_ratios": health.update_ratios(model, before),
        }
        last = record.epoch + 1 == self.config.epochs
        if self.feed.held_out is not None and (last or (record.epoch + 1) % self.config.eval_every == 0):
            row["valid_loss"], row["valid_score"] = self._score(self.feed.held_out, record.epoch)
        row["images_per_s"] = round(tally.n_samples / tally.epoch_s, 1)  # an epoch may be too short to log a step
        row |= {"seconds": tally.epoch_s, "t": tally.run_s + self.clock.run_s()}
        tally.loss_sum, tally.n_samples, tally.epoch_s = 0.0, 0, 0.0
        self.history.append(row)
        if metrics:
            metrics.write(row)

    def _score(self, held_out: Split, epoch: int) -> tuple[float, float]:
        """Loss and score on the validation split; the best weights are remembered."""
        best = self.best
        with self._averaged() as model:
            loss, score = evaluate(model, held_out, self.feed.normalise, self.task)
            if (score, -loss) > (best.score, -best.loss):
                best.score, best.loss, best.step, best.epoch = score, loss, self.moving.step, epoch
                best.weights = _copy(model.state_dict())
        if loss < best.lowest_loss:
            best.lowest_loss, best.lowest_epoch = loss, epoch
        best.bad_epochs = epoch - best.lowest_epoch
        return loss, score

    @contextmanager
    def _averaged(self) -> Iterator[nn.Module]:
        """The model with the averaged weights inside, with its own again afterwards."""
        model, average = self.moving.model, self.moving.average
        if average is None:
            yield model
            return
        own = _copy(model.state_dict())
        model.load_state_dict(average.state())
        try:
            yield model
        finally:
            model.load_state_dict(own)

    def _out_of_patience(self) -> bool:
        return bool(self.config.patience) and self.best.bad_epochs >= self.config.patience

    def _keep(self) -> None:
        """End with the weights the config asks for, in evaluation mode."""
        model = self.moving.model
        if self.config.keep == "best" and self.best.weights:
            checkpoint.load_weights(model, self.best.weights)
        elif self.moving.average is not None:
            checkpoint.load_weights(model, self.moving.average.state())
        model.eval()

    def _save(self, metrics: Metrics | None) -> None:
        """Write a checkpoint of this step, once."""
        moving, best = self.moving, self.best
        if self.folder is None or self.saved_step == moving.step:
            return
        self._check_weights()
        if metrics:
            metrics.flush()  # first the records, then the checkpoint that lets a resumed run rely on them
        # Before the first scoring, and without a validation split, the weights at hand are the best known.
        at_hand = moving.average.state() if moving.average is not None else moving.model.state_dict()
        counters = {
            "config": as_dict(self.config),
            "n_batches": self.feed.batches.n_batches,
            "n_samples": self.feed.batches.n_samples,
            "best_step": best.step if best.weights else moving.step,
            "best": {k: v for k, v in vars(best).items() if k != "weights"},
            "has_best": bool(best.weights),
            "tally": asdict(self.tally) | {"run_s": self.tally.run_s + self.clock.run_s()},
            "choice": {**vars(self.choice.arithmetic), "candidates": self.choice.candidates},
            "history": self.history,
        }
        checkpoint.save(self.folder.checkpoints, moving, best.weights or at_hand, counters)
        self.saved_step = moving.step
        self.clock.saved_at = time.monotonic()

    def _restore(self, saved: Checkpoint) -> None:
        """Everything as it was at the checkpoint, once it is sure that it is the same training."""
        counters, now = saved.counters, as_dict(self.config)
        then = {k: v for k, v in counters["config"].items() if k not in _FREE}
        then |= {k: counters[k] for k in ("n_batches", "n_samples")}
        now |= {k: getattr(self.feed.batches, k) for k in ("n_batches", "n_samples")}
        for key, value in then.items():
            if now.get(key) != value:
                raise RunError(
                    f"the run was trained with {key} = {value!r} and is resumed with {now.get(key)!r}",
                    expected="the same data and settings",
                    next_step="Resume with those, or start a new run.",
                )
        checkpoint.restore(self.moving, saved)
        self.saved_step = saved.step
        for key, value in counters["best"].items():
            setattr(self.best, key, value)
        if counters["has_best"]:
            own = self.moving.model.state_dict()
            self.best.weights = {k: v.to(own[k].device) for k, v in saved.best.items()}
        for key, value in counters["tally"].items():
            setattr(self.tally, key, value)
        self.history.extend(counters["history"])

    def _check_weights(self) -> None:
        """A finite loss may have a gradient that is not; such weights are never scored, saved or handed back."""
        name = health.first_bad_parameter(self.moving.model)
        if name is not None:
            raise NonFiniteLoss(
                f"parameter '{name}' holds NaN or infinity after {self.moving.step} steps, though the loss was finite",
                next_step=self._way_out(),
            )

    def _not_finite(self, record: Step) -> NonFiniteLoss:
        model, device = self.moving.model, record.x.device
        seeder(device)(step_seed(self.config, record.step))  # dropout as in the step that failed
        module = health.first_bad_module(model, record.x, self.choice.arithmetic)
        return NonFiniteLoss(
            f"the loss is {record.loss} at step {record.step} in epoch {record.epoch + 1}; "
            f"the first module to make one is {module}",
            next_step=self._way_out(),
        )

    def _way_out(self) -> str:
        advice = "lower train.lr, or set train.clip_norm=1."
        if self.saved_step < 0:
            return advice.capitalize()
        return f"The last good checkpoint is checkpoints/last.safetensors of step {self.saved_step}; {advice}"


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items()}
