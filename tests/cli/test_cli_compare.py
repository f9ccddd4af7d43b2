"""``dimwise compare``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dimwise import cli
from dimwise.models import build
from dimwise.ship import graph

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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mlp", "ml"], "nothing is called 'ml'"),
        (["mlp", "mlp", "--runtime", "tvm"], "layers cannot be timed on 'tvm'; expected pytorch or onnxruntime"),
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
