"""Replay a composition of folds on a trained network, or on its graph, into a candidate that can be served.

The network's folds come first, then the export, then the graph's folds. Beginnings that compositions share are
folded once. The trained network is never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

from torch import nn

from dimwise import fold, measure, ship
from dimwise.errors import DimwiseError, ModelError, UserError, a_kind, first_line
from dimwise.fold import EITHER_FOLDS, GRAPH_FOLDS, DistillConfig, Evidence, FoldReport, _onnx
from dimwise.fold._steps import Step, write
from dimwise.fold.distill import keeps_part, make_student
from dimwise.plan.budget import Target
from dimwise.plan.on_target import Candidate, score_of, serving_clock
from dimwise.ship.runtimes import NETWORK_RUNTIMES

T = TypeVar("T")

ORIGINAL = "onnx"
"""Name of the candidate that is the trained network, unfolded, on the serving runtime."""


@dataclass(frozen=True)
class Subject:
    """What is folded: a trained network, or only the graph that was made from one."""

    network: nn.Module | None
    """In evaluation mode, from normalised inputs to scores; None when only its graph is there."""
    proto: Any = None
    """onnx.ModelProto from raw inputs to scores, when there is no network."""
    student: Callable[[DistillConfig, Evidence], nn.Module] | None = None
    """Builds the untrained student of a distillation without looking at ``network``; None: it is traced from it, or,
    where there is only a graph, must be named in the distillation."""
    opset: int = 18
    """ONNX operator set of exported graphs."""


@dataclass(frozen=True)
class Skipped:
    """A candidate that cannot be made from this network, and why."""

    name: str
    reason: str


class Once:
    """Work done once, whatever came of it: a fold may be a whole training, and fails the second time as it did.

    Args:
        most: results that are kept, the latest used; a search makes hundreds of networks.
    """

    def __init__(self, most: int = 64) -> None:
        self._made: dict[Any, Any] = {}
        self._most = most

    def __call__(self, key: Any, work: Callable[[], Any]) -> Any:
        if key in self._made:
            self._made[key] = self._made.pop(key)  # to the end: used last
        else:
            try:
                self._made[key] = work()
            except Exception as error:  # noqa: BLE001  (raised again below)
                self._made[key] = error
            while len(self._made) > self._most:
                del self._made[next(iter(self._made))]
        if isinstance(self._made[key], Exception):
            raise self._made[key]
        return self._made[key]

    def __contains__(self, key: Any) -> bool:
        """Whether it was done, and what came of it is kept."""
        return key in self._made


def apply(
    steps: Sequence[Step],
    subject: Subject,
    evidence: Evidence,
    *,
    target: Target | None = None,
    once: Once | None = None,
    name: str = "",
    trained: bool = True,
) -> Candidate:
    """Do the steps, one after the other, on the subject.

    Args:
        steps: what :func:`dimwise.fold._steps.parse` reads: folds of the network before those of the graph.
        subject: not changed.
        evidence: data, score and the training that folds start from; its seed rules what is random.
        target: the runtime whose score the graph's folds report; default: onnxruntime on one thread.
        once: shared beginnings are taken from here; default: nothing is shared.
        name: of the candidate; default: the steps as text, or ``onnx`` for none.
        trained: False leaves every training out: shape, size and latency are already those of the candidate, the
            score is not. A student keeps its first weights.

    Returns:
        The candidate, its graph not yet opened.

    Raises:
        ModelError: when the network cannot be exported or folded, or a step needs a network and there is only a graph.
        DimwiseError: whatever a fold has to say.

    Example:
        >>> from dimwise.fold._steps import parse
        >>> apply(parse("prune"), Subject(None, proto="a graph"), None)
        Traceback (most recent call last):
        ...
        dimwise.errors.ModelError: prune changes a network, and only its graph is here; expected steps ...
    """
    once, target = once or Once(), target or Target()
    if not trained:
        evidence = replace(evidence, score=lambda model: 1.0)  # nothing is looked at, and nothing seems lost
    on_network = tuple(step for step in steps if step.name not in GRAPH_FOLDS)
    on_graph = tuple(step for step in steps if step.name in GRAPH_FOLDS)
    if on_network and subject.network is None and not brings_its_own(on_network, subject):
        raise ModelError(
            f"{on_network[0].name} changes a network, and only its graph is here",
            expected="steps among: " + ", ".join(GRAPH_FOLDS) + "; or first a distillation into a network",
            next_step="Name the run that trained the network instead of its artifact, or a student: "
            "distill(student=NAME), with whatever follows.",
        )
    of_graphs = [step.name for step in on_graph if step.name not in EITHER_FOLDS]
    if of_graphs and target.runtime in NETWORK_RUNTIMES:
        raise ModelError(
            f"{of_graphs[0]} makes a graph that {target.runtime} does not run",
            expected="runtime=onnxruntime or runtime=openvino, or folds that take a network",
        )
    with_graph = target.runtime not in NETWORK_RUNTIMES
    if steps and with_graph and subject.network is not None and not brings_its_own(steps, subject):
        _must_export(subject, evidence, once)
    if any(_aims_at_latency(step) for step in on_network):
        original = subject.network if subject.network is not None else subject.proto
        clock = serving_clock(original, evidence.data, target, opset=subject.opset)
        evidence = replace(evidence, latency=clock)
    made = _exported(on_network, subject, evidence, once, trained, with_graph)
    for n in range(1, len(on_graph) + 1):
        key = ("graph", trained, evidence.seed, write(on_network), write(on_graph[:n]), target)
        before, step = made, on_graph[n - 1]
        made = once(key, partial(_fold_graph, step, before, evidence, target, trained, once))
    return replace(made, name=name or write(steps) or ORIGINAL)


def tried(make: Callable[[], T], name: str) -> T | Skipped:
    """What ``make`` gives; what fails costs its candidate only, whatever library raised it.

    Example:
        >>> tried(lambda: 1 / 0, "prune")
        Skipped(name='prune', reason='ZeroDivisionError: division by zero')
    """
    try:
        return make()
    except DimwiseError as error:
        return Skipped(name, str(error))
    except Exception as error:  # noqa: BLE001  (a fold stands on other libraries, and on the user's own code)
        return Skipped(name, first_line(error))


def untrained(step: Step) -> Step:
    """The step without its training, as far as its config has a word for it: the same shape at once.

    Example:
        >>> from dimwise.fold._steps import parse, write
        >>> write([untrained(step) for step in parse("prune(macs=0.3) quantize")])
        'prune(macs=0.3, importance="l1", epochs=0) quantize'
    """
    changes: dict[str, Any] = {}
    names = {field.name for field in fields(step.config)}
    if "epochs" in names and step.name != "distill":
        changes["epochs"] = 0
    if "importance" in names and step.name == "prune" and step.config.allocation == "uniform":
        changes["importance"] = "l1"  # widths are the same, and no gradients are needed
    return Step(step.name, replace(step.config, **changes))


def _aims_at_latency(step: Step) -> bool:
    """Whether a step has a target in milliseconds, which are those of the runtime that serves. An allocation by latency
    alone compares many layers: it stays with the eager network, as exporting each of them would take minutes."""
    return step.name == "prune" and (step.config.latency_ms > 0 or step.config.latency < 1)


def brings_its_own(steps: Sequence[Step], subject: Subject) -> bool:
    """Whether the network is replaced by one that is not made from it: then it need not be exportable."""
    return bool(steps) and steps[0].name == "distill" and bool(subject.student or steps[0].config.student)


def _must_export(subject: Subject, evidence: Evidence, once: Once) -> None:
    """Nobody shall train for minutes and then hear that this kind of network cannot be exported."""
    try:
        _exported((), subject, evidence, once, True, True)
    except Exception as error:
        raise ModelError(f"{ORIGINAL} cannot be made, and this is made from the same network") from error


def _network(
    steps: Sequence[Step], subject: Subject, evidence: Evidence, once: Once, trained: bool
) -> tuple[Any, list[FoldReport]]:
    """The network after these steps; each beginning is folded once. Before any it may be a graph, which can teach."""
    if not steps:
        return subject.network if subject.network is not None else subject.proto, []
    model, reports = _network(steps[:-1], subject, evidence, once, trained)
    folded, report = once(
        _network_key(steps, evidence.seed, trained), lambda: _fold_network(steps[-1], model, subject, evidence, trained)
    )
    return folded, [*reports, report]


def network_of(steps: Sequence[Step], subject: Subject, evidence: Evidence, once: Once) -> nn.Module:
    """The network after folds of networks, untrained: its shape is that of the candidate, at a fraction of the cost.

    Raises:
        DimwiseError: whatever a fold has to say.
    """
    looks = replace(evidence, score=lambda model: 1.0)  # nothing is looked at
    made: nn.Module = _network(tuple(steps), subject, looks, once, False)[0]
    return made


def _network_key(steps: Sequence[Step], seed: int, trained: bool) -> tuple[Any, ...]:
    return ("network", trained, seed, write(steps))


def not_made_yet(steps: Sequence[Step], seed: int, once: Once) -> tuple[Step, ...]:
    """The folds of the network, trained, that ``once`` has not done: those before them cost nothing any more.

    Example:
        >>> from dimwise.fold._steps import parse
        >>> [step.name for step in not_made_yet(parse("distill prune quantize"), 0, Once())]
        ['distill', 'prune']
    """
    on_network = tuple(step for step in steps if step.name not in GRAPH_FOLDS)
    lengths = range(len(on_network), 0, -1)
    made = next((n for n in lengths if _network_key(on_network[:n], seed, True) in once), 0)
    return on_network[made:]


def _fold_network(
    step: Step, model: Any, subject: Subject, evidence: Evidence, trained: bool
) -> tuple[nn.Module, FoldReport | None]:
    if step.name == "distill":
        own = subject.student is None or step.config.student or keeps_part(step.config)
        ready = None if own or subject.student is None else subject.student(step.config, evidence)
        if not trained:
            return (ready if ready is not None else make_student(model, step.config, evidence)).eval(), None
        return fold.distill(model, step.config, evidence, student=ready)
    if step.name == "qat" and not trained:
        return model, None  # trained or not, the same shape comes back
    step = step if trained else untrained(step)
    made, report = fold.get(step.name)(model, step.config, evidence)
    if not isinstance(made, nn.Module):
        raise UserError(f"{step.name} returned {a_kind(made)}", expected="a network")
    return made, report


def _exported(
    steps: Sequence[Step], subject: Subject, evidence: Evidence, once: Once, trained: bool, with_graph: bool
) -> Candidate:
    key = ("exported", trained, with_graph, evidence.seed, write(steps))
    return once(key, lambda: _export(steps, subject, evidence, once, trained, with_graph))


def _export(
    steps: Sequence[Step], subject: Subject, evidence: Evidence, once: Once, trained: bool, with_graph: bool
) -> Candidate:
    if subject.network is None and not steps:
        cost = _onnx.cost(subject.proto)
        return Candidate(ORIGINAL, subject.proto, int(cost["params"]), int(cost["macs"]), [], None)
    model, reports = _network(steps, subject, evidence, once, trained)
    data = evidence.data
    proto = ship.graph(model, data.normalise, data.train.inputs[:1], opset=subject.opset) if with_graph else None
    profile = measure.profile(model, evidence.example)
    told = [report for report in reports if report is not None]
    return Candidate(write(steps) or ORIGINAL, proto, profile.params, profile.macs, told, model)


def _fold_graph(
    step: Step, base: Candidate, evidence: Evidence, target: Target, trained: bool, once: Once
) -> Candidate:
    """One fold of an exported graph, scored by the serving runtime and costed by bytes; where PyTorch serves, the same
    fold of the network."""
    if target.runtime in NETWORK_RUNTIMES:
        network, report = fold.get(step.name)(base.model, step.config, evidence)
        return replace(base, model=network, reports=[*base.reports, report], exact=False)

    def score(proto: Any) -> float:  # many folds begin with the same graph
        key = ("score", evidence.seed, target, hashlib.sha256(proto.SerializeToString()).digest())
        found: float = once(key, lambda: score_of(proto, evidence.data.valid, evidence.task, target))
        return found

    def cost(proto: Any) -> dict[str, float]:
        return {"params": base.params, "macs": base.macs, "size_bytes": len(proto.SerializeToString())}

    looks = replace(evidence, score=score if trained else evidence.score, cost=cost)
    proto, report = fold.get(step.name)(base.proto, step.config, looks)
    return replace(base, proto=proto, reports=[*base.reports, report], exact=False)
