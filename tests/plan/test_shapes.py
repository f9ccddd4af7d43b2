"""The layers of points: what is made has them, whatever the settings promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests._networks import network, small_shape, zeros

from dimwise.measure import profile
from dimwise.models import MODELS
from dimwise.plan import shapes as room
from dimwise.plan.apply import Once, Subject, apply, network_of
from dimwise.plan.formulas import Fractions, formulas
from dimwise.plan.layer_costs import LatencyTable, LayerCost
from dimwise.plan.record import Line
from dimwise.plan.shapes import LayerShape, Shapes, layers_of
from dimwise.plan.space import CUTS, NUMBERS, STUDENTS, Point, space_of
from dimwise.runs.atomic import append

EPOCHS = {"distill": 9, "prune": 3, "separable": 9, "lowrank": 3}
SPACE = space_of(NUMBERS[1:], {}, EPOCHS, network_folds=tuple(EPOCHS))


def point(student: str = "", cut: str = "", numbers: int = 0) -> dict[str, int]:
    return {"student": STUDENTS.index(student), "cut": CUTS.index(cut), "numbers": numbers}


def shapes(trained: Any, folder: Path, **told: Any) -> Shapes:
    return Shapes(SPACE, trained.subject, trained.evidence, Once(), folder, **{"limit_s": 60.0, **told})


@pytest.mark.parametrize("name", list(MODELS))
def test_layers_add_up_to_the_profile(name: str) -> None:
    made, example = network(name, small_shape(name), 4, width=0.5).eval(), zeros(name, 1, *small_shape(name))
    found, told = layers_of(made, example), profile(made, example)
    assert sum(layer.macs for layer in found) == told.macs
    assert sum(layer.params for layer in found) == told.params
    assert all(layer.n_in >= 1 and layer.work(16) >= layer.macs for layer in found)


@pytest.mark.parametrize(
    "asked",
    [
        point("distill(scale=0.375)"),
        point(cut="prune(macs=0.5)"),
        point("distill(scale=0.5)", "prune(macs=0.75)", numbers=1),
        point("distill(scale=0.75)", "prune(macs=0.5, allocation=latency)"),
    ],
)
def test_a_shape_is_that_of_what_is_made(asked: Point, trained: Any, tmp_path: Path) -> None:
    found = shapes(trained, tmp_path).know(asked)
    made = apply(SPACE.steps(asked), trained.subject, trained.evidence, trained=False)
    assert found is not None
    assert (sum(r.params for r in found), sum(r.macs for r in found)) == (made.params, made.macs)


def test_a_shape_is_built_once_and_known_to_the_next_sitting(trained: Any, tmp_path: Path, monkeypatch: Any) -> None:
    first = shapes(trained, tmp_path)
    half, gone = point("distill(scale=0.5)"), point("separable")
    known = first(half)
    assert known is not None
    assert first(gone) is None, "there is no convolution"
    append(tmp_path / room.FILE, '{"network": "distill", "layers": [[1]]}\n{broken\n[]\n')
    monkeypatch.setattr(room, "network_of", lambda *_: pytest.fail("it was built before"))
    assert first(half) == known
    again = shapes(trained, tmp_path)
    assert again(half) == known
    assert again(gone) is None


def test_what_no_time_is_left_for_is_not_known_until_it_is_made_anyway(trained: Any, tmp_path: Path) -> None:
    found = shapes(trained, tmp_path, limit_s=-1.0)
    half = point("distill(scale=0.5)")
    assert found(half) is None
    assert found.know(half) is not None
    assert found.spent_s == 0.0, "it is made anyway"
    longer = replace(SPACE, epochs={name: 2 * n for name, n in EPOCHS.items()})
    again = Shapes(longer, trained.subject, trained.evidence, Once(), tmp_path, -1.0)
    assert again(half) == found(half), "however long it trains"
    assert found(half) == found.know(half)


def test_a_cut_that_times_layers_is_stood_for_by_one_that_does_not(
    trained: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    found, made = shapes(trained, tmp_path), []

    def noted(steps: Any, *more: Any) -> Any:
        made.append(steps[0].config.allocation)
        return network_of(steps, *more)

    monkeypatch.setattr(room, "network_of", noted)
    timed, plain = point(cut="prune(macs=0.5, allocation=latency)"), point(cut="prune(macs=0.5)")
    assert found(timed) == found(plain)
    assert made == ["uniform"]
    assert found.know(timed) == found(timed)
    assert made == ["uniform", "latency"]


def test_a_graph_without_its_network_has_no_shapes(trained: Any, tmp_path: Path) -> None:
    alone = Shapes(SPACE, Subject(None, proto=object()), trained.evidence, Once(), tmp_path, 60.0)
    assert alone(point()) is None
    assert alone.know(point("distill(scale=0.5)")) is None


@pytest.mark.parametrize("block", [1, 8, 16])
def test_measurements_tell_in_which_blocks_kernels_work(block: int) -> None:
    widths = {"": 64, "distill(scale=0.75)": 44, "distill(scale=0.5)": 36, "distill(scale=0.375)": 20}
    widths |= {"distill(scale=0.25)": 12, "distill(scale=0.1875)": 9, "distill(scale=0.125)": 5}

    def shape(asked: Point) -> tuple[LayerShape, ...]:
        n = widths[STUDENTS[asked["student"]]]
        return (LayerShape("stem", n, n, 1, n, n), LayerShape("body", n * n, n * n, n, n, n))

    table = LatencyTable((LayerCost("stem", "Conv", 64, 64, 1.0), LayerCost("body", "Conv", 4096, 4096, 9.0)))
    lines = [Line("", 0, "whole", measured={"score": 0.9, "latency_ms": 1.0, "size_bytes": 1.0})]
    fractions = Fractions(SPACE, shape, {"": table})
    truth = replace(fractions, block=block)
    for name in widths:
        if name:
            told = {"latency_ms": 0.1 + 0.9 * truth.time(point(name)), "size_bytes": 1.0}
            lines.append(Line(name, 0, "shape", point(name), measured=told))
    found = formulas(fractions, lines, 0.01)
    assert found.fractions.block == block
    assert found.latency_ms(point("distill(scale=0.375)")) == pytest.approx(lines[3].measured["latency_ms"])
    few = formulas(fractions, lines[:4], 0.01)
    assert few.fractions.block == 1
