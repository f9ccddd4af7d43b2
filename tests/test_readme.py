"""What the README says is so: its numbers come from records, its commands and names exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import dimwise
from dimwise import chain
from dimwise.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_table_of_numbers_is_generated_from_the_records():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.written(README) == README, "run: python benchmarks/tables.py --write"
    assert tables.table().count("\n| ") >= 10


def test_every_record_says_what_was_run_where_and_how_often():
    records = sorted((ROOT / "benchmarks" / "records").glob("*.json"))
    assert len(records) >= 5
    for path in records:
        record = json.loads(path.read_text("utf-8"))
        script = re.match(r"python (benchmarks/(\w+)\.py)", record["command"])
        assert script is not None
        assert (ROOT / script[1]).is_file()
        assert path.stem == script[2] or path.stem.startswith(f"{script[2]}_")  # one script may keep several records
        assert record["environment"]["torch"]
        assert record["targets"]
        runs = [f for f in record["figures"].values() if isinstance(f, dict) and "median" in f]
        assert runs
        assert all(f["min"] <= f["median"] <= f["max"] and len(f["runs"]) >= 1 for f in runs)


def test_every_command_and_recipe_the_readme_shows_exists():
    verbs = set(re.findall(r"dimwise (\w+)", re.sub(r"```python.*?```", "", README, flags=re.DOTALL)))
    told = {v for v in verbs if v in COMMANDS}
    assert {"run", "train", "predict", "recipe", "data", "model", "runs"} <= told
    for name in re.findall(r"dimwise (?:run|train) ([a-z0-9][a-z0-9-]*)", README):
        assert name in chain.recipes(), name


def test_the_python_example_names_what_there_is():
    for path in set(re.findall(r"dw\.([a-zA-Z_.]+)\(", README)):
        found = dimwise
        for name in path.split("."):
            found = getattr(found, name)
        assert callable(found), path
