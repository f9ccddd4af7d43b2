"""What a run tells: the contract's object, the details behind it, and one sentence that sums it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from dimwise import measure
from dimwise.chain.candidates import sizes_within
from dimwise.chain.recipe import Recipe
from dimwise.data.sets import Data
from dimwise.errors import DimwiseError
from dimwise.plan.on_target import Candidate
from dimwise.recipe import as_dict
from dimwise.ship import Parity
from dimwise.tasks import Task
from dimwise.train import Fitted


def stage(
    candidate: Candidate, outputs: Tensor, data: Data, task: Task, recipe: Recipe, reasons: Mapping[str, str]
) -> dict[str, Any]:
    """The row of a candidate; its score is computed from ``outputs`` on the test split, after all choices."""
    assert candidate.latency is not None, "candidates are looked at before they are described"
    tests = data.test.inputs.cpu().numpy()

    def batch(n: int) -> Any:
        chunk = tests[:n]
        return lambda: candidate.runner.run(chunk)

    speed = measure.throughput(batch, sizes_within(len(data.test)))
    return {
        "name": candidate.name,
        "score": task.score(outputs, data.test.targets.cpu()),
        "size_bytes": candidate.size_bytes,
        "latency_ms": candidate.latency.p50_ms,
        "params": candidate.params,
        "macs": candidate.macs,
        "valid_score": candidate.valid_score,
        "latency_p95_ms": candidate.latency.p95_ms,
        "latency_iqr_ms": candidate.latency.iqr_ms,
        "latency_runs": candidate.latency.runs,
        "throughput_per_s": speed.items_per_s,
        "best_batch": speed.batch,
        "peak_memory_bytes": candidate.peak_memory_bytes,
        "runtime": "onnxruntime",
        "device": candidate.latency.device,
        "threads": recipe.ship.threads,
        "reason": reasons.get(candidate.name, ""),
    }


def contract(
    run_dir: Path,
    data: Data,
    task: Task,
    stages: Sequence[dict[str, Any]],
    chosen: str,
    artifact: Path | None,
    parity: Parity | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The object that scripts rely on; the score is that of the chosen stage.

    ``artifact`` and ``parity`` are None when nothing could be shipped and the trained network was kept.
    """
    score = next(s["score"] for s in stages if s["name"] == chosen)
    return {
        "run": str(run_dir),
        "score": {"name": task.score_name, "value": score, "n": len(data.test)},
        "stages": list(stages),
        "chosen": chosen,
        "artifact": None if artifact is None else str(artifact),
        "parity": None if parity is None else parity.as_dict(),
        "seconds": dict(seconds),
    }


def details(
    recipe: Recipe,
    data: Data,
    fitted: Fitted,
    found: Sequence[Candidate],
    reasons: Mapping[str, str],
    skipped: Mapping[str, str],
    told: Mapping[str, Any],
    failure: DimwiseError | None,
) -> dict[str, Any]:
    """What the report needs besides the contract."""
    environment = measure.environment()
    chosen = next(s for s in told["stages"] if s["name"] == told["chosen"])
    return {
        "recipe": recipe.name,
        "task": data.task,
        "score_name": told["score"]["name"],
        "labels": list(data.labels),
        "reasons": {**reasons, **skipped},
        "skipped": dict(skipped),
        "budget": as_dict(recipe.budget),
        "failure": str(failure) if failure else None,
        "summary": summary(told, failure),
        "measured": {
            "device": fitted.choice.arithmetic.device,
            **environment,
            "latency_runs": chosen["latency_runs"],
            "busy": measure.machine_is_busy(),
        },
        "folds": [{"stage": c.name, "steps": [asdict(r) for r in c.reports]} for c in found if c.reports],
        "precision": fitted.choice.as_dict(),
        "train": {"steps": fitted.steps, "seconds": fitted.seconds, "images_per_s": fitted.images_per_s},
        "data": {
            "name": data.name,
            "train": len(data.train),
            "valid": len(data.valid),
            "test": len(data.test),
            "classes": len(data.labels),
            "notes": list(data.notes),
        },
    }


def summary(told: Mapping[str, Any], failure: DimwiseError | None) -> str:
    """One sentence: what was chosen, and how it compares with the trained network.

    Example:
        >>> row = {"score": 0.9, "size_bytes": 100, "latency_ms": 1.0}
        >>> told = {"chosen": "b", "stages": [{"name": "a"} | row, {"name": "b"} | row | {"size_bytes": 25}]}
        >>> summary(told | {"score": {"name": "accuracy", "value": 0.9, "n": 10}}, None)
        'b: accuracy 0.9000 on 10 test samples, 4.0× smaller and 1.0× faster than the trained network, ...'
    """
    trained = told["stages"][0]
    chosen = next(s for s in told["stages"] if s["name"] == told["chosen"])
    name, lost = told["score"]["name"], trained["score"] - chosen["score"]
    amount = f"{100 * abs(lost):.2f} points" if name == "accuracy" else f"{abs(lost):.4f}"
    text = f"{chosen['name']}: {name} {chosen['score']:.4f} on {told['score']['n']} test samples"
    text += (
        "."
        if chosen is trained
        else (
            f", {trained['size_bytes'] / chosen['size_bytes']:.1f}× smaller and "
            f"{trained['latency_ms'] / chosen['latency_ms']:.1f}× faster than the trained network, "
            f"{amount} {'lost' if lost >= 0 else 'gained'}."
        )
    )
    return text if failure is None else f"{text} Failed: {failure.what}."
