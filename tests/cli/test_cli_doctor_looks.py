"""``dimwise doctor`` beside scripts: a finished run, data, SARIF, the gallery and its cards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dimwise import chain, cli

Captured = pytest.CaptureFixture[str]
SHORT = ["model.name='mlp'", "train.epochs=3", "train.precision='fp32'", "train.layout='contiguous'"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    wild = [*SHORT, "train.lr=1", "train.label_smoothing=0"]
    chain.train(chain.load("digits", wild), runs_dir=runs_dir)
    return runs_dir


def doctor(*words: object) -> int:
    return cli.main(["doctor", *map(str, words)])


@pytest.mark.parametrize("way", ["last", "path"])
def test_a_finished_run_is_judged_again(runs: Path, tmp_path: Path, capsys: Captured, way: str) -> None:
    word = "last" if way == "last" else next(runs.iterdir())
    out = tmp_path / "o.json"
    assert doctor("--runs-dir", runs, "--json", out, word) == 1
    assert doctor("--runs-dir", runs, "--fail-on", "never", word) == 0
    assert doctor("--runs-dir", runs, "--ignore", "lr-too-high", word) == 0
    told = json.loads(out.read_text())
    assert [f["rule"] for f in told["findings"]] == ["lr-too-high"]
    assert "steps were watched" in capsys.readouterr().err


def test_a_run_that_nobody_watched_is_said_so(tmp_path: Path, capsys: Captured) -> None:
    chain.train(chain.load("digits", [*SHORT, "train.epochs=1", "doctor=false"]), runs_dir=tmp_path)
    assert doctor("--runs-dir", tmp_path, "last") == 2
    assert "was not watched: it holds no seen.json" in capsys.readouterr().err
    (run,) = tmp_path.iterdir()
    (run / "seen.json").write_text("[1]")
    assert doctor("--runs-dir", tmp_path, "last") == 2
    assert "seen.json cannot be read" in capsys.readouterr().err


def test_sarif_is_written(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.sarif"
    assert doctor("--runs-dir", runs, "--sarif", out, "last") == 1
    (run,) = json.loads(out.read_text())["runs"]
    assert [r["level"] for r in run["results"]] == ["error"]


def test_data_of_a_recipe_and_of_a_file(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "o.json"
    assert doctor("--json", out, "--data", "digits") == 0
    told = json.loads(out.read_text())
    assert told["findings"] == []
    assert {"rule": "missing-zero-grad", "why": "needs a run"} in told["not_checked"]
    assert "rows of shape 1×8×8" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 2, 300)
    table = "\n".join(["a,b,c,d,label", *(",".join(map(str, [*row, t])) for row, t in zip(x, y, strict=True))])
    (tmp_path / "t.csv").write_text(table)
    assert doctor("--data", f"{tmp_path / 't.csv'}:label") == 0
    assert doctor("--data", tmp_path / "t.csv") == 2
    assert "which column is predicted?; expected FILE.csv:COLUMN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "digits", "train.py"], "'train.py' together with --data"),
        (["--gallery", "train.py"], "'train.py' together with --gallery"),
        (["--explain", "lr-to-high"], "no rule 'lr-to-high'"),
        (["--data", "nothing"], "unknown recipe 'nothing'"),
        (["nothing"], "script 'nothing' does not exist"),
        (["--ignore", "x", "--data", "digits"], "--ignore x: no such rule"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys: Captured, words: list[str], said: str) -> None:
    assert doctor(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_gallery_and_a_card(capsys: Captured) -> None:
    assert doctor("--gallery") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 53
    assert any(line.startswith("no-shuffle ") and "dimwise.lab.mistakes.no_shuffle" in line for line in lines)
    assert any("--mended" in line for line in lines)
    assert doctor("--explain", "no-shuffle") == 0
    assert "dimwise doctor -m dimwise.lab.mistakes.no_shuffle --mended" in capsys.readouterr().out
