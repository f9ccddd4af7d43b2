"""The main job: one recipe, from data to a shipped model, every step measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dimwise import measure, ship
from dimwise.chain import candidates as folding
from dimwise.chain import checked, facts, pictures, rates
from dimwise.chain.candidates import sizes_within
from dimwise.chain.recipe import Recipe
from dimwise.chain.start import Clock, artifact_folder, begin, build, read, recorded, reopen, whole
from dimwise.data import load as load_data
from dimwise.data.sets import Data
from dimwise.errors import DimwiseError, GateError, ModelError, RunError
from dimwise.plan import choose
from dimwise.plan.apply import Skipped
from dimwise.plan.budget import Target
from dimwise.plan.on_target import TRAINED, Candidate, latencies, measure_memory, outputs_of
from dimwise.progress import SILENT, Progress
from dimwise.runs import folder
from dimwise.runs.atomic import write_json
from dimwise.ship import Parity
from dimwise.ship.artifact import describe as describe_preprocessing
from dimwise.tasks import Task, get
from dimwise.train import Fitted, evaluate, evaluating, predict_outputs
from dimwise.train.feed import check, first_batch
from dimwise.train.optimizer import optimizer


@dataclass(frozen=True)
class Result:
    """What a run gives back; ``as_dict`` is the object that ``dimwise run --json`` prints."""

    run: Path
    told: dict[str, Any]
    failure: DimwiseError | None = None
    """The gate that did not hold, if one did not."""

    @property
    def exit_code(self) -> int:
        """0 when every gate held, else 1."""
        return 0 if self.failure is None else self.failure.exit_code

    def as_dict(self) -> dict[str, Any]:
        """The contract's object."""
        return self.told


def run(
    recipe: Recipe,
    *,
    data_dir: Path | None = None,
    runs_dir: Path = Path("runs"),
    model: str | None = None,
    progress: Progress = SILENT,
) -> Result:
    """Data, training, folds, choice, export, parity: everything is measured and kept in a run folder.

    Args:
        recipe: what to do; :func:`load` reads one.
        data_dir: where data sets are found.
        runs_dir: where the run folder is made.
        model: a builder ``package.module:function`` in place of the recipe's network.
        progress: where progress is shown.

    Returns:
        The result; its ``failure`` is set when the budget could not be met or parity did not hold.

    Raises:
        DimwiseError: for whatever the user can put right, and for a loss that is not finite.
    """
    run_dir = begin(recipe, runs_dir, model, "run")
    return _run(run_dir, recipe, Clock(run_dir), data_dir, model, progress, resume=False)


def complete(
    run_dir: Path, *, data_dir: Path | None = None, model: str | None = None, progress: Progress = SILENT
) -> Result:
    """Do the rest of a run that was stopped, wherever that was; its result is that of a run never stopped.

    Training goes on from its checkpoint, or is taken as it ended; what comes after it is done again from the start.

    Raises:
        RunError: when nothing is left to do, the folder is no run, or its network was the user's own and is not
            named again.
    """
    if read(run_dir / "result.json").get("stages"):
        raise RunError(
            f"run '{run_dir.name}' is finished",
            expected="one that was stopped",
            next_step=f"See dimwise runs show {run_dir.name}, or run its recipe anew: dimwise run {run_dir}.",
        )
    recipe, clock = reopen(run_dir, model, "run")
    return _run(run_dir, recipe, clock, data_dir, model, progress, resume=True)


def _run(
    run_dir: Path,
    recipe: Recipe,
    clock: Clock,
    data_dir: Path | None,
    model: str | None,
    progress: Progress,
    *,
    resume: bool,
) -> Result:
    with recorded(run_dir, new=not resume):
        with clock("data"):
            data = load_data(recipe.data, data_dir, progress=progress)
            task = get(data.task, label_smoothing=recipe.train.label_smoothing)
        with clock("train"):
            network = with_named_outputs(build(recipe, data, model), recipe, data, task)
            fitted, checks = checked.fit(network, data, task, recipe, run_dir=run_dir, progress=progress, resume=resume)
            fitted = whole(fitted, run_dir) if resume else fitted
            fitted.model.cpu()  # what follows is measured where it will be served
            subject, target = folding.subject_of(fitted.model, recipe, model), Target(threads=recipe.ship.threads)
        with clock("rates"):
            checks = rates.tried(recipe, data, task, fitted, checks, model=model, run_dir=run_dir, progress=progress)
        with clock("fold"), progress.stage("fold", len(recipe.fold.candidates) + 1) as bar:
            found: list[Candidate] = []
            skipped: dict[str, str] = {}
            evidence = folding.evidence_of(recipe, data, task, progress)
            for made in folding.make(subject, evidence, recipe, data, task, target, run_dir):
                bar.update(len(found) + len(skipped) + 1, made.name)
                if isinstance(made, Skipped):
                    skipped[made.name] = made.reason
                    progress.say(f"{made.name}: skipped. {made.reason}")
                else:
                    found.append(made)
        with clock("measure"), progress.stage("measure"):
            latency = latencies(found, data, target, fitted.model)[TRAINED]
            measure_memory(found, data, target)
            trained = trained_stage(fitted, latency, recipe, data, task)
            chosen: Candidate | None = None
            reasons: dict[str, str] = {}
            failure: DimwiseError | None = choose.nothing_to_serve(skipped)
            if found:
                chosen, reasons, failure = choose.choose(found, trained, recipe.budget)
        with clock("ship"), progress.stage("ship"):
            artifact, parity, unequal = deliver(chosen, recipe, data, task, run_dir) if chosen else (None, None, None)
            failure = unequal or failure
            outputs = {c.name: outputs_of(c.runner, data.test) for c in found}
            stages = [trained, *(facts.stage(c, outputs[c.name], data, task, recipe, reasons) for c in found)]
        with clock("pictures"):
            shown = outputs[chosen.name] if chosen else predict_outputs(fitted.model, data.test.inputs, data.normalise)
            pictures.save(run_dir, fitted.model, shown, data)
        kept = chosen.name if chosen else TRAINED
        told = facts.contract(run_dir, data, task, stages, kept, artifact, parity, clock.seconds)
        told |= facts.details(recipe, data, fitted, found, reasons, skipped, told, failure) | checks
        told["search"] = folding.counted(run_dir, recipe, target)
        write_json(run_dir / "result.json", told)
        folder.mark(run_dir, "failed" if failure else "finished")
    return Result(run_dir, told, failure)


def with_named_outputs(network: nn.Module, recipe: Recipe, data: Data, task: Task) -> nn.Module:
    """The network, once it is sure that it takes the data and that each of its outputs has a name to be shipped with.

    Raises:
        ModelError: when it does not, or has more outputs than the data has names.
    """
    batch = first_batch(data, recipe.train, torch.device("cpu"))
    assert batch is not None  # only a loader has none
    n_outputs = check(network, batch, data.train.targets, task)
    if n_outputs != data.n_outputs:
        raise ModelError(f"the network has {n_outputs} outputs", expected=f"{data.n_outputs}, as many as labels")
    return network


def trained_stage(fitted: Fitted, latency: measure.Latency, recipe: Recipe, data: Data, task: Task) -> dict[str, Any]:
    """The trained fp32 network in eager PyTorch: what every candidate is compared with."""
    model, example = fitted.model, data.normalise(data.test.inputs[:1])
    batch = data.normalise(data.train.inputs[: recipe.train.batch_size])
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.ship.threads)
    try:
        with evaluating(model):
            speed = measure.throughput(
                lambda n: _call(model, data.normalise(data.test.inputs[:n])), sizes_within(len(data.test))
            )
    finally:
        torch.set_num_threads(threads)
    valid_score = evaluate(model, data.valid, data.normalise, task)[1]
    return {
        "name": TRAINED,
        "score": evaluate(model, data.test, data.normalise, task)[1],
        "size_bytes": measure.state_size_bytes(model),
        "latency_ms": latency.p50_ms,
        "params": measure.n_params(model),
        "macs": _unless_it_fails(lambda: measure.profile(model, example).macs),
        "valid_score": valid_score,
        "latency_p95_ms": latency.p95_ms,
        "latency_iqr_ms": latency.iqr_ms,
        "latency_runs": latency.runs,
        "throughput_per_s": speed.items_per_s,
        "best_batch": speed.batch,
        "peak_memory_bytes": _unless_it_fails(lambda: measure.peak_memory(model, example)),
        "train_peak_memory_bytes": _unless_it_fails(
            lambda: measure.peak_memory(model, batch, train=True, optimizer=lambda copy: optimizer(copy, recipe.train))
        ),
        "runtime": "pytorch eager",
        "device": latency.device,
        "threads": recipe.ship.threads,
    }


def _unless_it_fails(measurement: Callable[[], int]) -> int | None:
    """A measurement that looks inside the network; one that cannot be looked into is no reason to lose a run."""
    try:
        return measurement()
    except Exception:  # noqa: BLE001  (a user's network may raise anything when it is copied or watched)
        return None


def _call(model: nn.Module, x: torch.Tensor) -> Any:
    return lambda: model(x)


def deliver(
    chosen: Candidate, recipe: Recipe, data: Data, task: Task, run_dir: Path
) -> tuple[Path, Parity, GateError | None]:
    """Write the artifact of the chosen candidate and prove, on the runtime and the test split, what it computes."""
    place = artifact_folder(run_dir, chosen.name)
    artifact = ship.save(
        chosen.proto,
        place,
        labels=data.labels,
        reading=data.reading,
        task=data.task,
        name=f"{recipe.name}-{chosen.name}",
        preprocessing=describe_preprocessing(data.normalise),
        source={"recipe": recipe.name, "run": run_dir.name, "stage": chosen.name},
    )
    assert chosen.model is not None  # the chain's candidates are made from its network
    parity = ship.parity(
        ship.torch_reference(chosen.model, data.normalise),
        ship.session(artifact.model_path, threads=recipe.ship.threads),
        data.test,
        task,
        batches=recipe.ship.batches,
        tolerance=recipe.ship.parity_tolerance if chosen.exact else recipe.ship.parity_int8_tolerance,
        max_score_drop=recipe.ship.parity_max_score_drop,
    )
    try:
        ship.gate(artifact, parity)
    except GateError as failure:
        return place, parity, failure
    return place, parity, None
