"""``dimwise lr-range``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dimwise import cli

Captured = pytest.CaptureFixture[str]
WORDS = ["lr-range", "digits", "--steps", "80", "--seeds", "2", "--set", "model.width=0.5", "--set", "train.threads=1"]


def test_it_says_which_rates_and_why(capsys: Captured, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    assert cli.main([*WORDS, "--png", str(picture)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert "with adamw; begin with" in lines["rates to try"]
    assert "the loss falls fastest at" in lines["why"]
    assert "0.01 is" in lines["the recipe's"]
    assert "█" in lines["loss"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_has_curve_and_interval(capsys: Captured) -> None:
    assert cli.main([*WORDS, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["recipe"], told["optimizer"], told["n_seeds"]) == ("digits", "adamw", 2)
    assert len(told["rates"]) == len(told["losses"]) == len(told["smoothed"])
    assert told["interval"][0] < told["suggested"] < told["interval"][1]


def test_no_clear_answer_is_what_is_said(capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flat_net_for_cli.py").write_text(
        "import torch\n"
        "class Flat(torch.nn.Module):\n"
        "    def __init__(self, input_shape, n_outputs):\n"
        "        super().__init__()\n"
        "        self.n, self.unused = n_outputs, torch.nn.Parameter(torch.zeros(1))\n"
        "    def forward(self, x):\n"
        "        return torch.zeros(len(x), self.n) + 0 * self.unused\n"
    )
    assert cli.main([*WORDS[:6], "--model", "flat_net_for_cli:Flat"]) == 0
    assert "rates to try  no clear answer: the loss does not fall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["digist"], "unknown recipe 'digist'"),
        (["digits", "--low", "1", "--high", "0.1"], "the range begins at 1 and ends at 0.1; expected low below high"),
        (["digits", "--low", "-1"], "lr-range"),
        (["digits", "--steps", "3"], "lr-range: invalid value for '--steps'"),
        (["digits", "--steps", "30", "--png", "nowhere/x.png"], "cannot write 'nowhere/x.png'"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], line: str, capsys: Captured) -> None:
    assert cli.main(["lr-range", *words, "--quiet"]) == 2
    told = capsys.readouterr()
    assert line in told.err
    assert told.err.count("\n") == 1
