"""The door itself: help, exit codes, one line for each mistake, nothing heavy loaded."""

from __future__ import annotations

import errno
import importlib
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dimwise import cli, errors
from dimwise.cli import _typer

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIMWISE_DEBUG", raising=False)


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that does nothing but raise."""

    def call(error: BaseException) -> int:
        def raise_it() -> None:
            raise error

        module = types.ModuleType("boom")
        module.app = _typer.single(raise_it)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "boom", module)
        monkeypatch.setitem(cli.COMMANDS, "boom", ("boom", "Raise."))
        return cli.main(["boom"])

    return call


def commands() -> Iterator[list[str]]:
    """Every command and sub-command there is, as words."""
    for name, (module, _) in cli.COMMANDS.items():
        app = getattr(importlib.import_module(module), "app", None)
        subs = getattr(typer.main.get_command(app), "commands", None) if app is not None else None
        yield from ([name, sub] for sub in subs) if subs else ([name],)


ALL = list(commands())
ROOT = Path(__file__).resolve().parents[2]


def test_table_and_folder_agree() -> None:
    folder = Path(cli.__file__).parent
    files = {f.stem for f in folder.glob("*.py") if not f.name.startswith("_")}
    assert {module.rpartition(".")[2] for module, _ in cli.COMMANDS.values()} == files
    assert len(ALL) >= 20


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(words: list[str], capsys: Captured) -> None:
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    for name, (_, line) in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert line in out


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_each_command_has_help_with_an_example_that_names_it(words: list[str], capsys: Captured) -> None:
    assert cli.main([*words, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: dimwise {' '.join(words)}" in out.replace("Usage", "usage")
    assert "Example" in out
    assert f"    dimwise {' '.join(words)}" in out


GROUPS = sorted({words[0] for words in ALL if len(words) > 1})


@pytest.mark.parametrize("name", GROUPS)
def test_each_group_has_help_with_an_example(name: str, capsys: Captured) -> None:
    assert len(GROUPS) == 4
    assert cli.main([name, "--help"]) == 0
    shown = re.search(rf"Example:\n +dimwise {name} (\w+)", capsys.readouterr().out)
    assert shown is not None
    assert [name, shown[1]] in ALL


def squeezed(words: list[str], capsys: Captured) -> str:
    """The help without its line breaks and spaces: lines are cut where the terminal's width asks for it."""
    assert cli.main([*words, "--help"]) == 0
    return re.sub(r"\s+", "", capsys.readouterr().out)


def test_the_help_of_fold_says_what_a_budget_may_hold_and_where_all_lies(capsys: Captured) -> None:
    from dimwise.plan.budget import LIMITS

    told, page = squeezed(["fold"], capsys), (ROOT / "docs" / "planner.md").read_text("utf-8")
    for term, (_, units) in LIMITS.items():
        assert f"{term}<=" in told
        row = next(line for line in page.splitlines() if line.startswith(f"| `{term}<="))
        assert all(f"`{unit}`" in row for unit in units), row
    for term in ("prefer", "runtime", "threads", "batch"):
        assert f"{term}=" in told
        assert f"| `{term}=" in page
    assert "docs/planner.md" in told
    assert "docs/folds.md" in told
    assert "RUNS/plan-NAME/" in told
    assert "](docs/planner.md)" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["fold", "compare"])
def test_model_is_for_runs_where_no_recipe_is_read(name: str, capsys: Captured) -> None:
    told = squeezed([name], capsys)
    assert "insteadoftherecipe's" not in told
    assert "Whatbuiltthenetworkofarunthattrainedyourown" in told


@pytest.mark.parametrize("name", ["fold", "report"])
def test_the_languages_of_a_page_are_named_alike(name: str, capsys: Captured) -> None:
    assert "--languageen|zhLanguageofthepage." in squeezed([name], capsys)


def test_help_word_is_help_option(capsys: Captured) -> None:
    assert cli.main(["help", "runs", "list"]) == 0
    assert "Usage: dimwise runs list" in capsys.readouterr().out


def test_version(capsys: Captured) -> None:
    from dimwise import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"dimwise {__version__}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rnu"], "no such command 'rnu'; expected one of: run, train, .* did you mean 'run'?"),
        (["--vresion"], "no such option '--vresion'.* did you mean '--version'?"),
        (["run", "--jsn"], r"run: no such option '--jsn'\. did you mean '--json'\? See: dimwise run --help\."),
        (["run", "a", "b"], r"run: got unexpected extra argument.*\(b\)"),
        (["runs"], "runs: missing command; expected one of: list, show, compare, rm, tensorboard"),
        (["runs", "lits"], r"runs: no such command 'lits'; .* did you mean 'list'\? See: dimwise runs --help\."),
        (["runs", "list", "--runs-dirr", "x"], "runs list: no such option '--runs-dirr'.*'--runs-dir'"),
        (["predict"], "predict: the following arguments are required: ARTIFACT, FILE. See: dimwise predict --help"),
        (["predict", "a", "b", "--top", "x"], "predict: argument --top: 'x' is not a count of at least 1"),
        (["predict", "a", "b", "--top", "0"], "predict: argument --top: '0' is not a count of at least 1"),
        (["predict", "a", "b", "--tpo", "3"], r"predict: no such option '--tpo'\. did you mean '--top'\?"),
        (["train"], r"train: nothing to train; expected a RECIPE, or --resume RUN"),
        (["train", "digits", "--resume", "last"], "train: 'digits' together with --resume; expected --resume alone"),
        (["train", "--resume", "last", "--set", "a=1"], "train: '--set' together with --resume"),
        (["train", "--resume", "zz"], "no run 'zz': there are no runs in 'runs'. Start one with: dimwise run"),
        (["runs", "show", "last"], "no run 'last': there are no runs in 'runs'"),
    ],
)
def test_a_wrong_word_is_one_line_with_the_nearest_right_one(words: list[str], line: str, capsys: Captured) -> None:
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("dimwise: ")
    assert re.search(line, told.err), told.err


def subclasses(cls: type[errors.DimwiseError]) -> Iterator[type[errors.DimwiseError]]:
    for sub in cls.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield sub
            yield from subclasses(sub)


@pytest.mark.parametrize("kind", sorted(subclasses(errors.DimwiseError), key=str))
def test_each_error_of_the_house_has_its_exit_code(
    kind: Any, boom: Callable[[BaseException], int], capsys: Captured
) -> None:
    made = kind("lib", why="a\nb", extra="c") if kind is errors.MissingExtra else kind("a\nb", next_step="Go on.")
    assert boom(made) == (1 if issubclass(kind, errors.GateError) else 2)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("dimwise: a b")
    assert told.err.count("\n") == 1


def test_ctrl_c_is_130(boom: Callable[[BaseException], int], capsys: Captured) -> None:
    assert boom(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "dimwise: interrupted\n"
    assert boom(typer.Abort()) == 130
    assert boom(typer.Exit(3)) == 3


def test_a_file_the_system_refuses_is_named(boom: Callable[[BaseException], int], capsys: Captured) -> None:
    assert boom(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x/y")) == 2
    assert capsys.readouterr().err == "dimwise: /x/y: Permission denied\n"


def test_our_own_mistakes_keep_their_traceback(boom: Callable[[BaseException], int]) -> None:
    with pytest.raises(ZeroDivisionError):
        boom(ZeroDivisionError())
    with pytest.raises(OSError, match="no file in it"):
        boom(OSError("no file in it"))


def test_debug_shows_the_traceback_too(
    boom: Callable[[BaseException], int], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMWISE_DEBUG", "1")
    assert boom(errors.DataError("no data")) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("dimwise: no data.\n")
    monkeypatch.setenv("DIMWISE_DEBUG", "0")
    boom(errors.DataError("no data"))
    assert capsys.readouterr().err == "dimwise: no data.\n"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["predict", "--help"], ["runs", "list"], ["model", "list"]]
)
def test_light_commands_load_nothing_heavy(words: list[str]) -> None:
    heavy = "{'torch', 'sklearn', 'pandas', 'matplotlib', 'onnx', 'onnxruntime'}"
    if words[0].startswith("--") or words[0] == "predict":
        heavy = heavy.replace("{", "{'typer', 'rich', 'numpy', 'pydantic', ")
    code = f"""
import sys
from dimwise.cli import main
assert main({words!r}) == 0
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_a_terminal_that_knows_no_unicode_gets_no_traceback() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "dimwise", "model", "list"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "1?28?28" in done.stdout


def test_python_dash_m_is_the_same_door() -> None:
    done = subprocess.run([sys.executable, "-m", "dimwise", "rnu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dimwise: no such command 'rnu'")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away_gets_no_traceback(unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    words = [sys.executable, "-m", "dimwise", "--help"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def test_a_name_that_is_no_utf8_is_printed_as_it_is() -> None:
    script = r"""
import sys, types
from dimwise import cli
module = types.ModuleType("odd")
module.main = lambda words: print("a run in \udcff") or 0
sys.modules["odd"] = module
cli.COMMANDS["odd"] = ("odd", "")
sys.exit(cli.main(["odd"]))
"""
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (0, b"a run in \xff\n"), done.stderr
