"""The plan of the house: each room imports only from floors below it, and nothing ever loads a pickle or runs text."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "dimwise"

# Three floors have a mezzanine: everybody on floor 0 raises errors, the chain uses the planner, and the commands of
# floor 6 open the report.
FLOORS = {
    **dict.fromkeys(("errors", "lookup", "ort"), 0),
    **dict.fromkeys(("recipe", "seeds", "progress", "runs"), 0.5),
    **dict.fromkeys(("data", "tasks", "models", "measure"), 1),
    "train": 2,
    "fold": 3,
    "doctor": 3,
    "ship": 4,
    "plan": 4.5,
    **dict.fromkeys(("chain", "lab"), 5),
    "view": 6,
    "cli": 6.5,
}
DOORS = {"__init__", "__main__"}  # of the package itself: they stand above all floors

Import = tuple[str, int]
"""A full module name, and the line it is imported on."""


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name inside the package (``train.loop``; a package's ``__init__`` is the package) -> file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def imports(tree: ast.AST, module: str, *, is_package: bool = False, top_level: bool = False) -> Iterator[Import]:
    """All imports of a module, relative ones resolved; ``top_level`` leaves out what runs later or never."""
    for node in _walk(tree, top_level):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = ["dimwise", *module.split(".")] if module != "__init__" else ["dimwise"]
                cut = node.level - (1 if is_package else 0)
                base = ".".join([*own[: len(own) - cut], *([base] if base else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def _walk(tree: ast.AST, top_level: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if top_level and (typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            continue
        yield node
        yield from _walk(node, top_level)


def table_strings(tree: ast.AST) -> Iterator[Import]:
    """``"dimwise.room.module:object"`` in a literal table is an import too, only a later one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("dimwise."):
            name, colon, rest = node.value.partition(":")
            if ((colon and rest.isidentifier()) or not colon) and all(p.isidentifier() for p in name.split(".")):
                yield name, node.lineno


def breaches(files: dict[str, Path]) -> list[str]:
    """Imports that go sideways or upwards, and rooms that are on no floor."""
    found = []
    for module, path in files.items():
        own = room(module)
        if own in DOORS:
            continue
        if own not in FLOORS:
            found.append(f"{module}: the room '{own}' is on no floor")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, line in {*imports(tree, module, is_package=path.name == "__init__.py"), *table_strings(tree)}:
            if not name.startswith("dimwise."):
                continue
            other = name.split(".")[1]
            if other in ("__version__", own):
                continue
            if FLOORS.get(other, 99) >= FLOORS[own]:
                found.append(f"{module}:{line} ({own}, floor {FLOORS[own]}) imports {name}")
    return sorted(found)


def test_rooms_import_only_from_lower_floors() -> None:
    files = modules()
    assert len(files) > 40
    assert breaches(files) == []


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("train.x", "from dimwise.fold import prune", "imports dimwise.fold"),
        ("train.x", "def f():\n    import dimwise.chain", "train.x:2"),
        ("data.x", "from dimwise.models import build", "floor 1"),
        ("data.sources.x", "from ...models import build", "imports dimwise.models"),
        ("tasks.x", "TABLE = {'a': 'dimwise.train.loop:steps'}", "imports dimwise.train.loop"),
        ("errors", "from dimwise.recipe import config", "imports dimwise.recipe"),
        ("view.x", "import dimwise.cli", "imports dimwise.cli"),
        ("cellar.x", "", "the room 'cellar' is on no floor"),
        ("ship.x", "from dimwise import chain", "imports dimwise.chain"),
    ],
)
def test_a_breach_is_seen(tmp_path: Path, module: str, text: str, said: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(text)
    found = breaches({module: path})
    assert found
    assert said in found[0]


@pytest.mark.parametrize(
    ("module", "text"),
    [("train.x", "from dimwise.data.sets import Data"), ("train.x", "from . import loop"), ("ship.x", "import torch")],
)
def test_what_is_allowed_passes(tmp_path: Path, module: str, text: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(text)
    assert breaches({module: path}) == []


def forbidden(tree: ast.AST, name: str) -> Iterator[str]:
    """Pickle in any form, text run as code, tensors loaded without ``weights_only=True``."""
    for imported, line in imports(tree, name):
        if imported.split(".")[0] in {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}:
            yield f"{name}:{line} imports {imported}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        told = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in {"eval", "exec", "compile", "__import__"}:
            yield f"{name}:{node.lineno} calls {called}"
        if called in {"torch.load", "torch.hub.load"} and told.get("weights_only") != "True":
            yield f"{name}:{node.lineno} calls {called} without weights_only=True"
        if called in {"np.load", "numpy.load"} and told.get("allow_pickle", "False") != "False":
            yield f"{name}:{node.lineno} calls {called} with allow_pickle"


def test_nothing_loads_a_pickle_or_runs_text() -> None:
    found = [f for name, path in modules().items() for f in forbidden(ast.parse(path.read_text("utf-8")), name)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "eval('1')",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
    ],
)
def test_the_forbidden_is_seen(text: str) -> None:
    assert list(forbidden(ast.parse(text), "x"))


@pytest.mark.parametrize(
    "text", ["torch.load('x', weights_only=True)", "model.eval()", "re.compile('x')", "np.load('x')"]
)
def test_the_harmless_passes(text: str) -> None:
    assert not list(forbidden(ast.parse(text), "x"))


HEAVY = ("torch", "pandas", "sklearn", "matplotlib", "onnx", "onnxruntime", "PIL", "rich.progress", "scipy")


def test_the_doors_open_without_the_furniture() -> None:
    """``dimwise --help`` and ``import dimwise`` must not wait for torch; one process checks them all, in order."""
    names = ["dimwise", "dimwise.errors", "dimwise.runs", "dimwise.runs.metrics", "dimwise.cli", "dimwise.data"]
    code = "import sys, importlib\n" + "".join(
        f"importlib.import_module({n!r})\nprint({n!r}, [h for h in {HEAVY!r} if h in sys.modules])\n" for n in names
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.endswith("[]")] == []
    assert len(done.stdout.splitlines()) == len(names)


def test_predicting_imports_no_torch() -> None:
    """Everything that ``ship``'s predictor imports, at the top of files or inside functions, is free of torch."""
    files = modules()
    start = "ship.predictor"
    assert start in files
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in seen or module not in files:
            continue
        seen.add(module)
        tree = ast.parse(files[module].read_text(encoding="utf-8"))
        is_start = room(module) == "ship"
        for name, line in imports(tree, module, top_level=not is_start or files[module].name == "__init__.py"):
            assert name.split(".")[0] != "torch", f"{module}:{line} imports {name} on the way to a prediction"
            if name.startswith("dimwise."):
                waiting.append(name.removeprefix("dimwise."))
                waiting += [".".join(name.split(".")[1 : i + 1]) for i in range(1, len(name.split(".")) - 1)]
    assert {"ship.predictor", "ship"} <= seen
