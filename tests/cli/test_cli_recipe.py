"""``dimwise recipe``: what is shown can be read back, and each mistake is one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dimwise import chain, cli

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_list_tells_every_recipe_and_what_it_does(capsys: Captured) -> None:
    assert cli.main(["recipe", "list"]) == 0
    out = capsys.readouterr().out
    for name, summary in chain.recipes().items():
        assert any(line.split()[0] == name and line.endswith(summary) for line in out.splitlines())
    assert cli.main(["recipe", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == chain.recipes()


@pytest.mark.parametrize("name", list(chain.recipes()))
def test_what_is_shown_is_a_recipe_again(name: str, capsys: Captured) -> None:
    assert cli.main(["recipe", "show", name, "--set", "train.lr=0.0125"]) == 0
    Path("shown.toml").write_text(capsys.readouterr().out)
    assert chain.load("shown.toml") == chain.load(name, ["train.lr=0.0125"])


def test_show_explains_each_field(capsys: Captured) -> None:
    assert cli.main(["recipe", "show", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("epochs = " + str(chain.load("digits").train.epochs)) - 1].startswith("# Passes over")


def test_new_writes_a_recipe_that_checks(capsys: Captured) -> None:
    assert cli.main(["recipe", "new", "mine.toml", "--from", "mnist"]) == 0
    assert capsys.readouterr().out == "mine.toml: edit it, then: dimwise run mine.toml\n"
    assert cli.main(["recipe", "check", "mine.toml"]) == 0
    assert capsys.readouterr().out == "mine.toml: good\n"
    assert chain.load("mine.toml").name == "mine"
    assert chain.load("mine.toml").train == chain.load("mnist").train


def test_new_takes_digits_when_nothing_is_said(capsys: Captured) -> None:
    assert cli.main(["recipe", "new", "mine.toml"]) == 0
    assert chain.load("mine.toml").data.source == "digits"


def test_schema_is_a_schema(capsys: Captured) -> None:
    assert cli.main(["recipe", "schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["type"] == "object"
    assert "lr" in found["$defs"]["TrainConfig"]["properties"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["show", "digist"], "unknown recipe 'digist'; expected a .toml file or one of: .* did you mean 'digits'?"),
        (["check", "none.toml"], "cannot read recipe none.toml: No such file or directory"),
        (["check", "broken.toml"], r"broken\.toml is not valid TOML: .*line 2"),
        (
            ["check", "key.toml"],
            r"key\.toml: unknown key 'train\.epohcs'; expected one of: epochs.* did you mean 'epochs'",
        ),
        (
            ["check", "digits", "--set", "train.epochs=0"],
            r"train\.epochs = 0 is not valid; expected greater than or equal",
        ),
        (["check", "digits", "--set", "train.epochs"], "--set 'train.epochs' has no '='; expected key=value"),
        (["check", "digits", "--set", "model.nmae=mlp"], r"unknown key 'model\.nmae'.* did you mean 'name'"),
        (["check", "digits", "--set", "train.optimizer=adma"], r"train\.optimizer = 'adma' is not valid.*'adam'"),
        (["new", "mine"], r"'mine' does not end in \.toml. Name it mine\.toml\."),
        (["new", "broken.toml"], r"'broken\.toml' exists already\. Choose another name"),
        (["new", "none/mine.toml"], r"cannot write 'none/mine\.toml': its folder does not exist"),
        (["new", "my file.toml"], "name = 'my file' is not valid"),
        (["new", "mine.toml", "--from", "digist"], "unknown recipe 'digist'.* did you mean 'digits'?"),
    ],
)
def test_each_mistake_is_one_line(words: list[str], line: str, capsys: Captured) -> None:
    Path("broken.toml").write_text("train = [\n3,,]")
    Path("key.toml").write_text("[train]\nepohcs = 3\n")
    assert cli.main(["recipe", *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert re.search(line, told.err), told.err
    assert not Path("mine.toml").exists()
