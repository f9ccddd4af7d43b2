"""The page of the doctor's rules, from their docstrings and the gallery's; a test checks that it is up to date.

python benchmarks/docs.py           print docs/doctor.md
python benchmarks/docs.py --write   write it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dimwise.lab.cards import as_page

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "doctor.md"


def page() -> str:
    """The text of docs/doctor.md, with the harm that was measured where there is a record of it."""
    record = HERE / "records" / "doctor_gallery.json"
    figures = json.loads(record.read_text("utf-8"))["figures"] if record.is_file() else {}
    return as_page(figures.get("harm", {}), figures.get("rules", {}))


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), "utf-8")
    else:
        print(page(), end="")
