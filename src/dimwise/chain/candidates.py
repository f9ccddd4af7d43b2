"""The candidates that a recipe lists, made from the trained network one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dimwise import fold, models
from dimwise.chain.recipe import Recipe
from dimwise.data.sets import Data
from dimwise.errors import DimwiseError
from dimwise.fold import DistillConfig, Evidence
from dimwise.fold._steps import parse
from dimwise.models.init import he_init_
from dimwise.plan import record
from dimwise.plan.answer import finalists, reopened
from dimwise.plan.apply import ORIGINAL, Once, Skipped, Subject, apply, tried
from dimwise.plan.bench import Question
from dimwise.plan.budget import Target
from dimwise.plan.on_target import Candidate, opened
from dimwise.plan.search import search
from dimwise.progress import Progress
from dimwise.seeds import derive
from dimwise.tasks import Task

MOST_PLANNED = 3
"""Candidates that a search may add: its best, and two for the picture."""


def make(
    subject: Subject, evidence: Evidence, recipe: Recipe, data: Data, task: Task, target: Target, run_dir: Path
) -> Iterator[Candidate | Skipped]:
    """The unfolded network first, then each listed candidate, then what a search of ``fold.time_s`` seconds finds.

    Shared beginnings are folded once. Each is opened on the serving runtime: validation score and bytes. What cannot
    be folded, exported or opened costs its candidates, not the run, whatever library raised it.
    """
    once, base = Once(), settings(recipe)

    def candidate(text: str) -> Candidate:
        made = apply(parse(text, base), subject, evidence, target=target, once=once, name=text or ORIGINAL)
        return opened(made, data, task, target)

    known = []
    for text in ("", *recipe.fold.candidates):
        found = tried(partial(candidate, text), text or ORIGINAL)
        yield found
        if text and isinstance(found, Candidate):
            known.append(found)
    if recipe.fold.time_s:
        yield from searched(subject, evidence, recipe, target, run_dir, known)


def searched(
    subject: Subject, evidence: Evidence, recipe: Recipe, target: Target, run_dir: Path, known: Sequence[Candidate] = ()
) -> Iterator[Candidate | Skipped]:
    """The best of a search for the recipe's budget, beyond what is known; one that cannot be begun costs itself alone.

    Raises:
        KeyboardInterrupt: when it was stopped; its lines are kept, and a resumed run goes on from them.
    """
    question = Question(
        subject,
        evidence,
        recipe.budget,
        target,
        search_dir(run_dir, target),
        base=settings(recipe),
        time_s=recipe.fold.time_s,
        known=tuple(known),
    )
    try:
        found = search(question)
    except DimwiseError as error:
        yield Skipped("search", str(error))
        return
    if found.ended == "interrupted":
        raise KeyboardInterrupt
    new = [line for line in finalists(found) if line.steps not in recipe.fold.candidates]
    for line in new[:MOST_PLANNED]:
        made = reopened(found.bench, line, with_network=True)
        if made is not None:
            yield made


def search_dir(run_dir: Path, target: Target) -> Path:
    """Where a run keeps its search for a target."""
    return run_dir / "plan" / target.folder


def counted(run_dir: Path, recipe: Recipe, target: Target) -> dict[str, float]:
    """How long the search was allowed to be, how many compositions it looked at, and how many of them it made whole;
    nothing where none was asked for."""
    if not recipe.fold.time_s:
        return {}
    lines = [line for line in record.read(search_dir(run_dir, target)) if line.steps and line.state != "begun"]
    return {
        "time_s": recipe.fold.time_s,
        "looked_at": len({tuple(sorted(line.point.items())) or line.steps for line in lines}),
        "whole": len({line.steps for line in lines if line.state == "whole"}),
    }


def settings(recipe: Recipe) -> dict[str, object]:
    """Fold -> how the recipe does it: what a composition's settings start from."""
    return {f.name: getattr(recipe.fold, f.name) for f in fields(recipe.fold) if f.name in fold.FOLDS}


def subject_of(network: nn.Module | None, recipe: Recipe, model_name: str | None, *, proto: Any = None) -> Subject:
    """The trained network or its graph, and how a student is built: the recipe's own network, simply narrower."""
    student = partial(_narrower, recipe) if model_name is None else None
    return Subject(network, proto=proto, student=student, opset=recipe.ship.opset)


def evidence_of(recipe: Recipe, data: Data, task: Task, progress: Progress) -> Evidence:
    """What the folds of a run may look at."""
    return fold.evidence(data, task, train=recipe.train, augment=recipe.augment, progress=progress)


def _narrower(recipe: Recipe, told: DistillConfig, evidence: Evidence) -> nn.Module:
    """The recipe's own network, simply built narrower; its weights follow from the seed alone, whatever ran before."""
    model, data = recipe.model, evidence.data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(evidence.seed, "student"))
        student = models.build(
            model.name,
            data.input_shape,
            data.n_outputs,
            width=model.width * told.scale,
            dropout=model.dropout,
            vocabulary=data.vocabulary,
        )
        return he_init_(student) if recipe.train.init == "he" else student


def sizes_within(n: int) -> tuple[int, ...]:
    """Batch sizes at which throughput is tried, as far as the data reaches.

    Example:
        >>> sizes_within(100)
        (1, 8, 32)
    """
    return tuple(size for size in (1, 8, 32, 128, 512) if size <= max(1, n))
