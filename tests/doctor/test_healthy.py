"""The doctor on whole scripts: silent on the healthy that look suspicious, right about strangers with one mistake."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from dimwise.doctor.rules import ACROSS, RULES
from dimwise.lab.examined import examined

HERE = Path(__file__).parent
HEALTHY = sorted((HERE / "healthy").glob("*.py"))
FOREIGN = sorted((HERE / "foreign").glob("*.py"))
NEEDS = {"lightning_fit": "lightning", "lightning_module": "lightning", "accelerate_accumulate": "accelerate"}
NEEDS["accelerate_loop"] = "accelerate"


def run(script: Path):
    package = NEEDS.get(script.stem)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    report, execution = examined(script)
    assert execution.exit_code == 0
    assert [note for seen in execution.processes for note in seen.notes] == []
    assert [n for n in report.not_checked if "itself failed" in n.why] == []
    return report


def declared(script: Path) -> tuple[str, tuple[str, ...]]:
    """The mistake that a script says it has, and what may be found as its consequence."""
    told = {}
    for node in ast.parse(script.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("EXPECTED", "ALSO"):
                told[name] = ast.literal_eval(node.value)
    return told["EXPECTED"], told.get("ALSO", ())


def test_the_corpus_is_as_large_as_promised():
    assert len(HEALTHY) >= 28
    expected = [declared(script)[0] for script in FOREIGN]
    assert len(set(expected)) == len(expected) >= 12
    assert {slug for script in FOREIGN for slug in (declared(script)[0], *declared(script)[1])} <= {*RULES, *ACROSS}


@pytest.mark.parametrize("script", HEALTHY, ids=lambda p: p.stem)
def test_silent_on_the_healthy(script):
    report = run(script)
    assert [f"{f.rule}: {f.evidence}" for f in report.findings if f.severity != "hint"] == []


@pytest.mark.parametrize("script", FOREIGN, ids=lambda p: p.stem)
def test_names_the_mistake_of_a_stranger(script):
    expected, also = declared(script)
    report = run(script)
    assert expected in [f.rule for f in report.findings]
    others = [f"{f.rule}: {f.evidence}" for f in report.findings if f.severity == "error"]
    assert [told for told in others if told.partition(":")[0] not in (expected, *also)] == []


def test_a_network_called_by_name_shows_its_inputs_and_labels():
    _, execution = examined(HERE / "healthy" / "named_batches.py")
    groups = {b.purpose: b for b in execution.processes[0].batches.values()}
    assert groups["train"].shape == groups["eval"].shape == (64,)
    assert len(groups["train"].label_counts) == 10
    (schedule,) = execution.processes[0].schedulers.values()
    assert schedule.optimizer_steps == 132
    assert schedule.loader_len == 44
