"""How a search begins: its folder, the original measured, and the lines of earlier sittings."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dimwise.data.sets import Split
from dimwise.errors import ModelError
from dimwise.fold import Evidence, PruneConfig
from dimwise.fold._steps import Step
from dimwise.fold.prune import sensitivity
from dimwise.measure.machine import cores
from dimwise.plan import layer_costs, record
from dimwise.plan.apply import Once, Subject, apply, brings_its_own
from dimwise.plan.bench import BESIDE, Bench, Question, catch_up, has_memory, put
from dimwise.plan.budget import Target
from dimwise.plan.make import measured_now, put_table
from dimwise.plan.on_target import Candidate, batch_of, latencies, measure_memory, opened, told
from dimwise.plan.pace import full_epochs, seconds_per_epoch
from dimwise.plan.record import Line
from dimwise.plan.shapes import Shapes
from dimwise.plan.space import NUMBERS, ON_PYTORCH, ONLY_ON, space_of
from dimwise.recipe import as_dict
from dimwise.ship.runtimes import NETWORK_RUNTIMES
from dimwise.ship.runtimes.fresh import peak_memory_on
from dimwise.train import evaluate

SHAPES_FRAC = 0.05
"""Of the time of a search, for building networks whose layers are to be known before they are looked at."""
SENSITIVITY_FRAC = 0.05
"""Of the time of a search, for cutting layers alone."""
SENSITIVITY_ROWS = 1000
"""Of the validation split, at most: what layers lose differs by more than these can tell."""


def begin(question: Question, steps: Sequence[Step] = ()) -> Bench:
    """Open folder and subject; measure the subject itself. Lines of an earlier sitting are there again.

    Args:
        question: subject, evidence, budget, target and folder.
        steps: all that will be done, where that is known: a network that is only a teacher need not be exportable, and
            is then measured on PyTorch, see :func:`where_measured`.

    Raises:
        RunError: when the folder belongs to another search, or cannot be written.
        ModelError: when the subject cannot be served on the target at all, or a limit on memory cannot be judged.
    """
    subject, target, evidence = question.subject, question.target, question.evidence
    named = subject.network.state_dict().items() if subject.network is not None else ()
    weights = record.fingerprint(named) if named else record.fingerprint_of(subject.proto.SerializeToString())
    about = {
        "weights": weights,
        "data": _data(evidence),
        "settings": _settings(question),
        "runtime": target.runtime,
        "threads": target.threads,
        "batch": target.batch,
    }
    if target.threads > cores():
        evidence.progress.say(
            f"threads={target.threads} on {cores()} cores: they wait for each other, and latency grows"
        )
    once = Once()
    teaches = brings_its_own(steps, subject)
    original = _served(subject, evidence, target, once, teaches=teaches)
    beside = where_measured(original, target)
    original = opened(original, evidence.data, evidence.task, beside)
    epoch_s = seconds_per_epoch(subject, evidence)
    full = full_epochs(question.base, evidence.train.epochs, question.time_s, epoch_s)
    only_graph = subject.network is None
    network_folds = tuple(full) if not only_graph else ("distill",) if subject.student is not None else ()
    of_graphs = [text for text in NUMBERS[1:] if ONLY_ON.get(text, target.runtime) == target.runtime]
    numbers = ON_PYTORCH.get(target.runtime, of_graphs)
    space = space_of(numbers, question.base, full, network_folds=network_folds, only_graph=only_graph)
    about["choices"] = record.fingerprint_of(repr((space.students, space.cuts, space.numbers)).encode())
    record.begin(question.folder, about)
    searched = record.fingerprint_of(repr(about).encode())
    shapes = Shapes(space, subject, evidence, once, question.folder, SHAPES_FRAC * question.time_s)
    bench = Bench(question, space, original, searched, [], once, shapes, epoch_s)
    began = time.monotonic()
    latencies([original], evidence.data, beside)
    assert original.latency is not None
    bench.original_ms.append(original.latency.p50_ms)
    bench.layers = layer_costs.read(question.folder)
    put_table(bench, original, "")
    if question.budget.memory_bytes and target.runtime not in NETWORK_RUNTIMES:
        _memory_too(bench)
    catch_up(bench)
    if not any(not line.steps and line.state == "whole" for line in bench.lines):
        if question.budget.memory_bytes:
            measure_memory([original], evidence.data, beside)
            if original.peak_memory_bytes is None and not teaches:
                raise _no_memory(question)
        measured = {**told(original), BESIDE: original.latency.p50_ms}
        put(bench, Line("", evidence.seed, "whole", measured=measured, seconds=time.monotonic() - began))
    for made in map(replace, question.known):  # copies: whoever made them measures them in turns of their own
        if not any(line.steps == made.name and line.state == "whole" for line in bench.lines):
            put(bench, Line(made.name, evidence.seed, "whole", measured=measured_now(bench, made)))
    return bench


def layer_sensitivity(bench: Bench) -> None:
    """Measure what the score loses when layers are cut alone, once a search, in a small part of its time."""
    question, network = bench.question, bench.question.subject.network
    if network is None or bench.layers.sensitivity:
        return
    evidence, limit_s = question.evidence, SENSITIVITY_FRAC * question.time_s
    every = -(-len(evidence.data.valid) // SENSITIVITY_ROWS)
    some = Split(*(part[::every] for part in (evidence.data.valid.inputs, evidence.data.valid.targets)))

    def score(small: Any) -> float:
        return evaluate(small, some, evidence.data.normalise, evidence.task)[1]

    config = question.base.get("prune", PruneConfig())
    with evidence.progress.stage("sensitivity"), suppress(Exception):  # it tells, but decides nothing alone
        bench.layers.sensitivity = sensitivity(network, config, replace(evidence, score=score), limit_s=limit_s)
        layer_costs.write(question.folder, bench.layers)


def where_measured(original: Candidate, target: Target) -> Target:
    """The target, or the same on PyTorch for an original that only teaches and has no graph."""
    if original.proto is not None or target.runtime in NETWORK_RUNTIMES:
        return target
    return replace(target, runtime="pytorch")


def _no_memory(question: Question) -> ModelError:
    runtime = question.target.runtime
    return ModelError(
        f"memory<={question.budget.memory_bytes}B cannot be judged: the original's memory cannot be measured on "
        f"{runtime}",
        expected="a network that a fresh process can load there",
        next_step="Leave memory<= out of the budget, or name another runtime.",
    )


def _served(subject: Subject, evidence: Evidence, target: Target, once: Once, *, teaches: bool) -> Candidate:
    """The subject itself; of a network that cannot be exported, what can still be done is told."""
    try:
        return apply((), subject, evidence, target=target, once=once)
    except ModelError as error:
        if subject.network is None or target.runtime in NETWORK_RUNTIMES:
            raise
        if teaches:
            evidence.progress.say(f"the original is measured on pytorch, since {error.what}")
            return apply((), subject, evidence, target=replace(target, runtime="pytorch"), once=once)
        still = (
            f"Or search for PyTorch itself, without a graph: runtime={NETWORK_RUNTIMES[0]}, in the budget; or distill "
            "it into a network that can be exported: --apply 'distill(student=NAME)'."
        )
        raise ModelError(
            error.what, expected=error.expected, next_step=" ".join(filter(None, (error.next_step, still)))
        ) from error


def _data(evidence: Evidence) -> str:
    """A fingerprint of what is learnt from and judged on."""
    found = []
    for name in ("train", "valid"):
        split = getattr(evidence.data, name)
        found += [(name, split.targets), (f"some of {name}", split.inputs[:256])]
    return record.fingerprint(found)


def _settings(question: Question) -> str:
    """A fingerprint of what compositions start from and how networks are trained: lines do not say it again."""
    told = {name: as_dict(value) for name, value in sorted(question.base.items())}
    augment = question.evidence.augment
    how = [told, as_dict(question.evidence.train), None if augment is None else as_dict(augment)]
    return record.fingerprint_of(json.dumps(how, sort_keys=True, default=str).encode())


def _memory_too(bench: Bench) -> None:
    """Measure the memory of what earlier sittings kept, where this one asks for it."""
    question, bar = bench.question, bench.question.evidence.progress
    raw = batch_of(question.evidence.data, 1)[0].numpy()
    lines = {line.name: line for line in record.read(question.folder) if line.state == "whole"}
    for name, line in lines.items():
        graph = question.folder / "artifacts" / name / "model.onnx"
        if has_memory(line) or not graph.is_file():
            continue
        with bar.stage(f"memory of {line.steps}"):
            taken = peak_memory_on(graph, question.target.runtime, raw, threads=question.target.threads)
        if taken is not None:
            record.add(question.folder, replace(line, measured={**line.measured, "memory_bytes": float(taken)}))
