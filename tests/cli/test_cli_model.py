"""``dimwise model`` and ``dimwise env``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dimwise import cli
from dimwise.models import MODELS

Captured = pytest.CaptureFixture[str]


def test_list_names_every_network(capsys: Captured) -> None:
    assert cli.main(["model", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(MODELS)
    assert cli.main(["model", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resnet18"] == {"input": [3, 224, 224], "outputs": 1000}


def test_show_counts_each_layer_and_the_whole(capsys: Captured) -> None:
    assert cli.main(["model", "show", "guide_cnn"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["layer", "kind", "input", "output", "parameters", "MACs", "activations"]
    (dense,) = (row for row in rows if "Linear" in row)
    assert dense[2:5] == ["5408", "10", "54,090"]  # 32·13·13 inputs to 10 classes, and 10 biases
    assert rows[-1][:2] == ["total", "54,410"]  # and 32 kernels of 3×3 with their biases


def test_show_takes_shape_outputs_and_width(capsys: Captured) -> None:
    words = ["model", "show", "mlp", "--input", "4", "--outputs", "3", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["input"] == [4]
    assert found["params"] == 4 * 128 + 128 + 128 * 3 + 3
    assert found["rows"][-1]["output_shape"] == [1, 3]
    assert cli.main([*words, "--width", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == 4 * 64 + 64 + 64 * 3 + 3


def test_show_takes_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_nets_for_cli.py").write_text(
        "from torch import nn\n"
        "def tiny(input_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1], n_outputs))\n"
    )
    assert cli.main(["model", "show", "my_nets_for_cli:tiny", "--input", "2x3", "--outputs", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["total", "35"]
    assert cli.main(["model", "show", "my_nets_for_cli:tiny", "--width", "2"]) == 2
    assert "--width is for the networks of the table, not for my_nets_for_cli:tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["resnet19"], "unknown model 'resnet19'; expected package.module:function or one of: mlp"),
        (["mlp", "--input", "3x"], "--input '3x' is not a shape; expected sizes joined by x, as in 3x32x32."),
        (["mlp", "--input", "0x3"], "--input '0x3' is not a shape"),
        (["lenet5", "--input", "7"], "lenet5 takes images, not input of shape (7,)"),
        (["nowhere.net:make"], "there is no module 'nowhere'"),
        (["mlp", "--outputs", "0"], "model show: invalid value for '--outputs'"),
    ],
)
def test_what_cannot_be_shown_is_one_line(words: list[str], line: str, capsys: Captured) -> None:
    assert cli.main(["model", "show", *words]) == 2
    told = capsys.readouterr()
    assert line in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_env_tells_versions_and_threads(capsys: Captured) -> None:
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"].startswith("2.")
    assert found["threads"] >= 1
    assert cli.main(["env"]) == 0
    assert f"python        {found['python']}\n" in capsys.readouterr().out


def test_show_with_an_input_the_network_does_not_take(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("their_norm_nets.py").write_text("from torch import nn\n\ndef net():\n    return nn.BatchNorm2d(1)\n")
    for name, shape, said in (
        ("their_norm_nets:net", "4", "the network cannot take input of shape (1, 4): expected 4D input"),
        ("mlp", "3×99999×99999", "mlp cannot be made for inputs of 3×99999×99999: "),
    ):
        assert cli.main(["model", "show", name, "--input", shape]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
