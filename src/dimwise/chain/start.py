"""What every run has: a folder that tells how it stands, a clock, a network from the seed, and a way to go on."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dimwise import measure, models
from dimwise import recipe as machinery
from dimwise.chain.recipe import Recipe, load
from dimwise.data import load as load_data
from dimwise.data.sets import Data
from dimwise.errors import ArtifactError, RunError, UserError, nearest
from dimwise.models.init import he_init_
from dimwise.progress import SILENT, Progress
from dimwise.runs import folder, metrics
from dimwise.runs.atomic import write_json, write_text
from dimwise.seeds import derive
from dimwise.train import Fitted, checkpoint


@dataclass
class Clock:
    """Wall seconds of each stage, kept in the run's ``clock.json``, so that those of a stopped run are counted too."""

    run_dir: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 3)
            with contextlib.suppress(RunError):  # a full disk is told by what has to be written
                write_json(self.run_dir / "clock.json", self.seconds)


def begin(recipe: Recipe, runs_dir: Path, model: str | None, verb: str) -> Path:
    """A new run folder with the resolved recipe and the environment inside.

    Args:
        recipe: what will be done.
        runs_dir: where the folder is made.
        model: the user's own builder, or None.
        verb: the command that the run belongs to, "run" or "train": the one that can continue it.
    """
    run_dir = folder.create(runs_dir, recipe.name)
    write_text(run_dir / "recipe.toml", machinery.to_toml(recipe))
    environment = measure.environment() | {"command": verb}
    if model is not None:
        environment["model"] = model  # a recipe may not name code, but a resumed run must know that there was some
    write_json(run_dir / "environment.json", environment)
    return run_dir


def reopen(run_dir: Path, model: str | None, verb: str) -> tuple[Recipe, Clock]:
    """A run that was stopped, marked as running again: its recipe, and its clock with the time spent so far.

    Raises:
        RunError: when the folder is no run, or its network was the user's own and is not named again.
    """
    if not (run_dir / "recipe.toml").is_file():
        raise RunError(f"{run_dir} is not a run folder", expected="a recipe.toml inside", next_step="dimwise runs list")
    recipe = load(run_dir / "recipe.toml")
    own = read(run_dir / "environment.json").get("model")
    if own and model is None:
        raise RunError(
            f"the run trained the network {own!r}, which its recipe may not name",
            next_step=f"Say so again: dimwise {verb} --resume {run_dir.name} --model {own}",
        )
    folder.mark(run_dir, "running")
    seconds = {k: float(v) for k, v in read(run_dir / "clock.json").items() if isinstance(v, (int, float))}
    trained_s = max((float(r.get("t") or 0.0) for r in _records(run_dir)), default=0.0)
    if trained_s > seconds.get("train", 0.0):  # a kill leaves the clock no time to write
        seconds["train"] = round(trained_s, 3)
    return recipe, Clock(run_dir, seconds)


def whole(fitted: Fitted, run_dir: Path) -> Fitted:
    """A training in several sittings, told as one: all its seconds, and its speed when no step was left to take."""
    records = _records(run_dir)
    seconds = max((float(r.get("t") or 0.0) for r in records), default=fitted.seconds)
    speeds = [float(r["images_per_s"]) for r in records if r.get("images_per_s")]
    return replace(fitted, seconds=seconds, images_per_s=fitted.images_per_s or (speeds[-1] if speeds else 0.0))


@contextmanager
def recorded(run_dir: Path, *, new: bool) -> Iterator[None]:
    """However the body ends, the run folder says so.

    A new run that a user's mistake ends before anything was learnt leaves no folder: there is nothing to go back to.
    """
    try:
        yield
    except KeyboardInterrupt:
        folder.mark(run_dir, "interrupted")
        raise
    except BaseException as error:
        if new and isinstance(error, UserError) and not checkpoint.exists(run_dir / "checkpoints"):
            folder.discard(run_dir)
        else:
            folder.mark(run_dir, "failed")
        raise


def build(recipe: Recipe, data: Data, model: str | None) -> nn.Module:
    """The network, initialised from the run's seed alone."""
    torch.manual_seed(derive(recipe.train.seed, "init"))
    if model is not None:
        network = models.from_name(model, data.input_shape, data.n_outputs, vocabulary=data.vocabulary)
    else:
        told = recipe.model
        network = models.build(
            told.name,
            data.input_shape,
            data.n_outputs,
            width=told.width,
            dropout=told.dropout,
            vocabulary=data.vocabulary,
        )
        if recipe.train.init == "he":  # a user's own network may bring trained weights
            he_init_(network)
    return network


def trained(
    run: Path, model: str | None = None, *, data_dir: Path | None = None, progress: Progress = SILENT
) -> tuple[Recipe, Data, nn.Module]:
    """The network that a run trained, in evaluation mode, with its recipe and its data.

    Args:
        run: its folder.
        model: the user's own builder, for a run that trained one: what its files name is not called.
        data_dir: where data sets lie.
        progress: where progress is shown.

    Raises:
        RunError: when the run trained nothing yet, or its network was the user's own and is not named again.
    """
    own = read(run / "environment.json").get("model")
    if own and model is None:
        raise RunError(
            f"the run trained the network {own!r}, which its recipe may not name",
            next_step=f"Say so again: --model {own}",
        )
    if not checkpoint.exists(run / "checkpoints"):
        raise RunError(f"run '{run.name}' has no trained network", next_step=f"Train: dimwise run --resume {run.name}.")
    recipe = load(run / "recipe.toml")
    data = load_data(recipe.data, data_dir, progress=progress)
    network = build(recipe, data, model)
    checkpoint.load_weights(network, _kept(checkpoint.load(run / "checkpoints"), recipe))
    return recipe, data, network.eval()


def _kept(saved: checkpoint.Checkpoint, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights that the training ended with, see ``train.keep``."""
    if recipe.train.keep == "best":
        return saved.best
    average = {k.removeprefix("average/"): v for k, v in saved.state.items() if k.startswith("average/")}
    return average or saved.weights


def artifact_folder(run: Path, stage: str) -> Path:
    """Where a run keeps the artifact of a stage: a composition has brackets, which a folder's name has not.

    Example:
        >>> artifact_folder(Path("runs/a"), "prune(macs=0.5) quantize").name
        'prune-macs-0.5-quantize'
    """
    return run / "artifacts" / re.sub(r"[^\w.+-]+", "-", stage).strip("-")


def artifact_of(run: Path, stage: str) -> Path:
    """The folder of the artifact that a run keeps of a stage; ``chosen`` is the one it chose, or its latest search did.

    Raises:
        ArtifactError: when it keeps none of that stage.
    """
    if stage == "chosen":
        stage = str(read(run / "result.json").get("chosen") or stage)
        if stage == "chosen" and (found_by_search := _chosen_by_search(run)) is not None:
            return found_by_search
    place = artifact_folder(run, stage)
    found = sorted(p.name for p in (run / "artifacts").glob("*") if (p / "manifest.json").is_file())
    if place.name not in found:
        raise ArtifactError(
            f"run '{run.name}' keeps no artifact of the stage {stage!r}",
            expected="one of: " + ", ".join(found) if found else "a run that shipped something",
            next_step=nearest(stage, found) or "Only what was shipped is kept; name the run alone for its network.",
        )
    return place


def _chosen_by_search(run: Path) -> Path | None:
    """The artifact that the latest search on a run chose; None where none did."""
    answers = sorted((run / "plan").glob("*/answer.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    places = (answer.parent / "artifacts" / Path(str(read(answer).get("artifact") or "-")).name for answer in answers)
    return next((place for place in places if (place / "manifest.json").is_file()), None)


def read(path: Path) -> dict[str, Any]:
    """A JSON object; empty when it is not there or cannot be read."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _records(run_dir: Path) -> list[dict[str, Any]]:
    try:
        return metrics.read(run_dir / "metrics.jsonl")
    except OSError:
        return []
