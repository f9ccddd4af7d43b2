"""Numbers in the README come from the records: this script writes them there, and a test checks that it did.

python benchmarks/tables.py           print the table
python benchmarks/tables.py --write   put it between the markers in README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
ORDER = (
    "digits",
    "mnist",
    "overhead",
    "cifar10",
    "distill",
    "int8",
    "planner_digits",
    "planner_fashion",
    "fold_fashion_small_cnn",
    "fold_cifar10_resnet20",
    "fold_cifar10_resnet56",
    "fold_cifar10_resnet56_quarter",
    "fold_cifar10_mobilenetv2",
    "fold_sst2_lstm",
    "fold_sst2_transformer",
    "startup",
    "memory",
    "doctor_gallery",
    "doctor_overhead",
    "doctor_steps",
)


def table() -> str:
    """All targets of all records as one Markdown table, and where they were measured."""
    lines = ["| what | asked | measured | |", "|---|---|---|---|"]
    machines = set()
    for name in ORDER:
        path = HERE / "records" / f"{name}.json"
        if not path.is_file():
            continue
        record = json.loads(path.read_text())
        environment = record["environment"]
        machines.add(
            f"{environment.get('cpu', 'unknown CPU')}, {environment.get('cores', '?')} cores, "
            f"torch {environment.get('torch', '?')}"
        )
        for row in record["targets"]:
            mark = "✓" if row["met"] else "✗"
            lines.append(f"| {row['what']} | {row['asked']} | {row['measured']} | {mark} |")
    told = "; ".join(sorted(machines)) or "not measured yet"
    return "\n".join([*lines, "", f"Measured on: {told}. Raw runs: `benchmarks/records/`; again: `make bench`."])


def written(readme: str) -> str:
    """The README with the table between its markers."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        README.write_text(written(README.read_text("utf-8")), "utf-8")
    else:
        print(table())
