"""Compositions replayed: what comes out, what is folded once, what fails and how it says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dimwise.errors import ModelError, UserError
from dimwise.fold._steps import Step, parse
from dimwise.measure import n_params
from dimwise.models import build
from dimwise.plan import apply as module
from dimwise.plan.apply import Once, Skipped, Subject, apply, tried
from dimwise.plan.budget import Target
from dimwise.plan.on_target import Candidate, latencies, measure_memory, opened, serving_clock, size_of


def test_a_composition_ends_as_its_folds_one_by_one(trained):
    from dimwise import fold, ship

    data, steps = trained.evidence.data, parse("prune(macs=0.6, epochs=0, importance=l1) quantize(weights)")
    made = apply(steps, trained.subject, trained.evidence)
    pruned, _ = fold.prune(trained.subject.network, steps[0].config, trained.evidence)
    graph = ship.graph(pruned, data.normalise, data.train.inputs[:1])
    by_hand, _ = fold.quantize(graph, steps[1].config, trained.evidence)
    assert made.proto.SerializeToString() == by_hand.SerializeToString()
    assert [report.fold for report in made.reports] == ["prune", "quantize"]
    assert made.name == 'prune(macs=0.6, importance="l1", epochs=0) quantize(weights)'
    assert not made.exact


def test_the_trained_network_is_not_changed(trained):
    before = {k: v.clone() for k, v in trained.subject.network.state_dict().items()}
    apply(parse("distill(epochs=1) quantize"), trained.subject, trained.evidence)
    assert all(torch.equal(v, before[k]) for k, v in trained.subject.network.state_dict().items())


def test_shared_beginnings_are_folded_once(trained, monkeypatch):
    folded, real = [], module._fold_network

    def counted(step: Step, *rest: Any) -> Any:
        folded.append(step.name)
        return real(step, *rest)

    monkeypatch.setattr(module, "_fold_network", counted)
    once = Once()
    for text in ("prune(epochs=0)", "prune(epochs=0) quantize", "prune(epochs=0) quantize(weights)"):
        apply(parse(text), trained.subject, trained.evidence, once=once)
    assert folded == ["prune"]


def test_what_failed_fails_again_without_being_done_again():
    once, calls = Once(), []

    def work() -> None:
        calls.append(1)
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            once("key", work)
    assert calls == [1]


def test_only_the_latest_results_are_kept():
    once = Once(most=2)
    for key in "abac":  # a was used last before c came
        once(key, key.upper)
    assert [once(key, lambda: "anew") for key in "ac"] == ["A", "C"]
    assert once("b", lambda: "anew") == "anew"


@pytest.mark.parametrize(
    "text", ["distill(scale=0.5, epochs=1)", "prune(macs=0.5, epochs=1)", "distill(epochs=1) quantize(repair=false)"]
)
def test_an_untrained_candidate_has_the_shape_and_size_of_the_trained_one(trained, text):
    """Repair looks at scores, which only a trained one has; what it may change is not known before."""
    shape = apply(parse(text), trained.subject, trained.evidence, trained=False)
    whole = apply(parse(text), trained.subject, trained.evidence)
    assert (shape.params, shape.macs) == (whole.params, whole.macs)
    assert abs(size_of(shape) / size_of(whole) - 1) < 0.05


def test_a_graph_alone_takes_the_graphs_folds_only(trained):
    graph = apply((), trained.subject, trained.evidence).proto
    alone = Subject(None, proto=graph)
    assert (
        apply(parse("quantize"), alone, trained.evidence).params == apply((), trained.subject, trained.evidence).params
    )
    with pytest.raises(ModelError, match="prune changes a network, and only its graph is here"):
        apply(parse("prune quantize"), alone, trained.evidence)


def test_a_graph_alone_teaches_a_student_that_is_named_or_built(trained):
    graph = apply((), trained.subject, trained.evidence).proto
    alone = Subject(None, proto=graph)
    named = apply(
        parse("distill(student=mlp, scale=0.25, epochs=1) prune(macs=0.5, epochs=0)"), alone, trained.evidence
    )
    assert [report.fold for report in named.reports] == ["distill", "prune"]
    assert named.reports[0].score_before == pytest.approx(trained.evidence.score(trained.subject.network))
    assert named.reports[1].cost_before == named.reports[0].cost_after
    with pytest.raises(ModelError, match="distill changes a network, and only its graph is here"):
        apply(parse("distill(scale=0.5)"), alone, trained.evidence)
    built = Subject(None, proto=graph, student=lambda told, looks: build("mlp", looks.data.input_shape, 10, width=0.25))
    shape = apply(parse("distill(scale=0.5)"), built, trained.evidence, trained=False)
    assert shape.params == sum(p.numel() for p in build("mlp", (1, 8, 8), 10, width=0.25).parameters())
    with pytest.raises(UserError, match="the teacher is an exported graph, which has no layers to make a smaller"):
        apply(parse("distill(depth=0.5)"), built, trained.evidence)


def test_pytorch_serves_the_network_and_no_folded_graph(trained):
    target, data, task = Target(runtime="pytorch"), trained.evidence.data, trained.evidence.task
    made = opened(apply((), trained.subject, trained.evidence, target=target), data, task, target)
    assert made.proto is None
    assert made.valid_score == trained.evidence.score(trained.subject.network)
    with pytest.raises(ModelError, match="share makes a graph that pytorch does not run"):
        apply(parse("quantize share"), trained.subject, trained.evidence, target=target)
    half = apply(parse("prune(epochs=0) cast(bf16, arithmetic=true)"), trained.subject, trained.evidence, target=target)
    assert half.model is not None
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert [report.fold for report in half.reports] == ["prune", "cast"]
    assert opened(half, data, task, target).size_bytes < made.size_bytes / 2


def test_a_candidate_is_measured_on_its_target(trained):
    data, task, target = trained.evidence.data, trained.evidence.task, Target(batch=3)
    made = opened(apply(parse("quantize"), trained.subject, trained.evidence), data, task, target)
    told = latencies([made], data, target, trained.subject.network, runs=5, budget_s=0.0)
    measure_memory([made], data, target)
    assert set(told) == {"quantize", "trained"}
    assert made.latency is told["quantize"]
    assert made.size_bytes == len(made.proto.SerializeToString())
    assert made.peak_memory_bytes > made.size_bytes


def test_what_cannot_be_made_costs_its_candidate_only(trained):
    def lost() -> Candidate:
        raise LookupError("no such\nthing")

    assert tried(lost, "prune") == Skipped("prune", "LookupError: no such")
    skipped = tried(lambda: apply(parse("prune(macs=0.0001)"), trained.subject, trained.evidence), "prune")
    assert isinstance(skipped, Skipped)
    assert "out of reach" in skipped.reason


def test_a_shape_after_qat_is_the_shape_without_it(trained):
    shapes = [
        apply(parse(text), trained.subject, trained.evidence, trained=False).proto.SerializeToString()
        for text in ("quantize", "qat quantize")
    ]
    assert len(shapes[0]) == len(shapes[1])


def test_a_graph_that_many_folds_begin_with_is_scored_once(trained, monkeypatch):
    scored = []

    def counting(proto: Any, *_: Any) -> float:
        scored.append(proto.SerializeToString())
        return 0.5

    monkeypatch.setattr(module, "score_of", counting)
    once = Once()
    for text in ("quantize", "quantize(weights)", "share(bits=4)"):
        apply(parse(text), trained.subject, trained.evidence, once=once)
    assert len(scored) == len(set(scored))
    assert len(scored) >= 4


def test_a_target_in_milliseconds_is_measured_where_it_serves_and_an_allocation_is_not(trained, monkeypatch):
    asked: list[Target] = []

    def by_parameters(original: nn.Module, data: Any, target: Target, **_: Any) -> Any:
        asked.append(target)
        return lambda network: 1e-3 * n_params(network)

    monkeypatch.setattr(module, "serving_clock", by_parameters)
    target = Target(runtime="openvino", threads=2)
    short = "epochs=0, importance=l1, round_to=1, min_channels=1"
    made = apply(parse(f"prune(latency=0.5, {short})"), trained.subject, trained.evidence, target=target)
    assert asked == [target]
    assert trained.subject.network is not None
    assert 0.35 < made.params / n_params(trained.subject.network) <= 0.5
    apply(parse(f"prune(macs=0.5, {short})"), trained.subject, trained.evidence, target=target)
    assert asked == [target]


@pytest.mark.parametrize("runtime", ["onnxruntime", "pytorch"])
def test_the_serving_clock_tells_a_wide_network_from_a_narrow_one(trained, runtime):
    data = trained.evidence.data
    wide, narrow = (build("mlp", data.input_shape, data.n_outputs, width=w).eval() for w in (16.0, 0.25))
    time_ms = serving_clock(wide, data, Target(runtime=runtime), budget_s=0.05)
    assert 0 < time_ms(narrow) < time_ms(wide)
