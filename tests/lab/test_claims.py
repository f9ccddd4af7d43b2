"""Claims: table and folder agree, every script has its three names, parts are kept, and code decides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dimwise.errors import UserError
from dimwise.lab import claims
from dimwise.lab.claims import CLAIMS, Claim, Setup, Verdict, at_least, kept, mean_interval, prove
from dimwise.lab.claims.__main__ import main
from dimwise.lab.claims._frame import script

FOLDER = Path(claims.__file__).parent


def test_table_and_folder_hold_the_same() -> None:
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert {place.rpartition(".")[2] for place in CLAIMS.values()} == files
    assert len(CLAIMS) == len(files) >= 1


@pytest.mark.parametrize("claim_id", CLAIMS)
def test_every_script_has_its_three_names(claim_id: str) -> None:
    experiment = script(claim_id)
    assert isinstance(experiment.CLAIM, Claim)
    assert experiment.CLAIM.id == claim_id
    assert experiment.CLAIM.statement.endswith(".")
    assert callable(experiment.measure)
    assert callable(experiment.decide)
    assert experiment.__doc__.startswith(f"{claim_id}: ")


@pytest.mark.parametrize(
    ("values", "word"), [([3.0, 3.0], "holds"), ([2.9, 2.9], "refuted"), ([2.5, 3.5], "partly"), ([9.0], "partly")]
)
def test_code_decides(values: list[float], word: str) -> None:
    assert at_least(values, 3.0, "speed-up", "×").word == word


def test_the_interval_is_students() -> None:
    """n = 4 with deviation 2: half a width of 3.182 · 2 / √4; scipy's own quantiles for all n."""
    mean, low, high = mean_interval([8.0, 8.0, 10.0, 12.0])
    assert mean == 9.5
    assert high - mean == pytest.approx(mean - low) == pytest.approx(3.182 * 1.9148542 / 2, rel=1e-6)
    from scipy import stats  # type: ignore[import-untyped]

    for n in (2, 3, 10, 31):
        values = [float(i % 3) for i in range(n)]
        expected = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        assert mean_interval(values)[1:] == pytest.approx(expected, rel=1e-3)


def test_a_part_is_made_once_and_anew_for_other_settings(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(len(made))
        return {"n": len(made)}

    assert [kept(tmp_path, "part", {"widths": (1, 2)}, make)["n"] for _ in range(3)] == [1, 1, 1]
    assert kept(tmp_path, "part", {"widths": (1, 3)}, make) == {"n": 2}
    assert kept(tmp_path, "other", {"widths": (1, 3)}, make) == {"n": 3}


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that is measured in no time."""
    claim = Claim("X1", "Two is at least one.", 1.0, "", "")
    experiment = SimpleNamespace(
        CLAIM=claim,
        measure=lambda setup: {"values": [2.0] * setup.n_seeds},
        decide=lambda measured: at_least(measured["values"], claim.published, "two"),
    )
    monkeypatch.setitem(sys.modules, "easy_claim", experiment)  # type: ignore[arg-type]
    monkeypatch.setitem(CLAIMS, "X1", "easy_claim")


@pytest.mark.usefixtures("easy")
def test_the_record_says_everything(tmp_path: Path) -> None:
    record = prove("X1", Setup(tmp_path / "work"), tmp_path / "records")
    assert record.verdict == Verdict("holds", "two 2 (95 % interval 2 to 2 over 3), claimed at least 1.")
    assert record.path == tmp_path / "records" / "X1.json"
    told = json.loads(record.path.read_text("utf-8"))
    assert told | {"date": 0, "environment": 0, "seconds_s": 0} == {
        "id": "X1",
        "statement": "Two is at least one.",
        "published": 1.0,
        "unit": "",
        "scale": "",
        "verdict": "holds",
        "reason": record.verdict.reason,
        "quick": False,
        "command": "python -m dimwise.lab.claims X1",
        "date": 0,
        "seconds_s": 0,
        "environment": 0,
        "measured": {"values": [2.0, 2.0, 2.0]},
    }
    assert told["environment"]["cores"] >= 1


@pytest.mark.usefixtures("easy")
def test_a_quick_pass_never_writes_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["X1", "--quick", "--work", str(tmp_path / "work"), "--records", str(tmp_path / "records")]
    assert main(words) == 0
    assert not (tmp_path / "records").exists()
    assert (tmp_path / "work" / "X1-quick" / "X1.json").is_file()
    assert "this decides nothing" in capsys.readouterr().out


def test_claims_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "N3   Distilling ResNet-152 into ResNet-18" in capsys.readouterr().out
    assert main(["N33x"]) == 2
    assert "there is no experiment for the claim 'N33x'; expected one of: N3" in capsys.readouterr().err
    with pytest.raises(UserError, match="no experiment for the claim 'n3'"):
        prove("n3", Setup(Path("nowhere")))
