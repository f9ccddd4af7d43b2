"""``dimwise fold`` from the outside: a run searched, a composition replayed, every mistake in one line."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dimwise import cli
from dimwise.plan import answer, begin, replay, space
from dimwise.train import Interrupted
from dimwise.train.job import Job

TINY = [
    *("--set", "model.name=mlp", "--set", "model.width=0.5", "--set", "train.precision=fp32"),
    *("--set", "train.layout=contiguous", "--set", "train.epochs=9", "--set", "data.train_limit=400"),
    *("--set", "doctor=false"),
]


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, Any]:
        """The last line of standard output."""
        return json.loads(self.out.splitlines()[-1])


def dimwise(*words: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trained run in runs/."""
    place = tmp_path_factory.mktemp("fold")
    done = dimwise("train", "digits", *TINY, "--runs-dir", str(place / "runs"), "--quiet")
    assert done.code == 0, done.err
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(space, "STUDENTS", ("", "distill(scale=0.5)"))
    monkeypatch.setattr(space, "CUTS", ("",))
    monkeypatch.setattr(begin, "NUMBERS", ("", "quantize"))
    for module in (answer, replay):  # a process for each model would take most of the time
        monkeypatch.setattr(module, "measure_memory", lambda *_: None)


def test_a_budget_is_searched_for_and_the_page_is_written() -> None:
    done = dimwise("fold", "last", "--budget", "drop<=100pt, prefer=size", "--time", "5m", "--json")
    assert done.code == 0, done.err
    assert done.told["verdict"] == "fold"
    page = Path(done.told["page"]).read_text("utf-8")
    assert "A smaller model meets the budget" in page
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "")
    assert done.told["folder"].endswith("plan/onnxruntime-1-1")
    again = dimwise("fold", "last", "--budget", "drop<=100pt, prefer=size", "--language", "zh")
    assert again.code == 0, again.err
    assert again.out.splitlines()[0].split()[:3] == ["model", "score", "p50"]
    assert "更小的模型满足预算" in Path(done.told["page"]).read_text("utf-8")


def test_what_nothing_meets_is_1_and_names_the_nearest() -> None:
    done = dimwise("fold", "last", "--budget", "size<=1B", "--quiet")
    assert done.code == 1
    assert done.err.startswith("dimwise: Infeasible: no shape that was tried is within the limits")
    assert "The nearest is " in done.err
    assert done.err.count("\n") == 1


def test_a_composition_is_replayed_and_its_artifact_kept() -> None:
    done = dimwise("fold", "last", "--apply", "distill(scale=0.5, epochs=2) quantize(weights)", "--json")
    assert done.code == 0, done.err
    assert done.told["made"]["size_bytes"] < done.told["original"]["size_bytes"] / 3
    assert [report["fold"] for report in done.told["folds"]] == ["distill", "quantize"]
    artifact = done.told["artifact"]
    assert (Path(artifact) / "manifest.json").is_file()
    alone = dimwise("fold", artifact, "--apply", "prune", "--recipe", "digits", *TINY)
    assert alone.code == 2
    assert "prune changes a network, and only its graph is here" in alone.err
    taught = dimwise("fold", artifact, "--apply", "distill(scale=0.1, epochs=1)", "--json", "--recipe", "digits", *TINY)
    assert taught.code == 0, taught.err
    assert "it can be rounded and can teach narrower mlp students" in " ".join(taught.err.split())
    assert [report["fold"] for report in taught.told["folds"]] == ["distill"]
    assert taught.told["made"]["params"] < taught.told["original"]["params"]


def test_a_module_that_begins_as_a_runs_id_does_is_a_module(place: Path) -> None:
    run = max(path for path in (place / "runs").iterdir() if (path / "result.json").is_file())
    done = dimwise("fold", f"{run.name[-4:-1]}:net", "--recipe", "digits")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"there is no module '{run.name[-4:-1]}'" in done.err
    done = dimwise("fold", f"{run.name[-4:]}:net", "--recipe", "digits")
    assert "keeps no artifact of the stage 'net'" in done.err


def test_what_is_applied_is_judged_by_the_budget_that_is_named() -> None:
    words = ["fold", "last", "--apply", "quantize(weights)"]
    done = dimwise(*words, "--budget", "size<=1kB")
    assert done.code == 1
    assert "artifact: " in done.out
    assert done.err.splitlines()[-1].startswith("dimwise: 'quantize(weights)' does not meet the budget: size is ")
    as_usual = dimwise("fold", "last", "--apply", "prune(macs=0.2, epochs=0)", "--budget", "drop<=0.5pt")
    assert as_usual.code == 1  # the usual limit, but it was named
    within = dimwise(*words, "--budget", "size<=1MB, drop<=100pt")
    assert (within.code, "budget" in within.err) == (0, False)
    assert dimwise(*words).code == 0


def test_the_answer_repeats_what_was_asked_and_never_calls_the_nearest_chosen() -> None:
    done = dimwise("fold", "last", "--budget", "size<=1B")
    assert done.code == 1
    assert "size<=1B" in done.out
    assert "the nearest" in done.out
    assert "chosen" not in done.out
    assert "artifact of the nearest: " in done.out
    assert "million requests" not in done.out


@pytest.mark.parametrize(
    ("content", "line"),
    [(None, "there is no file 'some.onnx'"), (b"", "'some.onnx' is empty"), (b"x", "has no manifest.json beside it")],
)
def test_a_graph_that_is_no_artifact_says_what_is_missing(place: Path, content: bytes | None, line: str) -> None:
    path = place / "some.onnx"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    done = dimwise("fold", "some.onnx", "--recipe", "digits", "--apply", "quantize")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert line in done.err


def test_what_a_fold_notes_is_printed() -> None:
    done = dimwise("fold", "last", "--apply", "sparsify(epochs=0)")
    assert done.code == 0, done.err
    assert "\nsparsify: no time is saved: runtimes that compute densely" in done.out


def test_an_artifact_in_a_run_stands_for_its_run(place: Path) -> None:
    (run,) = (place / "runs").glob("*-digits-*")
    kept = dimwise("fold", run.name, "--apply", "quantize", "--out", str(run / "artifacts"), "--json").told["artifact"]
    from_run = Path(kept).parent.parent / "moved"
    Path(kept).rename(from_run)
    done = dimwise("fold", str(from_run), "--apply", "distill(epochs=1)", "--json")
    assert done.code == 0, done.err
    assert f"lies in run {run.name}" in done.err


def test_a_network_of_ones_own_is_taken_as_it_is_or_trained(place: Path) -> None:
    (place / "own_net_to_fold.py").write_text(
        "from torch import nn\n"
        "def tiny(input_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs))\n"
    )
    words = ["fold", "own_net_to_fold:tiny", "--recipe", "digits", *TINY, "--apply", "quantize", "--json"]
    plain, trained = dimwise(*words), dimwise(*words, "--train", "--out", "trained")
    assert (plain.code, trained.code) == (0, 0), plain.err + trained.err
    assert plain.told["original"]["score"] < 0.4 < 0.7 < trained.told["original"]["score"]
    searched = Path("runs/plan-own_net_to_fold-tiny")
    assert (searched / "onnxruntime-1-1/plan.jsonl").is_file()
    (kept,) = searched.glob("training-*")
    epochs = (kept / "metrics.jsonl").read_text().count('"kind":"epoch"')
    again = dimwise(*words, "--train", "--out", "again")
    assert again.told["original"]["score"] == trained.told["original"]["score"]
    assert f"goes on from {kept}" in " ".join(again.err.split())
    assert (kept / "metrics.jsonl").read_text().count('"kind":"epoch"') == epochs > 0
    longer = dimwise(*words, "--set", "train.epochs=2", "--train", "--out", "longer")
    assert longer.code == 0, longer.err
    assert len(list(searched.glob("training-*"))) == 2


def test_where_pytorch_serves_the_network_itself_is_kept() -> None:
    """A finished training must not be lost for want of a graph."""
    done = dimwise("fold", "last", "--apply", "distill(scale=0.5, epochs=2)", "--budget", "runtime=pytorch", "--json")
    assert done.code == 0, done.err
    kept = Path(done.told["artifact"])
    assert sorted(path.name for path in kept.iterdir()) == ["folds.json", "network.json", "network.pt2"]
    about = json.loads((kept / "network.json").read_text())
    assert about["source"] == {"steps": done.told["steps"], "seed": done.told["seed"]}
    assert about["score"] == done.told["made"]["score"]
    program = torch.export.load(kept / "network.pt2").module()
    assert program(torch.zeros(5, *about["input"]["shape"][1:], dtype=torch.uint8)).shape == (5, 10)
    again = dimwise("fold", str(kept), "--recipe", "digits", *TINY, "--apply", "quantize")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "holds a network of PyTorch alone" in again.err


OWN = """
import sys
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)
    def forward(self, x):
        h = x.flatten(1)
        return self.last(h * 2 if float(h.sum()) > 0 else h)

@torch.library.custom_op("dimwise_cli_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2

@twice.register_fake
def _(x):
    return torch.empty_like(x)

class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)
    def forward(self, x):
        return twice(self.last(x.flatten(1)))

def leaves():
    sys.exit(3)
"""


@pytest.mark.parametrize("name", ["Branching", "Custom"])
def test_what_cannot_be_exported_teaches_a_network_that_can(place: Path, name: str) -> None:
    (place / "nets_without_a_graph.py").write_text(OWN)
    words = ["fold", f"nets_without_a_graph:{name}", "--recipe", "digits", *TINY]
    done = dimwise(*words, "--apply", "distill(student=mlp, scale=0.1, epochs=1) quantize", "--json")
    assert done.code == 0, done.err
    assert (Path(done.told["artifact"]) / "model.onnx").is_file()
    assert done.told["original"]["latency_ms"] > 0
    assert done.told["original_runtime"] == "pytorch"
    said = " ".join(done.err.split())
    assert "the original is measured on pytorch, since torch cannot export the model: " in said
    limited = dimwise(*words, "--apply", "distill(student=mlp, scale=0.1, epochs=1)", "--budget", "memory<=1GB")
    assert limited.code in (0, 1), limited.err  # what is made can be measured
    alone = dimwise(*words, "--apply", "prune")
    assert (alone.code, alone.err.count("\n")) == (2, 1)
    assert "distill(student=NAME)" in alone.err


def test_a_function_that_leaves_python_is_one_line(place: Path) -> None:
    (place / "nets_without_a_graph.py").write_text(OWN)
    done = dimwise("fold", "nets_without_a_graph:leaves", "--recipe", "digits", *TINY, "--apply", "quantize")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "nets_without_a_graph:leaves left Python: SystemExit: 3; expected a function that returns" in done.err


def test_a_training_before_the_search_that_was_stopped_goes_on(place: Path, monkeypatch) -> None:
    (place / "own_net_to_stop.py").write_text(
        "from torch import nn\n"
        "def net(input_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_outputs))\n"
    )
    words = ["fold", "own_net_to_stop:net", "--recipe", "digits", *TINY, "--apply", "quantize", "--train"]
    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", _stopped)
        done = dimwise(*words)
    assert (done.code, done.err.strip()) == (
        130,
        "dimwise: stopped. The same command goes on where this one was stopped",
    )
    assert dimwise(*words).code == 0


def _stopped(*_: object) -> None:
    raise Interrupted("stopped")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "'nothing' is no run, no artifact and no network; expected a run"),
        (["last", "--budget", "latncy<=1ms"], "budget: unknown term 'latncy'"),
        (["last", "--budget", "drop<=0.5"], "budget: drop<=0.5 has no unit; expected one of: pt"),
        (["last", "--budget", "latency<=1kg"], "budget: latency has no unit 'kg'"),
        (["last", "--time", "soon"], "--time 'soon' is no duration; expected a number above 0"),
        (["last", "--apply", "prnue"], "unknown fold 'prnue'"),
        (["last", "--apply", ""], "there is nothing to apply"),
        (["last", "--set", "train.lr=1"], "--set changes a recipe, and none is named"),
        (
            ["last", "--apply", "quantize share", "--budget", "runtime=pytorch"],
            "share makes a graph that pytorch does not",
        ),
        (["last", "--language", "fr"], "fr"),
        (["last", "--apply", "quantize", "--price-per-hour", "2"], "--price-per-hour is for a search, and --apply"),
        (["last", "--apply", "quantize", "--recipe", "digits"], "is a run, which brings its own recipe"),
        (["last", "--apply", "quantize", "--train"], "is a run, and --train is for what a function returns"),
        (["a:b", "--model", "c:d", "--recipe", "digits"], "'a:b' is a network, and --model c:d names another"),
        (["nowhere:net", "--recipe", "digits"], "there is no module 'nowhere'"),
        (["nowhere:net"], "'nowhere:net' brings no data; expected --recipe NAME"),
    ],
)
def test_a_mistake_is_one_line_and_2(words: list[str], line: str) -> None:
    done = dimwise("fold", *words)
    assert done.code == 2
    assert line in done.err
    assert done.err.count("\n") == 1


def test_help_has_an_example() -> None:
    done = dimwise("fold", "--help")
    assert done.code == 0
    assert 'dimwise fold last --budget "latency<=0.5ms' in done.out
