"""The generated pages of docs/; a test checks that they are up to date.

doctor.md is made of the rules' docstrings and the gallery's, doctor_peers.md of its record, folds.md of the folds'.

python benchmarks/docs.py           print docs/doctor.md
python benchmarks/docs.py --write   write all
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import _fold_page
import _peer_page

from dimwise.lab.cards import as_page

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "doctor.md"
FOLDS_PAGE = HERE.parent / "docs" / "folds.md"
PEERS_PAGE = HERE.parent / "docs" / "doctor_peers.md"


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


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), "utf-8")
        PEERS_PAGE.write_text(peers_page(), "utf-8")
        FOLDS_PAGE.write_text(folds_page(), "utf-8")
    else:
        print(page(), end="")
