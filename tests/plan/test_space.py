"""What a search may choose from: no choice twice, none that cannot be, and old lines on the rungs of this sitting."""

from __future__ import annotations

import threading
from dataclasses import replace

from torch import nn

from dimwise.fold import DistillConfig, QuantizeConfig
from dimwise.plan.apply import Subject
from dimwise.plan.pace import full_epochs, seconds_per_epoch
from dimwise.plan.space import NUMBERS, Space, space_of

POINT = {"student": 1, "cut": 0, "numbers": 0}


def space(time_s: float = 60.0, **base: object) -> Space:
    epochs = full_epochs(base, 60, time_s, 1.0)
    return space_of(NUMBERS[1:], base, epochs, network_folds=tuple(epochs))


def test_ways_that_the_settings_make_the_same_are_one():
    assert "quantize(static)" not in space().numbers
    told = space(quantize=QuantizeConfig(mode="dynamic")).numbers
    assert "quantize(dynamic)" not in told
    assert {"quantize", "quantize(static)", "quantize(weights)"} <= set(told)


def test_a_graph_has_no_student_that_keeps_part_of_it_by_its_settings_either():
    def students(**settings: object) -> tuple[str, ...]:
        base = {"distill": DistillConfig(**settings)}  # type: ignore[arg-type]
        return space_of((), base, {"distill": 9}, network_folds=("distill",), only_graph=True).students

    assert "distill(scale=0.5)" in students()
    assert not any("depth" in text for text in students())
    assert students(inherit=True) == students(hints="auto") == ("",)


def test_a_line_of_a_sitting_with_less_time_is_a_lower_rung_of_this_one():
    short, long = space(60.0), space(1200.0)
    top = max(short.rungs(POINT))
    passes = short.passes(f"distill(scale=0.5, epochs={short.n_epochs(POINT, top)})")
    assert passes == short.n_epochs(POINT, top)
    assert short.rung_of(POINT, passes) == top
    assert long.n_epochs(POINT, long.rung_of(POINT, passes)) <= passes < long.n_epochs(POINT, top)
    assert long.rung_of(POINT, 1) == 0
    least = space(1.0)
    assert least.rung_of(POINT, 0) == least.rungs(POINT)[0] > 0


def test_a_network_that_cannot_be_copied_has_a_pace_all_the_same(trained):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    network.lock = threading.Lock()  # type: ignore[assignment]
    assert seconds_per_epoch(Subject(network), trained.evidence) == 1.0
    assert seconds_per_epoch(Subject(None, proto="a graph"), trained.evidence) == 0.0
    assert seconds_per_epoch(replace(trained.subject, student=None), trained.evidence) > 0
