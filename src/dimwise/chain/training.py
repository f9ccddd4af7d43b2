"""``dimwise train``: the first half of the chain, and going on where a run was stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimwise.chain.job import Clock, begin, build, recorded
from dimwise.chain.recipe import Recipe, load
from dimwise.data import load as load_data
from dimwise.errors import RunError
from dimwise.progress import SILENT, Progress
from dimwise.recipe import as_dict
from dimwise.runs import folder
from dimwise.runs.atomic import write_json
from dimwise.tasks import get
from dimwise.train import evaluate, fit


@dataclass(frozen=True)
class TrainResult:
    """What training alone gives back; ``as_dict`` is the object that ``dimwise train --json`` prints."""

    run: Path
    told: dict[str, Any]

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
    return _train(begin(recipe, runs_dir, model), recipe, data_dir, model, progress, resume=False)


def resume(
    run_dir: Path, *, data_dir: Path | None = None, model: str | None = None, progress: Progress = SILENT
) -> TrainResult:
    """Continue a run exactly: its weights end as if it had never been stopped.

    Raises:
        RunError: when the folder holds no checkpoint, or its network was the user's own and is not named again.
    """
    if not (run_dir / "recipe.toml").is_file():
        raise RunError(f"{run_dir} is not a run folder", expected="a recipe.toml inside", next_step="dimwise runs list")
    recipe = load(run_dir / "recipe.toml")
    own = _read(run_dir / "environment.json").get("model")
    if own and model is None:
        raise RunError(
            f"the run trained the network {own!r}, which its recipe may not name",
            next_step=f"Say so again: dimwise train --resume {run_dir.name} --model {own}",
        )
    folder.mark(run_dir, "running")
    return _train(run_dir, recipe, data_dir, model, progress, resume=True)


def _train(
    run_dir: Path, recipe: Recipe, data_dir: Path | None, model: str | None, progress: Progress, *, resume: bool
) -> TrainResult:
    clock = Clock()
    with recorded(run_dir):
        with clock("data"):
            data = load_data(recipe.data, data_dir, progress=progress)
            task = get(data.task, label_smoothing=recipe.train.label_smoothing)
        with clock("train"):
            fitted = fit(
                build(recipe, data, model),
                data,
                task,
                recipe.train,
                augment=recipe.augment,
                run_dir=run_dir,
                progress=progress,
                resume=resume,
            )
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
        before = _read(run_dir / "result.json")
        if before.get("stages"):  # what a whole run measured of these very weights stays
            folder.mark(run_dir, "failed" if before.get("failure") else "finished")
        else:
            write_json(run_dir / "result.json", told | more)
            folder.mark(run_dir, "finished")
    return TrainResult(run_dir, told)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty when it is not there or cannot be read."""
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told
