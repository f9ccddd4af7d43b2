"""How the peers' findings are judged, and the page that is made of them; the peers themselves are not run here."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dimwise.lab.mistakes import MISTAKES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("_peer_names")


@pytest.fixture
def docs(judging: ModuleType) -> ModuleType:
    return importlib.import_module("docs")


def test_the_tables_speak_of_mistakes_and_tools_that_there_are(judging: ModuleType) -> None:
    assert set(judging.NAMES) == set(judging.FOR) == set(judging.PEERS)
    for table in judging.NAMES.values():
        assert set(table) <= set(MISTAKES)
    assert set(MISTAKES) >= judging.CLASSIC
    assert len(judging.CLASSIC) == 14


@pytest.mark.parametrize(
    ("peer", "slug", "broken", "mended", "wanted"),
    [
        ("torch-audit", "constant-input", [("TA302", "WARN", "flat")], [], "N"),
        ("torch-audit", "constant-input", [("TA302", "WARN", "flat")], [("TA302", "WARN", "flat")], "-"),
        ("torch-audit", "no-shuffle", [("TA105", "WARN", "dead")], [("TA302", "WARN", "flat")], "S"),
        ("torchtest2", "lr-too-high", [("overfit_batch", "FAIL", "became nan (lr too high?)")], [], "N"),
        ("torchtest2", "lr-too-high", [("overfit_batch", "FAIL", "needs more steps")], [], "S"),
        ("traincheck", "missing-zero-grad", [("Optimizer.zero_grad() always occurs when x", "ERROR", "r")], [], "N"),
        ("dimwise", "no-shuffle", [("no-shuffle", "hint", "")], [], "N"),
        ("dimwise", "no-shuffle", [("lr-too-low", "error", "")], [], "S"),
        ("guardtower", "no-shuffle", [], [("dead_relu", "WARN", "")], "-"),
    ],
)
def test_a_finding_counts_when_the_mended_form_lacks_it(
    judging: ModuleType, peer: str, slug: str, broken: list[Any], mended: list[Any], wanted: str
) -> None:
    assert judging.mark(peer, slug, broken, mended) == wanted


def test_hints_and_advice_about_speed_are_no_false_alarms(judging: ModuleType) -> None:
    said = [("TA201", "WARN", ""), ("TA203", "INFO", ""), ("TA102", "WARN", ""), ("no-shuffle", "hint", "")]
    assert judging.alarms("torch-audit", said) == [("TA102", "WARN", "")]


def _row(slug: str, **peers: str) -> dict[str, Any]:
    cells = {p.replace("_", "-"): {"mark": m, "alarms": [["x", "WARN", ""]] * (m == "S")} for p, m in peers.items()}
    return {"slug": slug, "arch": "cnn", "peers": cells}


def test_marks_are_counted_for_each_tool_and_for_the_peers_together(judging: ModuleType) -> None:
    rows = [
        _row("no-shuffle", dimwise="N", torch_audit="S", guardtower="-"),
        _row("lr-too-low", dimwise="N", torch_audit="-", guardtower="N"),
        _row("unseeded", dimwise="N", torch_audit="-"),
    ]
    assert judging.counts(rows, "torch-audit") == {"N": 0, "S": 1, "-": 2, "tried": 3, "alarms": 1, "errors": 0}
    assert judging.counts(rows, "guardtower")["tried"] == 2
    assert judging.together(rows) == {"N": 1, "S": 1, "-": 1}


def test_the_page_shows_what_the_record_says(docs: ModuleType) -> None:
    rows = [_row("no-shuffle", dimwise="N", torch_audit="S"), _row("unseeded", dimwise="-", torch_audit="-")]
    record = {
        "figures": {"rows": rows, "versions": {"torch-audit": "0.3.0"}},
        "notes": ["a note"],
        "date": "2026-11-24 10:00",
        "environment": {"cpu": "c", "torch": "2.13.0"},
        "command": "python benchmarks/doctor_peers.py",
    }
    text = sys.modules["_peer_page"].page(record)
    assert "| [no-shuffle](doctor.md#no-shuffle)\\* | cnn | **N** |  |  | S |  |  |" in text
    assert "| named of all | 1 of 2 |  |  | 0 of 2 |  |  | 0 of 2 |" in text
    assert "- torch-audit: `x` on 1" in text
    assert "**torch-audit 0.3.0** a linter" in text


def test_the_page_of_the_peers_is_up_to_date(docs: ModuleType) -> None:
    page = (ROOT / "docs" / "doctor_peers.md").read_text("utf-8")
    assert page == docs.peers_page(), "run: python benchmarks/docs.py --write"
    record = json.loads((ROOT / "benchmarks" / "records" / "doctor_peers.json").read_text("utf-8"))
    assert [row["slug"] for row in record["figures"]["rows"]] == list(MISTAKES)


def test_without_the_peers_python_it_says_how_to_make_one(
    judging: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = importlib.import_module("doctor_peers")
    monkeypatch.setattr(sys, "argv", ["doctor_peers.py", "--python", "/nowhere/python"])
    assert benchmark.main() == 2
    assert "no Python at /nowhere/python: make it with `python -m venv" in capsys.readouterr().err


def test_traincheck_invariants_are_read_from_its_log(judging: ModuleType, tmp_path: Path) -> None:
    traincheck = importlib.import_module("_peer_traincheck")
    folder = tmp_path / "traincheck_checker_results_now" / "broken"
    folder.mkdir(parents=True)
    two = [{"invariant": {"relation": "r", "text_description": t}} for t in ("a always b", "c")]
    (folder / "failed.log").write_text("\n".join(json.dumps(one, indent=1) for one in two), "utf-8")
    assert list(traincheck.violated(tmp_path, "broken")) == [("a always b", "ERROR", "r"), ("c", "ERROR", "r")]
