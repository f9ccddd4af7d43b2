"""What a planner may be asked to fold: a run, an artifact, or a network of the user's own; each with its data."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dimwise.chain.candidates import evidence_of, settings, subject_of
from dimwise.chain.job import with_named_outputs
from dimwise.chain.recipe import Recipe, load, recipes
from dimwise.chain.start import artifact_of, build, trained
from dimwise.data import Data
from dimwise.data import load as load_data
from dimwise.errors import ArtifactError, RunError, UserError
from dimwise.fold import Evidence
from dimwise.plan.apply import Subject
from dimwise.plan.record import fingerprint, fingerprint_of
from dimwise.progress import SILENT, Progress
from dimwise.recipe import as_dict
from dimwise.runs import folder
from dimwise.ship.manifest import MANIFEST, Artifact
from dimwise.ship.manifest import read as read_artifact
from dimwise.ship.network import is_network
from dimwise.tasks import get
from dimwise.train import checkpoint, evaluating, fit


@dataclass(frozen=True)
class Opened:
    """A subject with all that its folding needs."""

    name: str
    subject: Subject
    evidence: Evidence
    folder: Path
    """Where searches about it are kept, one folder a target."""
    settings: dict[str, Any]
    """Fold -> how its recipe does it."""


def open_subject(
    text: str,
    *,
    runs_dir: Path = Path("runs"),
    recipe: Recipe | None = None,
    data_dir: Path | None = None,
    model: str | None = None,
    train: bool = False,
    progress: Progress = SILENT,
) -> Opened:
    """What the user means: a run (path, name, id, ``last``), an artifact (its folder, RUN:STAGE, ``last:chosen``), or
    ``package.module:function``.

    Args:
        text: what was typed.
        runs_dir: where runs are kept.
        recipe: data and training, for what brings none of its own.
        data_dir: where data sets lie.
        model: the user's own builder, for a run that trained one.
        train: train a network of ``package.module:function`` first.
        progress: where progress is shown.

    Raises:
        UserError: when the text is nothing of these, or data is missing; the message says what can be given.
        DimwiseError: whatever stands in the way of opening it.
    """
    path, (key, _, stage) = Path(text), text.rpartition(":")
    if path.name == "model.onnx" and (path.parent / MANIFEST).is_file():
        path = path.parent
    function = re.fullmatch(r"[\w.]+:\w+", text)
    if key and not path.exists():
        with suppress(RunError):
            run = folder.find(runs_dir, key)
            try:
                path = artifact_of(run, stage)
            except ArtifactError:
                if not (function and len(key) < folder.ID_LENGTH):  # a short module may begin as some run's id does
                    raise
    if (path / MANIFEST).is_file():
        _without_training(train, f"'{text}' is an artifact")
        return from_artifact(path, recipe=recipe, data_dir=data_dir, model=model, runs_dir=runs_dir, progress=progress)
    if function and not path.exists():
        if model is not None:
            raise UserError(
                f"'{text}' is a network, and --model {model} names another",
                expected="one of them",
                next_step="Leave out --model, which is for runs that trained a network of your own.",
            )
        return from_function(text, recipe, data_dir=data_dir, train=train, runs_dir=runs_dir, progress=progress)
    if is_network(path):
        raise UserError(
            f"'{text}' holds a network of PyTorch alone, without the code and the data that folding needs",
            expected="a run (see: dimwise runs list), an artifact with its graph, or package.module:function",
            next_step="Fold what it was made from: its network.json names the steps.",
        )
    if path.suffix == ".onnx":
        what, expected, step = _no_artifact(path)
        raise UserError(what, expected=expected, next_step=step)
    try:
        run = folder.find(runs_dir, text)
    except RunError as error:
        raise UserError(
            f"'{text}' is no run, no artifact and no network",
            expected="a run (see: dimwise runs list), an artifact's folder, or package.module:function",
            next_step=error.next_step,
        ) from None
    _without_training(train, f"'{run.name}' is a run")
    if recipe is not None:
        raise UserError(
            f"'{run.name}' is a run, which brings its own recipe, and another one is named",
            expected="data and training as they were",
            next_step="Leave out --recipe and --set; other settings are another run.",
        )
    return from_run(run, data_dir=data_dir, model=model, progress=progress)


def _without_training(train: bool, what: str) -> None:
    if train:
        raise UserError(
            f"{what}, and --train is for what a function returns",
            expected="package.module:function",
            next_step="Leave out --train: it is trained.",
        )


def _no_artifact(path: Path) -> tuple[str, str, str]:
    """What is wrong with a graph that is in no artifact, what was expected, and what to do."""
    if not path.is_file():
        return f"there is no file '{path}'", "an artifact's folder, or its model.onnx", ""
    if not path.stat().st_size:
        return f"'{path}' is empty", "an artifact's folder, or its model.onnx", ""
    return (
        f"'{path}' has no {MANIFEST} beside it, so nothing says which inputs and labels it has",
        "an artifact's folder, as `dimwise run` and `dimwise fold` write them",
        "Fold the network that it was exported from: package.module:function, with --recipe NAME.",
    )


def from_run(run: Path, *, data_dir: Path | None, model: str | None, progress: Progress) -> Opened:
    """The network that a run trained, with its recipe and its data.

    Raises:
        RunError: when the run trained nothing yet, or its network was the user's own and is not named again.
    """
    recipe, data, network = trained(run, model, data_dir=data_dir, progress=progress)
    task = get(data.task, label_smoothing=recipe.train.label_smoothing)
    return Opened(
        run.name,
        subject_of(network, recipe, model),
        evidence_of(recipe, data, task, progress),
        run / "plan",
        settings(recipe),
    )


def from_artifact(
    path: Path,
    *,
    recipe: Recipe | None,
    data_dir: Path | None,
    model: str | None,
    runs_dir: Path,
    progress: Progress,
) -> Opened:
    """An artifact: the run that it lies in when there is one, else its graph alone.

    Raises:
        ArtifactError: when it cannot be read, or the recipe's data is not what it takes.
        UserError: without a recipe for its data.
    """
    artifact = read_artifact(path)
    run = path.resolve().parent.parent
    if recipe is None and (run / "recipe.toml").is_file() and checkpoint.exists(run / "checkpoints"):
        progress.say(f"'{path.name}' lies in run {run.name}: its trained network is folded")
        return from_run(run, data_dir=data_dir, model=model, progress=progress)
    if model is not None:
        raise UserError(
            f"'{path.name}' is a graph alone, for which --model {model} does nothing",
            next_step="Leave it out; or fold that network itself, with --recipe NAME.",
        )
    import onnx

    told = recipe or _recipe_of(artifact)
    data = load_data(told.data, data_dir, progress=progress)
    if data.input_shape != artifact.manifest.input_shape or data.labels != artifact.manifest.labels:
        raise ArtifactError(
            f"'{path.name}' takes {artifact.manifest.input_shape} and has {len(artifact.manifest.labels)} labels",
            expected=f"the data of the recipe: {data.input_shape} and {len(data.labels)} labels",
            next_step="Name the recipe that it was made with: --recipe NAME.",
        )
    students = f"narrower {told.model.name} students"
    progress.say(f"'{path.name}' is a graph without its network: it can be rounded and can teach {students}")
    task = get(data.task, label_smoothing=told.train.label_smoothing)
    return Opened(
        artifact.manifest.name,
        subject_of(None, told, None, proto=onnx.load(artifact.model_path)),
        evidence_of(told, data, task, progress),
        runs_dir / f"plan-{_slug(artifact.manifest.name)}",
        settings(told),
    )


def _recipe_of(artifact: Artifact) -> Recipe:
    name = str(artifact.manifest.source.get("recipe", ""))
    if name in recipes():
        return load(name)
    raise UserError(
        f"'{artifact.folder.name}' is a graph alone, and nothing can be calibrated or scored without data",
        expected="--recipe NAME, whose data it is judged on",
        next_step="Or name the run that made it.",
    )


def from_function(
    name: str, recipe: Recipe | None, *, data_dir: Path | None, train: bool, runs_dir: Path, progress: Progress
) -> Opened:
    """A network of the user's own, as the function returns it, or trained first.

    The training is kept beside the searches: stopped, the same words go on with it, and what is trained is not trained
    again. Another network, recipe or data is another training.

    Raises:
        UserError: without a recipe for its data.
        ModelError: when the function cannot be called, or its network does not fit the data.
    """
    if recipe is None:
        raise UserError(
            f"'{name}' brings no data",
            expected="--recipe NAME, whose data and training it is folded with",
            next_step="See: dimwise recipe list.",
        )
    data = load_data(recipe.data, data_dir, progress=progress)
    task = get(data.task, label_smoothing=recipe.train.label_smoothing)
    network = with_named_outputs(build(recipe, data, name), recipe, data, task)
    place = runs_dir / f"plan-{_slug(name)}"
    if train:
        kept = place / f"training-{_training(network, recipe, data)}"
        if checkpoint.exists(kept / "checkpoints"):
            progress.say(f"'{name}' goes on from {kept}; without that folder it is trained anew")
        network = fit(
            network, data, task, recipe.train, augment=recipe.augment, run_dir=kept, resume=True, progress=progress
        ).model.cpu()
    return Opened(
        name,
        subject_of(network.eval(), recipe, name),
        evidence_of(recipe, data, task, progress),
        place,
        settings(recipe),
    )


def _training(network: nn.Module, recipe: Recipe, data: Data) -> str:
    """A fingerprint of what a training begins with: weights, modules and answers of the network, recipe and data."""
    parts = (recipe.data, recipe.train, recipe.augment)
    told = [repr(network), *(json.dumps(as_dict(part), sort_keys=True, default=str) for part in parts)]
    x = data.normalise(data.train.inputs[:2])
    with torch.no_grad(), evaluating(network):
        answers = network(x).double().round(decimals=3)  # the same modules may be put together in another way
    tensors = (*network.state_dict().items(), ("targets", data.train.targets), ("answers", answers))
    return fingerprint_of("".join([*told, fingerprint(tensors)]).encode())


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "subject"
