"""The main commands from end to end, on real digits and with settings small enough for a test."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import re
import signal
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dimwise import cli, progress
from dimwise.runs import atomic, folder

Captured = pytest.CaptureFixture[str]

TINY = [
    *("--set", "fold.time_s=0"),
    *("--set", "model.name=mlp", "--set", "train.precision=fp32", "--set", "train.layout=contiguous"),
    *("--set", "train.epochs=3", "--set", "data.train_limit=320", "--set", "train.batch_size=32"),
]
ALONE = ["--set", "fold.candidates=[]"]


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, both streams, the object of --json."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, Any]:
        """The last line of standard output."""
        return json.loads(self.out.splitlines()[-1], parse_constant=pytest.fail)


def dimwise(*words: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def done(place: Path) -> Done:
    """One whole run, looked at by many tests."""
    longer = ["--set", "train.epochs=12", "--set", "data.train_limit=640"]  # enough to know a zero from a nine
    return dimwise("run", "digits", *TINY, *longer, *ALONE, "--runs-dir", str(place / "runs"), "--json")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- dimwise run ---


def test_run_prints_the_object_of_the_contract(done: Done) -> None:
    assert done.code == 0, done.err
    told = done.told
    contract = {"run", "score", "stages", "chosen", "artifact", "parity", "seconds"}
    assert contract <= set(told)
    assert set(told["score"]) == {"name", "value", "n"}
    assert told["score"]["name"] == "accuracy"
    assert 0.8 < told["score"]["value"] <= 1
    assert told["score"]["n"] == 359
    assert told["stages"][0]["name"] == "trained"
    for stage in told["stages"]:
        assert {"name", "score", "size_bytes", "latency_ms", "params", "macs"} <= set(stage)
        assert 0 <= stage["score"] <= 1
    assert told["chosen"] in [stage["name"] for stage in told["stages"]]
    assert {"passed", "score_delta", "max_scaled_diff", "batches"} <= set(told["parity"])
    assert told["parity"]["passed"] is True
    assert all(seconds >= 0 for seconds in told["seconds"].values())


def test_run_leaves_the_folder_of_the_contract(done: Done) -> None:
    run = Path(done.told["run"])
    for file in ("recipe.toml", "environment.json", "metrics.jsonl", "report.html", "clock.json"):
        assert (run / file).is_file(), file
    for file in ("last.safetensors", "best.safetensors"):
        assert (run / "checkpoints" / file).is_file(), file
    assert Path(done.told["artifact"]).parent == run / "artifacts"
    assert (Path(done.told["artifact"]) / "manifest.json").is_file()
    assert tomllib.loads((run / "recipe.toml").read_text())["data"]["train_limit"] == 640


def test_run_without_json_prints_the_stages_and_where_the_report_lies_and_a_failed_gate_is_1(tmp_path: Path) -> None:
    failed = dimwise("run", "digits", *TINY, *ALONE, "--set", "budget.size_bytes=10", "--data-dir", str(tmp_path))
    assert failed.code == 1
    assert failed.err.startswith("dimwise: no candidate meets the budget. The nearest is 'onnx': size is ")
    assert failed.err.count("\n") == 1
    lines = failed.out.splitlines()
    assert lines[0].split() == ["stage", "accuracy", "size", "latency", "parameters", "MACs"]
    assert any(line.startswith("onnx (chosen)") for line in lines)
    run = next(Path("runs").iterdir())
    assert lines[-1] == f"report: {run / 'report.html'}"
    assert dimwise("runs", "list", "--json").told[0]["status"] == "failed"  # type: ignore[index]


def test_run_takes_a_network_of_ones_own_and_may_be_quiet() -> None:
    Path("own_net_for_run.py").write_text(
        "from torch import nn\n"
        "def tiny(input_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, n_outputs))\n"
    )
    done = dimwise("run", "digits", *TINY, *ALONE, "--model", "own_net_for_run:tiny", "--quiet", "--json")
    assert done.code == 0, done.err
    assert done.told["stages"][0]["params"] == 64 * 16 + 16 + 16 * 10 + 10
    assert done.err == ""
    assert len(done.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", "digist"], "unknown recipe 'digist'; expected a .toml file or one of: "),
        (["run", "digits", "--set", "train.epohcs=3"], "unknown key 'train.epohcs'"),
        (["run", "digits", "--set", "model.name=mpl"], "model.name = 'mpl' is not valid"),
        (["run", "digits", "--model", "nowhere:net"], "there is no module 'nowhere'"),
        (["run", "digits", "--runs-dir", "file"], "runs folder 'file' cannot be written"),
        (["train", "digits", "--runs-dir", "file/runs"], "runs folder 'file/runs' cannot be written"),
        (["train", "digits", "--set", "data.source=folder", "--set", "data.path=gone"], "gone"),
        (["train", "digits", "--set", "data.source=folder", "--set", "data.path=empty"], "empty"),
        (["train", "--resume", "file"], "no run 'file'"),
        (["report", "file"], "no run 'file'"),
    ],
)
def test_a_mistake_is_one_line_and_2(words: list[str], line: str) -> None:
    Path("file").write_text("x")
    Path("empty").mkdir()
    done = dimwise(*words)
    assert done.code == 2
    assert done.out == ""
    assert line in done.err
    assert done.err.count("\n") == 1


def test_a_mistake_leaves_no_run(tmp_path: Path) -> None:
    Path("own_bad_nets.py").write_text(
        "from torch import nn\n"
        "def raises(input_shape, n_outputs):\n"
        "    raise ValueError('no\\nsuch size')\n"
        "def crooked(input_shape, n_outputs):\n"
        "    return nn.Linear(3, n_outputs)\n"
        "def wide(input_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))\n"
    )
    Path("own_torn_file.py").write_text("def net(:\n")
    for words, line in (
        (["--set", "data.source=folder", "--set", "data.path=gone"], "gone"),
        (["--set", "model.name=mpl"], "model.name = 'mpl' is not valid"),
        (["--model", "nowhere:net"], "there is no module 'nowhere'"),
        (["--model", "own_torn_file:net"], "module 'own_torn_file' cannot be imported: SyntaxError: "),
        (["--model", "own_bad_nets:raises"], "own_bad_nets:raises raised ValueError: no. It was called for inputs"),
        (["--model", "own_bad_nets:crooked"], "the network does not take inputs of shape (B, 1, 8, 8)"),
    ):
        for verb in ("run", "train"):
            done = dimwise(verb, "digits", *words)
            assert (done.code, done.out) == (2, ""), done.err
            assert line in done.err
            assert done.err.count("\n") == 1
    done = dimwise("run", "digits", "--model", "own_bad_nets:wide")
    assert (done.code, done.err) == (2, "dimwise: the network has 12 outputs; expected 10, as many as labels.\n")
    assert list(Path("runs").iterdir()) == []


# --- dimwise run --resume ---


def test_ctrl_c_while_folding_names_the_command_that_does_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, "--set", "fold.candidates=['prune']", "--set", "fold.prune.epochs=1", "--set", "budget.drop=1"]
    words += ["--set", "ship.parity_max_score_drop=1", "--set", "budget.size_bytes=0"]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dimwise.plan.apply._fold_network", stop)
        stopped = dimwise("run", "digits", *words, "--runs-dir", "my runs")
        (run,) = Path("my runs").iterdir()
        rest = f"Continue with: dimwise run --resume {run.name[-4:]} --runs-dir 'my runs'\n"
        assert (stopped.code, stopped.err) == (130, f"dimwise: interrupted. {rest}")
        again = dimwise("run", "--resume", run.name[-4:], "--runs-dir", "my runs")
        assert (again.code, again.err) == (130, stopped.err)
    dimwise("report", str(run))
    page = re.sub("<[^>]+>", "", (run / "report.html").read_text("utf-8"))
    assert f"dimwise run --resume {run.name}" in page
    done = dimwise("run", "--resume", "last", "--runs-dir", "my runs", "--json")
    assert done.code == 0, done.err
    assert [stage["name"] for stage in done.told["stages"]] == ["trained", "onnx", "prune"]
    assert (run / "report.html").is_file()
    finished = dimwise("run", "--resume", "last", "--runs-dir", "my runs")
    assert finished.code == 2
    assert finished.err.startswith(f"dimwise: run '{run.name}' is finished; expected one that was stopped.")
    assert finished.err.count("\n") == 1


def test_a_network_of_ones_own_is_named_again_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_net_to_resume.py").write_text(
        "from torch import nn\n"
        "def tiny(input_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, n_outputs))\n"
    )

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dimwise.chain.job.trained_stage", stop)
        stopped = dimwise("run", "digits", *TINY, *ALONE, "--model", "own_net_to_resume:tiny")
    (run,) = Path("runs").iterdir()
    assert stopped.err.endswith(f"dimwise run --resume {run.name[-4:]} --model own_net_to_resume:tiny\n")
    nameless = dimwise("run", "--resume", "last")
    assert nameless.code == 2
    assert f"dimwise run --resume {run.name} --model own_net_to_resume:tiny" in nameless.err
    assert folder.status(run) == "interrupted"
    done = dimwise("run", "--resume", "last", "--model", "own_net_to_resume:tiny", "--quiet")
    assert done.code == 0, done.err


@pytest.mark.parametrize("verb", ["run", "train"])
def test_a_run_continues_with_its_own_recipe(verb: str) -> None:
    for words, told in ((["digits"], "digits"), (["--set", "train.lr=1"], "--set")):
        done = dimwise(verb, *words, "--resume", "last")
        assert done.code == 2
        assert done.err.startswith(f"dimwise: {verb}: '{told}' together with --resume; expected --resume alone")


# --- dimwise predict ---


@pytest.fixture
def digit(done: Done) -> Path:
    from sklearn.datasets import load_digits

    pixels = (load_digits().images[:3] * 255 / 16).round().astype(np.uint8)  # the source's own scaling
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(f"{i}.png")
    np.save("three.npy", pixels[:, None])
    return Path(done.told["artifact"])


def test_predict_tells_each_file(digit: Path) -> None:
    done = dimwise("predict", str(digit), "0.png", "1.png", "three.npy", "--top", "2", "--json")
    assert done.code == 0, done.err
    rows = done.told["predictions"]
    assert [(row["file"], row["index"]) for row in rows] == [
        ("0.png", 0),
        ("1.png", 0),
        ("three.npy", 0),
        ("three.npy", 1),
        ("three.npy", 2),
    ]
    assert rows[0]["label"] == rows[2]["label"] == "0"
    assert len(rows[0]["top"]) == 2
    plain = dimwise("predict", str(digit), "0.png", "three.npy", "--top", "2").out.splitlines()
    assert len(plain) == 4
    first = rows[0]["top"]
    told = ", ".join(f"{entry['label']} ({100 * entry['probability']:.1f} %)" for entry in first)
    assert plain[0] == f"0.png  {told}"
    assert plain[1].startswith("three.npy[0]  ")


def test_predict_loads_no_torch(digit: Path) -> None:
    import subprocess
    import sys

    code = f"""
import sys
from dimwise.cli import main
assert main(["predict", {str(digit)!r}, "0.png"]) == 0
assert not {{"torch", "typer", "pydantic", "rich", "sklearn", "pandas", "onnx"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.png  0 (")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gone.png", "there is no file gone.png"),
        ("torn.png", "torn.png"),
        ("wide.npy", "wide.npy has shape (2, 9)"),
        ("fraction.npy", "fraction.npy holds float64; expected uint8"),
        ("words.csv", "words.csv is of a kind that"),
    ],
)
def test_predict_names_the_file_that_does_not_fit(digit: Path, name: str, line: str) -> None:
    Path("torn.png").write_bytes(Path("0.png").read_bytes()[:40])
    np.save("wide.npy", np.zeros((2, 9), np.uint8))
    np.save("fraction.npy", np.zeros((1, 8, 8)))
    Path("words.csv").write_text("a,b\n1,2\n")
    done = dimwise("predict", str(digit), "0.png", name)
    assert done.code == 2
    assert line in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_predict_names_an_artifact_that_is_none() -> None:
    done = dimwise("predict", "gone", "0.png")
    assert done.code == 2
    assert "'gone'" in done.err


def test_predict_of_a_table_tells_all_that_apply_and_values() -> None:
    from dimwise.cli.predict import _answer

    assert _answer({"values": {"price": 12.5, "size": 1e-9}}) == "price 12.5  size 1e-09"
    probabilities = {"a": 0.75, "b": 0.125, "c": 0.5625}
    assert _answer({"labels": ["a", "c"], "probabilities": probabilities}) == "a (75.0 %), c (56.2 %)"
    assert _answer({"labels": [], "probabilities": probabilities}) == "none"


# --- dimwise report, runs ---


def test_report_is_built_again_in_both_languages(done: Done, place: Path) -> None:
    page = Path(done.told["run"]) / "report.html"
    built = dimwise("report", "last", "--language", "zh", "--runs-dir", str(place / "runs"))
    assert (built.code, built.out) == (0, f"{page}\n")
    assert 'lang="zh' in page.read_text("utf-8")
    assert dimwise("report", str(page.parent)).code == 0
    assert 'lang="en' in page.read_text("utf-8")
    wrong = dimwise("report", str(page.parent), "--language", "fr")
    assert wrong.code == 2
    assert "'fr'" in wrong.err


def test_runs_show_and_compare_read_a_real_run(done: Done, place: Path) -> None:
    shown = dimwise("runs", "show", "last", "--runs-dir", str(place / "runs"))
    assert shown.code == 0
    assert "finished" in shown.out
    assert "trained" in shown.out
    same = dimwise("runs", "compare", "last", "last", "--runs-dir", str(place / "runs"), "--json").told
    assert same["recipe"] == []
    assert all(row["ratio"]["latency_ms"] == 1 for row in same["stages"])


# --- dimwise train ---


class Interrupting(progress.Progress):
    """A display whose third update is a Ctrl-C, as the system delivers it."""

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[progress.Bar]:
        yield _Third(name)


class _Third:
    def __init__(self, name: str) -> None:
        self.name, self.left = name, 3

    def update(self, done: float, note: str = "") -> None:
        self.left -= self.name == "train"
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_train_prints_its_object_and_a_stopped_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dimwise("train", "digits", *TINY, "--json")
    assert whole.code == 0, whole.err
    assert {"run", "score", "seconds", "steps", "images_per_s"} <= set(whole.told)
    with monkeypatch.context() as patch:
        patch.setattr(progress, "Terminal", Interrupting)
        patch.setattr(sys.modules["dimwise.train.job"], "_LOG_EVERY_S", 0.0)  # the bar hears of every step
        stopped = dimwise("train", "digits", *TINY, "--set", "train.checkpoint_every_s=0", "--runs-dir", "two")
    assert stopped.code == 130
    (run,) = Path("two").iterdir()
    assert (
        stopped.err == f"dimwise: interrupted. Continue with: dimwise train --resume {run.name[-4:]} --runs-dir two\n"
    )
    assert dimwise("runs", "list", "--json", "--runs-dir", "two").told[0]["status"] == "interrupted"  # type: ignore[index]
    resumed = dimwise("train", "--resume", run.name[-4:], "--runs-dir", "two", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.told["steps"] == whole.told["steps"]
    assert resumed.told["score"] == whole.told["score"]
    weights = [(Path(d.told["run"]) / "checkpoints" / "last.safetensors").read_bytes() for d in (whole, resumed)]
    assert weights[0] == weights[1]


def test_a_run_that_is_still_running_is_not_resumed() -> None:
    run = folder.create("runs", "digits")
    done = dimwise("train", "--resume", "last")
    assert done.code == 2
    assert done.err == f"dimwise: run '{run.name}' is still running. Stop it with Ctrl-C first.\n"


def test_train_without_json_tells_score_speed_and_folder() -> None:
    done = dimwise("train", "digits", *TINY)
    assert done.code == 0, done.err
    rows = dict(line.split("  ", 1) for line in done.out.splitlines())
    assert rows["accuracy"].strip().endswith("% of 359 test inputs")
    assert rows["steps"].strip() == "30"
    assert rows["run"].strip() == str(next(Path("runs").iterdir()))
    assert Path(rows["report"].strip()).is_file()


def test_a_loss_that_is_not_finite_stops_with_1_and_tells_where(tmp_path: Path) -> None:
    wild = ["--set", "train.optimizer=sgd", "--set", "train.lr=100", "--set", "train.schedule=constant"]
    done = dimwise("train", "digits", *TINY, *wild)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "step" in done.err
    assert dimwise("runs", "list", "--json").told[0]["status"] == "failed"  # type: ignore[index]


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = atomic._sync, 12

    def full_after_a_while(path: Any) -> None:
        nonlocal left
        left -= "checkpoints" in str(path)
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_sync", full_after_a_while)
        done = dimwise("train", "digits", *TINY, "--set", "train.checkpoint_every_s=0")
    assert done.code == 2
    assert re.search(r"cannot write '.*checkpoints/.*': disk full\. Free some space", done.err), done.err
    assert dimwise("runs", "list", "--json").told[0]["status"] == "failed"  # type: ignore[index]
    assert done.err.count("\n") == 1
    resumed = dimwise("train", "--resume", "last", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.told["steps"] == 30


def test_what_the_doctor_finds_is_told_in_one_line_at_the_end(tmp_path: Path) -> None:
    wild = (*TINY, "--set", "train.lr=1", "--set", "train.label_smoothing=0", "--runs-dir", str(tmp_path))
    done = dimwise("train", "digits", *wild)
    (line,) = done.err.splitlines()
    assert line.startswith("doctor: error: lr-too-high"), done.err
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "result.json").read_text())["checks"][0]["rule"] == "lr-too-high"
    silent = dimwise("train", "digits", *wild, "--quiet")
    assert (silent.out, silent.err) == ("", "")
