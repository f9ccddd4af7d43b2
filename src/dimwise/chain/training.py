"""``dimwise train``: the first half of the chain, and going on where a run was stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimwise.chain import checked, rates
from dimwise.chain.recipe import Recipe
from dimwise.chain.start import Clock, begin, build, read, recorded, reopen, whole
from dimwise.data import load as load_data
from dimwise.progress import SILENT, Progress
from dimwise.recipe import as_dict
from dimwise.runs import folder
from dimwise.runs.atomic import write_json
from dimwise.tasks import get
from dimwise.train import evaluate


@dataclass(frozen=True)
class TrainResult:
    """What training alone gives back; ``as_dict`` is the object that ``dimwise train --json`` prints."""

    run: Path
    told: dict[str, Any]
    checks: dict[str, Any] = field(default_factory=dict)
    """What the doctor found, as in ``result.json``; empty when nobody looked."""

    def as_dict(self) -> dict[str, Any]:
        """The contract's object."""
        return self.told


def train(
    recipe: Recipe,
    *,
    data_dir: Path | None = None,
    runs_dir: Path = Path("runs"),
    model: str | None = None,
    progress: Progress = SILENT,
) -> TrainResult:
    """Data and training into a new run folder; arguments as for :func:`dimwise.chain.job.run`."""
    run_dir = begin(recipe, runs_dir, model, "train")
    return _train(Clock(run_dir), recipe, data_dir, model, progress, resume=False)


def resume(
    run_dir: Path, *, data_dir: Path | None = None, model: str | None = None, progress: Progress = SILENT
) -> TrainResult:
    """Continue a run exactly: its weights end as if it had never been stopped.

    Raises:
        RunError: when the folder holds no checkpoint, or its network was the user's own and is not named again.
    """
    recipe, clock = reopen(run_dir, model, "train")
    return _train(clock, recipe, data_dir, model, progress, resume=True)


def _train(
    clock: Clock, recipe: Recipe, data_dir: Path | None, model: str | None, progress: Progress, *, resume: bool
) -> TrainResult:
    run_dir = clock.run_dir
    with recorded(run_dir, new=not resume):
        with clock("data"):
            data = load_data(recipe.data, data_dir, progress=progress)
            task = get(data.task, label_smoothing=recipe.train.label_smoothing)
        with clock("train"):
            network = build(recipe, data, model)
            fitted, checks = checked.fit(network, data, task, recipe, run_dir=run_dir, progress=progress, resume=resume)
        if resume:
            fitted = whole(fitted, run_dir)
        with clock("rates"):
            checks = rates.tried(recipe, data, task, fitted, checks, model=model, run_dir=run_dir, progress=progress)
        with clock("test"):
            score = evaluate(fitted.model, data.test, data.normalise, task)[1]
        told = {
            "run": str(run_dir),
            "score": {"name": task.score_name, "value": score, "n": len(data.test)},
            "seconds": clock.seconds,
            "steps": fitted.steps,
            "images_per_s": round(fitted.images_per_s, 1),
        }
        more = {
            "recipe": recipe.name,
            "task": data.task,
            "labels": list(data.labels),
            "precision": fitted.choice.as_dict(),
            "budget": as_dict(recipe.budget),
            "data": {"name": data.name, "train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
        }
        before = read(run_dir / "result.json")
        if before.get("stages"):  # what a whole run measured of these very weights stays
            folder.mark(run_dir, "failed" if before.get("failure") else "finished")
        else:
            write_json(run_dir / "result.json", told | more | checks)
            folder.mark(run_dir, "finished")
    return TrainResult(run_dir, told, checks)
