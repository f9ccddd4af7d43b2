"""SARIF 2.1.0 as its standard asks for it: required properties, levels, places, indices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dimwise.doctor.finding import Finding, NotChecked, Place, Report
from dimwise.doctor.rules import ACROSS, RULES
from dimwise.doctor.sarif import about, sarif


def finding(severity, file="/somewhere/net work/train.py", rule="lr-too-high", **more):
    return Finding(rule, severity, "the rate is too high", "loss 2.3 to 99", "lr=0.1", Place(file, 7), **more)


REPORT = Report(
    [finding("error", step=3, module="conv1"), finding("warning"), Finding("unseeded", "hint", "t", "e", "r")],
    ["lr-too-high"],
    [NotChecked("no-shuffle", "too few batches")],
)


def check(told):
    """The parts of the schema that every reader relies on, by hand: the schema itself lies on the network."""
    assert told["version"] == "2.1.0"
    assert told["$schema"].endswith("sarif-2.1.0.json")
    (run,) = told["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    rules = driver["rules"]
    assert len({r["id"] for r in rules}) == len(rules)
    for rule in rules:
        assert rule["shortDescription"]["text"].strip()
        assert rule["help"]["text"].strip()
    for result in run["results"]:
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"].strip()
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        for location in result.get("locations", ()):
            assert location
            physical = location.get("physicalLocation")
            if physical:
                assert physical["region"]["startLine"] >= 1
                assert isinstance(physical["artifactLocation"]["uri"], str)
                assert " " not in physical["artifactLocation"]["uri"]
                assert "\\" not in physical["artifactLocation"]["uri"]
    for invocation in run["invocations"]:
        assert isinstance(invocation["executionSuccessful"], bool)
        assert all(n["message"]["text"] for n in invocation["toolExecutionNotifications"])
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_it_holds_what_the_standard_requires(tmp_path):
    told = sarif(REPORT, version="1.2.3", root=tmp_path)
    check(told)
    (run,) = told["runs"]
    assert {r["id"] for r in run["tool"]["driver"]["rules"]} == {*RULES, *ACROSS}
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("lr-too-high", "error"),
        ("lr-too-high", "warning"),
        ("unseeded", "note"),
    ]
    assert run["results"][0]["message"]["text"] == "the rate is too high: loss 2.3 to 99. Remedy: lr=0.1"
    assert run["results"][0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "conv1"
    assert "locations" not in run["results"][2]
    said = run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]
    assert said == "no-shuffle was not checked: too few batches"


def test_nothing_found_is_a_whole_file_too():
    check(sarif(Report(), version="1"))


@pytest.mark.parametrize(("file", "uri"), [("sub dir/train.py", "sub%20dir/train.py"), ("../x.py", None)])
def test_files_inside_the_folder_are_relative_to_it_and_others_are_whole(tmp_path, file, uri):
    path = (tmp_path / "here" / file).resolve()
    told = sarif(Report([finding("error", str(path))]), version="1", root=tmp_path / "here")
    check(told)
    found = told["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert found == (uri or path.as_uri())


@pytest.mark.parametrize("slug", [*RULES, *ACROSS])
def test_every_rule_describes_itself(slug):
    first, whole = about(slug)
    assert len(first) > 15
    assert first.endswith(".")
    assert len(whole) > len(first)


def test_an_unknown_rule_of_somebody_elses_finding_is_listed():
    check(sarif(Report([Finding("own-rule", "hint", "t", "e", "r")]), version="1", root=Path("/")))
