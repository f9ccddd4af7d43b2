"""How the peers' findings are judged, and the page that is made of them; the peers themselves are not run here."""

import importlib
import json
import subprocess
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


WATCHED = """
import json, torch, _peer_loop
from torch import nn

class Peer(_peer_loop.Peer):
    def __init__(self):
        self.said = []
    def before_backward(self, loop, loss):
        again = loop.loss_of(loop.model()(*loop.calls[0].args), loss)
        loss_fn, targets = loop.criterion(loss)
        ours = loop.optimizer() is optimizer
        self.said.append((loop.n_steps, bool(torch.equal(again, loss)), ours, targets is not None, len(loop.calls)))
    def evaluated(self, loss):
        self.said.append("evaluated")

peer = Peer()
_peer_loop.watch(_peer_loop.Loop(peer, lambda: None))
body, head, other = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3), nn.Linear(2, 2)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
torch.optim.SGD(other.parameters(), lr=0.1)
x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
nn.CrossEntropyLoss()(head(body(x)), y).backward()
optimizer.step()
(nn.functional.cross_entropy(head(body(x)).squeeze(), y, reduction="none").mean() / 2).backward()
optimizer.step()
with torch.no_grad():
    nn.functional.cross_entropy(head(body(x)), y)
loss = nn.functional.mse_loss(head(x @ torch.ones(4, 8)), torch.zeros(5, 3))
optimizer.step()
print(json.dumps(peer.said))
"""


def test_a_loop_is_seen_through_hooks() -> None:
    # In a process of its own: the hooks stay for good.
    command = [sys.executable, "-W", "ignore", "-c", WATCHED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "benchmarks")
    assert not done.returncode, done.stderr
    plain, halved, evaluated, never_differentiated = json.loads(done.stdout)
    assert plain == [1, True, True, True, 2], "two networks in a chain; a plain cross-entropy keeps its targets"
    assert halved == [2, True, True, False, 2], "any other way to the loss is gone again"
    assert evaluated == "evaluated"
    assert never_differentiated == [3, True, True, False, 1]
