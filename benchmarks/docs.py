"""The generated pages of docs/; a test checks that they are up to date.

doctor.md is made of the rules' docstrings and the gallery's, doctor_peers.md of its record, folds.md of the folds',
fold_peers.md and its pictures of the records of fold.py.

python benchmarks/docs.py           print docs/doctor.md
python benchmarks/docs.py --write   write all
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import _fold_page
import _fold_peers_page
import _peer_page
from tables import ORDER

from dimwise.lab.cards import as_page

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "doctor.md"
FOLDS_PAGE = HERE.parent / "docs" / "folds.md"
PEERS_PAGE = HERE.parent / "docs" / "doctor_peers.md"
FOLD_PEERS_PAGE = HERE.parent / "docs" / "fold_peers.md"


def page() -> str:
    """The text of docs/doctor.md, with the harm that was measured where there is a record of it."""
    record = HERE / "records" / "doctor_gallery.json"
    figures = json.loads(record.read_text("utf-8"))["figures"] if record.is_file() else {}
    return as_page(figures.get("harm", {}), figures.get("rules", {}))


def peers_page() -> str:
    """The text of docs/doctor_peers.md."""
    return _peer_page.page(json.loads((HERE / "records" / "doctor_peers.json").read_text("utf-8")))


def folds_page() -> str:
    """The text of docs/folds.md."""
    return _fold_page.page()


def fold_records() -> dict[str, Any]:
    """Network -> its record."""
    paths = {record: HERE / "records" / f"{record}.json" for record in ORDER if record.startswith("fold_")}
    return {
        name.removeprefix("fold_").replace("_", "-"): json.loads(path.read_text("utf-8"))
        for name, path in paths.items()
        if path.is_file()
    }


def fold_peers_page() -> str:
    """The text of docs/fold_peers.md."""
    return _fold_peers_page.page(fold_records())


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), "utf-8")
        PEERS_PAGE.write_text(peers_page(), "utf-8")
        FOLDS_PAGE.write_text(folds_page(), "utf-8")
        FOLD_PEERS_PAGE.write_text(fold_peers_page(), "utf-8")
        FOLD_PEERS_PAGE.with_suffix("").mkdir(exist_ok=True)
        for network, record in fold_records().items():
            path = FOLD_PEERS_PAGE.with_suffix("") / f"{network}.svg"
            path.write_text(_fold_peers_page.picture(record), "utf-8")
    else:
        print(page(), end="")
