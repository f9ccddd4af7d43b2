"""What every benchmark shares: its record, and a quiet machine."""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).resolve().parent / "records"


@dataclass
class Record:
    """One benchmark's record: what was asked, what was measured, on what, how often."""

    name: str
    command: str
    what: str
    figures: dict[str, Any] = field(default_factory=dict)
    """Raw runs and their summaries."""
    targets: list[dict[str, Any]] = field(default_factory=list)
    """Rows of {"what", "asked", "measured", "met"}."""
    notes: list[str] = field(default_factory=list)

    def runs(self, name: str, values: list[float], unit: str) -> float:
        """Keep raw values with median and spread; returns the median."""
        middle = statistics.median(values)
        self.figures[name] = {
            "unit": unit,
            "runs": [round(v, 6) for v in values],
            "median": round(middle, 6),
            "min": round(min(values), 6),
            "max": round(max(values), 6),
        }
        return middle

    def target(self, what: str, asked: str, measured: str, met: bool) -> None:
        """One line of the README's table."""
        self.targets.append({"what": what, "asked": asked, "measured": measured, "met": met})
        print(f"{'met   ' if met else 'MISSED'} {what}: asked {asked}, measured {measured}", flush=True)

    def write(self) -> Path:
        """Write ``records/<name>.json`` with environment and date."""
        from dimwise.measure import environment

        RECORDS.mkdir(exist_ok=True)
        path = RECORDS / f"{self.name}.json"
        told = {
            "name": self.name,
            "command": self.command,
            "what": self.what,
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "environment": environment(),
            "targets": self.targets,
            "figures": self.figures,
            "notes": self.notes,
        }
        path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        return path


def wait_until_quiet(limit_s: float = 60) -> str | None:
    """Wait until nothing else uses the cores; returns the warning if it never became quiet."""
    from dimwise.measure import machine_is_busy

    deadline = time.monotonic() + limit_s
    warning = machine_is_busy()
    while warning and time.monotonic() < deadline:
        print(f"waiting: {warning}", file=sys.stderr, flush=True)
        time.sleep(5)
        warning = machine_is_busy()
    return warning


def data_dir() -> Path:
    """Where real data lies: DIMWISE_DATA, else ``../shared/data`` beside the project."""
    import os

    named = os.environ.get("DIMWISE_DATA")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
