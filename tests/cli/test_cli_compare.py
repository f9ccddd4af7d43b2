"""``dimwise compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dimwise import cli
from dimwise.models import build
from dimwise.ship import RUNTIMES, graph
from dimwise.view import compare

Captured = pytest.CaptureFixture[str]


def test_two_networks(tmp_path: Path, capsys: Captured) -> None:
    png, html = tmp_path / "x.png", tmp_path / "x.html"
    words = ["compare", "mlp", "small_cnn", "--input", "1x8x8", "--runs", "5"]
    assert cli.main([*words, "--png", str(png), "--html", str(html)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == ["A  mlp", "B  small_cnn", "on pytorch, batch 1, threads 1"]
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["layer"][2:6] == ["output", "A", "output", "B"]
    assert "Linear" in rows["fc1"]
    assert rows["conv1"][1:3] == ["Conv2d", "–"]
    assert "tie" in out or "is faster" in out
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert html.read_text("utf-8").count("<svg") == 1
    assert "conv1" in html.read_text("utf-8")


def test_a_graph_brings_both_to_onnxruntime(tmp_path: Path, capsys: Captured) -> None:
    torch.manual_seed(0)
    narrow = build("small_cnn", (1, 8, 8), 10, width=0.5)
    (tmp_path / "narrow.onnx").write_bytes(graph(narrow, nn.Identity(), torch.zeros(1, 1, 8, 8)).SerializeToString())
    words = ["compare", "small_cnn", str(tmp_path / "narrow.onnx"), "--runs", "5", "--batch", "2", "--json"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["runtime"], told["batch"]) == ("onnxruntime", 2)
    layers = {row["name"]: row for row in told["layers"]}
    assert layers["conv1"]["a"]["output_shape"] == [32, 8, 8]
    assert layers["conv1"]["b"]["output_shape"] == [16, 8, 8]
    assert cli.main([*words, "--runtime", "pytorch"]) == 2
    assert "is exported, and pytorch runs no graphs" in capsys.readouterr().err
    assert cli.main([*words, "--runtime", "pytorch-compiled"]) == 2
    assert "is exported, and pytorch-compiled runs no graphs" in capsys.readouterr().err


def test_openvino_tells_layers_apart(capsys: Captured) -> None:
    pytest.importorskip("openvino")
    assert cli.main(["compare", "mlp", "small_cnn", "--runtime", "openvino", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    layers = {row["name"]: row for row in told["layers"]}
    assert layers["conv1"]["b"]["ms"] > 0
    assert layers["fc1"]["a"]["ms"] > 0


def test_a_runtime_that_does_not_tell_layers_apart_is_compared_in_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    runtime = "pytorch-compiled"
    monkeypatch.setitem(RUNTIMES, runtime, RUNTIMES["pytorch"])  # compiling takes seconds
    png, html = tmp_path / "x.png", tmp_path / "x.html"
    words = ["compare", "mlp", "small_cnn", "--runtime", runtime, "--batch", "2"]
    assert cli.main([*words, "--png", str(png), "--html", str(html), "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["runtime"], told["batch"]) == (runtime, 2)
    layers = {row["name"]: row for row in told["layers"]}
    assert layers["conv1"]["a"] is None
    assert layers["conv1"]["b"]["output_shape"] == [32, 8, 8]
    assert {layer["ms"] for row in told["layers"] for layer in (row["a"], row["b"]) if layer} == {None}
    for side in "ab":
        assert told[side]["latency_ms"] > 0
        assert told[side]["size_bytes"] > 4 * told[side]["params"] > 0
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert "whole run" in html.read_text("utf-8")


def test_bars_of_layers_that_were_not_timed_are_those_of_the_whole_run() -> None:
    layer = {"kind": "Conv", "output_shape": [8], "params": 9, "macs": 9, "ms": None}
    told: dict[str, Any] = {side: {"name": side, "latency_ms": ms} for side, ms in (("a", 2.0), ("b", 1.0))}
    told |= {"layers": [{"name": "x", "a": layer, "b": None}], "runtime": "openvino", "threads": 1, "batch": 1}
    (axes,) = compare.bars(told).axes
    assert [bar.get_width() for bar in axes.patches] == [2, 1]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["whole run"]
    assert "left out" not in axes.get_xlabel()


def test_the_table_says_that_only_the_whole_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setitem(RUNTIMES, "pytorch-compiled", RUNTIMES["pytorch"])
    assert cli.main(["compare", "mlp", "mlp", "--runtime", "pytorch-compiled"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["fc1"][-4:] == ["–", "–", "–", "–"]
    assert float(rows["whole"][-1]) > 0
    assert out.count("pytorch-compiled does not tell layers apart: only the whole run is timed.") == 1
    assert "tie" in out or "is faster" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mlp", "ml"], "nothing is called 'ml'"),
        (["mlp", "mlp", "--runtime", "tvm"], "unknown runtime 'tvm'; expected one of: onnxruntime, openvino, pytorch"),
        (["mlp", "mlp", "--runs", "1"], "compare: invalid value for '--runs'"),
        (["mlp", "mlp", "--input", "3y3"], "--input '3y3' is not a shape"),
        (["mlp", "mlp", "--runs", "5", "--png", "no/folder/x.png"], "cannot write 'no/folder/x.png'"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len([line for line in err.splitlines() if line.startswith("dimwise: ") and "cores" not in line]) == 1
