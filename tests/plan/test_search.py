"""A whole search in a small space: what it leaves behind, how it goes on, when it ends, and what it answers."""

from __future__ import annotations

import copy
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from torch import Tensor, nn

from dimwise import ship
from dimwise.errors import MissingExtra, ModelError, ParityError, RunError, UserError
from dimwise.fold._steps import parse, write
from dimwise.measure import Latency
from dimwise.models import build
from dimwise.plan import answer as answering
from dimwise.plan import begin as begin_room
from dimwise.plan import bench as bench_room
from dimwise.plan import formulas, on_target, predict, promise, propose, record, search, shapes, space
from dimwise.plan import keep as keeping
from dimwise.plan import make as make_room
from dimwise.plan.answer import answer
from dimwise.plan.apply import Once, Subject, apply
from dimwise.plan.bench import Question
from dimwise.plan.budget import Budget, Target
from dimwise.plan.choose import excess
from dimwise.plan.on_target import Candidate
from dimwise.plan.search import Found
from dimwise.plan.space import key_of
from dimwise.plan.worth import frontier
from dimwise.progress import Progress
from dimwise.ship.runtimes import RUNTIMES


def counted(candidates: Sequence[Candidate], *_: Any, **__: Any) -> dict[str, Latency]:
    """Milliseconds by bytes instead of by the clock: which candidates are trained must not depend on a busy moment."""
    for candidate in candidates:
        ms = 1e-3 + 1e-7 * candidate.size_bytes
        candidate.latency = Latency(ms, ms, 0.01 * ms, runs=5, threads=1, device="cpu")
    return {candidate.name: candidate.latency for candidate in candidates if candidate.latency}


@pytest.fixture(scope="module", autouse=True)
def small_space():
    """Two widths, no pruning, int8 or not: six trainings at most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "STUDENTS", ("", "distill(scale=0.5)"))
        patch.setattr(space, "CUTS", ("",))
        patch.setattr(begin_room, "NUMBERS", ("", "quantize"))
        for room in (space, promise, bench_room, make_room, formulas, shapes, answering):
            patch.setattr(room, "RUNGS", (1 / 9, 1 / 3, 1.0))
        for room in (begin_room, make_room):
            patch.setattr(room, "latencies", counted)
        yield


def question(trained: Any, folder: Path, **changes: Any) -> Question:
    told: dict[str, Any] = {"budget": Budget(drop=1.0), "target": Target(), "time_s": 600.0} | changes
    return Question(trained.subject, trained.evidence, folder=folder, **told)


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory) -> Found:
    """Everything may be lost, so everything promises something until it is tried."""
    return search.search(question(trained, tmp_path_factory.mktemp("plan")))


def test_the_cheap_is_measured_before_anything_is_trained(found):
    states = [(line.state, bool(line.point) and found.bench.space.n_epochs(line.point, 2) > 0) for line in found.lines]
    trained_at = states.index(("whole", True))
    assert ("shape", True) in states[:trained_at]
    assert all(line.measured["latency_ms"] > 0 and line.measured["size_bytes"] > 0 for line in found.lines)
    assert all("score" not in line.measured for line in found.lines if line.state == "shape")


def test_every_line_can_be_made_again(found, trained):
    line = next(line for line in found.lines if line.state == "whole" and line.rung >= 0 and "distill" in line.steps)
    steps = parse(line.steps, found.bench.question.base)
    made = apply(steps, trained.subject, replace(trained.evidence, seed=line.seed))
    kept = ship.read(found.bench.question.folder / "artifacts" / line.name) if line in frontier(found.lines) else None
    assert made.params == line.measured["params"]
    if kept is not None:
        assert kept.model_path.read_bytes() == made.proto.SerializeToString()


def test_the_frontiers_artifacts_are_kept_and_proven(found):
    rows = [line for line in frontier(found.lines) if line.steps]
    assert rows
    for line in rows:
        artifact = ship.read(found.bench.question.folder / "artifacts" / line.name)
        assert artifact.manifest.status == "ok"
        assert artifact.manifest.source == {"steps": line.steps, "seed": line.seed}
        told = keeping.reports_of(artifact.folder)
        assert [report["fold"] for report in told] == [step.name for step in parse(line.steps)]
        assert all(report["layers"] for report in told)
    (artifact.folder / keeping.REPORTS).write_text("[broken")
    assert keeping.reports_of(artifact.folder) == []  # it costs nothing but itself


def test_it_ends_when_nothing_promises_more_and_goes_on_from_its_lines(found, trained, monkeypatch):
    assert found.ended == "exhausted"
    monkeypatch.setattr(make_room, "_make", lambda *_, **__: pytest.fail("nothing was left to make"))
    again = search.search(question(trained, found.bench.question.folder))
    assert again.ended == "exhausted"
    assert {line.steps for line in again.lines} == {line.steps for line in found.lines}


def test_the_answer_is_measured_afresh_and_plain(found):
    told = answer(found, price_per_hour=36.0).told
    assert json.loads(json.dumps(told)) == told
    assert told["verdict"] in ("fold", "keep")
    assert [row["chosen"] for row in told["frontier"]].count(True) == 1
    assert any(row["original"] for row in told["frontier"])
    assert all(row["memory_bytes"] > 0 and row["bit_operations"] > 0 for row in told["frontier"])
    money = told["money"]
    assert money["effort"] == pytest.approx(money["effort_s"] / 100)
    assert told["test"]["n"] == len(found.bench.question.evidence.data.test)
    assert Path(told["artifact"]).is_dir()
    assert [report["fold"] for report in told["folds"]] == [s.name for s in parse(told["chosen"]["steps"])]
    assert told["layers_on"] == "onnxruntime"
    assert sum(row["share"] for row in told["layers"]) == pytest.approx(1)
    assert sum(row["macs"] for row in told["layers"]) == found.bench.original.macs


def test_what_gains_on_one_runtime_alone_is_proposed_there_alone(trained, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    assert set(space.ONLY_ON) < set(space.NUMBERS)
    monkeypatch.setattr(begin_room, "NUMBERS", ("", "quantize", *space.ONLY_ON))
    for runtime in ("onnxruntime", "openvino"):
        numbers = begin_room.begin(question(trained, tmp_path / runtime, target=Target(runtime=runtime))).space.numbers
        assert ("cast(bf16, arithmetic=true)" in numbers) is (runtime == "openvino")


def test_more_threads_than_cores_are_told(trained, tmp_path):
    class Said(Progress):
        heard: ClassVar[list[str]] = []

        def say(self, line: str) -> None:
            self.heard.append(line)

    asked = question(trained, tmp_path, target=Target(threads=999))
    begin_room.begin(replace(asked, evidence=replace(asked.evidence, progress=Said())))
    assert sum("threads=999 on" in text for text in Said.heard) == 1


def test_pruning_without_training_is_tried_once_and_told_in_the_table_of_sensitivity(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(space, "CUTS", ("", "prune(macs=0.6)"))
    monkeypatch.setattr(propose, "ask", lambda *_: pytest.fail("sensitivity comes before proposals"))
    bench = begin_room.begin(question(trained, tmp_path))
    lines = list(make_room.untuned(bench))
    assert [(line.state, "epochs=0" in line.steps, line.point) for line in lines] == [("whole", True, {})]
    (row,) = answering.alone(bench.lines, bench)
    assert row["drop"] == bench.first().measured["score"] - lines[0].measured["score"]
    assert list(make_room.untuned(bench)) == []


def test_after_a_restart_candidates_come_from_their_artifacts(found):
    line = next(line for line in frontier(found.lines) if line.steps)
    bench = replace(found.bench, kept={})
    made = answering.reopened(bench, line)
    assert made is not None
    assert made.valid_score == line.measured["score"]


def test_an_impossible_limit_is_infeasible_before_anything_is_trained(trained, tmp_path):
    found = search.search(question(trained, tmp_path, budget=Budget(size_bytes=10)))
    assert found.ended == "infeasible"
    assert not any(
        line.state == "whole" and found.bench.space.n_epochs(line.point, 2) for line in found.lines if line.point
    )
    answered = answer(found)
    assert (answered.verdict, answered.exit_code) == ("infeasible", 1)
    assert "no shape that was tried is within the limits" in answered.text
    assert "bytes, allowed 10" in answered.text


def test_where_nothing_is_better_the_original_is_kept(found):
    first = found.bench.first()
    worse = {**first.measured, "score": 0.0, "latency_ms": 1e3, "size_bytes": 1e9}
    only = [first, replace(first, steps="worse", measured=worse)]
    answered = answer(replace(found, lines=only, bench=replace(found.bench, lines=only)))
    assert (answered.verdict, answered.exit_code) == ("keep", 0)
    assert answered.text.startswith("Not worth it: keep the original, because ")
    assert answered.told["money"]["break_even_requests"] is None


def test_ctrl_c_ends_it_with_what_was_found(trained, tmp_path, monkeypatch):
    real, calls = make_room._make, []

    def stop(*told: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*told, **more)

    monkeypatch.setattr(make_room, "_make", stop)
    found = search.search(question(trained, tmp_path))
    assert (found.ended, len(found.lines)) == ("interrupted", 3)
    assert len(record.read(tmp_path)) == 3


def test_a_graph_alone_is_searched_for_its_numbers(trained, tmp_path):
    graph = apply((), trained.subject, trained.evidence).proto
    told = Question(Subject(None, proto=graph), trained.evidence, Budget(drop=1.0), Target(), tmp_path, time_s=600)
    found = search.search(told)
    assert {line.steps for line in found.lines} == {"", "quantize"}


def test_a_graph_alone_teaches_the_students_that_keep_no_part_of_it(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(space, "STUDENTS", ("", "distill(scale=0.5)", "distill(depth=0.5, scale=1.0, inherit=true)"))
    graph = apply((), trained.subject, trained.evidence).proto

    def student(told: Any, looks: Any) -> Any:
        return build("mlp", looks.data.input_shape, looks.data.n_outputs, width=0.5 * told.scale)

    told = Question(Subject(None, proto=graph, student=student), trained.evidence, Budget(drop=1.0), Target(), tmp_path)
    bench = begin_room.begin(told)
    assert bench.space.students == ("", "distill(scale=0.5)")
    assert (bench.space.cuts, bench.epoch_s > 0) == (("",), True)
    line = make_room.train(bench, {"student": 1, "cut": 0, "numbers": 0}, 0)
    assert line.state == "whole", line.reason
    assert line.measured["size_bytes"] < bench.first().measured["size_bytes"]


def test_two_that_search_together_see_each_others_lines(found, trained, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    pytest.importorskip("sqlalchemy")
    study = propose.open_study(tmp_path, "shared", seed=0, storage=url)
    line = next(line for line in found.lines if line.point and line.state == "whole")
    propose.add(study, found.bench.space, line.point, (0.1, 1.0, 10.0), line)
    other = propose.open_study(tmp_path, "shared", seed=1, storage=url)
    assert propose.lines_of(other) == [line]
    propose.add(other, found.bench.space, line.point, None, replace(line, state="begun"))
    assert [told.state for told in propose.lines_of(study)] == ["whole", "begun"]


def test_what_another_process_is_at_is_left_to_it(found, trained, tmp_path):
    """A living process keeps what it began; one that died, or that is done, does not."""
    bench = begin_room.begin(question(trained, tmp_path))
    shape = next(line for line in found.lines if line.state == "shape" and line.point)
    record.add(tmp_path, shape)

    def at(rung: int, **changes: Any) -> record.Line:
        steps = write(bench.space.steps(shape.point, rung), bench.space.base)
        return replace(shape, steps=steps, rung=rung, **changes)

    begun = at(0, state="begun", process=os.getppid())
    states = {}
    for name, lines in (
        ("alone", []),
        ("at it", [begun]),
        ("done", [begun, at(0, state="whole")]),
        ("died", [at(1, state="begun", process=2**22 + 1)]),
        ("mine", [at(2, state="begun", process=os.getpid())]),
    ):
        for line in lines:
            record.add(tmp_path, line)
        bench_room.catch_up(bench)
        states[name] = (promise._next_rung(bench, shape.point), bench_room.others_at_it(bench))
        assert key_of(shape.point) in bench_room.known_points(bench)
    rungs = bench.space.rungs(shape.point)
    assert states["alone"] == (rungs[0], False)
    assert states["at it"] == (None, True)
    assert states["done"] == states["died"] == states["mine"] == (rungs[1], False)


def test_what_is_begun_elsewhere_counts_for_as_long_as_it_should_take():
    begun = record.Line("prune", 0, "begun", seconds=50.0, process=1, host="elsewhere")
    assert record.under_way(begun)
    for age_s, still in ((200, True), (300, False)):
        told = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - age_s))
        assert record.under_way(replace(begun, time=told)) == still
    assert not record.under_way(replace(begun, time="yesterday"))
    assert not record.under_way(replace(begun, state="whole"))


def test_a_search_waits_for_what_another_process_is_at(trained, tmp_path, monkeypatch):
    """The only thing left is being made elsewhere: the search ends when that is done, and knows it."""
    asked = question(trained, tmp_path)
    first = search.search(asked)
    line = next(line for line in first.lines if line.state == "whole" and line.point and line.rung >= 0)
    others = [other for other in first.lines if other != line]
    (tmp_path / record.FILE).unlink()
    (tmp_path / propose.JOURNAL).unlink()
    for other in (*others, replace(line, state="begun", process=os.getppid())):
        record.add(tmp_path, other)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        record.add(tmp_path, line)

    monkeypatch.setattr("dimwise.plan.search.time.sleep", wait)
    again = search.search(asked)
    assert waits
    assert line in again.lines
    assert all(told.state != "begun" for told in again.lines)


def test_a_storage_that_is_none_says_so(tmp_path):
    with pytest.raises(UserError, match=r"storage nonsense cannot be opened: .*; expected a URL such as sqlite"):
        propose.open_study(tmp_path, "x", seed=0, storage="nonsense")


@pytest.mark.parametrize(("n_refused", "opened"), [(0, True), (3, True), (4, False)])
def test_a_database_that_another_process_is_making_is_asked_again(tmp_path, monkeypatch, n_refused, opened):
    """Two processes that begin at once find no tables and both make them; the slower one is refused."""
    import optuna
    from sqlalchemy.exc import OperationalError

    real, left = optuna.create_study, [None] * n_refused
    waits: list[float] = []

    def create(**settings: Any) -> Any:
        if left:
            left.pop()
            raise OperationalError("CREATE TABLE studies", {}, Exception("table studies already exists"))
        return real(**settings)

    monkeypatch.setattr(optuna, "create_study", create)
    monkeypatch.setattr("dimwise.plan.propose.time.sleep", waits.append)
    where = f"sqlite:///{tmp_path}/search.db"
    if opened:
        assert propose.open_study(tmp_path, "x", seed=0, storage=where).study_name == "x"
    else:
        with pytest.raises(UserError, match=r"cannot be opened: OperationalError.*already exists"):
            propose.open_study(tmp_path, "x", seed=0, storage=where)
    assert len(waits) == min(n_refused, 3)


def test_without_optuna_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"the search among folds needs optuna.*pip install 'dimwise\[tune\]'"):
        propose.open_study(tmp_path, "x", seed=0)


def test_another_network_is_refused(trained, found, tmp_path):
    other = replace(trained.subject, network=copy.deepcopy(trained.subject.network))
    next(other.network.parameters()).data.add_(1)
    with pytest.raises(RunError, match="is a search about weights"):
        begin_room.begin(replace(found.bench.question, subject=other))


def test_while_nothing_meets_the_budget_no_prediction_ends_the_search(trained, tmp_path, monkeypatch):
    """Every shape within the limits is trained, however little is promised, before the answer is no."""
    monkeypatch.setattr(promise, "worth", lambda *_, **__: 0.0)
    monkeypatch.setattr(promise, "meets", lambda *_: False)
    asked = question(trained, tmp_path, budget=Budget(drop=0.0, size_bytes=15_000))
    found = search.search(asked)
    within = [line for line in found.lines if line.state == "shape" and line.measured["size_bytes"] <= 15_000]
    assert within
    tops = {line.steps for line in found.lines if line.state == "whole" and line.rung == len(space.RUNGS) - 1}
    assert {line.steps for line in within} <= tops
    assert found.ended == "exhausted"


def test_what_a_search_begins_with_is_measured_without_a_prediction(found):
    first = {key_of(point) for point in (*found.bench.space.smallest(), *found.bench.space.listed())}
    begun = [line for line in found.lines if line.point and line.state == "shape" and key_of(line.point) in first]
    assert begun
    assert not any(line.predicted for line in begun)
    trained_later = [line for line in found.lines if line.state == "whole" and line.rung >= 0 and line.predicted]
    assert trained_later
    rest = [line for line in found.lines if line.point and key_of(line.point) not in first and line.measured]
    assert answering.prediction_errors(found.lines)["n"] == len({key_of(line.point) for line in rest})


def test_lines_of_another_space_are_left_alone(trained, tmp_path):
    """The places in a point mean something else after the lists have changed."""
    first = begin_room.begin(question(trained, tmp_path))
    record.add(tmp_path, replace(first.lines[0], steps="prune", point={"width": 1, "macs": 0, "numbers": 0}))
    record.add(tmp_path, replace(first.lines[0], steps="share", point={"student": 0, "cut": 0, "numbers": 1}))
    again = begin_room.begin(question(trained, tmp_path))
    assert {line.steps for line in again.lines} == {"", "share"}


def test_what_is_known_is_not_made_again_but_must_be_beaten(trained, tmp_path):
    evidence = trained.evidence
    made = apply(parse("quantize"), trained.subject, evidence, name="my int8")
    made = on_target.opened(made, evidence.data, evidence.task, Target())
    asked = question(trained, tmp_path, known=(made,))
    (_, line) = begin_room.begin(asked).lines
    assert (line.steps, line.state, line.point) == ("my int8", "whole", {})
    assert line.measured["score"] == made.valid_score
    assert line.measured["latency_ms"] > 0
    assert made.latency is None
    assert [line.steps for line in begin_room.begin(asked).lines] == ["", "my int8"]
    assert "my int8" in {line.steps for line in frontier(begin_room.begin(asked).lines)}


def test_processes_that_share_a_storage_begin_in_different_orders(found):
    alone = search.first_points(found.bench.space, None)
    orders = [search.first_points(found.bench.space, random.Random(pid)) for pid in range(8)]
    assert len({tuple(map(key_of, order)) for order in orders}) > 1
    assert all(sorted(map(key_of, order)) == sorted(map(key_of, alone)) for order in orders)
    assert alone == [*found.bench.space.smallest(), *found.bench.space.listed()]


def test_lines_are_told_in_todays_milliseconds(trained, tmp_path, monkeypatch):
    """A first sitting on a busy machine, or another host, three times as slow: its lines are not three times worse."""
    slowness = [3.0]

    def slow(candidates: Sequence[Candidate], *_: Any, **__: Any) -> dict[str, Latency]:
        for candidate in candidates:
            ms = slowness[0] * (1e-3 + 1e-7 * candidate.size_bytes)
            candidate.latency = Latency(ms, ms, 0.01 * ms, runs=5, threads=1, device="cpu")
        return {candidate.name: candidate.latency for candidate in candidates if candidate.latency}

    for room in (begin_room, make_room):
        monkeypatch.setattr(room, "latencies", slow)
    busy = begin_room.begin(question(trained, tmp_path))
    point = {"student": 0, "cut": 0, "numbers": 1}
    there = make_room.look(busy, point)
    slowness[0] = 1.0
    quiet = begin_room.begin(question(trained, tmp_path))
    for line in quiet.lines:
        assert line.measured["latency_ms"] == pytest.approx(1e-3 + 1e-7 * line.measured["size_bytes"])
    raw = next(line for line in record.read(tmp_path) if line.point == point and line.measured)
    assert there is not None
    assert (
        raw.measured["latency_ms"]
        == there.measured["latency_ms"]
        == pytest.approx(3 * quiet.lines[1].measured["latency_ms"])
    )
    assert raw.measured["original_ms"] == busy.original_ms[-1]
    slowness[0] = 2.0  # it gets busy again within a sitting: soon all lines are told so
    for _ in range(bench_room.RECENT):
        make_room.measured_now(quiet, replace(quiet.original, name="again"))
    bench_room.catch_up(quiet)
    assert quiet.first().measured["latency_ms"] == pytest.approx(
        2 * (1e-3 + 1e-7 * quiet.first().measured["size_bytes"])
    )


@pytest.mark.parametrize("change", ["data", "settings"])
def test_another_sitting_with_other_data_or_settings_is_refused(trained, tmp_path, change):
    """Its scores and compositions would mean something else than those in the file."""
    asked = question(trained, tmp_path)
    begin_room.begin(asked)
    begin_room.begin(replace(asked, time_s=1.0, budget=Budget(drop=0.1)))
    evidence = asked.evidence
    if change == "data":
        valid = replace(evidence.data.valid, targets=evidence.data.valid.targets.flip(0))
        evidence = replace(evidence, data=replace(evidence.data, valid=valid))
    else:
        evidence = replace(evidence, train=replace(evidence.train, epochs=3))
    with pytest.raises(RunError, match=f"is a search about {change} "):
        begin_room.begin(replace(asked, evidence=evidence))


def test_what_meets_a_limit_on_memory_is_a_finalist_though_others_beat_it_elsewhere(found):
    first = found.bench.first()
    big = replace(
        first, steps="big", measured={**first.measured, "memory_bytes": 25e6, "latency_ms": 1e-6, "size_bytes": 1.0}
    )
    faster = 0.9 * first.measured["latency_ms"]
    small = replace(first, steps="small", measured={**first.measured, "memory_bytes": 15e6, "latency_ms": faster})
    lines = [first, big, small]
    asked = replace(found.bench.question, budget=Budget(drop=1.0, memory_bytes=20_000_000))
    told = replace(found, lines=lines, bench=replace(found.bench, lines=lines, question=asked))
    assert [line.steps for line in answering.finalists(told)] == ["small", "big"]


def test_a_graph_that_differs_late_is_a_failed_line_and_the_search_goes_on(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(make_room, "parity_of", lambda *_: "")  # the inputs that are looked at show nothing

    def differs(*_: Any) -> None:
        raise ParityError("outputs differ on input 700")

    monkeypatch.setattr(make_room, "keep", differs)
    told = search.search(question(trained, tmp_path))
    made = [line for line in told.lines if line.steps and line.state != "shape"]
    assert ("failed", "outputs differ on input 700.") in {(line.state, line.reason) for line in made}
    assert {line.name for line in frontier(told.lines)} == {told.bench.first().name}  # the others would have been kept
    assert not told.bench.kept


def test_a_way_to_write_numbers_that_fails_bars_no_network(found):
    point = {"student": 1, "cut": 0, "numbers": 1}
    failed = record.Line("distill(scale=0.5) quantize", 0, "failed", point, reason="no")
    shape = replace(failed, point={**point, "numbers": 0})
    for line, barred in ((failed, False), (shape, True)):
        bench = replace(found.bench, lines=[found.bench.first(), line])
        assert ((1, 0, 1 - line.point["numbers"]) in bench_room.known_points(bench)) is barred


def test_a_student_that_cannot_be_made_is_not_cut_either(found):
    space = replace(found.bench.space, cuts=("", "prune(macs=0.5)", "prune(macs=0.25)"))
    failed = record.Line("distill(scale=0.5)", 0, "failed", {"student": 1, "cut": 0, "numbers": 0}, reason="no")
    shape = record.Line("", 0, "shape", {"student": 1, "cut": 2, "numbers": 0}, measured={"latency_ms": 1.0})
    for lines, barred in (([failed], True), ([failed, shape], False)):
        bench = replace(found.bench, space=space, lines=[found.bench.first(), *lines])
        assert ((1, 1, 0) in bench_room.known_points(bench)) is barred
        assert (0, 1, 0) not in bench_room.known_points(bench)


class Branching(nn.Module):
    """Goes another way for another value: no graph says that."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        return self.last(h * 2 if h.sum() > 0 else h)


def test_what_cannot_be_exported_hears_what_can_still_be_done(trained, tmp_path):
    asked = replace(question(trained, tmp_path), subject=Subject(Branching().eval()))
    with pytest.raises(
        ModelError, match=r"cannot export the model.* Or search for PyTorch itself.* runtime=py.*; or distill it into"
    ):
        begin_room.begin(asked)


def test_other_numbers_of_a_network_that_is_trained_cost_no_training(found):
    (line, *_) = [line for line in found.lines if line.state == "whole" and line.point and "distill" in line.steps]
    other = line.point | {"numbers": 1 - line.point["numbers"]}
    elsewhere = replace(found.bench, once=Once(), epoch_s=10.0)  # as after a restart
    here = replace(elsewhere, once=found.bench.once)
    untrained_s = bench_room.expected_s(here, other, line.rung)
    assert bench_room.expected_s(elsewhere, other, line.rung) > 1.5 * untrained_s
    numbers_alone_s = bench_room.expected_s(here, {"student": 0, "cut": 0, "numbers": 1}, line.rung)
    assert numbers_alone_s == untrained_s  # nothing is trained for either


def test_a_trained_network_that_keeps_the_score_is_proposed_with_other_numbers(found, monkeypatch):
    """Optuna, which draws at random, need not hit on it."""
    (line, *_) = [line for line in found.lines if line.state == "whole" and line.point and "distill" in line.steps]
    other = line.point | {"numbers": 1 - line.point["numbers"]}
    lines = [seen for seen in found.lines if not seen.point or key_of(seen.point) != key_of(other)]
    bench = replace(found.bench, lines=lines)
    monkeypatch.setattr(propose, "ask", lambda *_: (None, dict(line.point)))  # what is known already
    monkeypatch.setattr(propose, "tell", lambda *_: None)
    monkeypatch.setattr(promise, "worth", lambda *_, **__: 1.0)
    monkeypatch.setattr(space.Space, "points", lambda _: [])  # nothing is left for when nothing was rated
    guesses = predict.learn(bench.space, lines, 100)
    assert promise.best_proposal(bench, guesses) == other


def test_where_no_fold_can_be_made_the_answer_says_why(found):
    failed = record.Line("prune", 0, "failed", {"student": 0, "cut": 1, "numbers": 0}, reason="it cannot be traced.")
    only = [*(line for line in found.lines if not line.steps), failed]
    told = answer(replace(found, lines=only, bench=replace(found.bench, lines=only), ended="time", seconds=3.2))
    assert told.text == (
        "Keep the original: none of the folds that were tried (1) can be made from it. "
        "The first of them, prune: it cannot be traced."
    )


def test_where_nothing_was_made_the_answer_says_so(found):
    only = [line for line in found.lines if not line.steps]
    told = answer(replace(found, lines=only, bench=replace(found.bench, lines=only), ended="time", seconds=3.2))
    assert (told.verdict, told.text) == (
        "keep",
        "Keep the original: no fold was made and measured in 3 s. Search for longer.",
    )


def test_memory_that_could_not_be_measured_meets_no_limit(found):
    made = replace(found.bench.original, peak_memory_bytes=None)
    assert "memory" in excess(made, 0.0, Budget(memory_bytes=10**9))
    assert not excess(made, 0.0, Budget())


def test_memory_that_is_asked_for_later_is_measured_or_looked_at_again(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(begin_room, "peak_memory_on", lambda graph, *_, **__: 5 * graph.stat().st_size)
    first = begin_room.begin(question(trained, tmp_path))
    kept = make_room.look(first, {"student": 0, "cut": 0, "numbers": 1})
    shape = make_room.look(first, {"student": 1, "cut": 0, "numbers": 0})
    assert kept is not None
    assert shape is not None
    assert (tmp_path / "artifacts" / kept.name).is_dir()
    lines = [replace(line, time="2020-01-01 00:00:00") for line in record.read(tmp_path)]
    (tmp_path / record.FILE).unlink()
    for line in lines:
        record.add(tmp_path, line)
    later = begin_room.begin(question(trained, tmp_path, budget=Budget(drop=1.0, memory_bytes=10**9)))
    by_steps = {line.steps: line for line in later.lines}
    assert set(by_steps) == {"", kept.steps}  # the shape has no file: it is looked at again
    assert by_steps[kept.steps].measured["memory_bytes"] == 5 * kept.measured["size_bytes"]
    monkeypatch.setattr(make_room, "measure_memory", lambda *_: None)  # as where it cannot be had
    assert make_room.look(later, shape.point) is not None
    bench_room.catch_up(later)
    assert make_room.look(later, shape.point) is None


def test_a_storage_that_goes_away_leaves_the_search_alone(found, trained, monkeypatch):
    def gone(*_: Any) -> Any:
        raise ConnectionError("server closed the connection")

    said: list[str] = []
    told: Any = SimpleNamespace(say=said.append)
    looks = replace(trained.evidence, progress=told)
    bench = replace(found.bench, question=replace(found.bench.question, evidence=looks), study="a study", lines=[])
    bench.lines.append(found.bench.first())
    monkeypatch.setattr(propose, "ask", gone)
    guesses = predict.learn(bench.space, bench.lines, 100)
    assert promise.best_proposal(bench, guesses) in bench.space.points()
    assert bench.study is None
    assert said == [
        "the search's storage cannot be reached any more (ConnectionError: server closed the connection); "
        "this process goes on alone"
    ]


def test_where_pytorch_serves_no_fold_of_graphs_alone_is_proposed(trained, tmp_path):
    asked = question(trained, tmp_path, target=Target(runtime="pytorch"))
    assert begin_room.begin(asked).space.numbers == ("", "cast(bf16, arithmetic=true)")


def test_where_pytorch_serves_the_network_itself_is_rounded(trained, tmp_path, monkeypatch):
    pytest.importorskip("torchao")
    monkeypatch.setitem(RUNTIMES, "pytorch-compiled", RUNTIMES["pytorch"])  # compiling takes many seconds
    bench = begin_room.begin(question(trained, tmp_path, target=Target(runtime="pytorch-compiled")))
    assert bench.space.numbers == ("", "quantize", "cast(bf16, arithmetic=true)")
    int8, half = (make_room.look(bench, {"student": 0, "cut": 0, "numbers": n}) for n in (1, 2))
    assert int8 is not None
    assert half is not None
    first = bench.first().measured
    for line, bits, size in ((int8, 8, 0.4), (half, 16, 0.51)):
        assert line.state == "whole", line.reason
        assert line.measured["size_bytes"] < size * first["size_bytes"]
        assert line.measured["bit_operations"] == bits**2 * first["macs"]
        assert line.measured["score"] > first["score"] - 0.02
    assert keeping.is_kept(tmp_path / "artifacts" / int8.name), "nothing is smaller"
    assert set(bench.layers.tables) == {""}, "rounded inside PyTorch it has other layers"


def test_where_pytorch_serves_a_search_leaves_the_network(trained, tmp_path, monkeypatch):
    for room in (answering, make_room):
        monkeypatch.setattr(room, "measure_memory", lambda *_: None)
    monkeypatch.setattr(answering, "latencies", counted)
    asked = question(trained, tmp_path, target=Target(runtime="pytorch"))
    bench = begin_room.begin(asked)
    line = make_room.train(bench, {"student": 1, "cut": 0, "numbers": 0}, 0)
    kept = tmp_path / "artifacts" / line.name
    assert (kept / "network.pt2").is_file()
    told = answer(Found(bench.lines, bench, "time", 1.0)).told
    assert (told["artifact"], told["chosen"]["steps"]) == (str(kept), line.steps)
    again = answer(Found(bench.lines, replace(bench, kept={}), "time", 1.0)).told  # as after a restart
    assert again["artifact"] == str(kept)


def test_a_limit_on_memory_that_cannot_be_measured_is_said_before_anything_is_made(trained, tmp_path):
    asked = question(trained, tmp_path, target=Target(runtime="pytorch"), budget=Budget(memory_bytes=10**9))
    asked = replace(asked, subject=Subject(Branching().eval()))
    with pytest.raises(ModelError) as caught:
        begin_room.begin(asked)
    assert str(caught.value) == (
        "memory<=1000000000B cannot be judged: the original's memory cannot be measured on pytorch; expected a network "
        "that a fresh process can load there. Leave memory<= out of the budget, or name another runtime."
    )


def test_what_was_measured_in_a_busy_moment_is_measured_again(trained, tmp_path, monkeypatch):
    """A busy machine slows the small more than the large: the moment in which the original is fastest counts."""
    moments = iter([(3.0, 2.0), (2.0, 1.5), (1.0, 1.0), (3.0, 2.0), (2.0, 1.2), (2.5, 1.3), (9.0, 9.0)])

    def in_turns(candidates: Sequence[Candidate], *_: Any, **__: Any) -> dict[str, Latency]:
        taken = next(moments)
        both = {
            c.name: Latency(ms, ms, 0.1, runs=5, threads=1, device="cpu")
            for c, ms in zip(candidates, taken, strict=True)
        }
        for candidate in candidates:
            candidate.latency = both[candidate.name]
        return both

    bench = begin_room.begin(question(trained, tmp_path))
    bench.original_ms[:] = [1.0]
    monkeypatch.setattr(make_room, "latencies", in_turns)
    made = replace(bench.original, name="made")
    quiet = make_room.measured_now(bench, made)
    assert (quiet["latency_ms"], quiet["original_ms"]) == (1.0, 1.0)
    busy = make_room.measured_now(bench, made)
    assert (busy["latency_ms"], busy["original_ms"]) == (2.0, 1.2)
    assert bench.original_ms == [1.0, 1.0, 1.2]
    assert next(moments) == (9.0, 9.0), "three times are enough"
